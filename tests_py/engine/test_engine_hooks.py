"""Transactional steps in the transactions of hooks, in `testing.drain`, and where they are declared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.accounts import balances, debit
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import FSM, Done, Engine, Next, job, step
from gendurable_py.testing import assert_done, assert_failed, drain

pytestmark = pytest.mark.usefixtures("accounts")


# Hooks


@pytest.mark.parametrize(
    ("how", "status", "left", "told"),
    [
        ("good", "done", 90, None),
        ("forgets", "failed", 90, "did not call commit"),
        ("twice", "failed", 100, "called twice"),
        ("early", "failed", 100, "no outcome yet"),
        ("swallows", "failed", 100, "the step says no"),
        ("swallows commit", "failed", 100, "no such rate limit"),
        ("serializable", "failed", 100, "READ COMMITTED"),
        ("cursor", "failed", 100, "called with a Cursor"),
        ("no manager", "failed", 100, "not a context manager"),
    ],
)
def test_an_outcome_counts_only_where_the_hook_has_called_commit(
    conn: psycopg.Connection[Any], db: Database, how: str, status: str, left: int, told: str | None
) -> None:
    @contextlib.contextmanager
    def hook(commit: Any) -> Iterator[Any]:
        with psycopg.connect(db.dsn) as mine:
            if how == "serializable":
                mine.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            if how == "early":
                commit(mine)
            try:
                yield mine
            except ValueError:
                if how != "swallows":
                    raise
                mine.rollback()
            if how == "cursor":
                commit(mine.cursor())
            elif how == "swallows commit":
                try:
                    commit(mine)
                except psycopg.Error:
                    mine.rollback()
            elif how != "forgets" and how != "swallows":
                commit(mine)
                if how == "twice":
                    commit(mine)

    @job(name="tx_hook", max_attempts=1, transactional=(lambda commit: 5) if how == "no manager" else hook)
    def run(args: Any, ctx: gd.Context[Any]) -> object:
        debit(ctx.conn, 10)
        if how == "swallows":
            raise ValueError("the step says no")
        return Next("start", rate_limit="nobody set it") if how == "swallows commit" else None

    id = gd.insert(conn, run, {})
    with running(Engine(db.dsn, [run])):
        (result,) = ended(conn, id)
    assert (result.status, balances(conn)[0]) == (status, left), result.last_error
    assert told is None or told in (result.last_error or "")


# In tests


def test_drain_runs_them_in_savepoints_of_the_given_connection(conn: psycopg.Connection[Any]) -> None:
    class Sync(FSM, name="tx_drain", transactional=True):
        @step("start")
        def go(self, ctx: gd.Context[dict[str, Any]]) -> object:
            assert ctx.conn is conn
            debit(ctx.conn, 10)
            if ctx.state.get("fail"):
                ctx.conn.execute("select 1 / 0")
            return Next("last")

        @step("last")
        def end(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            debit(ctx.conn, 1)
            return Done()

    with conn.transaction(force_rollback=True):
        good, bad = gd.insert(conn, Sync), gd.insert(conn, Sync, {"fail": True})
        drain(conn, [Sync], run_ahead=True)
        assert_done(conn, good or 0)
        assert_failed(conn, bad or 0, "division by zero")
        assert balances(conn) == [89, 100]
    assert balances(conn) == [100, 100]
    id = gd.insert(conn, Sync)
    drain(conn)
    assert_done(conn, id or 0)
    assert balances(conn) == [89, 100]


async def test_drain_on_an_async_connection(conn: psycopg.Connection[Any], db: Database) -> None:
    @job(name="tx_drain_async", transactional=True)
    async def run(args: Any, ctx: gd.Context[Any]) -> None:
        await debit(ctx.conn, 10)

    @job(name="tx_drain_sync", transactional=True)
    def other(args: Any, ctx: gd.Context[Any]) -> None:
        debit(ctx.conn, 10)

    aconn = await db.aconnect()
    id = await gd.insert(aconn, run, {})
    assert await drain(aconn, [run]) == 1
    await assert_done(aconn, id or 0)
    assert balances(conn) == [90, 100]
    await gd.insert(aconn, other, {})
    with pytest.raises(gd.InvalidArgument, match="sync transactional step"):
        await drain(aconn, [other])


@pytest.mark.parametrize("wrong", [5, "yes", object])
def test_what_is_no_hook_is_refused_where_it_is_given(wrong: Any) -> None:
    with pytest.raises(gd.InvalidArgument, match="transactional"):
        step(transactional=wrong)(lambda self, ctx: Done())
    with pytest.raises(gd.InvalidArgument, match="transactional"):
        job(name="tx_wrong", transactional=wrong)(lambda args: None)


def test_a_step_may_leave_the_transactions_of_its_class(conn: psycopg.Connection[Any], db: Database) -> None:
    class Mixed(FSM, name="tx_mixed", transactional=True):
        @step("start", transactional=False)
        def plain(self, ctx: gd.Context[dict[str, Any]]) -> Next:
            with pytest.raises(gd.InvalidArgument, match="no transaction"):
                ctx.conn.execute("select 1")
            return Next("last")

        @step("last")
        def last(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            debit(ctx.conn, 10)
            return Done()

    class Derived(Mixed, name="tx_derived", transactional=False):
        pass

    assert Derived.gendurable_spec.transactional == {"start": False, "last": False}
    id = gd.insert(conn, Mixed)
    with running(Engine(db.dsn, [Mixed])):
        assert ended(conn, id)[0].status == "done"
    assert balances(conn) == [90, 100]
