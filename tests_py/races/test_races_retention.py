"""Removal against whatever else happens to an instance: signals, watchers, retries, families, references of others."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb
from support.races import Session, outcome, three

# -- removal: whoever inserts has the row locked, and refuses one that has ended


def is_owned_by_nobody(session: Session) -> bool:
    query = """
        select exists (
            select from (
                select instance_id from gendurable.signal
                union all select instance_id from gendurable.signal_seen
                union all select instance_id from gendurable.watch) o
            where not exists (select from gendurable.instance i where i.id = o.instance_id))"""
    found: bool = session.one(query)
    return found


CALLS = {
    "signal": lambda session, id: session.signal(id, dedup="k"),
    "signal by key": lambda session, id: session.signal("u", dedup="k"),
    "watch": lambda session, id: session.call("watch", id),
}
REFUSED = {"signal": "no_target", "signal by key": "no_target", "watch": None}


def fleeting(session: Session) -> int:
    session.call("register", "m", 1, "start", "default", Jsonb({"retain": {"done": 0}}))
    return session.insert(unique_key="u")


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_waits_for_the_removal_of_its_instance(db, call, how):
    a, b, c = three(db)
    id = fleeting(c)
    claim = a.claim_one()
    a.begin()
    assert a.finish(claim) == ["ok"]
    waiting = b.blocked(c, CALLS[call], b, id)
    a.end(how)
    if how == "commit":
        assert waiting.result() == REFUSED[call]
    else:
        assert waiting.result() == ("executing" if call == "watch" else "delivered")
        # a watched one is kept, another one goes with its inbox
        assert a.finish(claim) == ["ok"]
        assert (call == "watch") == bool(c.rows("select from gd_result(%s)", id))
    assert not is_owned_by_nobody(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("call", CALLS)
def test_a_removal_that_meets_an_open_call(db, call, how):
    a, b, c = three(db)
    id = fleeting(c)
    claim = a.claim_one()
    CALLS[call](b.begin(), id)
    assert a.finish(claim) == ["busy"]
    b.end(how)
    assert a.finish(claim) == ["ok"]
    kept = how == "commit" and call == "watch"
    assert bool(c.rows("select from gd_result(%s)", id)) == kept
    assert not is_owned_by_nobody(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("call", CALLS)
def test_the_collector_passes_over_what_is_being_signalled(db, call, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u")
    assert a.commit(outcome(a.claim_one(), "stop", reason="x")) == ["ok"]
    # made live again, and not committed: the signal is for whom the collector would take
    assert b.begin().call("retry", id) is True
    assert CALLS[call](b, id) in ("delivered", "runnable")
    assert c.one("select gd_gc('0')") == 0
    b.end(how)
    assert c.one("select gd_gc('0')") == (0 if how == "commit" else 1)
    assert not is_owned_by_nobody(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("call", ["signal", "watch"])
def test_a_call_that_waits_for_the_collector(db, call, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u")
    assert c.signal(id, dedup="k") == "delivered"
    assert a.commit(outcome(a.claim_one(), "stop", reason="x")) == ["ok"]
    assert a.begin().one("select gd_gc('0')") == 1
    waiting = b.blocked(c, CALLS[call], b, id)
    a.end(how)
    assert waiting.result() == ("failed" if call == "watch" and how == "rollback" else REFUSED[call])
    assert not is_owned_by_nobody(c)
    assert c.one("select count(*) from gendurable.signal_seen") == (0 if how == "commit" else 1)


def test_a_reference_that_an_open_transaction_has_made_does_not_hold_up_the_commit(db):
    a, b, c = three(db)
    c.conn.execute("create table orders (instance bigint references gendurable.instance)")
    id = fleeting(c)
    claim = a.claim_one()
    b.begin().conn.execute("insert into orders values (%s)", (id,))
    assert a.finish(claim) == ["ok"]
    assert c.status(id) == "done"
    assert c.one("select gd_gc()") == 0
    b.roll_back()
    assert c.one("select gd_gc()") == 1
    # and what is referred to is kept, as long as that is so; the others of the batch go later
    ids = [c.insert() for _ in range(3)]
    c.conn.execute("insert into orders values (%s)", (ids[1],))
    assert a.finish(*a.claim(3)) == ["ok"] * 3
    assert c.one("select gd_gc()") == 2
    assert [row["id"] for row in c.rows("select id from gd_instances")] == [ids[1]]


def test_a_row_that_cannot_be_removed_now_is_waited_for_by_nobody(db):
    a, b, c = three(db)
    c.conn.execute("create table orders (instance bigint references gendurable.instance)")
    ids = [fleeting(c), *(c.insert() for _ in range(3))]
    claims = a.claim(4)
    b.begin().conn.execute("insert into orders values (%s), (%s)", (ids[0], ids[1]))
    # not even by a call that waits for locks, and the others of a batch are removed
    a.commit_one(outcome(claims[0], "done"))
    assert a.finish(*claims[1:]) == ["ok"] * 3
    assert [row["id"] for row in c.rows("select id from gd_instances order by id")] == ids[:2]
    b.roll_back()
    assert c.one("select gd_gc()") == 2


def test_what_is_being_made_live_again_is_not_waited_for_and_not_removed(db):
    a, b, c = three(db)
    id = c.insert()
    assert a.commit(outcome(a.claim_one(), "stop", reason="x")) == ["ok"]
    assert b.begin().call("retry", id) is True
    assert c.one("select gendurable._remove_ended(array[%s]::bigint[])", id) == 0
    b.commit_open()
    assert c.one("select gendurable._remove_ended(array[%s]::bigint[])", id) == 0
    assert c.status(id) == "runnable"


def test_a_reference_that_is_checked_at_the_commit_leaves_all_to_the_collector(db):
    a, _, c = three(db)
    c.conn.execute("create table orders (instance bigint references gendurable.instance deferrable initially deferred)")
    ids = [fleeting(c)]
    c.conn.execute("insert into orders values (%s)", (ids[0],))
    ids.append(c.insert())
    assert a.finish(*a.claim(2)) == ["ok"] * 2
    assert [c.status(id) for id in ids] == ["done", "done"]
    assert c.one("select gd_gc()") == 1


# -- families


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_retention_leaves_the_children_of_a_parent_that_is_being_retried(db, how):
    a, b, c = three(db)
    parent = c.insert()
    assert a.commit(outcome(a.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "m"}])) == ["ok"]
    assert a.finish(a.claim_one()) == ["ok"]
    assert a.commit(outcome(a.claim_one(), "stop", reason="too bad")) == ["ok"]
    assert c.begin().call("retry", parent)
    assert b.one("select gd_gc('0')") == 0
    c.end(how)
    if how == "commit":
        assert [kid["status"] for kid in a.claim_one()["childs"]] == ["done"]
        assert b.one("select gd_gc('0')") == 0
    else:
        assert b.one("select gd_gc('0')") == 2


def stray(a, b, c, *, machine="m"):
    """A child that runs, and whose parent runs again and does not wait for it any more: their claims."""
    parent = c.insert(fsm=machine)
    fan = outcome(a.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "m", "queue": "kids"}])
    assert a.commit(fan) == ["ok"]
    [child] = b.claim(1, "kids")
    assert c.call("cancel", parent) and c.call("retry", parent)
    return a.claim_one(), child


@pytest.mark.parametrize("last", ["parent", "child"])
def test_the_retention_finds_a_child_whichever_of_the_two_ends_last(db, last):
    a, b, c = three(db)
    parent, child = stray(a, b, c)
    assert {"parent": a, "child": b}[last].begin()
    assert (a.finish(parent), b.finish(child)) == (["ok"], ["ok"])
    # the one that has not committed is not seen, and the other one's note is struck out
    assert c.one("select gd_gc('0')") == 0
    assert c.one("select count(*) from gendurable.ended_parent") == 0
    {"parent": a, "child": b}[last].commit_open()
    assert c.one("select gd_gc('0')") == 2
    assert c.rows("select id from gd_instances") == []


def test_the_retention_finds_a_child_whose_fleeting_parent_is_gone(db):
    a, b, c = three(db)
    c.call("register", "fleeting", 1, "start", "default", Jsonb({"retain": {"done": 0}}))
    parent, child = stray(a, b, c, machine="fleeting")
    assert a.finish(parent) == ["ok"]
    assert c.rows("select from gd_result(%s)", parent["id"]) == []
    assert c.one("select gd_gc('0')") == 0
    assert b.finish(child) == ["ok"]
    assert c.one("select gd_gc('0')") == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_retry_beside_the_collector_that_frees_the_children(db, how):
    a, b, c = three(db)
    parent = c.insert()
    fan = outcome(a.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "m", "queue": "kids"}] * 2)
    assert a.commit(fan) == ["ok"]
    kids = a.claim(2, "kids")
    assert a.finish(*kids) == ["ok", "ok"]
    assert a.commit(outcome(a.claim_one(), "stop", reason="too bad")) == ["ok"]
    assert c.begin().call("retry", parent) is True
    # it has ended for all that the collector sees: the children are freed, and not removed
    assert b.one("select gd_gc('0')") == 0
    c.end(how)
    assert b.one("select gd_gc('0')") == (0 if how == "commit" else 3)
    if how == "commit":
        claim = a.claim_one()
        assert len(claim["childs"]) == 2
        assert a.finish(claim) == ["ok"]
        assert b.one("select gd_gc('0')") == 3


def test_a_child_that_somebody_has_locked_is_freed_later_and_holds_up_no_other_family(db):
    a, b, c = three(db)
    for _ in range(2):
        c.insert()
        fan = outcome(a.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "m", "queue": "kids"}] * 2)
        assert a.commit(fan) == ["ok"]
        assert a.finish(*a.claim(2, "kids")) == ["ok", "ok"]
        assert a.finish(a.claim_one()) == ["ok"]
    [locked] = b.begin().rows(
        "select id from gendurable.instance where parent_id is not null order by id limit 1 for update"
    )
    assert c.one("select gd_gc('0')") == 5
    assert [row["id"] for row in c.rows("select id from gd_instances")] == [locked["id"]]
    assert c.one("select count(*) from gendurable.ended_parent") == 1
    b.roll_back()
    assert c.one("select gd_gc('0')") == 1
    assert c.one("select count(*) from gendurable.ended_parent") == 0
