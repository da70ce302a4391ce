"""Steps that hang: in a thread, on the loop, in a worker of another language.

All lose their claim in time, and what comes late is stale.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, Next, Outcome, Replay, ScheduleChilds, job, step
from gendurable_py.dispatch.work import Work
from gendurable_py.errors import InvalidArgument
from gendurable_py.testing import assert_done, assert_failed, drain

Conn = psycopg.Connection[Any]


class Hanging:
    """A step that hangs until the test lets it go, and then says what it made of it."""

    def __init__(self) -> None:
        self.begun, self.gate, self.over = threading.Event(), threading.Event(), threading.Event()
        self.runs: list[int] = []
        self.told: list[bool] = []


def elapse(conn: Conn, id: int | None, seconds: float) -> None:
    """So much time passes for a claim."""
    conn.execute(
        "update gendurable.instance i set updated_at = updated_at - t.x, timeout_at = timeout_at - t.x, "
        "lease_expires_at = lease_expires_at - t.x, expires_at = expires_at - t.x "
        "from (select make_interval(secs => %s) as x) t where id = %s",
        (seconds, id),
    )


def claim_no(conn: Conn, id: int | None) -> int:
    row = conn.execute("select claim_no from gendurable.instance where id = %s", (id,)).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def let_go(hanging: Hanging) -> Iterator[None]:
    try:
        yield
    finally:
        hanging.gate.set()


def test_a_thread_that_hangs_is_told_and_its_late_outcome_is_dropped(db: Any, conn: Conn) -> None:
    it, events = Hanging(), Events()

    @job(name="timeouts.thread", timeout=0.3, max_attempts=1)
    def hangs(args: dict[str, Any], ctx: Context[Any]) -> str:
        it.begun.set()
        assert it.gate.wait(60)
        it.told.append(ctx.cancelled)
        it.over.set()
        return "late"

    with let_go(it), running(Engine(db.dsn, [hangs], on_event=events)):
        id = gd.insert(conn, hangs)
        [result] = ended(conn, id)
        assert (result.status, result.last_error) == ("failed", "timed out after 0.3 s in step 'start'")
        assert not it.over.is_set()
        assert events.named("timeout") == [
            ({"seconds": 0.3, "attempt": 0}, {"id": id, "fsm": "timeouts.thread", "step": "start"})
        ]
        it.gate.set()
        wait_until(it.over.is_set)
        wait_until(lambda: events.count("step") == 1)
    assert it.told == [True]
    [result] = ended(conn, id)
    assert result.status == "failed"
    # The error was sent, in time or not, and nothing else.
    assert sum(numbers["rows"] for numbers, _ in events.named("commit")) == 1


def test_an_async_step_is_cancelled_and_what_it_makes_of_it_does_not_matter(db: Any, conn: Conn) -> None:
    made: list[str] = []

    class Machine(FSM, name="timeouts.async", max_attempts=1):
        @step("start", timeout=0.3)
        async def start(self, ctx: Context[Any]) -> Outcome:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                made.append("ignored")
                return Next("other")
            return Done()

        @step
        def other(self, ctx: Context[Any]) -> Outcome:
            made.append("other")
            return Done()

        def handle(self, error: Exception, ctx: Context[Any]) -> Outcome:
            made.append("handled")
            return Done()

    with running(Engine(db.dsn, [Machine])):
        [result] = ended(conn, gd.insert(conn, Machine))
        wait_until(lambda: made)
    assert (result.status, result.last_error) == ("failed", "timed out after 0.3 s in step 'start'")
    assert made == ["ignored"]


def test_a_timeout_counts_as_an_attempt_and_is_tried_again(db: Any, conn: Conn) -> None:
    it = Hanging()

    @job(name="timeouts.again", timeout=0.3, max_attempts=2)
    async def hangs_once(args: dict[str, Any], ctx: Context[Any]) -> int:
        it.runs.append(ctx.attempt)
        if ctx.attempt == 0:
            await asyncio.Event().wait()
        return ctx.attempt

    with running(Engine(db.dsn, [hangs_once])):
        id = gd.insert(conn, hangs_once)
        wait_until(lambda: field(conn, id, "attempt") == 1)
        assert field(conn, id, "crashes") == 0
        gd.reschedule(conn, id, datetime.now(UTC))
        [result] = ended(conn, id)
    assert (result.status, result.result, it.runs) == ("done", 1, [0, 1])


def test_what_ends_in_time_is_not_disturbed(db: Any, conn: Conn) -> None:
    events = Events()

    class Machine(FSM, name="timeouts.quick", timeout=30, run_ahead=True):
        @step
        def start(self, ctx: Context[Any]) -> Outcome:
            return Next("wait")

        @step
        async def wait(self, ctx: Context[Any]) -> Outcome:
            return Replay() if ctx.attempt < 2 else Next("free")

        @step(timeout=timedelta(hours=1))
        def free(self, ctx: Context[Any]) -> Outcome:
            return Done(ctx.attempt)

    engine = Engine(db.dsn, [Machine], on_event=events)
    with running(engine):
        ids = [gd.insert(conn, Machine) for _ in range(50)]
        results = ended(conn, *ids)
        wait_until(lambda: len(engine._database.held) == 0)
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, Work) and each.row.fsm == "timeouts.quick"]
        assert len(kept) < 10  # a timer that was forgotten would keep what it watches, for half a minute
    assert {result.status for result in results} == {"done"}
    assert events.count("timeout") == events.count("stale") == events.count("lost") == 0


class Slow(FSM, name="timeouts.declared", timeout=5):
    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        return Done()

    @step("named", timeout=0.0015)
    def second(self, ctx: Context[Any]) -> Outcome:
        return Done()

    @step(timeout=timedelta(minutes=1))
    def third(self, ctx: Context[Any]) -> Outcome:
        return Done()


class Slower(Slow, name="timeouts.derived", timeout=7):
    def third(self, ctx: Context[Any]) -> Outcome:
        return Done(1)

    @step("named", timeout=9)
    def second(self, ctx: Context[Any]) -> Outcome:
        return Done()


def test_timeouts_are_declared_inherited_and_registered(conn: Conn) -> None:
    def registered(name: str) -> Any:
        row = conn.execute("select timeouts from gendurable.machine where fsm = %s", (name,)).fetchone()
        assert row is not None
        return row[0]

    gd.register(conn, Slow)
    gd.register(conn, Slower)
    assert registered("timeouts.declared") == {"start": 5000, "named": 2, "third": 60000}
    assert registered("timeouts.derived") == {"start": 7000, "named": 9000, "third": 60000}

    @job(name="timeouts.without")
    def without(args: dict[str, Any]) -> None: ...

    gd.register(conn, "timeouts.without", options={"timeouts": {"start": 5000}})
    gd.register(conn, without)  # what is in the code no more is not in force any more
    assert registered("timeouts.without") is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 0.0001, "5", True, 1e13])
def test_what_is_no_timeout_is_refused_where_it_stands(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        step(timeout=value)(lambda self, ctx: Done())
    with pytest.raises(InvalidArgument):
        job(name="timeouts.wrong", timeout=value)(lambda args: None)


def test_a_worker_in_any_language_that_hangs_loses_its_claim(db: Any, conn: Conn) -> None:
    """psql: what it claims and commits is SQL, and nobody there watches a clock."""
    conn.execute("""select gd_register('timeouts.psql', 1, 'start', 'psql', '{"timeouts": {"start": 30000}}')""")
    psql, other = db.connect(), db.connect()
    [(id,)] = psql.execute("select gd_insert('timeouts.psql')")
    [(claimed, no)] = psql.execute("select id, claim_no from gd_claim('psql', 'psql', 1, '1 day')")
    assert claimed == id
    assert other.execute("select id from gd_claim('other', 'psql')").fetchall() == []
    elapse(conn, id, 29)
    pair = f"[[{id}, {no}]]"
    assert psql.execute("select * from gd_heartbeat('psql', %s, '1 day')", (pair,)).fetchall() == []
    elapse(conn, id, 1)
    assert psql.execute("select id from gd_heartbeat('psql', %s, '1 day')", (pair,)).fetchall() == [(id,)]
    done = f'[{{"id": {id}, "claim_no": {no}, "kind": "done"}}]'
    assert psql.execute("select result from gd_commit('psql', %s)", (done,)).fetchall() == [("stale",)]
    [(reaped,)] = other.execute("select gd_reap()")
    assert reaped == 1
    assert psql.execute("select result from gd_commit('psql', %s)", (done,)).fetchall() == [("stale",)]
    assert (field(conn, id, "status"), field(conn, id, "attempt")) == ("runnable", 1)
    assert field(conn, id, "last_error") == "timed out after 30 s in step 'start'"


def test_a_loop_that_a_step_blocks_loses_its_claim_to_others(db: Any, conn: Conn) -> None:
    """No timer of the engine rings then, and no heartbeat goes out."""
    it, events = Hanging(), Events()

    @job(name="timeouts.blocks", timeout=30, max_attempts=1)
    async def blocks(args: dict[str, Any]) -> str:
        it.begun.set()
        assert it.gate.wait(60)
        return "late"

    with let_go(it), running(Engine(db.dsn, [blocks], on_event=events)):
        id = gd.insert(conn, blocks)
        wait_until(it.begun.is_set)
        no = claim_no(conn, id)
        elapse(conn, id, 30)
        assert gd.reap(conn) == 1
        assert (field(conn, id, "status"), claim_no(conn, id)) == ("failed", no)
        it.gate.set()
        wait_until(lambda: events.count("stale"))
    [result] = ended(conn, id)
    assert (result.status, result.last_error) == ("failed", "timed out after 30 s in step 'start'")


def test_what_waits_too_long_for_a_slot_is_given_back_and_not_timed_out(db: Any, conn: Conn) -> None:
    it, events = Hanging(), Events()

    @job(name="timeouts.first", queue="prefetched")
    def first(args: dict[str, Any]) -> None:
        it.begun.set()
        assert it.gate.wait(60)

    @job(name="timeouts.waits", queue="prefetched", timeout=0.5, max_attempts=1)
    def waits(args: dict[str, Any], ctx: Context[Any]) -> int:
        it.runs.append(ctx.attempt)
        return ctx.attempt

    engine = Engine(db.dsn, [first, waits], queues={"prefetched": 1}, prefetch=5, on_event=events)
    with let_go(it), running(engine):
        gd.insert(conn, first)
        wait_until(it.begun.is_set)
        id = gd.insert(conn, waits)
        wait_until(lambda: any(about["reason"] == "unused" for _, about in events.named("release")))
        assert (it.runs, events.count("timeout")) == ([], 0)
        it.gate.set()
        [result] = ended(conn, id)
    assert (result.status, result.result, it.runs) == ("done", 0, [0])
    assert events.count("timeout") == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_instance_past_its_deadline_takes_the_claim_from_its_step(db: Any, conn: Conn, kind: str) -> None:
    it, events = Hanging(), Events()

    @job(name="timeouts.deadline.sync")
    def in_thread(args: dict[str, Any], ctx: Context[Any]) -> None:
        it.begun.set()
        wait_until(lambda: ctx.cancelled)
        it.told.append(True)

    @job(name="timeouts.deadline.async")
    async def on_loop(args: dict[str, Any]) -> None:
        it.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            it.told.append(True)

    machine: Any = in_thread if kind == "sync" else on_loop
    with running(Engine(db.dsn, [machine], heartbeat_interval=0.1, on_event=events)):
        id = gd.insert(conn, machine, expires=3600)
        wait_until(it.begun.is_set)
        elapse(conn, id, 3600)
        wait_until(lambda: gd.maintain(conn) and field(conn, id, "status") == "failed")  # a heartbeat may have the row
        [result] = ended(conn, id)
        wait_until(lambda: it.told)
    assert events.count("lost") == 1
    assert result.status == "failed"
    assert "expired at" in (result.last_error or "")


def test_deadlines_in_python(conn: Conn) -> None:
    @job(name="timeouts.child")
    def child(args: dict[str, Any]) -> None: ...

    when = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def deadline(id: int | None) -> Any:
        row = conn.execute("select expires_at, inserted_at from gendurable.instance where id = %s", (id,)).fetchone()
        assert row is not None
        return row[0] if row[0] is None or row[0] == when else round((row[0] - row[1]).total_seconds() / 60)

    assert deadline(gd.insert(conn, child)) is None
    assert deadline(gd.insert(conn, child, expires_at=when)) == when
    assert deadline(gd.insert(conn, child, expires=timedelta(minutes=1))) == 1
    many = gd.insert_many(
        conn,
        [Child(child, expires=60), Child(child, expires_at=when), {"fsm": "x", "expires_at": when}, {"fsm": "x"}],
    )
    assert [deadline(each.id) for each in many] == [1, when, when, None]
    with pytest.raises(InvalidArgument):
        gd.insert(conn, child, expires=1, expires_at=when)
    with pytest.raises(InvalidArgument):
        gd.insert(conn, child, expires_at=datetime(2031, 5, 6))
    with pytest.raises(InvalidArgument):
        gd.insert(conn, child, expires=-1)
    with pytest.raises(InvalidArgument):
        gd.insert_many(conn, [Child(child, expires=1, expires_at=when)])


class Parent(FSM, name="timeouts.parent"):
    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        return ScheduleChilds("join", [Child(nothing), Child(nothing, expires=60)])

    @step
    def join(self, ctx: Context[Any]) -> Outcome:
        return Done([child.status for child in ctx.childs])


@job(name="timeouts.nothing", queue="nobody")
def nothing(args: dict[str, Any]) -> None: ...


def test_a_parent_hears_of_a_child_that_expired(conn: Conn) -> None:
    id = gd.insert(conn, Parent, expires=3600)
    assert id is not None
    drain(conn, [Parent], queues=["default"])
    first, second = (
        row[0] for row in conn.execute("select id from gd_instances where parent_id = %s order by id", (id,))
    )
    elapse(conn, second, 60)
    assert gd.maintain(conn)["expired"] == 1
    elapse(conn, first, 3599)
    drain(conn, [nothing])
    assert assert_done(conn, id) == ["done", "failed"]


def test_drain_runs_a_step_to_its_end_and_the_server_judges_it(conn: Conn) -> None:
    class Machine(FSM, name="timeouts.drained", timeout=60, max_attempts=1):
        @step
        def start(self, ctx: Context[Any]) -> Outcome:
            elapse(conn, ctx.id, 60)
            return Done("late")

    id = gd.insert(conn, Machine)
    assert id is not None
    drain(conn, [Machine])
    assert_failed(conn, id, "timed out after 60 s in step 'start'")
