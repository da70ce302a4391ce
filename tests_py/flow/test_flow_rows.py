"""What happens to flows: signals, cancellation, pauses, lost leases, keys, clocks, long and large journals."""

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
from support.engine import Events, ended, field, running
from support.flows import expire, journal_of, kinds_of
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.flow import FlowContext, flow
from gendurable_py.flow import state as flow_state

Conn = psycopg.Connection[Any]

ran: list[Any] = []
gate = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()
    gate.clear()


def note(what: Any) -> Any:
    ran.append(what)
    return what


def noted_when_open(what: Any) -> Any:
    ran.append(what)
    assert gate.wait(20)
    return what


# Signals

MANY = 300


@flow(name="rows.signals")
async def signals(ctx: FlowContext) -> list[Any]:
    return [(await ctx.signal("n")).payload for _ in range(MANY)]


def test_300_signals_come_once_and_in_order(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[signals])):
        id = gd.insert(conn, signals)
        for number in range(MANY):
            gd.signal(conn, id or 0, "n", number)
        [result] = ended(conn, id, timeout=60)
    assert result.result == list(range(MANY))
    assert Counter(kinds_of(conn, id)) == {"start": 1, "signal": MANY}


# Cancellation

cancelled: list[str] = []


async def slow_step() -> None:
    ran.append("slow")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        cancelled.append("step")
        raise


@flow(name="rows.cancel")
async def to_cancel(ctx: FlowContext, args: dict[str, Any]) -> None:
    async with ctx.saga() as saga:
        await ctx.step("seat", note, "seat")
        saga.undo("release", note, "release")
        if args["runs"]:
            await ctx.step("slow", slow_step)
        await ctx.signal("never")


@pytest.mark.parametrize("runs", [True, False], ids=["running", "parked"])
def test_a_flow_is_cancelled_and_nothing_is_undone(db: Any, conn: Conn, runs: bool) -> None:
    cancelled.clear()
    with running(Engine(db.dsn, machines=[to_cancel], heartbeat_interval=0.2, lease_ttl=10)):
        id = gd.insert(conn, to_cancel, {"runs": runs})
        wait_until(lambda: ran[-1:] == ["slow"] if runs else field(conn, id, "status") == "awaiting_signal")
        assert gd.cancel(conn, id or 0, "enough")
        [result] = ended(conn, id)
        assert (result.status, result.last_error) == ("cancelled", "enough")
        wait_until(lambda: cancelled == ["step"] * runs)
    assert ran == ["seat", *["slow"] * runs]


@flow(name="rows.stop")
async def to_stop(ctx: FlowContext) -> str:
    async def stop() -> None:
        await ctx.signal("stop")
        raise TimeoutError("stopped")

    async def work() -> None:
        await ctx.step("slow", slow_step)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stop())
            group.create_task(work())
    except* TimeoutError:
        await ctx.step("undo", note, "undo")
    return "stopped"


def test_a_flow_that_waits_for_a_word_beside_its_work_is_stopped_at_its_next_checkpoint(db: Any, conn: Conn) -> None:
    cancelled.clear()
    with running(Engine(db.dsn, machines=[to_stop])):
        id = gd.insert(conn, to_stop)
        wait_until(lambda: ran == ["slow"])
        gd.signal(conn, id or 0, "stop")
        # The claim has its inbox from the beginning, and the step runs for an hour: another worker takes over.
    expire(conn)
    with running(Engine(db.dsn, machines=[to_stop])):
        [result] = ended(conn, id)
    assert result.result == "stopped"
    assert ran[-1] == "undo"


# The end of a worker

QUICK = 300


@flow(name="rows.quick")
async def quick(ctx: FlowContext) -> int:
    for number in range(QUICK):
        await ctx.step("quick", note, number)
    return QUICK


def test_a_drain_in_the_middle_of_quick_steps_runs_none_of_them_twice(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, quick)
    for least in (20, 60, 120):
        with running(Engine(db.dsn, machines=[quick])):
            wait_until(lambda least=least: len(ran) >= least, 30)
        assert field(conn, id, "attempt") == 0
    with running(Engine(db.dsn, machines=[quick])):
        ended(conn, id, timeout=60)
    assert ran == list(range(QUICK))


@flow(name="rows.slow_async")
async def slow_async(ctx: FlowContext) -> list[Any]:
    async def slow() -> str:
        ran.append("slow")
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return "slow"

    return await asyncio.gather(ctx.step("quick", note, "quick"), ctx.step("slow", slow))


def test_a_slow_async_step_is_broken_off_by_a_drain_and_begun_again(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, slow_async)
    with running(Engine(db.dsn, machines=[slow_async], drain_timeout=0.2)):
        wait_until(lambda: sorted(ran) == ["quick", "slow"])
    assert (field(conn, id, "status"), field(conn, id, "attempt"), field(conn, id, "crashes")) == ("runnable", 0, 0)
    gate.set()
    with running(Engine(db.dsn, machines=[slow_async])):
        [result] = ended(conn, id)
    assert result.result == ["quick", "slow"]
    assert Counter(ran) == {"quick": 1, "slow": 2}


@flow(name="rows.in_thread")
async def in_thread(ctx: FlowContext) -> list[Any]:
    return [await ctx.step("thread", noted_when_open, "thread"), await ctx.step("next", note, "next")]


def test_a_step_in_a_thread_is_waited_for(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, in_thread)
    engine = Engine(db.dsn, machines=[in_thread], drain_timeout=10)
    with running(engine):
        wait_until(lambda: ran == ["thread"])
        engine.stop()
        gate.set()
    assert kinds_of(conn, id) == ["start", "step"]
    with running(Engine(db.dsn, machines=[in_thread])):
        [result] = ended(conn, id)
    assert (result.result, ran) == (["thread", "next"], ["thread", "next"])


def test_a_lost_lease_is_told_and_the_flow_goes_on_elsewhere(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, in_thread)
    with running(Engine(db.dsn, machines=[in_thread])):
        wait_until(lambda: ran == ["thread"])
        with running(Engine(db.dsn, machines=[in_thread])):
            expire(conn)
            wait_until(lambda: ran == ["thread", "thread"])
            gate.set()  # both come to an end: one of them is stale
            [result] = ended(conn, id)
    assert result.result == ["thread", "next"]
    assert kinds_of(conn, id) == ["start", "step", "step"]
    assert Counter(ran)["next"] == 1


# Pauses


@flow(name="rows.paused")
async def paused(ctx: FlowContext) -> list[Any]:
    return [await ctx.step("first", noted_when_open, "first"), await ctx.step("second", note, "second")]


@pytest.mark.parametrize("what", ["queue", "machine", "instance"])
def test_what_is_paused_is_not_kept(db: Any, conn: Conn, what: str) -> None:
    pause, resume = {
        "queue": ("gd_pause_queue('default')", "gd_resume_queue('default')"),
        "machine": ("gd_pause_machine('rows.paused')", "gd_resume_machine('rows.paused')"),
        "instance": ("gd_pause({})", "gd_resume({})"),
    }[what]
    with running(Engine(db.dsn, machines=[paused])):
        id = gd.insert(conn, paused)
        wait_until(lambda: ran == ["first"])
        conn.execute(f"select {pause.format(id)}".encode())
        gate.set()
        wait_until(lambda: field(conn, id, "status") != "executing")
        assert kinds_of(conn, id) == ["start", "step"]
        assert ran == ["first"]
        conn.execute(f"select {resume.format(id)}".encode())
        [result] = ended(conn, id)
    assert result.result == ["first", "second"] == ran


# Keys

PARTS = 6


@flow(name="rows.keyed")
async def keyed(ctx: FlowContext) -> None:
    for part in range(PARTS):
        await ctx.step("part", note, (ctx.id, part))
    await ctx.signal("go")
    await ctx.step("last", note, (ctx.id, PARTS))


def test_a_flow_holds_its_key_until_it_parks(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[keyed])):
        ids = [gd.insert(conn, keyed, partition_key="k") for _ in range(4)]
        wait_until(lambda: len(ran) == 4 * PARTS)
        assert [id for id, _ in ran] == [id for id in ids for _ in range(PARTS)]
        for id in reversed(ids):
            gd.signal(conn, id or 0, "go")
        ended(conn, *ids)
    assert len(ran) == 4 * (PARTS + 1)


# Time


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

    from gendurable_py.flow import taking

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




@flow(name="rows.locked")
async def locked(ctx: FlowContext) -> list[Any]:
    quick = await ctx.step("quick", note, "quick")
    return [quick, await ctx.step("first", noted_when_open, "first"), await ctx.step("second", note, "second")]


def test_a_kept_flow_whose_row_is_locked_is_committed_afterwards(db: Any, conn: Conn) -> None:
    """A kept claim comes without what the flow has already: its state, and what it was inserted with."""
    events = Events()
    with running(Engine(db.dsn, machines=[locked], on_event=events)):
        id = gd.insert(conn, locked, meta={"a": 1})
        wait_until(lambda: ran == ["quick", "first"])
        with db.connect(autocommit=False) as other:
            other.execute("select from gendurable.instance where id = %s for update", (id,))
            gate.set()
            wait_until(lambda: any(seen["busy"] for seen, _ in events.named("commit")))
        [result] = ended(conn, id)
    assert result.result == ["quick", "first", "second"]
    assert ran == ["quick", "first", "second"]
