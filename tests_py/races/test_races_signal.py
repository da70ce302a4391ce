"""Signals against parking, deadlines, ends and other signals, in both orders."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support.races import Session, outcome, three


def names(claim) -> list[str]:
    return [signal["name"] for signal in claim["signals"]]


def parked(session: Session, worker: Session, **keys) -> int:
    """An instance that awaits 'go'."""
    id = session.insert()
    claim = worker.claim_one()
    assert claim["id"] == id
    assert worker.commit(outcome(claim, "await", signals="go", **keys)) == ["ok"]
    assert session.status(id) == "awaiting_signal"
    return id


def consumes_it_once(worker: Session, id: int) -> None:
    [claim] = worker.claim_soon()
    assert (claim["id"], names(claim), claim["timed_out"]) == (id, ["go"], False)
    used = [signal["id"] for signal in claim["signals"]]
    assert worker.commit(outcome(claim, "await", signals="go", consume=used)) == ["ok"]
    assert worker.status(id) == "awaiting_signal"
    assert worker.claim() == []
    assert worker.one("select count(*) from gendurable.signal where instance_id = %s", id) == 0


def test_a_signal_before_the_park(db):
    a, _, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    assert c.signal(id) == "delivered"
    assert a.commit(outcome(claim, "await", signals="go")) == ["ok"]
    consumes_it_once(a, id)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_signal_that_is_still_open_when_the_instance_parks(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    park = outcome(claim, "await", signals="go")
    assert b.begin().signal(id) == "delivered"
    assert a.commit(park) == ["busy"]
    b.end(how)
    assert a.commit(park) == ["ok"]
    if how == "commit":
        consumes_it_once(a, id)
    else:
        assert c.status(id) == "awaiting_signal" and a.claim() == []


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_signal_that_is_still_open_when_the_instance_parks_in_its_own_transaction(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    b.begin().signal(id)
    waiting = a.blocked(c, a.commit_one, outcome(claim, "await", signals="go"))
    b.end(how)
    waiting.result()
    if how == "commit":
        consumes_it_once(a, id)
    else:
        assert c.status(id) == "awaiting_signal"


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("by", ["id", "unique key"])
def test_a_park_that_is_still_open_when_the_signal_comes(db, how, by):
    a, b, c = three(db)
    id = c.insert(unique_key="u")
    claim = a.claim_one()
    park = outcome(claim, "await", signals="go")
    assert a.begin().commit(park) == ["ok"]
    waiting = b.blocked(c, b.signal, id if by == "id" else "u")
    a.end(how)
    assert waiting.result() == "delivered"
    if how == "rollback":
        assert c.status(id) == "executing"
        assert a.commit(park) == ["ok"]
    assert c.status(id) == "runnable"
    consumes_it_once(a, id)


def test_a_signal_before_the_deadline_is_claimed(db):
    a, b, c = three(db)
    id = parked(c, a, timeout_ms=0)
    assert b.signal(id) == "delivered"
    consumes_it_once(a, id)


def test_a_signal_that_is_open_while_the_deadline_passes(db):
    a, b, c = three(db)
    id = parked(c, a, timeout_ms=0)
    b.begin().signal(id)
    assert a.claim() == []
    b.commit_open()
    consumes_it_once(a, id)


def test_a_signal_that_was_rolled_back_leaves_the_deadline(db):
    a, b, c = three(db)
    id = parked(c, a, timeout_ms=0)
    b.begin().signal(id)
    assert a.claim() == []
    b.roll_back()
    [claim] = a.claim_soon()
    assert (claim["id"], claim["timed_out"], names(claim)) == (id, True, [])


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_claim_of_the_deadline_that_is_open_when_the_signal_comes(db, how):
    a, b, c = three(db)
    id = parked(c, a, timeout_ms=0)
    claim = a.begin().claim_one()
    assert (claim["timed_out"], names(claim)) == (True, [])
    waiting = b.blocked(c, b.signal, id)
    a.end(how)
    assert waiting.result() == "delivered"
    if how == "commit":
        # the step that timed out did not see it: the next await is answered at once
        assert a.commit(outcome(claim, "await", signals="go", timeout_ms=60_000)) == ["ok"]
        assert c.status(id) == "runnable"
    consumes_it_once(a, id)


def test_a_signal_between_the_claim_of_the_deadline_and_an_end_is_dropped_with_the_inbox(db):
    a, b, c = three(db)
    id = parked(c, a, timeout_ms=0)
    claim = a.claim_one()
    assert b.signal(id) == "delivered"
    assert a.finish(claim) == ["ok"]
    assert b.signal(id) == "no_target"
    assert c.one("select count(*) from gendurable.signal") == 0


def test_a_signal_held_open_stops_only_its_own_instance(db):
    a, b, c = three(db)
    ids = [c.insert() for _ in range(4)]
    claims = a.claim(3)
    assert b.begin().signal(ids[1]) == "delivered"
    assert b.signal(ids[3]) == "delivered"
    results = a.commit(
        outcome(claims[0], "done"), outcome(claims[1], "next", step="two"), outcome(claims[2], "await", signals="go")
    )
    assert results == ["ok", "busy", "ok"]
    assert c.signal(ids[2]) == "delivered"
    # the fourth row is held too: a claim passes it over, and finds what is free
    assert [row["id"] for row in c.claim_soon()] == [ids[2]]
    b.commit_open()
    assert a.commit(outcome(claims[1], "next", step="two")) == ["ok"]
    [row] = c.claim_soon(limit=1)
    assert row["id"] in (ids[1], ids[3]) and names(row) == ["go"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_signals_with_one_dedup_key_at_once(db, how):
    a, b, c = three(db)
    id = c.insert()
    assert a.begin().signal(id, payload=1, dedup="d") == "delivered"
    waiting = b.blocked(c, b.signal, id, payload=2, dedup="d")
    a.end(how)
    assert waiting.result() == ("duplicate" if how == "commit" else "delivered")
    [claim] = c.claim_soon()
    assert [signal["payload"] for signal in claim["signals"]] == [1 if how == "commit" else 2]


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("end", ["done", "cancel"])
def test_an_end_that_is_still_open_when_the_signal_comes(db, how, end):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    a.begin()
    if end == "done":
        assert a.finish(claim) == ["ok"]
    else:
        assert a.call("cancel", id)
    waiting = b.blocked(c, b.signal, id)
    a.end(how)
    assert waiting.result() == ("no_target" if how == "commit" else "delivered")
    assert c.one("select count(*) from gendurable.signal") == (0 if how == "commit" else 1)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_signal_to_a_key_that_passes_to_another_instance_meanwhile(db, how):
    a, b, c = three(db)
    old = c.insert(unique_key="u")
    claim = a.claim_one()
    assert a.begin().finish(claim) == ["ok"]
    new = a.insert(unique_key="u")
    waiting = b.blocked(c, b.signal, "u")
    a.end(how)
    assert waiting.result() == "delivered"
    target = c.one("select instance_id from gendurable.signal")
    assert target == (new if how == "commit" else old)


def test_two_signals_of_a_pack_at_once_wake_the_instance_once(db):
    a, b, c = three(db)
    id = c.insert()
    claim = c.claim_one()
    assert c.commit(outcome(claim, "await", signals=["one", "two"])) == ["ok"]
    a.begin().signal(id, "one")
    waiting = b.blocked(c, b.signal, id, "two")
    a.commit_open()
    assert waiting.result() == "delivered"
    [woken] = c.claim_soon()
    assert sorted(names(woken)) == ["one", "two"] and c.claim() == []
    # both were shown while they were awaited: without a new one it parks
    assert c.commit(outcome(woken, "await", signals=["one", "two"])) == ["ok"]
    assert c.status(id) == "awaiting_signal"


def test_a_signal_shown_to_a_lost_worker_is_shown_again(db):
    a, b, c = three(db)
    id = parked(c, a)
    assert c.signal(id) == "delivered"
    [lost] = a.claim_soon(lease="1 microsecond")
    assert names(lost) == ["go"]
    [again] = b.claim_soon()
    assert (again["attempt"], names(again)) == (1, ["go"])
    used = [signal["id"] for signal in again["signals"]]
    assert b.begin().commit(outcome(again, "await", signals="go", consume=used)) == ["ok"]
    assert a.commit(outcome(lost, "await", signals="go", consume=used)) == ["stale"]
    b.commit_open()
    assert a.commit(outcome(lost, "await", signals="go", consume=used)) == ["stale"]
    assert c.one("select count(*) from gendurable.signal") == 0


def test_a_signal_under_a_fixed_snapshot_sees_the_park_or_fails(db):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    b.begin("repeatable read").rows("select 1 as one")
    assert a.commit(outcome(claim, "await", signals="go")) == ["ok"]
    with pytest.raises(psycopg.errors.SerializationFailure):
        b.signal(id)
    b.roll_back()
    assert b.signal(id) == "delivered"
    consumes_it_once(a, id)


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


def test_a_reference_that_is_checked_at_the_commit_leaves_all_to_the_collector(db):
    a, _, c = three(db)
    c.conn.execute("create table orders (instance bigint references gendurable.instance deferrable initially deferred)")
    ids = [fleeting(c)]
    c.conn.execute("insert into orders values (%s)", (ids[0],))
    ids.append(c.insert())
    assert a.finish(*a.claim(2)) == ["ok"] * 2
    assert [c.status(id) for id in ids] == ["done", "done"]
    assert c.one("select gd_gc()") == 1
