"""Forks and documents, while others have what they read, or want what they write."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Database
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb
from support.races import Session, outcome

Pair = tuple[Session, Session]


@pytest.fixture
def pair(db: Database) -> Pair:
    return Session(db), Session(db, "client")


def family(w: Session) -> int:
    root = w.insert(queue="q", partition_key="k")
    childs = [{"fsm": "c", "queue": "c", "unique_key": "u1"}, {"fsm": "c", "queue": "c", "unique_key": "u2"}]
    assert w.commit(outcome(w.claim_one("q"), "schedule_childs", step="after", childs=childs)) == ["ok"]
    return root


def test_who_reads_waits_for_nobody_and_holds_nobody_up(pair: Pair) -> None:
    w, client = pair
    root = family(w)
    w.conn.execute("""select gd_register('m', 1, 's', 'q', '{"history": "states"}')""")
    client.begin().rows("select id from gendurable.instance for update")
    client.conn.execute("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    client.conn.execute(
        "lock table gendurable.signal, gendurable.error, gendurable.history in share row exclusive mode"
    )
    w.conn.execute("set lock_timeout = '100ms'")
    w.begin()
    document = w.one("select gd_export(%s)", root)
    fork = w.one("select gd_fork(%s)", root)
    assert len(document["instances"]) == 3 and fork > root
    # what they have locked themselves is theirs alone, until the end of their transaction
    held = w.rows(
        "select relation::regclass::text as name, mode from pg_locks where pid = pg_backend_pid()"
        " and locktype = 'relation' and mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"
    )
    assert held == []
    client.rows("update gendurable.instance set priority = 1 where id = %s returning id", root)
    w.commit_open()


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_unique_key_in_an_open_transaction_is_waited_for_a_second(pair: Pair, end: str) -> None:
    w, client = pair
    root = family(w)
    document = w.one("select gd_export(%s)", root)
    w.conn.execute("select gd_cancel(%s, p_cascade => true)", (root,))
    before = w.one("select count(*) from gd_instances")
    # whatever else would end the waiting is another error
    w.conn.execute("set lock_timeout = 0; set statement_timeout = '8s'")
    client.begin().insert(unique_key="u2")
    with pytest.raises(LockNotAvailable):
        w.one("select gd_import(%s)", Jsonb(document))
    assert w.one("select count(*) from gd_instances") == before
    client.end(end)
    copy = w.one("select gd_import(%s)", Jsonb(document))
    assert (copy is None) == (end == "commit")
    assert w.one("select count(*) from gd_instances") == before + (1 if end == "commit" else 3)
    assert w.one("select count(*) from gendurable.audit where call = 'gd_import'") == int(end == "rollback")


def test_two_who_import_the_same_do_not_deadlock(pair: Pair) -> None:
    w, client = pair
    root = family(w)
    document: dict[str, Any] = w.one("select gd_export(%s)", root)
    w.conn.execute("select gd_cancel(%s, p_cascade => true)", (root,))
    first, one, two = document["instances"]
    turned = document | {"instances": [first, two, one]}
    w.begin()
    assert w.one("select gd_import(%s)", Jsonb(document)) is not None
    with pytest.raises(LockNotAvailable):
        client.one("select gd_import(%s)", Jsonb(turned))
    w.commit_open()
    assert client.one("select gd_import(%s)", Jsonb(turned)) is None
