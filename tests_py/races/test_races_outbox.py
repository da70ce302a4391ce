"""What outcomes insert and send against open transactions: busy and nothing of it, or all of it, and no deadlock."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb
from support.races import Row, Session, outcome, three
from support.wait import wait_until


def inbox(session: Session, id: int) -> list[Any]:
    return [row["payload"] for row in session.rows("select payload from gd_signals(%s)", id)]


def to(target: int | str, payload: Any = None, name: str = "go") -> Row:
    return {"id" if isinstance(target, int) else "unique_key": target, "name": name, "payload": payload}


def held(session: Session, id: int) -> None:
    session.begin().rows("select from gendurable.instance where id = %s for no key update", id)


def nothing_of_it(session: Session, claim: Row, target: int) -> None:
    assert session.look(claim["id"])["claim_no"] == claim["claim_no"]
    assert session.status(claim["id"]) == "executing"
    assert inbox(session, target) == []
    assert session.one("select count(*) from gd_instances where fsm = 'new'") == 0


@pytest.mark.parametrize("by", ["id", "unique key"])
def test_a_target_that_somebody_holds_is_busy_and_nothing_of_the_outcome_happens(db, by):
    a, b, c = three(db)
    target, other = c.insert(unique_key="t", queue="far"), c.insert(queue="far")
    first, second = (a.claim_one() for _ in [c.insert(), c.insert()])
    step = outcome(first, "done", insert=[{"fsm": "new"}], signal=[to(other, 1), to(target if by == "id" else "t", 2)])
    held(b, target)
    assert a.commit(step, outcome(second, "done", signal=[to(other, 3)])) == ["busy", "ok"]
    nothing_of_it(c, first, target)
    assert inbox(c, other) == [3]
    b.roll_back()
    assert a.commit(step) == ["ok"]
    assert inbox(c, other) == [3, 1] and inbox(c, target) == [2]
    assert c.one("select count(*) from gd_instances where fsm = 'new'") == 1


def test_a_target_that_somebody_holds_is_found_without_waiting_for_it(db):
    # with no lock_timeout that would end a wait, as gd_commit has one
    a, b, c = three(db)
    target = c.insert(unique_key="t", queue="far")
    claims = [a.claim_one() for _ in [c.insert(), c.insert(), c.insert()]]
    sends = [to("t"), to(target), to(target + 10_000)]
    steps = [outcome(claim, "done", signal=[send]) for claim, send in zip(claims, sends, strict=True)]
    held(b, target)
    locked = "select answers from gendurable._lock_outcomes(gendurable._parse_outcomes(%s, now()))"
    assert {ord: answer["result"] for ord, answer in a.one(locked, Jsonb(steps)).items()} == {"0": "busy", "1": "busy"}


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_unique_key_that_an_open_transaction_has_inserted_is_busy(db, how):
    a, b, c = three(db)
    target = c.insert(queue="far")
    c.insert()
    claim = a.claim_one()
    step = outcome(claim, "next", step="two", insert=[{"fsm": "new", "unique_key": "u"}], signal=[to(target, 1)])
    id = b.begin().insert(fsm="m", unique_key="u", queue="far")
    assert a.commit(step) == ["busy"]
    nothing_of_it(c, claim, target)
    b.end(how)
    assert a.commit(step) == ["ok"]
    assert inbox(c, target) == [1]
    assert (c.call("find", "u") == id) == (how == "commit")


def test_many_unique_keys_that_an_open_transaction_has_inserted_hold_up_nobody_else(db):
    a, b, c = three(db)
    for _ in range(40):
        c.insert()
    claims = a.claim(40)
    b.begin()
    for n in range(0, 40, 2):
        b.insert(unique_key=f"u{n}", queue="far")
    steps = [outcome(claim, "done", insert=[{"fsm": "new", "unique_key": f"u{n}"}]) for n, claim in enumerate(claims)]
    assert a.commit(*steps) == ["busy", "ok"] * 20
    b.roll_back()
    assert a.commit(*steps[::2]) == ["ok"] * 20
    assert c.one("select count(*) from gd_instances where fsm = 'new'") == 40


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_that_is_still_open_when_another_signals_its_row(db, how):
    a, b, c = three(db)
    c.insert(), c.insert()
    one, two = a.claim(2)
    assert a.begin().commit(outcome(one, "done")) == ["ok"]
    step = outcome(two, "done", signal=[to(one["id"], 1)])
    assert b.commit(step) == ["busy"]
    a.end(how)
    assert b.commit(step) == ["ok"]
    assert inbox(c, one["id"]) == ([] if how == "commit" else [1])


def test_two_rows_that_signal_each_other_in_two_commits(db):
    a, b, c = three(db)
    c.insert(), c.insert()
    one, two = a.claim(2)
    there = outcome(one, "await", signals="go", signal=[to(two["id"], 1)])
    back = outcome(two, "await", signals="go", signal=[to(one["id"], 2)])
    assert a.begin().commit(there) == ["ok"]
    assert b.begin().commit(back) == ["busy"]  # and not a wait for one who waits
    a.commit_open()
    assert b.commit(back) == ["ok"]
    b.commit_open()
    assert inbox(c, one["id"]) == [2] and inbox(c, two["id"]) == [1]
    assert {row["id"] for row in a.claim_soon(limit=2)} == {one["id"], two["id"]}


def test_two_rows_that_signal_each_other_each_in_its_own_transaction(db):
    # Each locks both rows, and the one with the lower id first. With its own row first, the second would wait for
    # the first here, with a lock in its hand that the first is about to ask for.
    a, b, c = three(db)
    c.insert(), c.insert()
    one, two = a.claim(2)
    held(c, one["id"])
    first = a.blocked(Session(db), a.commit_one, outcome(two, "await", signals="go", signal=[to(one["id"], 2)]))
    second = b.blocked(Session(db), b.commit_one, outcome(one, "await", signals="go", signal=[to(two["id"], 1)]))
    # nobody holds the row above while it waits for the one below
    free = Session(db).rows("select from gendurable.instance where id = %s for no key update skip locked", two["id"])
    assert len(free) == 1
    c.roll_back()
    first.result()
    second.result()
    assert inbox(c, one["id"]) == [2] and inbox(c, two["id"]) == [1]


def test_a_child_and_its_parent_that_signal_each_other_each_in_its_own_transaction(db):
    a, b, c = three(db)
    parent = c.insert()
    assert a.commit(outcome(a.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c"}, {"fsm": "c"}])) == [
        "ok"
    ]
    one, two = a.claim(2)
    held(c, parent)
    first = a.blocked(Session(db), a.commit_one, outcome(one, "done", signal=[to(two["id"], 1), to(parent, 1)]))
    second = b.blocked(Session(db), b.commit_one, outcome(two, "done", signal=[to(one["id"], 2), to(parent, 2)]))
    free = Session(db).rows("select from gendurable.instance where id > %s for no key update skip locked", parent)
    assert len(free) == 2
    c.roll_back()
    first.result()
    second.result()
    assert sorted(inbox(c, parent)) == [1, 2] and c.status(parent) == "runnable"


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_in_its_own_transaction_it_waits_for_its_target(db, how):
    a, b, c = three(db)
    target = c.insert(queue="far", unique_key="t")
    c.insert()
    claim = a.claim_one()
    b.begin().call("cancel", target)
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done", signal=[to("t", 1)]))
    b.end(how)
    waiting.result()
    assert c.status(claim["id"]) == "done"
    assert inbox(c, target) == ([] if how == "commit" else [1])


def test_a_key_that_passes_to_another_instance_while_the_signal_waits(db):
    a, b, c = three(db)
    old = c.insert(unique_key="t")
    ending = b.claim_one()
    c.insert()
    claim = a.claim_one()
    b.begin().commit(outcome(ending, "done", insert=[{"fsm": "m", "unique_key": "t", "queue": "far"}]))
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done", signal=[to("t", 1)]))
    b.commit_open()
    waiting.result()
    new = c.call("find", "t")
    assert new != old
    assert inbox(c, new) == [1] and inbox(c, old) == []


def test_a_commit_that_dies_has_neither_inserted_nor_sent(db):
    a, b, c = three(db)
    target = c.insert(queue="far")
    c.insert()
    claim = a.claim_one()
    step = outcome(claim, "done", insert=[{"fsm": "new"}], signal=[to(target, 1)])
    assert a.begin().commit(step) == ["ok"]
    pid = a.conn.info.backend_pid
    c.rows("select pg_terminate_backend(%s)", pid)
    with pytest.raises(errors.AdminShutdown):
        a.commit_open()
    wait_until(lambda: not c.rows("select from pg_stat_activity where pid = %s", pid))
    nothing_of_it(c, claim, target)
    assert b.commit(step) == ["ok"]
    assert inbox(c, target) == [1] and c.one("select count(*) from gd_instances where fsm = 'new'") == 1
    assert b.commit(step) == ["stale"]  # an answer that was lost, sent again
    assert inbox(c, target) == [1] and c.one("select count(*) from gd_instances where fsm = 'new'") == 1


def count_inserts(session):
    """From now on each statement that inserts instances is counted, also where it is rolled back."""
    session.conn.execute("""
        create sequence public.tries;
        create function public.count_try() returns trigger language plpgsql as
            $$begin perform nextval('public.tries'); return null; end$$;
        create trigger count_try before insert on gendurable.instance execute function public.count_try();
        grant usage on sequence public.tries to public;
    """)


def tries(session):
    return session.one("select last_value from public.tries where is_called")


def claims_of(session, count):
    session.insert_many(*[{} for _ in range(count)])
    return session.claim(count)


def test_a_batch_that_meets_open_unique_keys_waits_a_bounded_number_of_times(db):
    a, b, c = three(db)
    taken, free = claims_of(c, 300), claims_of(c, 100)
    count_inserts(c)
    a.begin().insert_many(*[{"unique_key": f"k{n}"} for n in range(300)])
    started = tries(c)
    blocked = [outcome(row, "done", insert=[{"fsm": "m", "unique_key": f"k{n}"}]) for n, row in enumerate(taken)]
    answers = b.commit(*blocked, *[outcome(row, "done") for row in free])
    # what waits for nobody is not held up by what does
    assert answers == ["busy"] * 300 + ["ok"] * 100
    assert tries(c) - started <= 40
    a.roll_back()
    assert set(b.commit(*blocked)) == {"ok"}
    assert c.one("select count(*) from gendurable.instance where unique_key like 'k%%'") == 300


def test_outcomes_whose_names_are_free_come_through_beside_many_that_are_not(db):
    a, b, c = three(db)
    claims = claims_of(c, 200)
    a.begin().insert_many(*[{"unique_key": f"k{n}"} for n in range(190)])
    left = [outcome(row, "done", insert=[{"fsm": "m", "unique_key": f"k{n}"}]) for n, row in enumerate(claims)]
    # the waits of one call are used up by others; not by the same ones each time
    for _ in range(100):
        left = [one for one, answer in zip(left, b.commit(*left), strict=True) if answer == "busy"]
        if len(left) == 190:
            break
    assert [one["insert"][0]["unique_key"] for one in left] == [f"k{n}" for n in range(190)]
    a.roll_back()
