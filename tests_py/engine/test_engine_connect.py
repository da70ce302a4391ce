"""Connections that a callable of the user's makes: of every kind that an engine needs, made anew when one is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.accounts import balances, debit
from support.engine import Events, ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Engine, Next, job, sql_step, step

pytestmark = pytest.mark.usefixtures("accounts")

Conn = psycopg.Connection[Any]


class Transfer(FSM, name="connect_transfer", transactional=True):
    @step("start")
    def take(self, ctx: gd.Context[dict[str, Any]]) -> Next:
        debit(ctx.conn, 10)
        return Next("give")

    @step
    async def give(self, ctx: gd.Context[dict[str, Any]]) -> Next:
        await debit(ctx.conn, -10, 2)
        return Next(self.in_sql)

    in_sql = sql_step()


@job(name="connect_plain")
def plain(args: dict[str, Any]) -> str:
    return "ran"


def ways(dsn: str) -> dict[str, Callable[[], Any]]:
    async def asynchronous() -> Any:
        await asyncio.sleep(0)
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

    async def of_the_other_kind() -> Any:
        return await asyncio.to_thread(psycopg.connect, dsn)

    return {
        "sync": lambda: psycopg.connect(dsn),
        "async": asynchronous,
        "answers what is awaited": lambda: psycopg.AsyncConnection.connect(dsn),
        "async, answers a sync one": of_the_other_kind,
        "in another encoding": lambda: psycopg.connect(dsn, client_encoding="latin1", application_name="mine"),
    }


@pytest.mark.parametrize("way", list(ways("")))
def test_each_kind_of_work_runs_on_what_it_makes(conn: Conn, db: Database, way: str) -> None:
    conn.execute(
        "create function in_sql(ctx jsonb) returns jsonb language sql as $$ "
        """select jsonb_build_object('kind', 'done', 'result', 'grün') $$"""
    )
    conn.execute("select gd_define_step('connect_transfer', 'in_sql', 'in_sql(jsonb)')")
    events = Events()
    # What earlier tests left open, as Django does for each of its threads, is found now and not below.
    gc.collect()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with running(Engine(connect=ways(db.dsn)[way], machines=[Transfer, plain], on_event=events)):
            moved, ran = gd.insert(conn, Transfer), gd.insert(conn, plain, {})
            assert [one.result for one in ended(conn, moved, ran)] == ["grün", "ran"]
            late = gd.insert(conn, plain, {})
            assert ended(conn, late)[0].result == "ran"
            names = {row[0] for row in conn.execute("select application_name from pg_stat_activity")}
            wanted = "mine" if way == "in another encoding" else "gendurable "
            assert any(name.startswith(wanted) for name in names)
    assert balances(conn) == [90, 110]
    assert [str(one.message) for one in told if issubclass(one.category, ResourceWarning)] == []
    assert not events.count("reconnect")


def test_keyword_arguments_of_psycopg_are_a_connection_string(conn: Conn, db: Database) -> None:
    with running(Engine(dict(conninfo_to_dict(db.dsn)), [plain])):
        assert ended(conn, gd.insert(conn, plain, {}))[0].result == "ran"


def test_a_password_that_changes(conn: Conn, db: Database) -> None:
    """Stood for by a role, since test servers trust: the old one may not log in any more when connections are lost."""
    roles = [f"connect_{n}_{conn.info.backend_pid}" for n in range(2)]
    for role in roles:
        conn.execute(f"create role {role} login superuser".encode())
    now, made = [roles[0]], []

    def connect() -> Conn:
        made.append(now[0])
        return psycopg.connect(db.dsn, user=now[0])

    try:
        with running(Engine(connect=connect, machines=[plain, Transfer])):
            assert ended(conn, gd.insert(conn, plain, {}))[0].result == "ran"
            now[0] = roles[1]
            conn.execute(f"alter role {roles[0]} nologin".encode())
            query = "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s"
            conn.execute(query, (roles[0],))
            assert ended(conn, gd.insert(conn, plain, {}))[0].result == "ran"
        assert {roles[0], roles[1]} == set(made)
    finally:
        for role in roles:
            conn.execute(f"drop role {role}".encode())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_gives_tokens_may_be_away_for_a_while(conn: Conn, db: Database, kind: str) -> None:
    away, asked = threading.Event(), threading.Event()
    events = Events()

    def connect() -> Conn:
        if away.is_set():
            asked.set()
            raise RuntimeError("no token today")
        return psycopg.connect(db.dsn)

    async def connect_async() -> Any:
        return connect()

    with running(Engine(connect=connect if kind == "sync" else connect_async, machines=[plain], on_event=events)):
        assert ended(conn, gd.insert(conn, plain, {}))[0].result == "ran"
        away.set()
        query = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'gendurable %'"
        conn.execute(query.encode())
        id = gd.insert(conn, plain, {})
        assert asked.wait(15)
        assert wait_until(lambda: any("no token today" in str(seen) for seen in events.named("reconnect")), 15)
        away.clear()
        assert ended(conn, id)[0].result == "ran"


def closed(dsn: str) -> Conn:
    conn = psycopg.connect(dsn)
    conn.close()
    return conn


def in_a_transaction(dsn: str) -> Conn:
    conn = psycopg.connect(dsn)
    conn.execute("select 1")
    return conn


@pytest.mark.parametrize(
    ("connect", "error", "words"),
    [
        (lambda dsn: dsn, gd.InvalidArgument, "connect answered a str"),
        (lambda dsn: None, gd.InvalidArgument, "connect answered a NoneType"),
        (closed, psycopg.OperationalError, "a connection that is closed"),
        (in_a_transaction, psycopg.OperationalError, "a transaction open"),
        (lambda dsn: psycopg.connect(make_conninfo(dsn, dbname="nobody_made_it")), psycopg.Error, "nobody_made_it"),
        (lambda dsn: {}["token"], psycopg.OperationalError, "connect raised KeyError"),
    ],
)
def test_what_cannot_be_used_fails_the_start(
    db: Database, connect: Callable[[str], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words), running(Engine(connect=lambda: connect(db.dsn), machines=[plain])):
        pass


def test_one_of_them_is_given(db: Database) -> None:
    with pytest.raises(gd.InvalidArgument, match="dsn and connect are given"):
        Engine(db.dsn, connect=lambda: psycopg.connect(db.dsn))
    with pytest.raises(gd.InvalidArgument, match="connect is a"):
        Engine(connect=5)  # type: ignore[arg-type]
    with pytest.raises(gd.InvalidArgument, match="no connection string"):
        Engine({"hots": "db"})
