"""Flows and time: clocks, deadlines, what is rung; and journals that are long or large."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.flows import journal_of, kinds_of
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.calls.replaying import Entries
from gendurable_py.dispatch.journals import Journals
from gendurable_py.dispatch.work import Work
from gendurable_py.flow import FlowContext, flow, taking
from gendurable_py.flow import state as flow_state

Conn = psycopg.Connection[Any]

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


def note(what: Any) -> Any:
    ran.append(what)
    return what


@flow(name="rows.sleeper")
async def sleeper(ctx: FlowContext) -> list[float]:
    began = ctx.now()
    await ctx.sleep(3600)
    return [(ctx.now() - began).total_seconds()]


def test_a_sleeping_flow_is_rescheduled(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[sleeper])):
        id = gd.insert(conn, sleeper)
        wait_until(lambda: field(conn, id, "step") == "(sleep)")
        assert gd.reschedule(conn, id or 0, datetime.now(UTC))
        [result] = ended(conn, id)
    assert result.status == "done"
    assert kinds_of(conn, id) == ["start", "sleep"]


@pytest.mark.parametrize("beside", [300.0, -300.0], ids=["ahead", "behind"])
def test_clocks_five_minutes_apart(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch, beside: float) -> None:
    """Whether a time has come is the server's word."""

    class Clock:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def time(self) -> float:
            return time.time() + beside

    for module in (flow_state, taking):
        monkeypatch.setattr(module, "time", Clock())

    @flow(name="rows.clocks")
    async def clocks(ctx: FlowContext) -> list[Any]:
        await ctx.sleep(0.1)
        none = await ctx.signal("never", timeout=0.1)
        try:
            async with asyncio.timeout(0.1):
                await ctx.signal("never")
        except TimeoutError:
            return [none, "late", await ctx.step("note", note, "note")]
        return []

    with running(Engine(db.dsn, machines=[clocks])):
        id = gd.insert(conn, clocks)
        [result] = ended(conn, id)
    assert result.result == [None, "late", "note"]
    # It waited: each of the three was parked for, and rung once.
    assert kinds_of(conn, id) == ["start", "sleep", "signal", "timer", "step"]


@flow(name="rows.mixed")
async def mixed(ctx: FlowContext) -> list[str]:
    """A pause before another attempt stands beside a long sleep."""
    came: list[str] = []

    async def step() -> None:
        with contextlib.suppress(Exception):
            await ctx.using(max_attempts=3, delay=0.2, factor=1).step("fails", fail)
        came.append("step")

    async def nap() -> None:
        await ctx.sleep(3600)
        came.append("sleep")

    async with asyncio.TaskGroup() as group:
        group.create_task(nap())
        group.create_task(step())
    return came


def fail() -> None:
    ran.append("fails")
    raise ValueError("no")


def test_the_earliest_alone_is_rung(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[mixed])):
        id = gd.insert(conn, mixed)
        wait_until(lambda: len(ran) == 3 and field(conn, id, "step") == "(sleep)")
        assert kinds_of(conn, id) == ["start", "retry", "retry", "step"]
        gd.reschedule(conn, id or 0, datetime.now(UTC))
        [result] = ended(conn, id)
    assert result.result == ["step", "sleep"]


# Journals

LONG = 9_990


def make_journal(conn: Conn, id: int, count: int, value: str) -> None:
    """As if the flow had made so many steps."""
    conn.execute(
        """insert into gendurable.journal (instance_id, seq, entry)
        select %s, s.seq, case when s.seq = 1 then jsonb_build_object('k', 'start', 'at', 1.5, 'seed', 'seed') else
            jsonb_build_object('k', 'step', 'name', 'n', 'n', s.seq - 2, 'at', s.seq, 'v', %s::text) end
        from generate_series(1, %s) s (seq)""",
        (id, value, count + 1),
    )


@flow(name="rows.long", max_attempts=1)
async def long(ctx: FlowContext, args: dict[str, Any]) -> int:
    total = 0
    for _ in range(args["steps"]):
        total += len(await ctx.step("n", note, "x"))
    return total


@pytest.mark.timeout(120)
def test_a_journal_of_10_000_entries_and_the_first_beyond(db: Any, conn: Conn) -> None:
    fits = gd.insert(conn, long, {"steps": flow_state.MOST_ENTRIES - 1}, delay=3600)
    beyond = gd.insert(conn, long, {"steps": flow_state.MOST_ENTRIES}, delay=3600)
    for id in (fits, beyond):
        make_journal(conn, id or 0, LONG, '"x"')
        gd.reschedule(conn, id or 0, datetime.now(UTC))
    with running(Engine(db.dsn, machines=[long])):
        done, failed = ended(conn, fits, beyond, timeout=60)
    assert done.result == flow_state.MOST_ENTRIES - 1
    assert failed.status == "failed"
    assert "10,000 entries" in (failed.last_error or "")
    assert len(journal_of(conn, fits)) == flow_state.MOST_ENTRIES


def test_a_large_journal_is_read_by_pages(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, long, {"steps": 41}, delay=3600)
    make_journal(conn, id or 0, 40, '"' + "y" * 200_000 + '"')
    gd.reschedule(conn, id or 0, datetime.now(UTC))
    other = gd.insert(conn, long, {"steps": 1})
    with running(Engine(db.dsn, machines=[long])):
        done, beside = ended(conn, id, other)
    assert (done.result, beside.result) == (40 * 200_000 + 1, 1)


def test_what_is_more_than_an_outcome_carries_goes_next(db: Any, conn: Conn) -> None:
    @flow(name="rows.large")
    async def large(ctx: FlowContext) -> int:
        parts = await asyncio.gather(*(ctx.step("large", make) for _ in range(5)))
        return sum(map(len, parts))

    def make() -> str:
        ran.append("made")
        return "z" * 3_000_000

    with running(Engine(db.dsn, machines=[large])):
        id = gd.insert(conn, large)
        [result] = ended(conn, id, timeout=60)
    assert result.result == 15_000_000
    assert len(ran) == 5
    assert Counter(kinds_of(conn, id)) == {"start": 1, "step": 5}


def test_no_more_flows_are_claimed_than_may_run_while_large_journals_are_read(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole journals would wait in memory. At the end those that are still read are given back."""
    read_pages, may_read = Journals._read_pages, threading.Event()

    async def wait(self: Journals, work: Work) -> Entries:
        while not may_read.is_set():  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.01)
        return await read_pages(self, work)

    monkeypatch.setattr(Journals, "_read_pages", wait)
    ids = [gd.insert(conn, long, {"steps": 11}) for _ in range(6)]
    for id in ids:
        make_journal(conn, id or 0, 10, '"' + "y" * 200_000 + '"')

    def counted() -> Counter[str]:
        return Counter(field(conn, id, "status") for id in ids)

    with running(Engine(db.dsn, [long], {"default": 2, "other": 1})):
        wait_until(lambda: counted()["executing"] == 2)
        # that more claims are made meanwhile is seen by others
        for _ in range(5):
            ended(conn, gd.insert(conn, long, {"steps": 1}, queue="other"))
        assert counted() == {"executing": 2, "runnable": 4}
        may_read.set()
        assert {one.result for one in ended(conn, *ids)} == {10 * 200_000 + 1}
        may_read.clear()
        more = [gd.insert(conn, long, {"steps": 11}, delay=3600) for _ in range(2)]
        for id in more:
            make_journal(conn, id or 0, 10, '"' + "y" * 200_000 + '"')
            gd.reschedule(conn, id or 0, datetime.now(UTC))
        wait_until(lambda: all(field(conn, id, "status") == "executing" for id in more))
    assert {(field(conn, id, "status"), field(conn, id, "attempt")) for id in more} == {("runnable", 0)}
