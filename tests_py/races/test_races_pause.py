"""Pauses beside claims, commits and each other: nothing runs that is paused, nothing is left aside, nobody waits."""

from __future__ import annotations

import psycopg
import pytest
from support.races import LOST, Session, ids, no_baton_was_lost, outcome, three
from support.wait import wait_until


def aside(session: Session) -> list[int]:
    return [
        row["id"] for row in session.rows("select id from gendurable.instance where aside_at is not null order by id")
    ]


def notes(session: Session) -> int:
    count: int = session.one("select count(*) from gendurable.resumed")
    return count


@pytest.mark.parametrize("how", ["instance", "machine", "step"])
def test_a_claim_that_began_before_the_pause_may_hand_out_and_is_not_kept(db, how):
    a, b, c = three(db)
    first, second = c.insert(), c.insert()
    [claim] = a.begin().claim(1)
    assert claim["id"] == first
    match how:
        case "machine":
            assert c.call("pause_machine", "m")
        case "step":
            assert c.call("pause_machine", "m", None, "go")
        case _:
            # it waits for the row a second at most
            with pytest.raises(psycopg.errors.LockNotAvailable):
                c.call("pause", first)
    if how != "step":
        assert ids(b.claim(10)) == ([second] if how == "instance" else [])
    a.commit_open()
    if how == "instance":
        assert c.call("pause", first)
    [answer] = a.answers(outcome(claim, "next", step="go", keep=True))
    assert (answer["result"], answer["detail"]) == ("ok", None)
    assert first not in ids(b.claim(10))
    assert first in aside(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_what_a_claim_sets_aside_behind_the_end_of_the_pause_comes_back(db, how):
    a, b, c = three(db)
    id = c.insert()
    assert c.call("pause_machine", "m")
    assert a.begin().claim(10) == []
    # its claim is not over, and nobody sees what it has done
    assert c.call("resume_machine", "m")
    assert aside(c) == []
    assert b.claim(10) == []
    a.end(how)
    assert aside(c) == ([id] if how == "commit" else [])
    assert notes(c) == 1
    assert ids(b.claim_soon()) == [id]


def test_the_note_of_a_resume_goes_when_nobody_can_set_anything_aside(db):
    a, b, c = three(db)
    c.insert()
    assert c.call("pause_machine", "m")
    assert a.begin().claim(10) == []
    assert c.call("resume_machine", "m")
    for _ in range(10):
        b.conn.execute("update gendurable.resumed set again_at = now()")
        b.claim(10, "other")
    assert notes(c) == 1
    a.commit_open()

    def gone() -> bool:
        b.conn.execute("update gendurable.resumed set again_at = now()")
        b.claim(10, "other")
        return notes(c) == 0

    wait_until(gone)
    assert aside(c) == []


def test_a_claim_that_has_read_the_pauses_and_written_nothing_yet_is_waited_for(db):
    """It has no transaction id when the resume is committed, and gets a later one: only its snapshot tells of it."""
    a, b, c = three(db)
    assert c.call("pause_machine", "m")
    a.begin("repeatable read").rows("select * from gendurable.paused_machine")
    assert c.call("resume_machine", "m")
    for _ in range(10):
        b.conn.execute("update gendurable.resumed set again_at = now()")
        b.claim(10)
    assert c.one("select known_in is null from gendurable.resumed")
    a.roll_back()

    def gone() -> bool:
        b.conn.execute("update gendurable.resumed set again_at = now()")
        b.claim(10)
        return notes(c) == 0

    wait_until(gone)


def test_an_instance_and_its_machine_are_resumed_side_by_side(db):
    a, b, c = three(db)
    id = c.insert()
    assert c.call("pause", id)
    assert c.call("pause_machine", "m")
    assert a.begin().call("resume", id)
    assert c.call("resume_machine", "m")
    a.commit_open()
    assert aside(c) == [id]
    assert ids(b.claim_soon()) == [id]


def test_a_row_that_is_locked_while_its_machine_is_resumed_comes_back_later(db):
    a, b, c = three(db)
    id, other = c.insert(), c.insert()
    assert c.call("pause_machine", "m")
    assert b.claim(10) == []
    assert aside(c) == [id, other]
    assert a.begin().signal(id) == "delivered"
    assert c.call("resume_machine", "m")
    assert ids(b.claim(10)) == [other]
    assert aside(c) == [id]
    a.commit_open()
    assert ids(b.claim_soon()) == [id]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_that_is_open_while_its_machine_is_paused_and_resumed(db, how):
    a, b, c = three(db)
    id = c.insert()
    [claim] = a.claim()
    a.begin().commit_one(outcome(claim, "next", step="go"))
    assert c.call("pause_machine", "m")
    assert b.claim(10) == []
    assert c.call("resume_machine", "m")
    a.end(how)
    if how == "rollback":
        assert a.finish(claim) == ["ok"]
    else:
        assert ids(b.claim_soon()) == [id]
    assert aside(c) == []


def test_pauses_of_machines_wait_for_nobody(db):
    a, b, c = three(db)
    c.conn.execute("set statement_timeout = '5s'")
    held = c.insert(partition_key="k")
    waits = c.insert(partition_key="k")
    free = c.insert()
    [claim] = a.claim(1)
    a.begin().commit_one(outcome(claim, "next", step="go"))
    b.begin().signal(free)
    new = b.insert()
    assert c.call("pause_machine", "m")
    assert c.claim(10) == []
    assert c.call("resume_machine", "m")
    assert c.call("pause_machine", "m", 1)
    a.commit_open()
    b.commit_open()
    assert c.call("resume_machine", "m", 1)
    claimed: set[int] = set()

    def all_came() -> bool:
        got = c.claim(10)
        claimed.update(ids(got))
        c.finish(*got)
        return claimed == {held, waits, free, new}

    wait_until(all_came)


def test_two_that_pause_the_same_meet(db):
    a, b, c = three(db)
    assert a.begin().call("pause_machine", "m")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        b.call("pause_machine", "m")
    assert b.call("pause_machine", "m", 1)
    a.roll_back()
    assert b.call("pause_machine", "m")
    assert not c.call("pause_machine", "m")


def test_a_pause_of_a_row_whose_key_is_locked_waits_for_the_next_claim(db):
    a, b, c = three(db)
    first = c.insert(partition_key="k")
    second = c.insert(partition_key="k", queue="other")
    a.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    assert c.call("pause", first)
    assert aside(c) == []
    assert b.claim(10) == [] and b.claim(10, "other") == []
    a.roll_back()
    assert b.claim(10) == []
    assert aside(c) == [first]
    assert ids(b.claim_soon("other")) == [second]
    no_baton_was_lost(c)


def test_a_holder_that_is_paused_passes_its_key_on_with_its_commit(db):
    a, b, c = three(db)
    first, second = c.insert(partition_key="k"), c.insert(partition_key="k")
    claim = a.claim_one()
    assert b.claim(10) == []
    assert c.call("pause", first)
    assert a.commit(outcome(claim, "next", step="go")) == ["ok"]
    assert ids(b.claim_soon()) == [second]
    assert c.call("resume", first)
    assert b.claim(10) == []
    assert b.finish(*b.rows("select id, claim_no from gendurable.instance where status = 'executing'")) == ["ok"]
    assert ids(b.claim_soon()) == [first]
    no_baton_was_lost(c)


def test_a_paused_head_leaves_its_baton_although_all_behind_it_are_locked(db):
    a, b, c = three(db)
    holder = c.insert(partition_key="k")
    claim = b.claim_one()
    assert claim["id"] == holder
    head, tail = c.insert(partition_key="k"), c.insert(partition_key="k")
    assert b.claim(10) == []  # both are parked
    a.begin().rows("select id from gendurable.instance where id = %s for update", tail)
    assert c.call("pause", head)
    assert b.finish(claim) == ["ok"]
    assert b.claim(10) == []
    a.roll_back()
    assert ids(b.claim_soon()) == [tail]
    assert aside(c) == [head]
    no_baton_was_lost(c)


def test_a_lost_claim_of_a_paused_machine_gives_its_key_back(db):
    a, b, c = three(db)
    lost = c.insert(partition_key="k")
    assert len(a.claim(1, lease=LOST)) == 1
    second = c.insert(fsm="other", partition_key="k")
    assert c.call("pause_machine", "m")
    assert ids(b.claim_soon()) == [second]
    assert aside(c) == [lost]
    assert c.look(lost)["crashes"] == 1
    no_baton_was_lost(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_what_is_inserted_while_its_machine_is_paused_and_resumed_is_not_lost(db, how):
    a, b, c = three(db)
    assert c.call("pause_machine", "m")
    a.begin()
    id = a.insert()
    assert b.claim(10) == []
    assert c.call("resume_machine", "m")
    a.end(how)
    if how == "commit":
        assert ids(b.claim_soon()) == [id]
    assert aside(c) == []


@pytest.mark.parametrize("how", ["machine", "instance"])
def test_a_head_that_is_its_keys_baton_passes_it_on(db, how):
    a, _, c = three(db)
    holder = c.insert(fsm="other", partition_key="k")
    claim = a.claim_one()
    assert claim["id"] == holder
    head = c.insert(partition_key="k")
    rest = [c.insert(fsm="other", partition_key="k") for _ in range(2)]
    assert a.claim(10) == []
    assert a.finish(claim) == ["ok"]
    # it alone is due
    assert [c.look(id)["eligible_at"] is None for id in [head, *rest]] == [False, True, True]
    assert c.call("pause_machine", "m") if how == "machine" else c.call("pause", head)
    for id in rest:
        [claim] = a.claim(10)
        assert claim["id"] == id
        assert a.finish(claim) == ["ok"]
    assert aside(c) == [head]
    no_baton_was_lost(c)
