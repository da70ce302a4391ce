"""Transactional steps whose connection is lost, whose COMMIT nobody knows of, and which fork."""

from __future__ import annotations

import contextlib
import os
from typing import Any, ClassVar

import psycopg
import pytest
from conftest import Database
from support.accounts import balances, debit
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Done, Engine, job, step
from gendurable_py.dispatch import connections

pytestmark = pytest.mark.usefixtures("accounts")


class Cut(FSM, name="tx_cut", transactional=True):
    """Its connection is cut, from outside, at the first run of a step."""

    other: ClassVar[psycopg.Connection[Any]]
    runs: ClassVar[int] = 0

    @step("start")
    async def go(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        Cut.runs += 1
        await debit(ctx.conn, 10)
        if ctx.attempt == 0:
            Cut.other.execute("select pg_terminate_backend(%s, 10000)", (ctx.conn.info.backend_pid,))
        return Done(ctx.attempt)

    @step("always")
    def always(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        Cut.runs += 1
        with contextlib.suppress(psycopg.Error):
            ctx.conn.execute("select pg_terminate_backend(pg_backend_pid())")
        return Done()


def test_an_async_step_whose_connection_is_cut_runs_again(conn: psycopg.Connection[Any], db: Database) -> None:
    Cut.other, Cut.runs = db.connect(), 0
    events = Events()
    id = gd.insert(conn, Cut)
    with running(Engine(db.dsn, [Cut], on_event=events)):
        assert ended(conn, id)[0].result == 1
    assert (Cut.runs, balances(conn)) == (2, [90, 100])
    assert [metadata["reason"] for _, metadata in events.named("release")] == ["crashed"]


def test_a_step_that_always_ends_its_connection_comes_to_the_crash_cap(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    Cut.runs = 0
    id = gd.insert(conn, Cut, step="always")
    with running(Engine(db.dsn, [Cut])):
        (result,) = ended(conn, id)
    assert result.status == "failed"
    assert "crash cap" in (result.last_error or "")
    assert Cut.runs == field(conn, id, "crashes") == 20


def test_a_commit_of_which_nobody_knows_is_asked_of_the_database(
    conn: psycopg.Connection[Any], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has happened, and its answer is lost: the connection breaks behind the COMMIT.
    runs: list[int] = []
    said = connections._said

    def commit_and_break(pgconn: Any, text: bytes, tag: bytes) -> Any:
        yield from said(pgconn, text, tag)
        if tag == b"COMMIT" and len(runs) == 1:
            other.execute("select pg_terminate_backend(%s, 10000)", (pgconn.backend_pid,))
            yield from said(pgconn, b"select 1", b"SELECT 1")

    monkeypatch.setattr(connections, "_said", commit_and_break)
    other = db.connect()

    @job(name="tx_unknown", transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> int:
        runs.append(1)
        debit(ctx.conn, 10)
        return len(runs)

    id = gd.insert(conn, run, {})
    events = Events()
    with running(Engine(db.dsn, [run], on_event=events)):
        assert ended(conn, id)[0].result == 1
        wait_until(lambda: events.count("release") == 1)
        second = gd.insert(conn, run, {})
        ended(conn, second)
    assert len(runs) == 2
    assert field(conn, id, "crashes") == 0
    assert balances(conn) == [80, 100]


def test_idle_connections_that_have_died_cost_no_attempt(conn: psycopg.Connection[Any], db: Database) -> None:
    @job(name="tx_idle", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> int:
        debit(ctx.conn, 1)
        return int(ctx.conn.info.backend_pid)

    with running(Engine(db.dsn, [run], transactions=1)):
        (first,) = ended(conn, gd.insert(conn, run, {}))
        conn.execute("select pg_terminate_backend(%s, 10000)", (first.result,))
        id = gd.insert(conn, run, {})
        (second,) = ended(conn, id)
    assert second.status == "done"
    assert second.result != first.result
    assert field(conn, id, "crashes") == 0


def test_a_forked_child_that_comes_back_commits_nothing(conn: psycopg.Connection[Any], db: Database) -> None:
    seen: list[int] = []

    @job(name="tx_fork", max_attempts=1, transactional=True)
    def run(args: Any, ctx: gd.Context[Any]) -> str:
        debit(ctx.conn, 10)
        child = os.fork()
        if child == 0:
            return "the child"
        seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return "the parent"

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, result.result, seen) == ("done", "the parent", [0])
    assert balances(conn) == [90, 100]
