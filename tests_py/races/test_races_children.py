"""The barrier: children that end at once or are retried, parents that are cancelled or retried meanwhile."""

from __future__ import annotations

import pytest
from support.races import LOST, Session, outcome, three
from support.wait import wait_until


def fan_out(session: Session, worker: Session, count: int = 2, **child) -> tuple[int, list[int]]:
    """A parent that waits for `count` children in the queue 'kids', and the children's ids."""
    parent = session.insert()
    claim = worker.claim_one()
    assert claim["id"] == parent
    again(worker, claim, count, **child)
    return parent, childs_of(session, parent)


def again(worker: Session, claim, count: int, **child) -> None:
    childs = [{"fsm": "child", "queue": "kids", **child} for _ in range(count)]
    assert worker.commit(outcome(claim, "schedule_childs", step="join", childs=childs)) == ["ok"]


def childs_of(session: Session, parent: int) -> list[int]:
    return [row["id"] for row in session.rows("select id from gd_childs(%s)", parent)]


def waits_for(session: Session, parent: int) -> int | None:
    row = session.look(parent)
    return row["children_pending"] if row["status"] == "awaiting_children" else None


def joins_once(worker: Session, parent: int, count: int) -> None:
    [claim] = worker.claim_soon()
    assert (claim["id"], claim["step"], len(claim["childs"])) == (parent, "join", count)
    assert all(child["status"] in ("done", "failed", "cancelled") for child in claim["childs"])
    assert worker.claim() == []
    assert worker.finish(claim) == ["ok"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_last_two_children_end_at_once(db, how):
    a, b, c = three(db)
    parent, _ = fan_out(c, a)
    [one] = a.claim(1, "kids")
    [two] = b.claim(1, "kids")
    assert a.begin().finish(one) == ["ok"]
    assert b.finish(two) == ["busy"]
    a.end(how)
    assert b.finish(two) == ["ok"]
    if how == "rollback":
        assert waits_for(c, parent) == 1 and c.claim() == []
        assert a.finish(one) == ["ok"]
    joins_once(c, parent, 2)


def test_the_last_two_children_end_at_once_in_their_own_transactions(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a)
    [one] = a.claim(1, "kids")
    [two] = b.claim(1, "kids")
    a.begin().commit_one(outcome(one, "done", result=1))
    b.begin()
    waiting = b.blocked(c, b.commit_one, outcome(two, "stop", reason="no"))
    a.commit_open()
    waiting.result()
    assert waits_for(c, parent) == 1
    b.commit_open()
    joins_once(c, parent, 2)


def test_children_that_end_in_one_batch_and_one_outside_of_it(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 5)
    four, [one] = a.claim(4, "kids"), b.claim(1, "kids")
    assert b.begin().finish(one) == ["ok"]
    assert a.finish(*four) == ["busy"] * 4
    b.commit_open()
    assert a.finish(*four) == ["ok"] * 4
    joins_once(c, parent, 5)


def test_a_cancelled_child_releases_the_barrier_beside_an_end(db):
    a, b, c = three(db)
    parent, childs = fan_out(c, a)
    [one] = a.claim(1, "kids")
    assert a.begin().finish(one) == ["ok"]
    other = next(id for id in childs if id != one["id"])
    waiting = b.blocked(c, b.call, "cancel", other)
    a.commit_open()
    assert waiting.result() is True
    joins_once(c, parent, 2)


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("cascade", [False, True])
def test_a_child_ends_while_its_parent_is_being_cancelled(db, how, cascade):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 1)
    [child] = a.claim(1, "kids")
    assert b.begin().call("cancel", parent, "enough", cascade)
    assert a.finish(child) == ["busy"]
    b.end(how)
    expected = "ok" if how == "rollback" or not cascade else "stale"
    assert a.finish(child) == [expected]
    if how == "commit":
        assert c.status(parent) == "cancelled" and c.claim() == []
    else:
        joins_once(c, parent, 1)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_parent_is_cancelled_while_its_last_child_ends(db, how):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 1)
    [child] = a.claim(1, "kids")
    assert a.begin().finish(child) == ["ok"]
    waiting = b.blocked(c, b.call, "cancel", parent)
    a.end(how)
    assert waiting.result() is True
    assert c.status(parent) == "cancelled"
    assert a.finish(child) == ["stale" if how == "commit" else "ok"]
    assert c.status(parent) == "cancelled" and c.claim() == []


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_claim_that_ends_a_child_at_the_crash_cap_while_its_parent_is_held(db, how):
    a, b, c = three(db)
    parent, [child] = fan_out(c, a, 1)
    a.claim_one("kids", LOST)
    c.conn.execute("update gendurable.instance set crashes = 19 where id = %s", (child,))
    b.begin().signal(parent)
    assert c.claim(1, "kids") == []
    assert c.status(child) == "executing"
    b.end(how)
    # the next claim ends it, and its parent goes on
    [join] = wait_for_join(c)
    assert join["id"] == parent and [one["status"] for one in join["childs"]] == ["failed"]
    assert "crash" in c.look(child)["last_error"]


def wait_for_join(session: Session):
    def look():
        assert session.claim(1, "kids") == []
        return session.claim(1)

    return wait_until(look)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_child_ends_while_a_claim_that_ends_its_sibling_at_the_crash_cap_is_open(db, how):
    a, b, c = three(db)
    parent, childs = fan_out(c, a, 2)
    [lost] = a.claim(1, "kids", LOST)
    [good] = b.claim_soon("kids")
    if good["id"] == lost["id"]:  # b took the lost claim over: lose it again
        [good] = c.claim_soon("kids")
    lost_id = next(id for id in childs if id != good["id"])
    c.conn.execute(
        "update gendurable.instance set crashes = 19, lease_expires_at = now() - interval '1 s' where id = %s",
        (lost_id,),
    )
    a.begin()
    assert a.claim(5, "kids") == [] and a.status(lost_id) == "failed"
    assert b.finish(good) == ["busy"]
    a.end(how)
    assert b.finish(good) == ["ok"]
    if how == "commit":
        joins_once(c, parent, 2)
    else:
        assert waits_for(c, parent) == 1
        [join] = wait_for_join(c)
        assert join["id"] == parent


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_an_old_child_ends_while_a_claim_ends_its_parent_at_the_crash_cap(db, how):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 1)
    [child] = a.claim(1, "kids")
    assert c.call("cancel", parent) is True and c.call("retry", parent) is True
    [again_] = a.claim_soon(lease=LOST)
    assert again_["id"] == parent
    c.conn.execute("update gendurable.instance set crashes = 19 where id = %s", (parent,))
    b.begin()
    assert b.claim() == [] and b.status(parent) == "failed"
    # the parent left that barrier long ago: its lock is not needed
    assert a.finish(child) == ["ok"]
    b.end(how)
    assert a.finish(again_) == ["stale" if how == "commit" else "ok"]
    assert c.status(parent) == ("failed" if how == "commit" else "done")


def test_a_retried_child_is_waited_for_again(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a)
    one, two = a.claim(2, "kids")
    assert a.commit(outcome(one, "stop", reason="no")) == ["ok"]
    assert waits_for(c, parent) == 1
    assert b.begin().call("retry", one["id"]) is True
    # the last child that ran ends while the retry is open, and then after it
    assert a.finish(two) == ["busy"]
    b.commit_open()
    assert a.finish(two) == ["ok"]
    assert waits_for(c, parent) == 1 and c.claim() == []
    [retried] = a.claim_soon("kids")
    assert retried["id"] == one["id"]
    assert a.finish(retried) == ["ok"]
    joins_once(c, parent, 2)


def test_a_child_retried_twice_counts_once(db):
    a, _, c = three(db)
    parent, _ = fan_out(c, a)
    one, two = a.claim(2, "kids")
    for _ in range(3):
        assert a.commit(outcome(one, "stop", reason="no")) == ["ok"]
        assert waits_for(c, parent) == 1
        assert c.call("retry", one["id"]) is True
        assert waits_for(c, parent) == 2
        [one] = a.claim_soon("kids")
    assert a.finish(two, one) == ["ok", "ok"]
    joins_once(c, parent, 2)


def test_a_child_is_retried_while_the_last_end_is_open(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a)
    one, two = a.claim(2, "kids")
    assert a.commit(outcome(one, "stop", reason="no")) == ["ok"]
    assert a.begin().finish(two) == ["ok"]
    waiting = b.blocked(c, b.call, "retry", one["id"])
    a.commit_open()
    assert waiting.result() is True
    # the parent had left its barrier: it does not wait for the retried child, nor does a later barrier count it
    [join] = c.claim_soon()
    assert join["id"] == parent
    again(c, join, 1)
    retried, new = sorted(a.claim_soon("kids", limit=2), key=lambda row: row["id"])
    assert retried["id"] == one["id"]
    assert a.finish(retried) == ["ok"]
    assert waits_for(c, parent) == 1 and c.claim() == []
    assert a.finish(new) == ["ok"]
    joins_once(c, parent, 3)


def test_a_fan_out_again_after_a_retry_of_the_parent_does_not_count_the_old_children(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a)
    old = a.claim(2, "kids")
    assert c.call("cancel", parent) is True
    assert b.begin().call("retry", parent, "fan") is True
    # the old barrier is gone: its children end without a parent's lock, whatever holds it
    assert a.finish(old[0]) == ["ok"]
    b.commit_open()
    [claim] = c.claim_soon()
    assert (claim["id"], claim["step"]) == (parent, "fan")
    again(c, claim, 2)
    assert a.finish(old[1]) == ["ok"]
    assert waits_for(c, parent) == 2 and c.claim() == []
    new = a.claim_soon("kids", limit=2)
    assert len(new) == 2
    assert a.begin().finish(new[0]) == ["ok"]
    assert b.finish(new[1]) == ["busy"]
    a.commit_open()
    assert b.finish(new[1]) == ["ok"]
    joins_once(c, parent, 4)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_client_that_holds_a_parent_makes_its_childrens_ends_busy_and_stops_nothing_else(db, how):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 3)
    other, _ = fan_out(c, a, 1)
    free = c.insert(queue="kids")
    claims = a.claim(10, "kids")
    assert len(claims) == 5
    b.begin().signal(parent)
    mine = [row for row in claims if row["parent_id"] == parent]
    rest = [row for row in claims if row["parent_id"] != parent]
    results = a.commit(
        outcome(mine[0], "done"),
        outcome(mine[1], "stop", reason="no"),
        # these do not end: they need no parent
        outcome(mine[2], "next", step="two"),
        *(outcome(row, "done") for row in rest),
    )
    assert results == ["busy", "busy", "ok", "ok", "ok"]
    assert c.status(free) == "done"
    joins_once(c, other, 1)
    b.end(how)
    assert a.finish(*mine[:2]) == ["ok", "ok"]
    assert waits_for(c, parent) == 1
    [last] = a.claim_soon("kids")
    assert a.finish(last) == ["ok"]
    joins_once(c, parent, 3)


def test_a_cascade_waits_for_a_fan_out_that_is_still_open(db):
    a, b, c = three(db)
    parent = c.insert()
    claim = a.claim_one()
    a.begin()
    again(a, claim, 2)
    waiting = b.blocked(c, b.call, "cancel", parent, None, True)
    a.commit_open()
    assert waiting.result() is True
    assert [c.status(id) for id in childs_of(c, parent)] == ["cancelled", "cancelled"]


def test_a_fan_out_after_a_cascade_is_stale(db):
    a, b, c = three(db)
    parent = c.insert()
    claim = a.claim_one()
    fan = outcome(claim, "schedule_childs", step="join", childs=[{"fsm": "child"}])
    assert b.begin().call("cancel", parent, None, True) is True
    assert a.commit(fan) == ["busy"]
    b.commit_open()
    assert a.commit(fan) == ["stale"]
    assert childs_of(c, parent) == []


def test_a_child_that_was_taken_over_counts_once(db):
    a, b, c = three(db)
    parent, _ = fan_out(c, a, 2)
    old = a.claim(2, "kids", LOST)
    new = b.claim_soon("kids", limit=2)
    assert a.finish(old[0]) == ["stale"]
    assert b.finish(*new) == ["ok", "ok"]
    assert a.finish(old[1]) == ["stale"]
    joins_once(c, parent, 2)
