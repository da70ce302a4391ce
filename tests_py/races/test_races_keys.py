"""Partition keys: two sessions and one slot, turns, and rows behind a hot key."""

from __future__ import annotations

import psycopg
import pytest
from support.races import LOST, Session, drains, ids, lane, no_baton_was_lost, outcome, three


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_two_claims_of_one_key(db, how):
    a, b, c = three(db)
    one, two = c.insert(partition_key="k"), c.insert(partition_key="k")
    free = c.insert()
    assert ids(a.begin().claim(1)) == [one]
    # the second row and the key are not a's, but its lock is
    assert ids(b.claim(10)) == [free]
    a.end(how)
    if how == "commit":
        assert b.claim(10) == []
        c.conn.execute("update gendurable.instance set lease_expires_at = now() where id = %s", (one,))
        assert ids(b.claim_soon(limit=10)) == [one]
    else:
        assert ids(b.claim_soon(limit=10)) == [one]
    assert c.rows("select id from gendurable.instance where slot_no is not null") == [{"id": one}]
    assert c.status(two) == "runnable"


def test_a_slot_cannot_be_committed_twice(db):
    _, _, c = three(db)
    one, two = c.insert(partition_key="k"), c.insert(partition_key="k")
    c.claim_one()
    with pytest.raises(psycopg.errors.UniqueViolation):
        c.conn.execute(
            """update gendurable.instance set status = 'executing', slot_no = 0, worker = 'x', lease_expires_at = now(),
            eligible_at = now() where id = %s""",
            (two,),
        )
    assert c.status(one) == "executing"


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_release_of_the_key_while_its_next_row_is_being_parked(db, how):
    a, b, c = three(db)
    one, two = c.insert(partition_key="k"), c.insert(partition_key="k")
    claim = a.claim_one()
    assert claim["id"] == one
    assert b.begin().claim(10) == []
    assert b.look(two)["eligible_at"] is None
    assert a.finish(claim) == ["busy"]
    b.end(how)
    assert a.finish(claim) == ["ok"]
    drains(b, two)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_next_row_is_looked_at_while_the_release_of_the_key_is_open(db, how):
    a, b, c = three(db)
    one, two = c.insert(partition_key="k"), c.insert(partition_key="k")
    claim = a.claim_one()
    assert a.begin().finish(claim) == ["ok"]
    assert b.claim(10) == []
    # passed over, not parked: the commit would not see it
    assert c.look(two)["eligible_at"] is not None
    a.end(how)
    if how == "rollback":
        assert b.claim(10) == [] and c.status(one) == "executing"
        assert a.finish(claim) == ["ok"]
    drains(b, two)


@pytest.mark.parametrize("park", ["await", "next later", "schedule_childs", "error"])
def test_whoever_parks_passes_the_key_on(db, park):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    out = {
        "await": outcome(holder, "await", signals="go"),
        "next later": outcome(holder, "next", step="two", delay_ms=3_600_000),
        "schedule_childs": outcome(holder, "schedule_childs", step="two", childs=[{"fsm": "m", "queue": "kids"}]),
        "error": outcome(holder, "error", error="no", delay_ms=3_600_000),
    }[park]
    assert b.begin().claim(10) == []
    assert a.begin().commit(out) == ["ok"]
    assert b.claim(10) == []
    a.commit_open()
    b.commit_open()
    drains(b, two, three_)


def test_who_goes_on_at_once_waits_behind_those_who_wait(db):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    assert a.commit(outcome(holder, "next", step="two")) == ["ok"]
    drains(b, two, three_, holder["id"])


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_kept_claim_gives_way_to_who_waits(db, how):
    a, b, c = three(db)
    c.insert(partition_key="k")
    claim = a.claim_one()
    two = b.begin().insert(partition_key="k")
    [answer] = a.answers(outcome(claim, "next", step="two", keep=True))
    assert answer["result"] == "ok" and answer["detail"]["claim_no"] > claim["claim_no"]
    b.end(how)
    assert a.finish(claim) == ["stale"]
    kept = answer["detail"]
    [answer] = a.answers(outcome(kept, "next", step="three", keep=True))
    assert answer["result"] == "ok" and (answer["detail"] is None) == (how == "commit")
    if how == "commit":
        drains(b, two, claim["id"])


@pytest.mark.parametrize("dispatchers", [1, 3])
def test_a_lifted_head_keeps_its_turn_among_a_deep_backlog(db, dispatchers):
    *sessions, c = [Session(db, f"w{n}") for n in range(dispatchers + 1)]
    hot = [row["id"] for row in c.insert_many(*({"partition_key": "k"} for _ in range(24)))]
    c.insert_many(*({} for _ in range(2_000)))
    served: list[int] = []
    for turn in range(len(hot)):
        # every session moves its floor over the backlog before the key's turn comes round to it again
        worker = sessions[turn % dispatchers]
        claims = worker.claim(10)
        assert len(claims) == 10
        mine = [row["id"] for row in claims if row["partition_key"]]
        assert len(mine) == 1, f"claim {turn} of the backlog did not find the key's next row"
        served += mine
        assert worker.finish(*claims) == ["ok"] * 10
    assert served == hot
    no_baton_was_lost(c)


def test_neither_lifted_rows_nor_the_others_starve(db):
    a, _, c = three(db)
    keys = [f"k{n}" for n in range(40)]
    holders = [c.insert(partition_key=key) for key in keys]
    assert ids(a.claim(40)) == holders
    c.insert_many(*({"partition_key": key} for key in keys for _ in range(2)))
    assert a.claim(100) == []
    c.insert_many(*({} for _ in range(100)))
    rows = c.rows("select id, claim_no from gendurable.instance where status = 'executing'")
    assert a.finish(*rows) == ["ok"] * 40
    claims = a.claim(20)
    assert len(claims) == 20
    assert sum(row["partition_key"] is None for row in claims) == 10


@pytest.mark.parametrize("who", ["a holder", "a client that holds the key's lock"])
def test_free_rows_behind_a_hot_key_are_found_in_one_claim(db, who):
    a, b, c = three(db)
    hot = [row["id"] for row in c.insert_many(*({"partition_key": "k"} for _ in range(800)))]
    holder = a.claim_one()
    assert holder["id"] == hot[0]
    free = [c.insert() for _ in range(10)]
    if who != "a holder":
        a.begin().call("cancel", holder["id"])
    assert ids(b.claim(10)) == free


def test_a_holder_whose_lease_expired_keeps_its_slot(db):
    a, b, c = three(db)
    one, two = c.insert(partition_key="k"), c.insert(partition_key="k")
    lost = a.claim_one(lease=LOST)
    # its row is held by a client: nobody can take it over, and nobody may run beside it
    c.begin().signal(one)
    assert b.claim(10) == []
    c.commit_open()
    [again] = b.claim_soon(limit=10)
    assert (again["id"], again["attempt"]) == (one, 1)
    assert a.finish(lost) == ["stale"]
    assert b.claim(10) == [] and c.status(two) == "runnable"
    assert b.finish(again) == ["ok"]
    drains(b, two)


def test_a_crashed_holder_in_a_paused_queue_keeps_its_slot_until_it_is_reaped(db):
    a, b, c = three(db)
    one = c.insert(partition_key="k", queue="side")
    a.claim_one("side", LOST)
    two = c.insert(partition_key="k")
    c.call("pause_queue", "side")
    assert b.claim(10) == []
    assert c.call("reap") == 1
    # the crashed row waits for its queue; the next one of the key does not
    [claim] = b.claim_soon(limit=10)
    assert claim["id"] == two
    c.call("resume_queue", "side")
    assert b.claim(10, "side") == []
    assert b.finish(claim) == ["ok"]
    [claim] = b.claim_soon("side")
    assert (claim["id"], claim["attempt"]) == (one, 1)
    no_baton_was_lost(c)


@pytest.mark.parametrize("decision", ["pause_queue('other')", "resume_queue('other')", "set_key_limit('other', 2)"])
def test_a_claim_is_not_kept_over_those_who_wait_while_a_decision_is_open(db, decision):
    a, b, c = three(db)
    if decision.startswith("resume"):
        c.call("pause_queue", "other")
    holder, waiting = lane(c, a)
    c.begin().one(f"select gd_{decision}")
    [answer] = a.answers(outcome(holder, "next", step="more", keep=True))
    assert (answer["result"], answer["detail"]) == ("ok", None)
    c.end("commit")
    drains(b, *waiting, holder["id"])


def test_a_claim_without_a_key_is_kept_while_a_decision_is_open(db):
    a, _, c = three(db)
    c.insert()
    claim = a.claim_one()
    c.begin().one("select gd_set_key_limit('other', 2)")
    [answer] = a.answers(outcome(claim, "next", step="more", keep=True))
    assert answer["detail"]["step"] == "more"
    c.end("rollback")
