"""An insert and the holder of its unique key, in two sessions: who waits for whom, and what is answered."""

from __future__ import annotations

import pytest
from support.races import LOST, three
from support.wait import run_in_thread, wait_until

MOVES = ["reschedule", "replace"]


@pytest.mark.parametrize("how", ["id", *MOVES])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_inserts_of_one_key(db, how, end):
    a, b, c = three(db)
    first = a.begin().insert(unique_key="u", state={"n": 1}, on_conflict=how)
    waiting = b.blocked(c, b.insert, unique_key="u", state={"n": 2}, on_conflict=how)
    a.end(end)
    second = waiting.result()
    assert (second == first) == (end == "commit")
    assert c.look(second)["state"] == {"n": 1 if end == "commit" and how != "replace" else 2}
    assert c.one("select count(*) from gd_instances") == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_replacements_come_one_after_the_other(db, end):
    """The second waits as any insert of the key does, for who is changing its holder."""
    a, b, c = three(db)
    id = c.insert(unique_key="u", delay="1 hour", state={"n": 1})
    assert a.begin().insert(unique_key="u", state={"n": 2}, on_conflict="replace") == id
    waiting = b.blocked(c, b.insert, unique_key="u", state={"n": 3}, delay="1 hour", on_conflict="replace")
    plain = run_in_thread(c.insert, unique_key="v", on_conflict="replace")
    assert plain.result() != id  # nobody else waits
    a.end(end)
    assert waiting.result() == id
    assert c.look(id)["state"] == {"n": 3}
    assert c.claim() != [] and c.status(id) == "runnable"


@pytest.mark.parametrize("how", MOVES)
def test_a_holder_that_is_locked_is_not_waited_for(db, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u", delay="1 hour", state={"n": 1})
    a.begin().rows("select from gendurable.instance where id = %s for update", id)
    assert b.insert(unique_key="u", state={"n": 2}, on_conflict=how) is None
    assert b.insert(unique_key="u", on_conflict="id") == id
    a.end("rollback")
    assert c.look(id)["state"] == {"n": 1}
    assert b.insert(unique_key="u", state={"n": 2}, on_conflict=how) == id


@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_holder_that_is_just_being_claimed(db, how, end):
    a, b, c = three(db)
    id = c.insert(unique_key="u", state={"n": 1})
    assert [row["id"] for row in a.begin().claim()] == [id]
    waiting = b.blocked(c, b.insert, unique_key="u", state={"n": 2}, on_conflict=how)
    a.end(end)
    assert waiting.result() == (None if end == "commit" else id)
    assert c.look(id)["state"] == {"n": 1 if end == "commit" or how == "reschedule" else 2}


@pytest.mark.parametrize("how", MOVES)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_holder_that_is_just_ending(db, how, end):
    a, b, c = three(db)
    id = c.insert(unique_key="u")
    claim = a.claim_one()
    assert a.begin().finish(claim) == ["ok"]
    waiting = b.blocked(c, b.insert, unique_key="u", state={"n": 2}, on_conflict=how)
    a.end(end)
    new = waiting.result()
    if end == "commit":
        assert new not in (None, id) and c.look(new)["state"] == {"n": 2}
    else:
        assert new is None and c.status(id) == "executing"


@pytest.mark.parametrize("how", MOVES)
def test_while_a_replacement_is_open_no_claim_hands_the_holder_out(db, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u", state={"n": 1})
    a.begin().insert(unique_key="u", state={"n": 2}, on_conflict=how)
    assert b.claim() == []
    a.end("commit")
    [claim] = b.claim_soon()
    assert claim["id"] == id and claim["state"] == {"n": 1 if how == "reschedule" else 2}


@pytest.mark.parametrize("how", MOVES)
def test_whose_worker_was_lost_has_begun(db, how):
    a, b, _ = three(db)
    id = a.insert(unique_key="u", state={"n": 1})
    assert a.claim_one(lease=LOST)["id"] == id
    assert a.call("reap") == 1
    assert b.insert(unique_key="u", state={"n": 2}, on_conflict=how) is None


@pytest.mark.parametrize("how", MOVES)
def test_a_key_whose_lock_somebody_holds_is_not_waited_for(db, how):
    a, b, c = three(db)
    id = c.insert(unique_key="u", partition_key="k", delay="1 hour")
    a.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    assert b.insert(unique_key="u", on_conflict=how) is None
    assert c.look(id)["eligible_at"] > c.one("select now()")
    a.end("rollback")
    assert b.insert(unique_key="u", on_conflict=how) == id


def test_many_replacements_at_once_leave_one_and_it_runs(db):
    sessions = [*three(db), *three(db)]
    id = sessions[0].insert(unique_key="u", partition_key="k", delay="1 hour")
    running = [
        run_in_thread(
            lambda s: [s.insert(unique_key="u", state={"n": n}, on_conflict="replace") for n in range(20)], session
        )
        for session in sessions
    ]
    answers = {answer for one in running for answer in one.result()}
    assert answers <= {id, None} and id in answers
    [claim] = wait_until(sessions[0].claim)
    assert claim["id"] == id
    assert sessions[0].finish(claim) == ["ok"]
