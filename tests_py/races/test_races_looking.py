"""Who looks waits for nobody, whatever others have open, and nobody waits for who looks."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from support.looking import LOOKS, Looks, fill, readers_calls

Conn = psycopg.Connection[Any]

# What a look says of the time that passes, and of what others have locked.
MOVING = {"gd_why", "gd_doctor", "gd_rate_limits"}


@pytest.fixture
def looks(conn: Conn) -> Looks:
    return fill(conn)


@pytest.fixture
def reader(db: Database) -> Conn:
    """A session that gives up at once where it has to wait."""
    return db.connect(options="-c lock_timeout=1ms")


def tables(conn: Conn) -> list[str]:
    rows = conn.execute(
        "select c.oid::regclass::text from pg_class c "
        "where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p') order by 1"
    )
    return [row[0] for row in rows]


def seen(conn: Conn, looks: Looks) -> dict[str, list[Any]]:
    """What each look answers, in one transaction that may not write."""
    found: dict[str, list[Any]] = {}
    with conn.transaction():
        conn.execute("set transaction read only")
        for name in LOOKS:
            rows = [conn.execute(call, ids).fetchall() for call, ids in looks.calls(name)]
            found[name] = [len(one) for one in rows] if name in MOVING else rows
    return found


def test_every_function_that_looks_is_in_the_table(conn: Conn) -> None:
    assert set(LOOKS) == readers_calls(conn)


def test_there_is_something_to_look_at(conn: Conn, reader: Conn, looks: Looks) -> None:
    for name in set(LOOKS) - {"gd_holds"}:
        assert any(conn.execute(call, ids).fetchall() not in ([], [(None,)]) for call, ids in looks.calls(name)), name
    assert all(conn.execute(f"select exists (select from {table})".encode()).fetchone() == (True,)
               for table in tables(conn) if table.split(".")[1] in
               {"instance", "signal", "error", "history", "watch", "machine", "bucket", "bucket_closed", "schedule",
                "key_limit", "queue_setting", "rate_limit"})  # fmt: skip


def test_who_looks_waits_for_nobody(db: Database, conn: Conn, reader: Conn, looks: Looks) -> None:
    before = seen(reader, looks)
    rows = db.connect()
    rows.execute("begin")
    for table in tables(conn):
        rows.execute(f"select from {table} for update".encode())
    rows.execute("update gendurable.instance set step = 'other'")
    rows.execute("insert into gendurable.hold (reason, held_by) values ('not committed', 'x')")
    rows.execute("delete from gendurable.signal")
    rows.execute("delete from gendurable.error")
    # every advisory lock that there is for what stands here, also for a session
    rows.execute("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    for kind in ("_lock_of_buckets", "_lock_of_queues"):
        rows.execute(
            f"select pg_advisory_xact_lock(gendurable.{kind}(), hashtext(x)) "
            "from unnest('{q,l,few}'::text[]) x".encode()
        )
    after = seen(reader, looks)
    # one cause more, and each sees what was committed
    assert after.pop("gd_why") == [count + 1 for count in before.pop("gd_why")]
    for name in after:
        assert name == "gd_doctor" or after[name] == before[name], name
    rows.execute("rollback")
    # and the strongest lock that leaves a table readable
    rows.execute("begin")
    for table in tables(conn):
        rows.execute(f"lock table {table} in exclusive mode".encode())
    again = seen(reader, looks)
    for name in set(again) - MOVING:
        assert again[name] == before[name], name
    rows.execute("rollback")


def test_nobody_waits_for_who_looks(db: Database, conn: Conn, reader: Conn, looks: Looks) -> None:
    with reader.transaction():
        for name in LOOKS:
            for call, ids in looks.calls(name):
                reader.execute(call, ids)
        held = conn.execute(
            "select l.locktype, l.mode, c.oid::regclass::text from pg_locks l "
            "left join pg_class c on c.oid = l.relation "
            "where l.pid = %s and (l.locktype, l.mode) not in (('relation', 'AccessShareLock'), "
            # the doctor asks how far sequences are: that stops nothing but ALTER SEQUENCE
            "('virtualxid', 'ExclusiveLock')) and c.relkind is distinct from 'S'",
            (reader.info.backend_pid,),
        ).fetchall()
        assert held == []
        # all that does not rewrite or drop a table goes on beside it
        other = db.connect(options="-c lock_timeout=1ms")
        with other.transaction(force_rollback=True):
            for table in tables(conn):
                other.execute(f"lock table {table} in exclusive mode".encode())
                other.execute(f"select from {table} for update".encode())
        other.execute("select gd_cancel(%(id)s)", looks.ids)
        other.execute("select gd_maintain()")


def test_what_waits_for_a_table_that_is_being_changed(db: Database, conn: Conn, reader: Conn, looks: Looks) -> None:
    """ACCESS EXCLUSIVE (an upgrade, VACUUM FULL) stops whoever reads. The doctor says so in place of waiting."""
    ddl = db.connect()
    ddl.execute("begin")
    ddl.execute("lock table gendurable.instance in access exclusive mode")
    waited = set()
    for name in LOOKS:
        for call, ids in looks.calls(name):
            try:
                reader.execute(call, ids)
            except psycopg.errors.LockNotAvailable:
                waited.add(name)
    spared = {
        "gd_audit",
        "gd_errors",
        "gd_signals",
        "gd_stats",
        "gd_transitions",
        "gd_version",
        "gd_rate_limits",
        "gd_schedules",
        "gd_holds",
        "gd_doctor",
    }
    assert waited == set(LOOKS) - spared
    said = reader.execute("""select hint from gd_doctor() where "check" = 'stuck'""").fetchone()
    assert said == ("Somebody has locked what it reads: see pg_locks, and call again.",)
    ddl.execute("rollback")
