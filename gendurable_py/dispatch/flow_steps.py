"""Runs of steps of flows, in a thread or in a task: what telemetry sees of them, and the transactional ones.

What a transactional step writes on its connection and its entry in the journal are one commit. It runs alone, and its
commit ends the claim: the flow is claimed again and replayed. `transaction` runs it as it runs those of machines, of
which this makes one for the occasion.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

from ..flow import entries
from ..flow.moves import end_with
from ..flow.waiting import StepCall
from ..machine.claim import ClaimRow
from ..machine.spec import Step
from ..telemetry import instrument as telemetry
from . import fork
from .work import Work


class FlowStep(Work):
    """One run of a transactional step of a flow."""

    __slots__ = ("call",)

    def __init__(self, work: Work, call: StepCall) -> None:
        step = call.step

        def run(ctx: Any) -> Any:
            return step.function(ctx.conn, *step.args, **step.kwargs)

        made = Step(step.name, run, call.is_async, transactional=True)
        super().__init__(work.row, work.spec, made, work.worker, work.since, False)
        self.call = call

    @property
    def cancelled(self) -> bool:
        return self.call._cancelled

    def encode_own(self, returned: object) -> bytes:
        """The outcome that goes with it: the flow goes on behind this step."""
        call = self.call
        call.keep(returned)
        assert call.text is not None
        run, step = call.owner.run, call.step
        return end_with(run, step.name, entries.step(entries.name_of(step.name), step.key[2], run.now(), call.text))


def transact(work: Work, call: StepCall) -> None:
    """Run a sync one; its call has an error afterwards, or the work its fate."""
    assert work.transactions is not None
    made = FlowStep(work, call)
    try:
        work.transactions.run(made)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its error
        call.error = error
    call.fate = made.fate


async def transact_async(work: Work, call: StepCall) -> None:
    """The same for an async one."""
    assert work.transactions is not None
    made = FlowStep(work, call)
    try:
        await work.transactions.run_async(made)
    except BaseException as error:
        if call.broken_off(error):
            raise
        call.error = error
    call.fate = made.fate


class _Shown:
    """A run of a step, as telemetry looks at it."""

    __slots__ = ("error", "outcome", "row")

    def __init__(self, call: StepCall) -> None:
        run = call.owner.run
        self.row: ClaimRow = run.row._replace(step=call.step.name, attempt=call.step.attempts, meta=run.meta)
        self.outcome: bytes | None = None
        self.error: BaseException | None = None

    def show(self, call: StepCall) -> None:
        self.outcome = b'"kind":"step"' if call.error is None else b'"kind":"error"'
        self.error = call.error


async def run_in_task(call: StepCall) -> None:
    """Run an async step here."""
    step, born, hung = call.step, fork.generation, telemetry.current
    call.started = time.perf_counter()
    if hung is not None:
        shown = _Shown(call)
        with hung.step(shown):
            await _call_async(call)
            shown.show(call)
    elif step.transactional or step.rule.timeout is not None:
        await _call_async(call)
    else:  # as `StepCall.run_async` does, without a coroutine more in each checkpoint
        try:
            call.keep(await step.function(*step.args, **step.kwargs))
        except BaseException as error:
            if call.broken_off(error):
                raise
            call.error = error
    call.ended = time.perf_counter()
    if fork.generation != born:
        fork.leave(call.error)


def _call_async(call: StepCall) -> Coroutine[Any, Any, None]:
    return transact_async(call.owner.work, call) if call.step.transactional else call.run_async()


def _call(call: StepCall) -> None:
    if call.step.transactional:
        transact(call.owner.work, call)
    else:
        call.run_here()


def run_in_thread(call: StepCall) -> None:
    """Run a sync step here, in the variables of its flow."""
    call.step.context.run(_run, call)


def _run(call: StepCall) -> None:
    born, hung = fork.generation, telemetry.current
    call.started = time.perf_counter()
    if hung is None:
        _call(call)
    else:
        shown = _Shown(call)
        with hung.step(shown):
            _call(call)
            shown.show(call)
    call.ended = time.perf_counter()
    if fork.generation != born:
        fork.leave(call.error)
