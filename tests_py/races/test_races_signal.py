"""Signals against parking, deadlines, ends and other signals, in both orders."""

from __future__ import annotations

import psycopg
import pytest
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
