"""Steering: cancel, retry and reschedule, of one or many, with a dry run, a confirmation and what was busy."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import call, terminal

import gendurable_py as gd
from gendurable_py.cli.filters import OPEN

Conn = psycopg.Connection[Any]


def insert(conn: Conn, count: int, machine: str = "mail") -> list[int]:
    return [row.id for row in gd.insert_many(conn, [{"fsm": machine}] * count)]


def statuses(conn: Conn, machine: str = "mail") -> dict[str, int]:
    rows = conn.execute("select status, count(*) from gd_instances where fsm = %s group by 1", (machine,))
    return dict(rows.fetchall())


def test_by_id(db: Database, conn: Conn) -> None:
    one, two, three = insert(conn, 3)
    assert call(db.dsn, "cancel", one, two, "--reason", "no more", "--json").json == {
        "done": 2, "no": [], "busy": [], "none": [],
    }  # fmt: skip
    assert statuses(conn) == {"cancelled": 2, "runnable": 1}
    said = call(db.dsn, "cancel", one, three, 99, "--json", code=1)
    assert said.json == {"done": 1, "no": [one], "busy": [], "none": [99]}
    said = call(db.dsn, "cancel", one, 99, code=1).out
    assert f"not possible now (they had ended, or may not be written): 1 ({one})" in said
    assert "not there: 1 (99)" in said
    call(db.dsn, "retry", one, one, two)
    assert statuses(conn) == {"cancelled": 1, "runnable": 2}


def test_nothing_said_is_no_filter_for_all(db: Database, conn: Conn) -> None:
    insert(conn, 2)
    for name in ("cancel", "retry", "reschedule"):
        call(db.dsn, name, "--yes", code=2)
        call(db.dsn, name, 1, "--machine", "mail", "--yes", code=2)
    assert statuses(conn) == {"runnable": 2}


def test_a_dry_run_changes_nothing(db: Database, conn: Conn) -> None:
    ids = insert(conn, 3)
    assert call(db.dsn, "cancel", "--machine", "mail", "--dry-run").out == "Would cancel 3 instances: 1, 2, 3\n"
    assert call(db.dsn, "cancel", "--machine", "mail", "--dry-run", "--json").json["ids"] == ids
    call(db.dsn, "cancel", 1, "--tree", "--dry-run")
    call(db.dsn, "reschedule", "-m", "mail", "--at", "2h", "--dry-run")
    assert statuses(conn) == {"runnable": 3}
    assert conn.execute("select count(*) from gd_instances where eligible_at > now()").fetchone() == (0,)


def test_where_nobody_can_confirm_it_has_to_be_said(db: Database, conn: Conn) -> None:
    insert(conn, 3)
    said = call(db.dsn, "cancel", "--machine", "mail", code=2)
    assert "Cancel 3 instances?" in said.err
    assert statuses(conn) == {"runnable": 3}
    call(db.dsn, "cancel", "--machine", "mail", "--yes")
    assert statuses(conn) == {"cancelled": 3}


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, "runnable"), ("", 1, "runnable"), ("y", 0, "cancelled")])
def test_the_confirmation_names_the_number(db: Database, conn: Conn, answer: str, code: int, left: str) -> None:
    insert(conn, 7)
    insert(conn, 3, "other")
    with terminal(db.dsn, "cancel", "--machine", "mail") as shown:
        shown.shows("Cancel 7 instances? [y/N]")
        insert(conn, 2)  # what comes after it is not meant
        shown.type(answer)
        assert shown.ends() == code
    assert statuses(conn) == ({"runnable": 9} if left == "runnable" else {"cancelled": 7, "runnable": 2})
    assert statuses(conn, "other") == {"runnable": 3}


def test_filters_mean_what_can_be_done(db: Database, conn: Conn) -> None:
    ids = insert(conn, 4)
    gd.cancel(conn, ids[0])
    [claim] = gd.claim(conn, "w")
    gd.commit(conn, "w", [{"id": claim.id, "claim_no": claim.claim_no, "kind": "stop", "reason": "no"}])
    assert call(db.dsn, "cancel", "-m", "mail", "--dry-run", "--json").json["count"] == 2
    assert call(db.dsn, "retry", "-m", "mail", "--dry-run", "--json").json["ids"] == [claim.id]
    assert call(db.dsn, "retry", "-m", "mail", "-s", "failed,cancelled", "--dry-run", "--json").json["count"] == 2
    assert call(db.dsn, "cancel", "-m", "mail", "-n", "1", "--dry-run", "--json").json["count"] == 1
    assert "No instance fits." in call(db.dsn, "cancel", "-m", "nobody", "--yes", code=1).err


def test_many_are_done_in_batches(db: Database, conn: Conn) -> None:
    insert(conn, 1250)
    assert call(db.dsn, "cancel", "-m", "mail", "--yes", "--json").json["done"] == 1250
    assert statuses(conn) == {"cancelled": 1250}
    calls = [(row.call, row.what["filter"]) for row in gd.audit(conn).calls]
    assert calls == [("gd_cancel_many", {"fsm": "mail", "status": [*OPEN]})] * 3


def test_the_audit_says_by_which_filter_or_that_they_were_named(db: Database, conn: Conn) -> None:
    first, second, third = insert(conn, 3)
    call(db.dsn, "cancel", str(first), "--yes")
    call(db.dsn, "cancel", "-m", "mail", "-n", "1", "--tree", "--yes")
    call(db.dsn, "signal-many", "hello", "-m", "mail", "--yes")
    call(db.dsn, "reschedule", "-m", "mail", "--at", "1h", "--yes")
    call(db.dsn, "delete", "-m", "mail", "--yes")
    said = {(row.call, row.id): row.what.get("filter") for row in gd.audit(conn).calls}
    assert said["gd_cancel_many", None] is None
    assert said["gd_cancel", second] == {"fsm": "mail", "status": [*OPEN]}
    assert said["gd_signal_many", None] == {"fsm": "mail", "status": [*OPEN]}
    assert said["gd_reschedule_many", None] == {"fsm": "mail", "status": ["runnable", "awaiting_signal"]}
    assert said["gd_delete_many", None] == {"fsm": "mail", "status": ["done", "failed", "cancelled"]}
    assert gd.get(conn, third) is not None


def test_what_is_locked_is_told_and_the_rest_is_done(db: Database, conn: Conn) -> None:
    ids = insert(conn, 3)
    with db.connect(autocommit=False) as other:
        other.execute("select from gendurable.instance where id = %s for update", (ids[1],))
        said = call(db.dsn, "cancel", "-m", "mail", "--yes", "--json", code=1)
        other.rollback()
    assert said.json == {"done": 2, "no": [], "busy": [ids[1]], "none": []}
    assert "locked" not in call(db.dsn, "cancel", "-m", "mail", "--yes").out
    assert statuses(conn) == {"cancelled": 3}


def make_tree(conn: Conn) -> int:
    id = gd.insert(conn, "tree")
    assert id is not None
    [claim] = gd.claim(conn, "w", limit=1)
    children = [{"fsm": "leaf", "queue": "leaves"}] * 3
    gd.commit(
        conn,
        "w",
        [{"id": id, "claim_no": claim.claim_no, "kind": "schedule_childs", "step": "join", "childs": children}],
    )
    return id


def test_a_tree(db: Database, conn: Conn) -> None:
    id = make_tree(conn)
    said = call(db.dsn, "cancel", id, "--tree", code=2)
    assert "Cancel 1 instance and 3 below?" in " ".join(said.err.replace("│", " ").split())
    assert statuses(conn, "leaf") == {"runnable": 3}
    assert call(db.dsn, "cancel", id, "--tree", "--yes").out == "done: 1\n"
    assert statuses(conn, "leaf") == {"cancelled": 3}
    assert call(db.dsn, "cancel", id, 99, "--tree", "--yes", "--json", code=1).json["none"] == [99]
    # without --tree the children stay
    other = make_tree(conn)
    call(db.dsn, "cancel", other)
    assert statuses(conn, "leaf") == {"cancelled": 3, "runnable": 3}


def test_retry_from_a_step_with_a_state(db: Database, conn: Conn) -> None:
    [id] = insert(conn, 1)
    gd.cancel(conn, id)
    call(db.dsn, "retry", id, "--from", "pay", "--state", '{"sum": 3}')
    row = conn.execute("select step, state, status from gd_instances where id = %s", (id,)).fetchone()
    assert row == ("pay", {"sum": 3}, "runnable")
    assert call(db.dsn, "retry", id, 99, "--from", "pay", "--json", code=1).json == {
        "done": 0, "no": [id], "busy": [], "none": [99],
    }  # fmt: skip


def test_reschedule(db: Database, conn: Conn) -> None:
    [id] = insert(conn, 1)
    call(db.dsn, "reschedule", id, "--at", "2h")
    later = "select eligible_at between now() + '119 min' and now() + '121 min' from gd_instances where id = %s"
    assert conn.execute(later, (id,)).fetchone() == (True,)
    call(db.dsn, "reschedule", "-m", "mail", "--at", "2030-01-01T00:00Z", "--yes")
    row = conn.execute("select eligible_at = '2030-01-01Z' from gd_instances where id = %s", (id,)).fetchone()
    assert row == (True,)
    call(db.dsn, "reschedule", id)
    assert gd.claim(conn, "w")[0].id == id


def test_edit(db: Database, conn: Conn) -> None:
    [id] = insert(conn, 1)
    call(
        db.dsn, "edit", id, "--step", "go", "--state", '{"a": 1}', "--queue", "q", "--priority", 3, "--meta", '{"m": 1}'
    )
    row = conn.execute("select step, state, queue, priority, meta from gd_instances where id = %s", (id,)).fetchone()
    assert row == ("go", {"a": 1}, "q", 3, {"m": 1})
    call(db.dsn, "edit", id, code=2)
    call(db.dsn, "edit", 99, "--step", "go", code=1)
    gd.claim(conn, "w", "q")
    assert "it executes" in call(db.dsn, "edit", id, "--step", "on", code=1).out


def test_delete(db: Database, conn: Conn) -> None:
    ids = insert(conn, 3)
    assert call(db.dsn, "delete", ids[0], "--json", code=1).json["no"] == [ids[0]]
    call(db.dsn, "cancel", *ids[:2])
    call(db.dsn, "delete", "-m", "mail", code=2)
    assert call(db.dsn, "delete", "-m", "mail", "--yes").out == "done: 2\n"
    assert statuses(conn) == {"runnable": 1}


def test_a_signal_to_many(db: Database, conn: Conn) -> None:
    ids = insert(conn, 3)
    gd.cancel(conn, ids[0])
    assert call(db.dsn, "signal-many", "go", "-m", "mail", "--payload", '{"a": 1}', "--yes", "--json").json["done"] == 2
    assert [one.payload for one in gd.signals(conn, ids[1])] == [{"a": 1}]
    assert call(db.dsn, "signal-many", "go", ids[0], ids[2], "--json", code=1).json["no"] == [ids[0]]
