"""gd_why beside open transactions: who has locked what, and what waits behind it. It waits for nobody itself."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.types.json import Jsonb
from support.races import LOST, Session

Cause = dict[str, Any]


def why(session: Session, id: int) -> list[Cause]:
    return session.rows("select * from gd_why(%s)", id)


def causes(session: Session, id: int) -> list[str]:
    return [row["cause"] for row in why(session, id)]


@pytest.fixture
def reader(db: Database) -> Session:
    reader = Session(db, "reader")
    reader.conn.execute("set lock_timeout = '1ms'")
    return reader


@pytest.fixture
def client(db: Database) -> Session:
    client = Session(db, "client")
    client.conn.execute("set application_name = 'psql'")
    return client


LOCKS = ["for update", "for no key update", "for share"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_row_that_a_client_has_locked(reader: Session, client: Session, lock: str) -> None:
    id = client.insert()
    client.begin().rows(f"select id from gendurable.instance where id = %s {lock}", id)
    pid = client.one("select pg_backend_pid()")
    first, due = why(reader, id)
    assert (first["cause"], due["cause"]) == ("locked", "due")
    assert first["message"].startswith(f'It is locked by process {pid} ("psql", role "')
    assert "), idle in transaction for 0 s after: select pg_backend_pid()." in first["message"]
    assert first["detail"]["pid"] == pid and first["detail"]["lock"] == "row" and first["since"] is not None
    client.roll_back()
    assert causes(reader, id) == ["due"]


def test_a_row_that_two_have_locked(db: Database, reader: Session, client: Session) -> None:
    id = client.insert()
    other = Session(db).begin()
    for session in (client.begin(), other):
        session.rows("select id from gendurable.instance where id = %s for share", id)
    assert causes(reader, id) == ["locked", "due"]
    client.roll_back()
    pid = other.one("select pg_backend_pid()")
    assert why(reader, id)[0]["detail"]["pid"] == pid
    other.roll_back()
    assert causes(reader, id) == ["due"]


def test_a_row_that_a_part_of_a_transaction_has_locked(reader: Session, client: Session) -> None:
    id = client.insert()
    client.begin().conn.execute("savepoint a")
    client.rows("select id from gendurable.instance where id = %s for update", id)
    client.conn.execute("release a")
    pid = client.one("select pg_backend_pid()")
    assert [(row["cause"], row["detail"].get("pid")) for row in why(reader, id)] == [("locked", pid), ("due", None)]
    assert causes(client, id) == ["due"]  # it is not told of itself
    client.roll_back()


def test_a_prepared_transaction(db: Database, reader: Session, client: Session) -> None:
    if client.one("select current_setting('max_prepared_transactions')") == "0":
        pytest.skip("max_prepared_transactions is 0: set it in the server's configuration")
    id = client.insert()
    client.begin().rows("select id from gendurable.instance where id = %s for update", id)
    client.conn.execute("prepare transaction 'left'")
    try:
        message = why(reader, id)[0]["message"]
        assert message.startswith('It is locked by the prepared transaction "left", which has waited for 0 s')
    finally:
        client.conn.execute("rollback prepared 'left'")


def test_a_child_that_waits_for_a_key_whose_holder_is_locked_by_a_client(
    reader: Session, client: Session, db: Database
) -> None:
    worker = Session(db)
    holder = worker.insert(queue="keyed", partition_key="k")
    assert [row["id"] for row in worker.claim(1, "keyed", LOST)] == [holder]
    parent = worker.insert()
    claim = worker.claim_one()
    child = {"fsm": "c", "queue": "keyed", "partition_key": "k"}
    fan_out = {"id": parent, "claim_no": claim["claim_no"], "kind": "schedule_childs", "step": "s", "childs": [child]}
    assert worker.commit(fan_out) == ["ok"]
    client.begin().rows("select id from gendurable.instance where id = %s for update", holder)
    pid = client.one("select pg_backend_pid()")
    (cause,) = why(reader, parent)
    first = reader.one("select id from gd_childs(%s)", parent)
    assert cause["message"].startswith(
        f"It waits for 1 child that has not ended, first for instance {first}, "
        f'which waits for a slot of its key "k" as number 1 of the line, behind instance {holder}, '
        'which executes step "start" at worker "w" for '
    )
    assert f"nobody has claimed it again: it is locked by process {pid} (" in cause["message"]
    deep = cause["detail"]["because"]
    assert (deep["id"], deep["cause"]) == (first, "key")
    assert (deep["detail"]["because"]["id"], deep["detail"]["because"]["cause"]) == (holder, "executing")
    client.roll_back()
    assert "locked" not in why(reader, parent)[0]["message"]


def test_locks_besides_the_row(reader: Session, client: Session) -> None:
    client.call("set_rate_limit", "l", 10, "1 second")
    client.call("set_queue", "q", Jsonb({"limit": 5}))
    client.conn.execute("update gendurable.queue_setting set changed_in = null")
    id = client.insert(queue="q", partition_key="k", rate_limit="l")
    assert causes(reader, id) == ["due"]
    client.begin().one("select pg_advisory_xact_lock(gendurable._key_lock('k'))::text")
    (first, _) = why(reader, id)
    assert first["message"].startswith('It is of the key "k", which is locked by process ')
    client.roll_back()
    client.begin().one("select gendurable._try_bucket('l')")
    assert why(reader, id)[0]["message"].startswith('It is of the rate limit "l", which is locked by process ')
    client.roll_back()
    client.begin().one("select pg_advisory_xact_lock(gendurable._lock_of_queues(), hashtext('q'))::text")
    assert why(reader, id)[0]["detail"]["lock"] == "queue"
    client.roll_back()
    client.begin().conn.execute("lock table gendurable.instance in share mode")
    assert why(reader, id)[0]["detail"]["lock"] == "table"
    client.roll_back()
    assert causes(reader, id) == ["due"]


def test_looking_waits_for_nobody_and_nobody_waits_for_it(db: Database, reader: Session, client: Session) -> None:
    id = client.insert(partition_key="k", queue="q")
    client.call("pause_queue", "q")
    client.begin()
    client.call("cancel", id)
    client.conn.execute("lock table gendurable.paused_queue, gendurable.instance in exclusive mode")
    reader.begin("repeatable read")
    assert causes(reader, id)[:2] == ["queue paused", "locked"]
    assert reader.rows("select * from gd_line('k')")[0]["id"] == id
    assert reader.rows("select * from gd_failures()") == []
    client.end("commit")  # the reader's transaction is open, and has locked nothing that this needs
    assert causes(reader, id)[:1] == ["queue paused"]  # its snapshot
    reader.roll_back()
    assert causes(reader, id) == ["ended"]


def test_a_query_is_shown_to_those_who_may_see_it(db: Database, reader: Session, client: Session) -> None:
    id = client.insert()
    role = f"gd_t_why_{client.one('select pg_backend_pid()')}"
    client.conn.execute(f"create role {role}".encode())
    try:
        client.call("grant", role, "reader")
        client.begin().rows("select 'secret', id from gendurable.instance where id = %s for update", id)
        reader.conn.execute(f"set role {role}".encode())
        first = why(reader, id)[0]
        assert first["cause"] == "locked" and "secret" not in str(first) and first["detail"]["application"] == "psql"
        assert set(first["detail"]) == {"pid", "role", "application", "lock"} and first["since"] is None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.rows("select * from gendurable.instance")
        reader.conn.execute("reset role")
        assert "secret" in why(reader, id)[0]["message"]
        client.roll_back()
    finally:
        reader.conn.execute("reset role")
        client.conn.execute(f"drop owned by {role}".encode())
        client.conn.execute(f"drop role {role}".encode())
