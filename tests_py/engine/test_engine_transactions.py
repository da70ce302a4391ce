"""Transactional steps: what a step writes is committed together with its outcome, or not at all."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, ClassVar

import psycopg
import pytest
from conftest import Database
from support.accounts import balances, debit
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Done, Engine, Next, Stop, job, step

pytestmark = pytest.mark.usefixtures("accounts")


class Transfer(FSM, name="tx_transfer", transactional=True):
    @step("start")
    def take(self, ctx: gd.Context[dict[str, Any]]) -> Next:
        debit(ctx.conn, 10)
        return Next("give", {"taken": 10})

    @step
    async def give(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        await debit(ctx.conn, -ctx.state["taken"], 2)
        return Done("moved")


def test_what_sync_and_async_steps_write_is_committed_with_their_outcomes(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    id = gd.insert(conn, Transfer)
    events = Events()
    with running(Engine(db.dsn, [Transfer], on_event=events)):
        assert ended(conn, id)[0].result == "moved"
    assert balances(conn) == [90, 110]
    assert [metadata["outcome"] for _, metadata in events.named("step")] == ["next", "done"]


class Fails(FSM, name="tx_fails", transactional=True):
    how: ClassVar[str] = ""
    runs: ClassVar[int] = 0

    @step("start")
    def go(self, ctx: gd.Context[dict[str, Any]]) -> object:
        Fails.runs += 1
        debit(ctx.conn, 10)
        match Fails.how:
            case "raises":
                raise ValueError("no")
            case "no outcome":
                return 5
            case "no such step":
                return Next("nowhere")
            case "rejected":
                return Next("go2", rate_limit="nobody set it")
            case "swallowed":
                with contextlib.suppress(psycopg.Error):
                    debit(ctx.conn, 1000, 2)
            case "commit()":
                ctx.conn.commit()
            case "closed":
                ctx.conn.close()
            case "raw rollback":
                ctx.conn.execute("rollback")
        return Done()

    @step
    def go2(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        return Done()

    def handle(self, error: Exception, ctx: gd.Context[dict[str, Any]]) -> gd.Outcome:
        try:
            ctx.conn.execute("update account set balance = 0")
        except gd.InvalidArgument:
            return Stop(f"handled {error}")
        return Stop("there was a connection in handle")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "no"),
        ("no outcome", "returned int"),
        ("no such step", "nowhere"),
        ("rejected", "no such rate limit"),
        ("swallowed", "went on after an error"),
        ("commit()", "commit() forbidden"),
        ("closed", "closed its connection"),
        ("raw rollback", "ended before its outcome"),
    ],
)
def test_a_step_that_fails_has_written_nothing_and_goes_to_handle_once(
    conn: psycopg.Connection[Any], db: Database, how: str, told: str
) -> None:
    Fails.how, Fails.runs = how, 0
    id = gd.insert(conn, Fails)
    with running(Engine(db.dsn, [Fails])):
        (result,) = ended(conn, id)
    assert result.status == "failed"
    assert result.last_error is not None
    assert told.lower() in result.last_error.lower()
    assert result.last_error.startswith("handled ")
    assert balances(conn) == [100, 100]
    assert Fails.runs == 1
    assert field(conn, id, "crashes") == 0


def test_a_raw_commit_is_told(conn: psycopg.Connection[Any], db: Database) -> None:
    @job(name="tx_raw", max_attempts=1, transactional=True)
    def raw(args: Any, ctx: gd.Context[Any]) -> None:
        debit(ctx.conn, 10)
        ctx.conn.execute("commit")

    id = gd.insert(conn, raw, {})
    with running(Engine(db.dsn, [raw])):
        assert "ended before its outcome" in (ended(conn, id)[0].last_error or "")


class Conflicts(FSM, name="tx_conflicts", transactional=True):
    sqlstate: ClassVar[str] = "40001"
    times: ClassVar[int] = 0
    seen: ClassVar[list[Any]] = []

    @step("start")
    def go(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        Conflicts.seen.append((dict(ctx.state), ctx.signal("s") is not None))
        ctx.state["n"] = 1
        debit(ctx.conn, 10)
        if len(Conflicts.seen) <= Conflicts.times:
            ctx.conn.execute(f"do $$begin raise exception using errcode = '{Conflicts.sqlstate}'; end$$")
        return Done()

    @step("again")
    async def go_async(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        Conflicts.seen.append((dict(ctx.state), ctx.signal("s") is not None))
        ctx.state["n"] = 1
        await debit(ctx.conn, 10)
        if len(Conflicts.seen) <= Conflicts.times:
            await ctx.conn.execute(f"do $$begin raise exception using errcode = '{Conflicts.sqlstate}'; end$$")
        return Done()


@pytest.mark.parametrize("first", ["start", "again"])
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
def test_what_another_session_does_makes_the_step_run_again_in_place(
    conn: psycopg.Connection[Any], db: Database, sqlstate: str, first: str
) -> None:
    Conflicts.sqlstate, Conflicts.times, Conflicts.seen = sqlstate, 5, []
    id = gd.insert(conn, Conflicts, step=first, delay=3600)
    gd.signal(conn, id or 0, "s")
    conn.execute("select gd_reschedule(%s, clock_timestamp())", (id,))
    with running(Engine(db.dsn, [Conflicts])):
        assert ended(conn, id)[0].status == "done"
    # each time as if it were the first: the state as it was, and its signals
    assert Conflicts.seen == [({}, True)] * 6
    assert balances(conn) == [90, 100]
    assert field(conn, id, "attempt") == 0


def test_and_then_it_goes_to_handle(conn: psycopg.Connection[Any], db: Database) -> None:
    Conflicts.sqlstate, Conflicts.times, Conflicts.seen = "40001", 1000, []
    id = gd.insert(conn, Conflicts)
    with running(Engine(db.dsn, [Conflicts])):
        assert ended(conn, id)[0].status == "failed"
    assert len(Conflicts.seen) == 6
    assert balances(conn) == [100, 100]


class Held(FSM, name="tx_held", transactional=True):
    inside: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()
    runs: ClassVar[int] = 0
    pid: ClassVar[int] = 0
    handled: ClassVar[list[Exception]] = []

    @step("start")
    def go(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        Held.runs += 1
        debit(ctx.conn, 10)
        Held.pid = ctx.conn.info.backend_pid
        if Held.runs == 1:
            Held.inside.set()
            Held.go_on.wait(20)
        return Done(ctx.attempt)

    def handle(self, error: Exception, ctx: gd.Context[dict[str, Any]]) -> gd.Outcome:
        Held.handled.append(error)
        return Stop(error)


@pytest.fixture
def held() -> type[Held]:
    Held.inside, Held.go_on, Held.runs = threading.Event(), threading.Event(), 0
    Held.handled.clear()
    return Held


def test_a_claim_that_is_lost_takes_the_writes_with_it(
    conn: psycopg.Connection[Any], db: Database, held: type[Held]
) -> None:
    events = Events()
    id = gd.insert(conn, Held)
    with running(Engine(db.dsn, [Held], on_event=events)):
        held.inside.wait(20)
        # nothing of the instance is locked while its step runs
        conn.execute("set lock_timeout = '5s'")
        conn.execute("set gendurable.notify = off")  # or the step is told before it commits
        assert gd.cancel(conn, id or 0)
        held.go_on.set()
        wait_until(lambda: events.count("stale") == 1)
    assert field(conn, id, "status") == "cancelled"
    assert balances(conn) == [100, 100]
    assert (held.runs, held.handled) == (1, [])


def test_a_connection_that_is_lost_counts_as_a_crash(
    conn: psycopg.Connection[Any], db: Database, held: type[Held]
) -> None:
    id = gd.insert(conn, Held)
    with running(Engine(db.dsn, [Held])):
        held.inside.wait(20)
        conn.execute("select pg_terminate_backend(%s, 10000)", (held.pid,))
        held.go_on.set()
        (result,) = ended(conn, id)
    assert (result.status, result.result, held.runs) == ("done", 1, 2)
    assert balances(conn) == [90, 100]


def test_steps_wait_for_a_connection_where_there_are_few(conn: psycopg.Connection[Any], db: Database) -> None:
    most, now, lock = [0], [0], threading.Lock()
    both = threading.Barrier(2, timeout=0.2)

    @job(name="tx_few", transactional=True)
    def few(args: Any, ctx: gd.Context[Any]) -> None:
        ctx.conn.execute("select 1")
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait()
        debit(ctx.conn, 1)
        with lock:
            now[0] -= 1

    ids = [gd.insert(conn, few, {}) for _ in range(8)]
    with running(Engine(db.dsn, [few], transactions=1)):
        assert {result.status for result in ended(conn, *ids)} == {"done"}
    assert most[0] == 1
    assert balances(conn) == [92, 100]


def test_a_step_under_another_search_path_finds_what_it_needs(conn: psycopg.Connection[Any], db: Database) -> None:
    @job(name="tx_path", max_attempts=1, transactional=True)
    def path(args: Any, ctx: gd.Context[Any]) -> None:
        ctx.conn.execute("set local search_path = pg_catalog")
        debit_public = "update public.account set balance = balance - 10 where id = 1"
        ctx.conn.execute(debit_public)

    id = gd.insert(conn, path, {})
    with running(Engine(db.dsn, [path])):
        assert ended(conn, id)[0].status == "done"
    assert balances(conn) == [90, 100]


def test_a_run_ahead_engine_claims_each_transactional_step(conn: psycopg.Connection[Any], db: Database) -> None:
    id = gd.insert(conn, Transfer)
    with running(Engine(db.dsn, [Transfer], run_ahead=True)):
        assert ended(conn, id)[0].result == "moved"
    assert balances(conn) == [90, 110]


class Waits(FSM, name="tx_waits"):
    @step("start", transactional=True)
    def ask(self, ctx: gd.Context[dict[str, Any]]) -> Await:
        debit(ctx.conn, 10)
        return Await("answer", step="then")

    @step("then")
    def plain(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        signal = ctx.signal("answer")
        with pytest.raises(gd.InvalidArgument, match="no transaction"):
            ctx.conn.execute("select 1")
        return Done(signal.payload if signal else None)


def test_other_outcomes_and_plain_steps_beside_them(conn: psycopg.Connection[Any], db: Database) -> None:
    id = gd.insert(conn, Waits)
    with running(Engine(db.dsn, [Waits])):
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        gd.signal(conn, id or 0, "answer", 7)
        assert ended(conn, id)[0].result == 7
    assert balances(conn) == [90, 100]
