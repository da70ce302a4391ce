"""Inserts against inserts: unique keys in opposite orders, and new queues in open transactions."""

from __future__ import annotations

import pytest
from support.races import Session, outcome, three
from support.wait import run_in_thread, wait_until_blocked


def keyed(*keys: str):
    return [{"unique_key": key} for key in keys]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_inserts_of_one_key(db, how):
    a, b, c = three(db)
    first = a.begin().insert(unique_key="u")
    waiting = b.blocked(c, b.insert, unique_key="u")
    a.end(how)
    second = waiting.result()
    if how == "commit":
        assert second is None and c.call("find", "u") == first
    else:
        assert second == c.call("find", "u")
    assert c.one("select count(*) from gd_instances") == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_same_new_keys_in_opposite_orders(db, how):
    """In the order of the input, the two would hold one key each and wait for the other's."""
    a, b, c = three(db)
    gate = Session(db, "gate").begin()
    gate.insert(unique_key="m")  # stops both in the middle
    first = a.blocked(c, a.insert_many, *keyed("a", "m", "z"))
    second = run_in_thread(b.insert_many, *keyed("z", "m", "a"))
    wait_until_blocked(c.conn, b.conn)
    gate.end(how)
    rows = [*first.result(), *second.result()]
    assert [row["ord"] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert [row["created"] for row in rows] == [True, how == "rollback", True, False, False, False]
    assert [row["id"] for row in rows[3:]] == [row["id"] for row in rows[2::-1]]
    assert c.one("select count(*) from gd_instances") == 3


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_an_insert_while_the_end_of_the_keys_holder_is_open(db, how):
    a, b, c = three(db)
    old = c.insert(unique_key="u")
    claim = a.claim_one()
    assert a.begin().finish(claim) == ["ok"]
    waiting = b.blocked(c, b.insert, unique_key="u")
    a.end(how)
    new = waiting.result()
    assert (new is not None) == (how == "commit")
    assert c.call("find", "u") == (new if how == "commit" else old)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_fan_out_while_the_end_of_a_childs_key_holder_is_open(db, how):
    a, b, c = three(db)
    c.insert(unique_key="u", queue="side")
    holder = b.claim_one("side")
    parent = c.insert()
    claim = a.claim_one()
    fan = outcome(claim, "schedule_childs", step="join", childs=keyed_children("u"))
    assert b.begin().finish(holder) == ["ok"]
    assert a.commit(fan) == ["busy"]
    b.end(how)
    assert a.commit(fan) == ["ok"]
    assert c.status(parent) == ("awaiting_children" if how == "commit" else "runnable")


def keyed_children(*keys: str):
    return [{"fsm": "child", "queue": "kids", "unique_key": key} for key in keys]


def test_a_retry_while_the_key_is_being_taken(db):
    a, b, c = three(db)
    old = c.insert(unique_key="u")
    assert c.call("cancel", old)
    a.begin().insert(unique_key="u", queue="side")
    waiting = b.blocked(c, b.call, "retry", old)
    a.commit_open()
    assert waiting.result() is False
    assert c.status(old) == "cancelled"


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_row_that_enters_its_scope_again_while_its_key_is_being_taken_goes_on(db, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u", unique_scope=["runnable"])
    claim = a.claim_one()
    assert c.call("find", "u") is None
    other = b.begin().insert(unique_key="u", queue="side")
    step = outcome(claim, "next", step="two", delay_ms=3_600_000)
    result = a.commit(step)
    assert result in (["ok"], ["busy"])
    b.end(how)
    if result == ["busy"]:
        assert a.commit(step) == ["ok"]
    assert c.look(id)["step"] == "two"
    if how == "commit":
        assert c.call("find", "u") == other
    assert c.one("select count(*) from gendurable.instance where unique_held = 'u'") <= 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_first_use_of_a_new_queue_and_priority_blocks_nobody(db, how):
    a, b, c = three(db)
    mine = a.begin().insert(queue="new", priority=7)
    theirs = b.insert(queue="new", priority=7)
    [claim] = c.claim(10, "new")
    assert claim["id"] == theirs
    # a commit that moves its row there, and children that begin there
    move = outcome(claim, "next", step="two", queue="new", priority=8)
    c.insert()
    fan = outcome(c.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "m", "queue": "new", "priority": 7}])
    assert c.commit(move, fan) == ["ok", "ok"]
    found = {row["id"] for row in b.claim(10, "new")}
    assert theirs in found and len(found) == 2
    a.end(how)
    assert {row["id"] for row in c.claim(10, "new")} == ({mine} if how == "commit" else set())


def test_the_first_use_of_a_new_queue_by_commits_blocks_nobody(db):
    a, b, c = three(db)
    for _ in range(2):
        c.insert()
    one, two = c.claim(2)
    assert a.begin().commit(outcome(one, "next", step="s", queue="new")) == ["ok"]
    assert b.commit(outcome(two, "next", step="s", queue="new")) == ["ok"]
    a.commit_open()
    assert len(c.claim_soon("new", limit=10)) == 2


def test_rows_that_commit_late_are_found_below_the_floor(db):
    a, b, c = three(db)
    late = a.begin().insert()
    newer = c.insert()
    assert [row["id"] for row in b.claim(10)] == [newer]
    assert b.claim(10) == []
    a.commit_open()
    assert [row["id"] for row in b.claim_soon()] == [late]
