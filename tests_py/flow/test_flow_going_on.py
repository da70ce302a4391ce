"""A claim of a flow that is kept: what its answer says, what begins next, and what of that a drain leaves alone."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py.calls import dispatching
from gendurable_py.calls.rows import Answer
from gendurable_py.dispatch.contexts import Contexts
from gendurable_py.dispatch.flow_steps import run_in_task
from gendurable_py.dispatch.flowing import Flows
from gendurable_py.dispatch.work import Work
from gendurable_py.flow import FlowContext, flow
from gendurable_py.flow.define import FlowSpec
from gendurable_py.flow.moves import _go_on, decide
from gendurable_py.flow.run import Run
from gendurable_py.machine.claim import ClaimRow
from gendurable_py.machine.context import Draining
from gendurable_py.machine.registry import lookup
from gendurable_py.telemetry.instrument import Emitter

Conn = psycopg.Connection[Any]
LEASE = timedelta(hours=1)

begun: list[str] = []


async def note(name: str) -> str:
    begun.append(name)
    return name


def transact(conn: Conn) -> None:
    """Not run here."""


@flow(name="going.chain")
async def chain(ctx: FlowContext) -> None:
    for name in ("a", "b", "c"):
        await ctx.step(name, note, name)


@flow(name="going.pair")
async def pair(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await asyncio.gather(ctx.step("b", note, "b"), ctx.step("c", note, "c"))


@flow(name="going.books")
async def books(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await asyncio.gather(ctx.transaction("book", transact), ctx.step("b", note, "b"))


@flow(name="going.timed")
async def timed(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    async with asyncio.timeout(60):
        await ctx.step("b", note, "b")


@flow(name="going.waits")
async def waits(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await asyncio.gather(ctx.signal("s"), ctx.step("b", note, "b"))


@flow(name="going.ends")
async def ends(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")


def row_of(id: int, name: str) -> ClaimRow:
    return ClaimRow(
        id, 1, name, 1, "start", "{}", 0, "default", None, None, None, None, False, "[]", "[]", '{"m": 1}', "{}"
    )


def spec_of(name: str) -> FlowSpec:
    spec = lookup(name, 1)
    assert isinstance(spec, FlowSpec)
    return spec


# What its answer says


def test_a_row_goes_on_by_what_is_new_of_it_or_by_a_number() -> None:
    row = row_of(7, "going.chain")._replace(partition_key="k", attempt=2, timed_out=True, attributes='{"a": 1}')
    full = row._replace(claim_no=9, step="b", attempt=3, signals='[{"id": 1}]', attributes="{}")
    gone_on = full._replace(state="", timed_out=False)
    assert row.renewed(full, "unused") == gone_on
    assert row.renewed(9, "b") == gone_on._replace(attempt=0, signals="[]", attributes='{"a": 1}')


def outcome(id: int, claim_no: int, at: int = 0, *, step: object = "b", brief: bool = True) -> dict[str, Any]:
    journal = {"at": at, "add": [{"k": "start"}], "brief": brief}
    return {"id": id, "claim_no": claim_no, "kind": "next", "step": step, "keep": True, "journal": journal}


def sent(conn: Conn, outcomes: list[dict[str, Any]]) -> dict[int, Answer]:
    answers = dispatching.commit_text(conn, "w", json.dumps(outcomes), LEASE, True)
    found = {answer.ord: answer for answer in answers}
    assert len(found) == len(answers)
    return found


def test_brief_answers_come_beside_all_others(conn: Conn) -> None:
    ids = [gd.insert(conn, "going") or 0 for _ in range(8)]
    # a clock that was ahead: its next number is another one than those of its neighbours
    conn.execute("update gendurable.instance set claim_no = 9000000000000000 where id = %s", (ids[1],))
    claimed = {row.id: row.claim_no for row in dispatching.claim_rows(conn, "w", {"default": 8}, LEASE)}
    gd.signal(conn, ids[2], "s", 5)
    asked = [outcome(id, claimed[id]) for id in ids]
    asked[3] |= {"claim_no": 1}
    asked[4] |= outcome(ids[4], claimed[ids[4]], at=3)
    asked[5] |= outcome(ids[5], claimed[ids[5]], brief=False)
    asked[6] = {"id": ids[6], "claim_no": claimed[ids[6]], "kind": "done"}
    asked[7] |= {"step": 5}
    answers = sent(conn, asked)
    now = dict(conn.execute("select id, claim_no from gendurable.instance where id = any(%s)", (ids,)).fetchall())
    assert answers.pop(0) == Answer(0, "ok", None, None, now[ids[0]])
    assert answers.pop(1) == Answer(1, "ok", None, None, claimed[ids[1]] + 1)
    assert now[ids[1]] == claimed[ids[1]] + 1 > now[ids[0]]
    for ord, signals in ((2, 1), (5, 0)):
        kept = answers.pop(ord).kept
        assert isinstance(kept, ClaimRow)
        assert (kept.id, kept.claim_no, kept.step) == (ids[ord], now[ids[ord]], "b")
        assert len(json.loads(kept.signals)) == signals
    assert [(answer.ord, answer.result, answer.kept) for answer in sorted(answers.values())] == [
        (3, "stale", None),
        (4, "rejected", None),
        (7, "rejected", None),
    ]


def test_the_long_way_answers_briefly_as_well(conn: Conn) -> None:
    for _ in range(2):
        gd.insert(conn, "going", partition_key=f"k{_}")
    rows = dispatching.claim_rows(conn, "w", {"default": 2}, LEASE)
    assert len(rows) == 2
    answers = sent(conn, [outcome(row.id, row.claim_no) for row in rows])
    assert all(isinstance(answer.kept, int) and answer.kept > rows[ord].claim_no for ord, answer in answers.items())


def test_nobody_gets_a_brief_answer_who_did_not_ask(conn: Conn) -> None:
    gd.insert(conn, "going")
    [row] = dispatching.claim_rows(conn, "w", {"default": 1}, LEASE)
    with pytest.raises(AssertionError, match="brief"):
        dispatching.commit_text(conn, "w", json.dumps([outcome(row.id, row.claim_no)]), LEASE)


# What begins next


def at_rest(name: str) -> Run:
    """A run whose first step has ended, and is not committed."""
    run = spec_of(name).begin(row_of(1, name), [], "seed", contextvars.copy_context())
    run.began_at = run.clock = 5.0
    run.fresh.clear()
    run.settle_down()
    [call] = run.start_calls()
    call.keep("a")
    run.step_ended(call)
    run.settle_down()
    return run


def test_a_move_of_one_entry_is_written_in_one_piece_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "now", lambda run: 7.5)
    short, long = at_rest("going.chain"), at_rest("going.chain")
    move = decide(short, True)
    assert move == _go_on(long, True)
    assert move is not None
    assert json.loads(move.outcome)["journal"]["brief"] is True
    assert (short.sent, short.stands) == (long.sent, long.stands) == (1, "a")
    for run in (short, long):
        run.close()


def gone_on(name: str, change: Callable[[Run], None] = lambda run: None) -> Run:
    """A run behind the commit of its first step."""
    run = spec_of(name).begin(row_of(1, name), [], "seed", contextvars.copy_context())
    run.settle_down()
    [call] = run.start_calls()
    call.keep("a")
    run.step_ended(call)
    run.settle_down()
    move = decide(run, True)
    assert move is not None
    if move.keep:
        change(run)
        run.committed(run.row.renewed(2, run.stands))
    return run


def suspend(run: Run) -> None:
    run.shut()


def spoil(run: Run) -> None:
    run.problem = ValueError("no")


@pytest.mark.parametrize(
    ("name", "change", "names"),
    [
        ("going.chain", None, ["b"]),
        ("going.pair", None, ["b", "c"]),
        ("going.books", None, ["b"]),
        ("going.timed", None, []),
        ("going.waits", None, ["b"]),
        ("going.ends", None, []),
        ("going.chain", suspend, []),
        ("going.chain", spoil, []),
    ],
)
def test_what_begins_at_once_is_what_going_round_would_begin(
    name: str, change: Callable[[Run], None] | None, names: list[str]
) -> None:
    short, long = (gone_on(name, change or (lambda run: None)) for _ in range(2))
    assert [call.step.name for call in short.start_only()] == names
    if names:
        assert long.advance()
        assert decide(long, True) is None
        assert [call.step.name for call in long.start_calls()] == names
        assert {call.step.name for call in short.running} == {call.step.name for call in long.running} == set(names)
    for run in (short, long):
        run.close()


# What a drain leaves alone


class Driving:
    """The flows of an engine without a database: all that moves is committed, and its claim is kept."""

    def __init__(self, run_step: Callable[[Any], Coroutine[Any, Any, None]] = run_in_task) -> None:
        self.told = Draining()
        self.moved: list[Work] = []
        self.flows = Flows(
            asyncio.get_running_loop(),
            Contexts(),
            lambda call: None,
            run_step,
            self.moved.append,
            lambda queue: None,
            self.told,
            Emitter(None),
        )

    async def begin(self, id: int) -> Work:
        spec = spec_of("going.chain")
        step = spec.find_step("start")
        assert step is not None
        work = Work(row_of(id, spec.name), spec, step, "w", 0.0, False)
        self.flows.prepare(work, [], "seed")
        self.flows.start(work)
        await self.rest()
        return work

    async def rest(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def go_on(self) -> None:
        moved = list(self.moved)
        self.moved.clear()
        for work in moved:
            assert work.flow is not None
            work.renew(work.row.claim_no + 1)
            self.flows.resume(work)
            self.flows.start(work)


def test_what_was_to_begin_when_it_drains_is_left_for_another() -> None:
    begun.clear()

    async def main() -> None:
        driving = Driving()
        work = await driving.begin(1)
        assert driving.moved == [work]
        assert begun == ["a"]
        driving.go_on()
        driving.told.told = True
        await driving.rest()
        assert begun == ["a"]
        assert driving.moved == [work]
        assert work.outcome is None

    asyncio.run(main())


def test_a_step_that_ends_the_engine_lets_no_neighbour_begin() -> None:
    begun.clear()

    async def main() -> None:
        driving = Driving()
        works = [await driving.begin(id) for id in (1, 2, 3)]
        driving.go_on()

        async def stop(call: Any) -> None:
            driving.told.told = True
            await run_in_task(call)

        driving.flows._run_step = stop
        await driving.rest()
        assert begun == ["a", "a", "a", "b"]
        assert set(driving.moved) == set(works)
        assert [work.outcome is None for work in works] == [False, True, True]

    asyncio.run(main())
