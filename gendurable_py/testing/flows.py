"""Flows run inline: from the top after every checkpoint, so that each test meets what a crash would bring."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import _get_running_loop
from collections.abc import Callable, Iterable
from typing import TypeVar

from .._statement import Run as Await
from .._statement import Script
from ..calls import replaying
from ..calls.replaying import Entries
from ..dispatch import flow_steps
from ..dispatch.answers import HANDLE, Fate
from ..dispatch.connections import Given
from ..dispatch.transaction import Transactions
from ..dispatch.work import Work, break_off
from ..errors import InvalidArgument
from ..flow import seeds
from ..flow.define import FlowSpec
from ..flow.moves import decide
from ..flow.run import Run
from ..flow.waiting import StepCall

R = TypeVar("R")


class Boundaries:
    """Counts the places at which a worker could be killed, and is killed at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.met = 0
        self.at = at
        self.killed: str | None = None
        """Where it was."""

    def cross(self, where: str) -> bool:
        """Whether the worker dies here."""
        self.met += 1
        if self.met != self.at:
            return False
        self.killed = where
        return True


def read_journals(works: Iterable[Work]) -> Script[dict[int, tuple[Entries, str]]]:
    """Of each work of a flow its journal, and what its chance is drawn from."""
    flows = [work for work in works if work.spec.journals]
    if not flows:
        return {}
    identity = yield from replaying.read_identity()
    found: dict[int, Entries | InvalidArgument | None] = yield replaying.journals.statement(
        [work.row.id for work in flows]
    )
    journals: dict[int, tuple[Entries, str]] = {}
    for work in flows:
        entries = found[work.row.id]
        if isinstance(entries, InvalidArgument):
            raise entries
        if entries is None:
            entries = yield from replaying.read_pages(work.row.id)
        journals[work.row.id] = entries, seeds.first(identity, work.row)
    return journals


def run_flow(work: Work, journal: Entries, seed: str, boundaries: Boundaries, given: Given) -> Script[None]:
    """Run a flow up to its next commit, one step at a time. It is crashed where its worker dies. Transactional steps
    run on the given connection."""
    work.transactions = Transactions(given)
    work.stage = HANDLE
    assert isinstance(work.spec, FlowSpec)
    if boundaries.cross("at the claim"):
        work.fate = Fate.CRASHED
        return
    run: Run | None = None
    try:
        run = work.spec.begin(work.row, journal, seed, contextvars.copy_context())
        while True:
            yield from _apart(run.settle_down)
            move = decide(run, keep=False)
            if move is not None:
                work.outcome = move.outcome
                break
            for call in run.start_calls(1):
                step = f"step {call.step.name!r}"
                if boundaries.cross(f"before {step}"):
                    work.fate = Fate.CRASHED
                    return
                call.owner = work.flow = _Owner(run)
                if call.step.transactional and not given.may_run(call.is_async):
                    call.error = InvalidArgument(
                        f"step {call.step.name!r} is {'an async' if call.is_async else 'a sync'} transactional step, "
                        "which this connection is not for"
                    )
                elif call.is_async:
                    yield Await(_call(work, call))
                elif call.step.transactional:
                    flow_steps.transact(work, call)
                else:
                    call.run()
                if boundaries.cross(f"after {step}"):
                    work.fate = Fate.CRASHED
                    return
                if call.fate is not None:
                    work.fate = call.fate
                    return
                run.step_ended(call)
    except Exception as error:  # noqa: BLE001 - whatever stands in its journal, it costs this flow alone
        break_off(work, error)
    finally:
        if run is not None:
            yield from _apart(run.close)
    if boundaries.cross("before a commit"):
        work.outcome, work.fate = None, Fate.CRASHED


class _Owner:
    """What a call belongs to."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.step = run.stands
        self.busy = False
        self.begun = True
        self.reserves = False
        self.halted = False

    def close(self) -> None:
        self.run.close()

    lose = close


async def _call(work: Work, call: StepCall) -> None:
    made = flow_steps.transact_async(work, call) if call.step.transactional else call.run_async()
    await asyncio.get_running_loop().create_task(made, context=call.step.context)


def _apart(slice: Callable[[], R]) -> Script[R]:
    """Run a slice of a flow: inside of a loop as a callback, since a thread has one current task."""
    if _get_running_loop() is None:
        return slice()
    made: R = yield Await(_in_callback(slice))
    return made


async def _in_callback(slice: Callable[[], R]) -> R:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def run() -> None:
        try:
            done.set_result(slice())
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)

    loop.call_soon(run)
    return await done
