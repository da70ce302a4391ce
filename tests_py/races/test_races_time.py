"""Timeouts and deadlines against everything that touches the same rows at that moment."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb
from support.races import Row, Session, no_baton_was_lost, outcome, three


def timed(session: Session, **arguments: Any) -> int:
    options = Jsonb({"timeouts": {"start": 30_000}})
    session.rows("select gd_register('timed', 1, 'start', 'default', %s)", options)
    return session.insert(fsm="timed", **arguments)


def elapse(session: Session, id: int, seconds: int = 30) -> None:
    """So much time passes for an instance."""
    session.rows(
        "update gendurable.instance i set updated_at = updated_at - t.x, timeout_at = timeout_at - t.x, "
        "lease_expires_at = lease_expires_at - t.x, expires_at = expires_at - t.x "
        "from (select make_interval(secs => %s) as x) t where i.id = %s returning i.id",
        seconds,
        id,
    )


def deadline(session: Session, id: int, seconds: int = -1) -> None:
    session.rows(
        "update gendurable.instance set expires_at = clock_timestamp() + make_interval(secs => %s) where id = %s "
        "returning id",
        seconds,
        id,
    )


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_that_is_under_way_when_the_time_is_up(db, how):
    a, b, c = three(db)
    id = timed(c)
    claim = a.claim_one()
    elapse(c, id, 29)
    assert a.begin().commit(outcome(claim, "next", step="two")) == ["ok"]
    c.rows("select 1")
    assert b.call("reap") == 0  # its row is locked, whatever its time
    assert b.claim() == []
    a.end(how)
    if how == "commit":
        assert (c.look(id)["status"], c.look(id)["step"], c.look(id)["timeout_at"]) == ("runnable", "two", None)
        return
    elapse(c, id, 1)
    assert a.commit(outcome(claim, "next", step="two")) == ["stale"]
    assert b.claim() == []
    row = c.look(id)
    assert (row["status"], row["step"], row["attempt"], row["crashes"]) == ("runnable", "start", 1, 0)


def test_the_end_of_a_timed_claim_that_is_under_way_makes_its_commit_stale(db):
    a, b, c = three(db)
    id = timed(c)
    claim = a.claim_one()
    elapse(c, id)
    assert b.begin().call("reap") == 1
    assert a.finish(claim) == ["stale"]  # and not busy: nothing that ends now makes it good
    assert a.rows("select id from gd_heartbeat('a', %s)", Jsonb([[id, claim["claim_no"]]])) == [{"id": id}]
    assert a.release(claim) == 0
    b.roll_back()
    assert a.finish(claim) == ["stale"]
    assert c.status(id) == "executing"
    assert b.call("reap") == 1
    assert c.status(id) == "runnable"


def test_a_commit_of_ones_own_that_waited_until_the_time_was_up(db):
    a, b, c = three(db)
    id = timed(c)
    claim = a.claim_one()
    b.begin().rows("select from gendurable.instance where id = %s for no key update", id)
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done"))
    elapse(b, id)
    b.commit_open()
    with pytest.raises(errors.Error) as caught:
        waiting.result()
    assert caught.value.sqlstate == "GD505"
    assert c.status(id) == "executing"


def test_two_sessions_that_meet_a_claim_that_is_over_count_it_once(db):
    a, b, c = three(db)
    id = timed(c)
    a.claim_one()
    elapse(c, id)
    assert a.begin().claim() == []
    assert b.claim() == []
    assert b.call("reap") == 0
    assert b.maintain()["reaped"] == 0
    a.commit_open()
    assert b.maintain()["reaped"] == 0
    assert c.look(id)["attempt"] == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_beside_the_upkeep_at_the_deadline(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    deadline(c, id, 1000)
    assert a.begin().finish(claim) == ["ok"]
    # nobody waits for it, and it is judged by when it was made
    assert b.maintain()["expired"] == 0
    a.end(how)
    if how == "commit":
        assert c.status(id) == "done"
        return
    deadline(c, id)
    assert b.begin().maintain()["expired"] == 1
    assert a.finish(claim) == ["stale"]
    b.commit_open()
    assert c.status(id) == "failed"


def test_a_signal_beside_the_deadline(db):
    a, b, c = three(db)
    first, second = c.insert(), c.insert()
    for claim in a.claim(2):
        a.commit(outcome(claim, "await", signals="go", step="two"))
    deadline(c, first)
    deadline(c, second)
    # the signal first: it is delivered, and the next claim ends the instance
    assert a.begin().signal(first) == "delivered"
    assert b.maintain()["expired"] == 1
    assert c.status(second) == "failed"
    a.commit_open()
    assert c.status(first) == "runnable"
    assert b.claim() == []
    assert c.status(first) == "failed"
    # the end first: the signal waits for it, and finds nobody
    third = c.insert()
    a.commit(outcome(a.claim_one(), "await", signals="go", step="two"))
    deadline(c, third)
    assert b.begin().maintain()["expired"] == 1
    waiting = a.blocked(c, a.signal, third)
    b.commit_open()
    assert waiting.result() == "no_target"


def family(a: Session, c: Session) -> tuple[int, Row, Row]:
    parent = c.insert(queue="parents")
    a.commit(
        outcome(
            a.claim_one("parents"),
            "schedule_childs",
            step="join",
            childs=[{"fsm": "c", "queue": "c"} for _ in range(2)],
        )
    )
    first, second = a.claim(2, "c")
    return parent, first, second


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_last_two_children_end_at_once_one_by_its_deadline(db, how):
    a, b, c = three(db)
    parent, first, second = family(a, c)
    deadline(c, first["id"])
    assert a.begin().finish(second) == ["ok"]
    assert b.maintain()["expired"] == 0  # its parent is locked: it is for later
    a.end(how)
    assert b.maintain()["expired"] == 1
    if how == "rollback":
        assert c.look(parent)["children_pending"] == 1
        assert a.finish(second) == ["ok"]
    assert c.status(parent) == "runnable"
    assert [child["status"] for child in a.claim_one("parents")["childs"]] == ["failed", "done"]


def test_a_parent_that_somebody_holds_keeps_its_child_from_expiring_and_nobody_else(db):
    a, b, c = three(db)
    parent, first, _ = family(a, c)
    other = c.insert(queue="x")
    deadline(c, first["id"])
    deadline(c, other)
    b.begin().rows("select from gendurable.instance where id = %s for no key update", parent)
    assert a.maintain()["expired"] == 1
    assert (c.status(first["id"]), c.status(other)) == ("executing", "failed")
    assert a.finish(first) == ["stale"]
    b.roll_back()
    assert a.maintain()["expired"] == 1
    assert c.look(parent)["children_pending"] == 1


def test_a_parent_that_somebody_holds_is_not_waited_for_at_the_last_timeout(db):
    a, b, c = three(db)
    timed(c, queue="nobody")
    parent = c.insert(queue="parents")
    childs = [{"fsm": "timed", "queue": "c", "max_attempts": 1}]
    a.commit(outcome(a.claim_one("parents"), "schedule_childs", step="join", childs=childs))
    child = a.claim_one("c")["id"]
    elapse(c, child)
    b.begin().rows("select from gendurable.instance where id = %s for no key update", parent)
    claiming = a.started(c, a.claim, queue="c")
    assert claiming.done  # it did not wait
    assert claiming.result() == []
    assert a.call("reap") == 0
    assert c.status(child) == "executing"
    b.roll_back()
    assert a.call("reap") == 1
    assert (c.status(child), c.status(parent)) == ("failed", "runnable")


def test_a_key_that_somebody_holds_keeps_its_rows_and_nobody_waits(db):
    a, b, c = three(db)
    keyed, parked, free = c.insert(partition_key="k"), c.insert(partition_key="k"), c.insert()
    a.claim(10)
    for id in (keyed, parked, free):
        deadline(c, id)
    b.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    assert a.maintain()["expired"] == 1
    assert [c.status(id) for id in (keyed, parked, free)] == ["executing", "runnable", "failed"]
    b.roll_back()
    assert a.maintain()["expired"] == 2
    no_baton_was_lost(a)


def test_the_upkeep_goes_on_behind_rows_that_it_cannot_end(db):
    a, b, c = three(db)
    held = [row["id"] for row in c.insert_many(*[{"delay_ms": 1000_000, "expires_ms": 0} for _ in range(150)])]
    free = c.insert(delay="1 hour", expires_at="2020-01-01T00:00:00Z")
    last = c.insert_many({"delay_ms": 1000_000, "expires_ms": 0})[0]["id"]
    b.begin().rows("select id from gendurable.instance where id = any(%s) for no key update", held)
    assert a.maintain()["expired"] == 2
    assert (c.status(free), c.status(last)) == ("failed", "failed")
    b.roll_back()
    assert a.maintain()["expired"] == 150


def test_a_retry_beside_the_deadline(db):
    a, b, c = three(db)
    id = c.insert()
    deadline(c, id)
    assert b.begin().maintain()["expired"] == 1
    waiting = a.blocked(c, a.call, "retry", id)
    b.commit_open()
    assert waiting.result() is True
    assert a.claim_one()["id"] == id
