"""What comes at the same time: it is handed out one by one, and a replay goes the same way."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.flows import kinds_of
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Child, Engine, job
from gendurable_py.calls import dispatching, replaying
from gendurable_py.flow import FlowContext, flow
from gendurable_py.flow.define import FlowSpec
from gendurable_py.flow.moves import decide
from gendurable_py.flow.run import Run
from gendurable_py.machine.claim import ClaimRow
from gendurable_py.machine.registry import lookup
from gendurable_py.testing import assert_done, drain

LEASE = timedelta(hours=1)


def claim(conn: psycopg.Connection[Any]) -> ClaimRow:
    [row] = dispatching.claim_rows(conn, "w", {"default": 1}, LEASE)
    return row


def begin(conn: psycopg.Connection[Any], row: ClaimRow) -> Run:
    spec = lookup(row.fsm, row.version)
    assert isinstance(spec, FlowSpec)
    journal = replaying.journals(conn, [row.id])[row.id]
    assert journal is not None
    run = spec.begin(row, journal, "seed", contextvars.copy_context())
    run.settle_down()
    return run


def commit(conn: psycopg.Connection[Any], run: Run) -> None:
    """What is to be committed is, until the flow waits, parks or ends."""
    while (move := decide(run, True)) is not None:
        answers = dispatching.commit_text(conn, "w", f"[{move.outcome.decode()}]", LEASE, True)
        assert all(answer.result == "ok" for answer in answers)
        if not move.keep:
            run.close()
            return
        assert answers[0].kept is not None
        run.committed(run.row.renewed(answers[0].kept, run.stands))
        run.settle_down()


def one() -> str:
    return "one"


seen: list[int] = []


@flow(name="together.race")
async def race(ctx: FlowContext) -> int:
    tasks = [asyncio.create_task(ctx.step(name, one)) for name in ("a", "b", "c")]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    seen.append(len(done))
    for task in pending:
        task.cancel()
    await ctx.signal("go")
    return len(done)


@flow(name="together.slices")
async def slices(ctx: FlowContext) -> int:
    for _ in range(5):
        await ctx.step("one", one)
        await asyncio.sleep(0)
    await ctx.signal("go")
    return 5


def test_a_long_replay_lets_others_have_their_turn(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = gd.insert(conn, slices)
    drain(conn, [slices])
    gd.signal(conn, id, "go")
    monkeypatch.setattr(sys.modules[Run.__module__], "_SLICE_SECONDS", 0)
    row = claim(conn)
    journal = replaying.journals(conn, [row.id])[row.id]
    spec = lookup(row.fsm, row.version)
    assert isinstance(spec, FlowSpec)
    assert journal is not None
    run = spec.begin(row, journal, "seed", contextvars.copy_context())
    turns = 1
    while not run.advance():
        turns += 1
    assert turns == 5  # of six entries: what is after the start, and then one each
    commit(conn, run)
    assert assert_done(conn, id) == 5


def test_steps_that_end_at_once_are_handed_out_one_by_one(conn: Any) -> None:
    id = gd.insert(conn, race)
    seen.clear()
    run = begin(conn, claim(conn))
    calls = run.start_calls()
    for call in calls:
        call.run()
    for call in calls:  # before the flow has looked at the first
        run.step_ended(call)
    run.settle_down()
    commit(conn, run)
    assert seen == [1]
    assert kinds_of(conn, id) == ["start", "step"]
    gd.signal(conn, id, "go")
    run = begin(conn, claim(conn))
    commit(conn, run)
    assert seen == [1, 1]
    assert ended(conn, id)[0].result == 1


def test_a_step_that_ends_while_the_flow_is_busy_waits_for_it(conn: Any) -> None:
    looks: list[bool] = []

    @flow(name="together.busy")
    async def busy(ctx: FlowContext) -> None:
        task = asyncio.create_task(ctx.step("a", one))
        await ctx.step("b", one)
        for _ in range(5000):  # more than one slice
            await asyncio.sleep(0)
        looks.append(task.done())
        await ctx.signal("go")

    id = gd.insert(conn, busy)
    run = begin(conn, claim(conn))
    second, first = run.start_calls()  # the task of the first begins when the flow waits
    first.run()
    second.run()
    run.step_ended(second)
    assert not run.advance()
    run.step_ended(first)
    run.settle_down()
    commit(conn, run)
    gd.signal(conn, id, "go")
    commit(conn, begin(conn, claim(conn)))
    assert looks == [False, False]


def test_what_a_step_that_was_given_up_comes_to_is_not_recorded(conn: Any) -> None:
    id = gd.insert(conn, race)
    seen.clear()
    run = begin(conn, claim(conn))
    calls = run.start_calls()
    for call in calls:
        call.run()
        run.step_ended(call)
        run.settle_down()  # the others are cancelled now
    commit(conn, run)
    assert kinds_of(conn, id) == ["start", "step"]


async def never() -> None:
    await asyncio.sleep(3600)


@flow(name="together.given_up")
async def given_up(ctx: FlowContext) -> bool:
    try:
        async with asyncio.timeout(0.05):
            await ctx.step("never", never)
    except TimeoutError:
        await ctx.step("after", one)
        await ctx.sleep(0.01)
        return True
    return False


def test_a_step_that_is_given_up_in_an_engine_is_cancelled_and_not_recorded(db: Any, conn: Any) -> None:
    with running(Engine(db.dsn, machines=[given_up])):
        id = gd.insert(conn, given_up)
        [result] = ended(conn, id)
    assert result.result is True, result
    assert kinds_of(conn, id) == ["start", "timer", "step", "sleep"]


@job(name="together.child")
def child(args: dict[str, Any]) -> int:
    return int(args["x"])


@flow(name="together.barrier")
async def barrier(ctx: FlowContext) -> list[int]:
    tasks = [asyncio.create_task(ctx.childs([Child(child, {"x": x})], name=f"c{x}")) for x in range(3)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    seen.append(len(done))
    await ctx.signal("go")
    return sorted(int(kid.result) for task in done for kid in task.result())  # type: ignore[arg-type]


def test_children_of_one_barrier_come_together_each_time(db: Any, conn: Any) -> None:
    seen.clear()
    with running(Engine(db.dsn, machines=[barrier, child])):
        id = gd.insert(conn, barrier)
        gd.signal(conn, id, "go")
        [result] = ended(conn, id)
        assert result.result == [0, 1, 2], result
        again = gd.insert(conn, barrier)
        wait_until(lambda: field(conn, again, "step") == "(signal)")
        gd.signal(conn, again, "go")
        [result] = ended(conn, again)
    assert result.result == [0, 1, 2], result
    assert set(seen) == {3}
