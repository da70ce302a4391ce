"""Clients that hold a key, or a row that is next in it, in a long transaction."""

from __future__ import annotations

import pytest
from support.races import Session, drains, ids, lane, no_baton_was_lost, outcome, three
from support.wait import wait_until


def next_due(sleeper: Session):
    [row] = sleeper.rows("select * from gd_sleep('sleeper', array['default'])")
    return row["next_due"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("parked", [1, 3])
@pytest.mark.parametrize("client", ["signal", "lock", "cancel"])
def test_a_lane_head_that_a_client_has_locked(db, how, parked, client):
    a, b, c = three(db)
    sleeper = Session(db, "sleeper")
    holder, rest = lane(c, a, parked)
    c.begin()
    if client == "signal":
        c.signal(rest[0])
    elif client == "lock":
        c.rows("select id from gendurable.instance where id = %s for update", rest[0])
    else:
        c.call("cancel", rest[0])
    result = a.finish(holder)
    assert result == (["busy"] if client == "cancel" else ["ok"])  # a cancel holds the key's lock too

    # Nothing spins: claims find nothing for the key, and wake nobody.
    sleeper.conn.execute("listen gendurable")
    sleeper.rows("select * from gd_sleep('sleeper', array['default'])")
    free = [b.insert(queue="side") for _ in range(3)]
    for _ in range(20):
        assert b.claim(10) == []
    assert list(sleeper.conn.notifies(timeout=0)) == []
    assert ids(b.claim(10, "side")) == free
    if result == ["ok"]:
        # no notification will come when the client ends: whoever sleeps is told to look again soon, again and again
        for _ in range(3):
            wait_until(lambda: b.claim(10) == [] and next_due(sleeper) is not None)

    c.end(how)
    if result == ["busy"]:
        assert a.commit_soon(outcome(holder, "done")) == "ok"
    gone = client == "cancel" and how == "commit"
    drains(b, *rest[gone:])


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_every_parked_row_is_locked_by_a_client(db, how):
    a, b, c = three(db)
    holder, rest = lane(c, a, 3)
    c.begin()
    for id in rest:
        c.signal(id)
    assert a.finish(holder) == ["ok"]
    for _ in range(5):
        assert b.claim(10) == []
    no_baton_was_lost(b)
    c.end(how)
    drains(b, *rest)


def test_a_carried_baton_is_not_lost_with_a_paused_queue(db):
    """The row that ended carries the baton, since the next one was locked; its own queue must not matter."""
    a, b, c = three(db)
    c.insert(partition_key="k", queue="side")
    holder = a.claim_one("side")
    two = c.insert(partition_key="k")
    assert b.claim(10) == []
    c.call("pause_queue", "side")
    c.begin().signal(two)
    result = a.finish(holder)
    c.commit_open()
    if result == ["busy"]:
        assert a.commit_soon(outcome(holder, "done")) == "ok"
    assert ids(b.claim_soon(limit=10)) == [two]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_holder_that_parks_before_a_head_that_a_client_has_locked(db, how):
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    c.begin().signal(two)
    park = outcome(holder, "await", signals="go")
    result = a.commit(park)
    assert result in (["ok"], ["busy"])
    c.end(how)
    if result == ["busy"]:
        assert a.commit_soon(park) == "ok"
    drains(b, two)
    assert c.status(holder["id"]) == "awaiting_signal" and c.look(holder["id"])["eligible_at"] is None


def test_a_delay_survives_that_its_row_carried_the_baton(db):
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    c.begin().signal(two)
    later = outcome(holder, "next", step="two", delay_ms=3_600_000)
    result = a.commit(later)
    assert b.claim(10) == []
    c.commit_open()
    if result == ["busy"]:
        assert a.commit_soon(later) == "ok"
    drains(b, two)
    row = c.look(holder["id"])
    assert row["eligible_at"] == row["lane_at"] and c.one("select %s > now() + interval '50 min'", row["lane_at"])


def test_a_parent_that_carries_the_baton_keeps_it_while_its_children_end(db):
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    c.begin().signal(two)
    fan = outcome(holder, "schedule_childs", step="join", childs=[{"fsm": "child", "queue": "kids"}] * 2)
    result = a.commit(fan)
    if result == ["ok"]:
        child = a.claim_one("kids")
        assert a.finish(child) == ["ok"]
    c.commit_open()
    if result == ["busy"]:
        assert a.commit_soon(fan) == "ok"
    no_baton_was_lost(c)
    drains(b, two)


def test_a_carrier_that_a_signal_wakes_still_lets_the_head_go_first(db):
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    c.begin().signal(two)
    park = outcome(holder, "await", signals="go")
    result = a.commit(park)
    if result == ["ok"]:
        assert b.signal(holder["id"]) == "delivered"
        assert b.claim(10) == []
    c.commit_open()
    if result == ["busy"]:
        assert a.commit_soon(park) == "ok"
        assert b.signal(holder["id"]) == "delivered"
    drains(b, two, holder["id"])


def test_a_release_with_a_delay_before_a_head_that_a_client_has_locked(db):
    """Giving back waits for nobody and fails for nobody: the other claims of the call are given back."""
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    free = c.insert()
    other = a.claim_one()
    assert other["id"] == free
    c.begin().signal(two)
    given = a.release(holder, other, delay="1 hour")
    assert given in (1, 2) and c.status(free) == "runnable"
    c.commit_open()
    if given == 1:
        assert a.release(holder, delay="1 hour") == 1
    # The row that was given back keeps its turn; a new time gives it up.
    c.rows("select gd_reschedule(%s, now() + interval '1 hour')", holder["id"])
    drains(b, two)


def test_commit_one_before_a_head_that_a_client_has_locked(db):
    """It may wait for the client, but it raises nothing that its contract does not name."""
    a, b, c = three(db)
    holder, [two] = lane(c, a, 1)
    c.begin().signal(two)
    running = a.started(b, a.commit_one, outcome(holder, "await", signals="go"))
    c.commit_open()
    running.result()
    drains(b, two)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_client_that_holds_a_keys_lock_makes_its_outcomes_busy_and_stops_nothing_else(db, how):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    other = c.insert(partition_key="other")
    free = c.insert()
    claims = a.claim(10)
    assert ids(claims) == [other, free]
    # a cancel of a row further back holds the key's lock to its end
    c.begin().call("cancel", three_)
    behind = b.insert(partition_key="k"), b.insert(partition_key="other2"), b.insert()
    assert a.commit(outcome(holder, "done"), *(outcome(row, "done") for row in claims)) == ["busy", "ok", "ok"]
    assert ids(b.claim(10)) == list(behind[1:])
    # giving back waits for nobody either: it is left to its lease
    assert a.release(holder) == 0
    assert b.call("reap") == 0
    c.end(how)
    assert a.finish(holder) == ["ok"]
    drains(b, two, *([] if how == "commit" else [three_]), behind[0])


def test_commits_over_several_keys_in_opposite_orders_do_not_deadlock(db):
    a, b, c = three(db)
    one, two = c.insert(partition_key="x"), c.insert(partition_key="y")
    claims = c.claim(2)
    assert ids(claims) == [one, two]
    hold = Session(db, "hold").begin()
    hold.rows("select pg_advisory_xact_lock(gendurable._key_lock('x'))")
    first = a.blocked(c, a.commit_one, outcome(claims[0], "next", step="s", partition_key="y"))
    second = b.blocked(c, b.commit_one, outcome(claims[1], "next", step="s", partition_key="x"))
    hold.commit_open()
    first.result()
    second.result()
    assert [c.look(id)["partition_key"] for id in (one, two)] == ["y", "x"]
    no_baton_was_lost(c)
    assert set(ids(c.claim_soon(limit=10))) == {one, two}
