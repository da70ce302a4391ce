"""Transactional steps and their sessions: none to be had, lost, ended by a timeout, changed by the step."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import make_conninfo
from support.accounts import balances, create, debit
from support.engine import Events, asleep, ended, field, running
from support.proxy import Proxy
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, embedded, job
from gendurable_py.calls import working
from gendurable_py.dispatch import committer, connections
from gendurable_py.dispatch.link import Link

Conn = psycopg.Connection[Any]

pytestmark = pytest.mark.usefixtures("accounts")


def writes(kind: str, runs: list[int]) -> Any:
    """A job that may fail once."""
    if kind == "sync":

        @job(name="tx_writes", max_attempts=1, transactional=True)
        def run(args: Any, ctx: gd.Context[Any]) -> None:
            runs.append(ctx.attempt)
            debit(ctx.conn, 10)

        return run

    @job(name="tx_writes_async", max_attempts=1, transactional=True)
    async def run_async(args: Any, ctx: gd.Context[Any]) -> None:
        runs.append(ctx.attempt)
        await debit(ctx.conn, 10)

    return run_async


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_WAIT", 0.2)
    monkeypatch.setattr(committer, "UNSTARTED_DELAY", 0.05)


@pytest.fixture
def role(conn: Conn) -> Iterator[str]:
    """A role that may write the accounts."""
    name = "gd_step_sessions"
    conn.execute(f"create role {name} login")
    try:
        conn.execute(f"grant select, update on account to {name}")
        yield name
    finally:
        conn.execute(f"drop owned by {name}; drop role {name}")


# None to be had


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_where_the_server_takes_no_more_connections_no_attempt_is_used_up(
    conn: Conn, db: Database, role: str, kind: str
) -> None:
    runs: list[int] = []
    events = Events()
    run = writes(kind, runs)
    conn.execute(f"select gd_grant('{role}', 'worker')")
    with running(Engine(make_conninfo(db.dsn, user=role), [run], on_event=events)):
        wait_until(lambda: asleep(conn))
        conn.execute(f"alter role {role} connection limit 0")
        id = gd.insert(conn, run, {})
        wait_until(lambda: events.count("release") >= 2)
        assert {metadata["reason"] for _, metadata in events.named("release")} == {"unused"}
        assert (runs, field(conn, id, "attempt"), field(conn, id, "crashes")) == ([], 0, 0)
        conn.execute(f"alter role {role} connection limit -1")
        (result,) = ended(conn, id)
    assert (result.status, runs) == ("done", [0])
    assert balances(conn) == [90, 100]


@pytest.mark.usefixtures("impatient")
def test_where_the_server_is_away_no_attempt_is_used_up(
    conn: Conn, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    unsent: list[int] = []
    attempt = Link.attempt

    async def watched(self: Link, call: Any, *args: Any) -> Any:
        try:
            return await attempt(self, call, *args)
        except Exception:
            if call is working.release:
                unsent.append(1)
            raise

    monkeypatch.setattr(Link, "attempt", watched)
    run = writes("sync", runs)
    with Proxy(db.dsn) as proxy, running(Engine(proxy.dsn, [run])):
        wait_until(lambda: asleep(conn))
        proxy.refusing = True  # what is connected stays so, for the claim
        id = gd.insert(conn, run, {})
        wait_until(lambda: field(conn, id, "status") == "executing")
        proxy.cut()
        # there is no connection for the step, and none by which its claim is given back
        wait_until(lambda: unsent)
        proxy.refusing = False
        (result,) = ended(conn, id)
    assert (result.status, runs, field(conn, id, "crashes")) == ("done", [0], 0)


# Lost


@pytest.mark.parametrize("when", ["in the step", "behind the step"])
def test_the_connection_of_a_hook_is_lost_before_the_commit(conn: Conn, db: Database, when: str) -> None:
    handled: list[int] = []

    @contextlib.contextmanager
    def hook(commit: Any) -> Iterator[Any]:
        with psycopg.connect(db.dsn) as mine:
            yield mine
            if when == "behind the step" and len(handled) == 1:
                conn.execute("select pg_terminate_backend(%s, 10000)", (mine.info.backend_pid,))
            commit(mine)

    @job(name="tx_hook_lost", max_attempts=2, transactional=hook)
    def run(args: Any, ctx: gd.Context[Any]) -> int:
        handled.append(ctx.attempt)
        debit(ctx.conn, 10)
        if when == "in the step" and len(handled) == 1:
            conn.execute("select pg_terminate_backend(%s, 10000)", (ctx.conn.info.backend_pid,))
            debit(ctx.conn, 1)
        return ctx.attempt

    id = gd.insert(conn, run, {})
    events = Events()
    with running(Engine(db.dsn, [run], on_event=events)):
        (result,) = ended(conn, id)
    # a crash, and no error of the step: that would say so in last_error, and put it off
    assert (result.status, result.result, handled) == ("done", 1, [0, 1])
    assert [metadata["reason"] for _, metadata in events.named("release")] == ["crashed"]
    assert balances(conn) == [90, 100]


def test_the_connection_of_an_async_hook_is_lost_before_the_commit(conn: Conn, db: Database) -> None:
    seen: list[int] = []

    @contextlib.asynccontextmanager
    async def hook(commit: Any) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(db.dsn) as mine:
            yield mine
            if len(seen) == 1:
                conn.execute("select pg_terminate_backend(%s, 10000)", (mine.info.backend_pid,))
            await commit(mine)

    @job(name="tx_hook_lost_async", max_attempts=2, transactional=hook)
    async def run(args: Any, ctx: gd.Context[Any]) -> None:
        seen.append(ctx.attempt)
        await debit(ctx.conn, 10)

    id = gd.insert(conn, run, {})
    events = Events()
    with running(Engine(db.dsn, [run], on_event=events)):
        assert ended(conn, id)[0].status == "done"
    assert seen == [0, 1]
    assert [metadata["reason"] for _, metadata in events.named("release")] == ["crashed"]
    assert balances(conn) == [90, 100]


def test_a_server_that_ends_an_idle_transaction_makes_the_step_run_again(conn: Conn, db: Database) -> None:
    runs: list[int] = []

    @job(name="tx_slow", max_attempts=2, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        runs.append(ctx.attempt)
        debit(ctx.conn, 10)
        pid = ctx.conn.info.backend_pid
        if len(runs) == 1:
            there = "select true from pg_stat_activity where pid = %s"
            with psycopg.connect(db.dsn, autocommit=True) as other:
                wait_until(lambda: other.execute(there, (pid,)).fetchone() is None)

    id = gd.insert(conn, run, {})
    events = Events()
    dsn = make_conninfo(db.dsn, options="-c idle_in_transaction_session_timeout=300")
    with running(Engine(dsn, [run], on_event=events)):
        assert ended(conn, id)[0].status == "done"
    assert runs == [0, 1]
    assert [metadata["reason"] for _, metadata in events.named("release")] == ["crashed"]
    assert balances(conn) == [90, 100]


def test_a_commit_that_waits_for_a_standby_and_is_terminated_has_happened() -> None:
    # a server of its own, whose standby is missing: what is committed there is, and waits to be told so
    runs: list[int] = []

    @job(name="tx_standby", transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        runs.append(ctx.attempt)
        debit(ctx.conn, 10)

    events = Events()
    with embedded.start(settings={"fsync": "off"}) as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        create(conn)
        conn.execute("set synchronous_commit = local")
        with running(Engine(server.dsn, [run], on_event=events)):
            wait_until(lambda: asleep(conn))
            conn.execute("alter system set synchronous_standby_names = 'missing'")
            conn.execute("select pg_reload_conf()")
            id = gd.insert(conn, run, {})
            # that of the step: others that write, a worker's hello among them, wait just so
            waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep' and query ~ 'gd_commit_one'"
            found = wait_until(lambda: conn.execute(waiting).fetchone())
            conn.execute("select pg_terminate_backend(%s, 10000)", found)
            wait_until(lambda: events.count("release") == 1)
            conn.execute("alter system reset synchronous_standby_names")
            conn.execute("select pg_reload_conf()")
            (result,) = ended(conn, id)
        assert (result.status, runs, field(conn, id, "crashes")) == ("done", [0], 0)
        assert balances(conn) == [90, 100]


def test_the_time_of_a_step_is_up(conn: Conn, db: Database) -> None:
    told = threading.Event()

    @job(name="tx_timed", timeout=0.3, max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> str:
        debit(ctx.conn, 10)
        wait_until(lambda: ctx.cancelled)
        told.set()
        return "late"

    id = gd.insert(conn, run, {})
    events = Events()
    with running(Engine(db.dsn, [run], on_event=events)):
        (result,) = ended(conn, id)
        wait_until(told.is_set)
        wait_until(lambda: events.count("step") == 1)
    assert (result.status, result.last_error) == ("failed", "timed out after 0.3 s in step 'start'")
    assert balances(conn) == [100, 100]


# Changed


@pytest.mark.parametrize(
    ("how", "status"), [("set local role", "failed"), ("granted", "done"), ("reset", "done"), ("session", "done")]
)
def test_a_step_under_another_role(conn: Conn, db: Database, role: str, how: str, status: str) -> None:
    if how == "granted":
        conn.execute(f"select gd_grant('{role}', 'worker')")

    @job(name="tx_role", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> Any:
        ctx.conn.execute(f"set {'' if how == 'session' else 'local'} role {role}")
        debit(ctx.conn, 10)
        who = ctx.conn.execute("select current_user::text").fetchone()
        if how in ("reset", "session"):
            ctx.conn.execute("reset role")
        return who[0]

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, balances(conn)[0]) == (status, 90 if status == "done" else 100), result.last_error
    if status == "done":
        assert result.result == role
    else:
        assert "permission denied" in (result.last_error or "")


def test_a_step_whose_session_finds_nothing_by_its_search_path(conn: Conn, db: Database) -> None:
    @job(name="tx_nowhere", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        ctx.conn.execute("set search_path = ''")
        ctx.conn.execute("update public.account set balance = balance - 10 where id = 1")

    ids = [gd.insert(conn, run, {}) for _ in range(2)]
    with running(Engine(db.dsn, [run], transactions=1)):
        assert [result.status for result in ended(conn, *ids)] == ["done", "done"]
    assert balances(conn) == [80, 100]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", ["closed", "open savepoint", "commit()", "rollback()"])
def test_what_a_step_leaves_undone_is_its_error_and_of_no_other(conn: Conn, db: Database, how: str, kind: str) -> None:
    opened: list[Any] = []

    @job(name="tx_leaves", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        debit(ctx.conn, 10)
        match args.get("how"):
            case "closed":
                ctx.conn.close()
            case "open savepoint":
                opened.append(block := ctx.conn.transaction())
                block.__enter__()
            case "commit()":
                ctx.conn.commit()
            case "rollback()":
                ctx.conn.rollback()

    @job(name="tx_leaves_async", max_attempts=1, transactional=True)
    async def run_async(args: Any, ctx: gd.Context[Any]) -> None:
        await debit(ctx.conn, 10)
        match args.get("how"):
            case "closed":
                await ctx.conn.close()
            case "open savepoint":
                opened.append(block := ctx.conn.transaction())
                await block.__aenter__()
            case "commit()":
                await ctx.conn.commit()
            case "rollback()":
                await ctx.conn.rollback()

    chosen = run if kind == "sync" else run_async
    with running(Engine(db.dsn, [run, run_async], transactions=1)):
        (bad,) = ended(conn, gd.insert(conn, chosen, {"how": how}))
        assert (bad.status, balances(conn)) == ("failed", [100, 100])
        told = {"closed": "closed its connection", "open savepoint": "is open behind the step"}.get(how, "forbidden")
        assert told in (bad.last_error or "")
        # the next one has a connection as if nothing had been
        (good,) = ended(conn, gd.insert(conn, chosen, {}))
    assert (good.status, balances(conn)) == ("done", [90, 100])


def test_steps_of_both_kinds_have_as_many_connections_each(conn: Conn, db: Database) -> None:
    inside: set[int] = set()

    @job(name="tx_both", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> None:
        inside.add(ctx.conn.info.backend_pid)
        wait_until(lambda: len(inside) == 4)

    @job(name="tx_both_async", max_attempts=1, transactional=True)
    async def run_async(args: Any, ctx: gd.Context[Any]) -> None:
        inside.add(ctx.conn.info.backend_pid)
        await asyncio.to_thread(wait_until, lambda: len(inside) == 4)

    ids = [gd.insert(conn, each, {}) for each in (run, run_async) * 2]
    with running(Engine(db.dsn, [run, run_async], transactions=2)):
        assert {result.status for result in ended(conn, *ids)} == {"done"}
