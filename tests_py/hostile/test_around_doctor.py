"""The doctor among others: locks, open transactions, copies, and what its owner may not see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.people import People
from support.server import FAST, Server
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import embedded
from gendurable_py.embedded.cluster import Cluster
from gendurable_py.install import extension_files, install

Conn = psycopg.Connection[Any]
CHECKS = 28
A_WHILE_AGO = (
    "update gendurable.upkeep set place = place || jsonb_build_object('at', now() - interval '2 minutes') "
    "where name = 'ran'"
)


def said(conn: Conn, check: str) -> list[tuple[str, str]]:
    return [(row.level, row.message) for row in gd.doctor(conn) if row.check == check]


def unmade(conn: Conn) -> list[str]:
    found = gd.doctor(conn)
    assert len({row.check for row in found}) == CHECKS
    return sorted(row.check for row in found if "could not be made" in row.message)


def test_a_table_that_is_locked_stops_the_checks_that_read_it_and_no_other(db: Any) -> None:
    holder, conn = db.connect(autocommit=False), db.connect()
    holder.execute("lock table gendurable.schedule in access exclusive mode")
    assert unmade(conn) == ["schedules"]
    [(level, message)] = said(conn, "schedules")
    assert level == "warning" and "lock timeout" in message
    holder.rollback()
    assert unmade(conn) == []


def test_it_waits_for_nobody_who_holds_rows_and_makes_nobody_wait(db: Any) -> None:
    conn, holder, worker = db.connect(), db.connect(autocommit=False), db.connect(options="-c lock_timeout=1s")
    for number in range(3):
        gd.insert(conn, "m", partition_key=f"k{number}")
    gd.set_queue(conn, "few", limit=1)
    gd.hold_all(conn, "held")
    tables = conn.execute(
        "select relname from pg_class where relnamespace = 'gendurable'::regnamespace and relkind = 'r'"
    )
    for (table,) in tables.fetchall():
        holder.execute(sql.SQL("select from gendurable.{} for update").format(sql.Identifier(table)))
        holder.execute(sql.SQL("lock table gendurable.{} in share row exclusive mode").format(sql.Identifier(table)))
    assert unmade(conn) == []
    holder.rollback()
    gd.release_hold(conn)
    # its transaction stays open
    with conn.transaction():
        assert unmade(conn) == []
        claims = gd.claim(worker, "w", limit=3)
        assert len(claims) == 3
        gd.commit(worker, "w", [{"id": one.id, "claim_no": one.claim_no, "kind": "done"} for one in claims])
        gd.pause_queue(worker, "few")
        gd.resume_queue(worker, "few")
        assert gd.maintain(worker)["ran"]
        worker.execute("vacuum gendurable.instance")


def test_a_transaction_that_stays_open_is_named(db: Any) -> None:
    conn, other = db.connect(), db.connect(autocommit=False, application_name="a report")
    other.execute("select pg_current_xact_id()")
    assert said(conn, "horizon")[0][0] == "ok"
    query = "select level, message, detail from gendurable._check_horizon(clock_timestamp() + %s::interval)"
    [(level, message, detail)] = conn.execute(query, ("11 minutes",)).fetchall()
    assert level == "warning" and message.startswith("1 transactions are open")
    assert detail[0]["application"] == "a report" and detail[0]["pid"] == other.info.backend_pid
    assert [row[0] for row in conn.execute(query, ("3 hours",))] == ["problem"]
    other.rollback()
    assert conn.execute(query, ("3 hours",)).fetchall() == []


def test_a_replication_slot_that_nobody_uses_is_named(db: Any) -> None:
    conn = db.connect()
    query = "select message from gendurable._check_horizon(clock_timestamp() + '11 minutes')"
    assert conn.execute(query).fetchall() == []
    conn.execute("select pg_create_physical_replication_slot('gd_left', true)")
    try:
        assert conn.execute(query).fetchall() == [("replication slots hold back what is old: gd_left",)]
    finally:
        conn.execute("select pg_drop_replication_slot('gd_left')")
    assert conn.execute(query).fetchall() == []


@pytest.fixture(scope="module")
def preparing() -> Iterator[Server]:
    try:
        found = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    settings = FAST | {"max_prepared_transactions": "10", "max_locks_per_transaction": "10", "max_connections": "40"}
    cluster = Cluster(found, extension_files=extension_files(), settings=settings)
    yield Server(cluster.dsn, "with prepared transactions", cluster)
    cluster.stop()


def test_prepared_transactions_and_a_small_lock_table_are_named(preparing: Server) -> None:
    with psycopg.connect(preparing.new_database(), autocommit=True) as conn:
        [(level, message)] = said(conn, "locks")
        assert level == "warning" and message.startswith("the lock table of the server has room for some 500 locks")
        query = "select level, message, detail from gendurable._check_horizon(clock_timestamp() + %s::interval)"
        conn.execute("begin")
        gd.insert(conn, "m")
        conn.execute("prepare transaction 'forgotten'")
        assert said(conn, "horizon")[0][0] == "ok"
        [(level, message, detail)] = conn.execute(query, ("11 minutes",)).fetchall()
        assert level == "warning" and message.startswith("1 prepared transactions are open")
        assert detail[0]["gid"] == "forgotten"
        assert [row[0] for row in conn.execute(query, ("3 hours",))] == ["problem"]
        conn.execute("rollback prepared 'forgotten'")
        assert conn.execute(query, ("3 hours",)).fetchall() == []


def test_an_owner_without_rights_sees_what_it_may_and_says_what_it_may_not(people: People) -> None:
    database = people.database(empty=True, owner="owner")
    with people.connect(database, "owner") as owner, psycopg.connect(database) as hidden:
        owner.execute("create schema api")
        owner.execute("set search_path to api")
        install(owner)
        owner.execute("select gd_grant(%s::text::regrole, 'reader')", (people.role("reader"),))
        gd.insert(owner, "m", queue="q")
        gd.maintain(owner)
        hidden.execute("select 1")
        with people.connect(database, "reader") as reader:
            reader.execute("set search_path to api")
            assert unmade(reader) == []
            assert said(reader, "horizon")[0][0] == "ok"
            [row] = [row for row in gd.doctor(reader) if row.check == "horizon"]
            assert isinstance(row.detail, dict) and row.detail["hidden"] >= 1 and "pg_read_all_stats" in str(row.hint)
            # a transaction of another role cannot be seen: it is not said that there is none
            query = "select message from gendurable._check_horizon(clock_timestamp() + '1 day')"
            assert all("that can be seen" in message for (message,) in owner.execute(query))
        # who may not ask the server for its identifier is told by the name alone
        hidden.execute("revoke execute on function pg_control_system() from public")
        hidden.commit()
        assert unmade(owner) == [] and said(owner, "home")[0][0] == "ok"
        owner.execute(A_WHILE_AGO)
        assert gd.maintain(owner)["errors"] == {}


def test_a_copy_is_spoken_of_until_somebody_confirms_it(server: Server, people: People) -> None:
    original = people.database()
    with psycopg.connect(original, autocommit=True) as conn:
        gd.maintain(conn)
        name = conn.info.dbname
        assert said(conn, "home")[0][0] == "ok"
    copy = people.database(empty=True)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        made = psycopg.conninfo.conninfo_to_dict(copy)["dbname"]
        conn.execute(sql.SQL("drop database {}").format(sql.Identifier(str(made))))
        conn.execute(sql.SQL("create database {} template {}").format(sql.Identifier(str(made)), sql.Identifier(name)))
    with psycopg.connect(copy, autocommit=True) as conn:
        [(level, message)] = said(conn, "home")
        assert level == "problem" and f"come from {name} on" in message
        # the upkeep of the copy writes down where it is now, and the doctor goes on speaking
        conn.execute(A_WHILE_AGO)
        gd.maintain(conn)
        assert said(conn, "home") == [(level, message)]
        gd.hold_all(conn, "a copy")
        assert said(conn, "home") == [("warning", message)]
        assert gd.release_hold(conn)
        assert said(conn, "home")[0][0] == "ok"
    with psycopg.connect(original, autocommit=True) as conn:
        assert said(conn, "home")[0][0] == "ok"


def test_dead_rows_are_counted(db: Any) -> None:
    conn = db.connect()
    conn.execute("alter table gendurable.watch set (autovacuum_enabled = off)")
    conn.execute("insert into gendurable.watch select g from generate_series(1, 110000) g")
    conn.execute("delete from gendurable.watch")

    def dead() -> list[tuple[str, str]]:
        # the server counts them a moment after the commit
        conn.execute("select pg_stat_force_next_flush()")
        return [one for one in said(conn, "bloat") if one == ("warning", "many dead rows in watch")]

    wait_until(dead)
    conn.execute("vacuum gendurable.watch")
    wait_until(lambda: said(conn, "bloat")[0][0] == "ok")
