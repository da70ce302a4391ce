"""Behind a real pgbouncer that pools transactions: poll only, and everything still works."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.engine import Events, asleep, ended, field, running
from support.pgbouncer import PROBE, PROGRAM, pgbouncer, pooled
from support.proxy import Proxy
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, ScheduleChilds, job, step

Conn = psycopg.Connection[Any]

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer: apt-get install pgbouncer")
__all__ = ["pooled"]


@job(name="pgbouncer.work", max_attempts=3, backoff=lambda attempt: 0.01)
def work(args: dict[str, Any], ctx: Context[Any]) -> int:
    if ctx.attempt == 0:
        raise ValueError("the first time fails")
    return int(args["n"])


class Parent(FSM, name="pgbouncer.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(work, {"n": n}, partition_key=f"k:{n % 3}") for n in range(20)])

    @step
    async def join(self, ctx: Context[Any]) -> Any:
        go = ctx.signal("go")
        return Await("go", {"childs": len(ctx.childs)}) if go is None else Done([ctx.state, go.payload])


def test_an_engine_works_through_it(db: Any, conn: Conn, pooled: str) -> None:
    engine = Engine(
        pooled, [Parent, work], notify=False, poll_interval=0.02, max_poll_interval=0.05, heartbeat_interval=0.05
    )
    clients = psycopg.connect(pooled, autocommit=True, prepare_threshold=None)
    with clients, running(engine):
        id = gd.insert(clients, Parent)
        assert id is not None
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        assert gd.signal(clients, id, "go", "on") == "delivered"
        assert gd.wait(clients, id, 10) == gd.Result("done", [{"childs": 20}, "on"], None)
        many = gd.insert_many(clients, [Child(work, {"n": n}) for n in range(100)])
        assert [r.result for r in ended(conn, *(m.id for m in many))] == list(range(100))


@pytest.mark.parametrize(
    "options",
    ["default_pool_size = 1\n", "default_pool_size = 2\n", "default_pool_size = 3\nserver_round_robin = 1\n"],
)
def test_one_that_was_not_told_finds_out_and_leaves_nothing_behind(
    db: Any, conn: Conn, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    with pgbouncer(db, f"pool_mode = transaction\n{options}") as dsn:
        clients = [psycopg.connect(dsn, autocommit=True, prepare_threshold=None) for _ in range(3)]
        before = {row[1:] for client in clients for row in [client.execute(PROBE).fetchone()] if row}
        engine = Engine(dsn, [Parent, work], poll_interval=0.02, max_poll_interval=0.05, on_event=events)
        with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
            id = gd.insert(clients[0], Parent)
            wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
            gd.signal(clients[0], id or 0, "go", "on")
            assert ended(conn, id)[0].status == "done"
            during = [client.execute(PROBE).fetchone() for _ in range(5) for client in clients]
        after = [client.execute(PROBE).fetchone() for _ in range(5) for client in clients]
        assert {row[1:] for row in [*during, *after] if row} == before
        for client in clients:
            client.close()
    warnings = [record.getMessage() for record in caplog.records if "proxy" in record.getMessage()]
    assert len(warnings) == 1 and "notify=False" in warnings[0]
    assert events.count("sleep") == events.count("reconnect") == 0


def test_nothing_is_said_after_the_end_of_a_transaction(db: Any, conn: Conn) -> None:
    """A proxy takes what comes after it for another transaction, and keeps a server connection for it for ever."""
    with Proxy(db.dsn) as proxy:
        proxy.listen()
        engine = Engine(proxy.dsn, [work], notify=False, poll_interval=0.02, max_poll_interval=0.05)
        with running(engine):
            assert ended(conn, gd.insert(conn, work, {"n": 3}))[0].result == 3
        kinds = [kind for said in proxy.said for kind in messages(bytes(said))]
    assert len(kinds) > 10 and set(kinds) <= {"Q", "X"}


def messages(said: bytes) -> Iterator[str]:
    """The kinds of a client's messages: https://www.postgresql.org/docs/current/protocol-message-formats.html."""
    at = int.from_bytes(said[:4], "big")  # the first one has no kind
    while at < len(said):
        yield chr(said[at])
        at += 1 + int.from_bytes(said[at + 1 : at + 5], "big")


def test_where_sessions_are_pooled_it_listens(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    with pgbouncer(db, "pool_mode = session\ndefault_pool_size = 20\n") as dsn:
        engine = Engine(dsn, [work], poll_interval=3600, max_poll_interval=3600)
        with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
            wait_until(lambda: asleep(conn))
            # Told, not polled: the next poll would be an hour away.
            assert ended(conn, gd.insert(conn, work, {"n": 7}))[0].result == 7
    assert [record for record in caplog.records if "proxy" in record.getMessage()] == []


def test_a_proxy_that_comes_later_is_noticed(db: Any, conn: Conn) -> None:
    """A session's process that is another than before: the engine stops to rely on one."""
    events = Events()
    engine = Engine(db.dsn, [work], poll_interval=0.05, max_poll_interval=0.05, on_event=events)
    with running(engine):
        wait_until(lambda: asleep(conn))
        engine._database.claims.backend += 1
        gd.insert(conn, work, {"n": 1})
        wait_until(lambda: engine._database.sleeper.polls)
        ids = [made.id for made in gd.insert_many(conn, [Child(work, {"n": n}) for n in range(20)])]
        assert [result.result for result in ended(conn, *ids)] == list(range(20))
        wait_until(lambda: not asleep(conn))


def test_the_defaults_of_its_role_do_not_matter_there_either(db: Any, conn: Conn, pooled: str) -> None:
    name = conn.info.dbname
    for setting in (
        "default_transaction_isolation to 'serializable'",
        "default_transaction_read_only to on",
        "datestyle to 'German'",
        "intervalstyle to 'sql_standard'",
        "timezone to 'Asia/Kathmandu'",
        "search_path to 'nowhere'",
        "row_security to off",
    ):
        conn.execute(f"alter database {name} set {setting}")  # type: ignore[arg-type]
    with running(Engine(pooled, [work], notify=False, poll_interval=0.02, max_poll_interval=0.05)):
        ids = [made.id for made in gd.insert_many(conn, [Child(work, {"n": n}, delay=0.1) for n in range(20)])]
        assert [result.result for result in ended(conn, *ids)] == list(range(20))


@pytest.mark.parametrize("notify", [False, True])
def test_transactional_steps_leave_nothing_in_the_sessions_of_the_proxy(
    db: Any, conn: Conn, pooled: str, notify: bool
) -> None:
    conn.execute("create table account (id int primary key, balance int not null)")
    conn.execute("insert into account values (1, 0)")

    @job(name="pgbouncer.tx_sync", max_attempts=1, transactional=True)
    def sync(args: Any, ctx: Context[Any]) -> None:
        ctx.conn.execute("update account set balance = balance + 1 where id = %s", (1,))

    @job(name="pgbouncer.tx_async", max_attempts=1, transactional=True)
    async def other(args: Any, ctx: Context[Any]) -> None:
        await ctx.conn.execute("update account set balance = balance + 1 where id = %s", (1,))

    ids = [gd.insert(conn, machine, {}) for machine in (sync, other) for _ in range(20)]
    with running(Engine(pooled, [sync, other], notify=notify, transactions=3)):
        assert {result.status for result in ended(conn, *ids)} == {"done"}
    assert conn.execute("select balance from account").fetchone() == (40,)
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as through:
        for _ in range(4):
            left = through.execute("select count(*) from pg_prepared_statements").fetchone()
            assert left == (0,)


@pytest.mark.parametrize("notify", [False, True])
def test_steps_in_sql_run_through_it_and_leave_nothing_in_its_sessions(
    db: Any, conn: Conn, pooled: str, notify: bool
) -> None:
    conn.execute("create table account (id int primary key, n int not null)")
    conn.execute("insert into account values (1, 0)")
    conn.execute(
        """create function pay(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            update account set n = n + 1;
            return '{"kind": "done"}';
        end $$"""
    )
    gd.define_step(conn, "pgbouncer.alien", "start", "pay(jsonb)")
    ids = [gd.insert(conn, "pgbouncer.alien", {}) for _ in range(40)]
    with running(Engine(pooled, notify=notify, poll_interval=0.05)):
        assert {result.status for result in ended(conn, *ids)} == {"done"}
    assert conn.execute("select n from account").fetchone() == (40,)
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as through:
        for _ in range(4):
            left = through.execute(
                "select current_setting('default_transaction_isolation'), current_setting('statement_timeout'), "
                "(select count(*) from pg_prepared_statements)"
            ).fetchone()
            assert left == ("read committed", "0", 0)
