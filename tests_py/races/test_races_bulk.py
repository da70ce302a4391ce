"""Many instances at once beside others: what is locked is answered busy, and everything else is done."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.races import Session, no_baton_was_lost, outcome, three

CALLS = {
    "cancel": "select * from gd_cancel_many(%s, 'away')",
    "retry": "select * from gd_retry_many(%s)",
    "reschedule": "select * from gd_reschedule_many(%s, now() - interval '1 second')",
}


def operate(session: Session, what: str, ids: list[int]) -> list[str]:
    rows = session.rows(CALLS[what], ids)
    assert [row["id"] for row in rows] == sorted(set(ids))
    return [row["result"] for row in rows]


def prepared(session: Session, what: str, count: int, **arguments: Any) -> list[int]:
    made = [session.insert(**arguments) for _ in range(count)]
    if what == "retry":
        assert operate(session, "cancel", made) == ["done"] * count
    return made


@pytest.mark.parametrize("what", CALLS)
def test_a_locked_row_is_busy_and_the_others_are_done(db, what):
    a, b, c = three(db)
    ids = prepared(c, what, 4)
    a.begin().rows("select 1 as one from gendurable.instance where id = %s for update", ids[1])
    assert operate(b, what, ids) == ["done", "busy", "done", "done"]
    a.roll_back()
    assert operate(b, what, ids[1:2]) == ["done"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_row_whose_end_is_open_is_busy(db, how):
    a, b, c = three(db)
    ids = prepared(c, "cancel", 3)
    [claim] = a.claim(1)
    a.begin().commit_one(outcome(claim, "done"))
    assert operate(b, "cancel", ids) == ["busy", "done", "done"]
    a.end(how)
    assert operate(b, "cancel", ids) == ["no" if how == "commit" else "done", "no", "no"]


@pytest.mark.parametrize("what", ["cancel", "reschedule"])
def test_a_locked_key_is_busy_and_the_others_are_done(db, what):
    a, b, c = three(db)
    ids = [c.insert(partition_key=key) for key in ("held", "free", "held", "free")]
    a.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('held'))")
    assert operate(b, what, ids) == ["busy", "done", "busy", "done"]
    a.roll_back()
    assert operate(b, what, ids) == ["done", "no" if what == "cancel" else "done"] * 2
    no_baton_was_lost(b)


def test_a_key_whose_every_row_is_busy_does_not_make_the_plain_ones_busy(db):
    a, b, c = three(db)
    ids = [c.insert(partition_key="held"), c.insert(), c.insert()]
    a.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('held'))")
    assert operate(b, "cancel", ids) == ["busy", "done", "done"]
    a.roll_back()


@pytest.mark.parametrize("what", ["cancel", "retry"])
def test_a_locked_parent_makes_its_children_busy(db, what):
    a, b, c = three(db)
    parents = [c.insert(), c.insert()]
    for claim in c.claim(2):
        childs = [{"fsm": "child", "queue": "childs"}, {"fsm": "child", "queue": "childs"}]
        assert c.commit(outcome(claim, "schedule_childs", step="join", childs=childs)) == ["ok"]
    ids = [row["id"] for row in c.rows("select id from gendurable.instance where parent_id is not null order by id")]
    if what == "retry":
        # one of each, so that both barriers stay
        ids = [ids[0], ids[2]]
        assert operate(c, "cancel", ids) == ["done", "done"]
    a.begin().rows("select 1 as one from gendurable.instance where id = %s for update", parents[0])
    done = len(ids) // 2
    assert operate(b, what, ids) == ["busy"] * done + ["done"] * done
    a.roll_back()
    assert operate(b, what, ids[:done]) == ["done"] * done
    pending = [c.look(id)["children_pending"] for id in parents]
    assert pending == ([0, 0] if what == "cancel" else [2, 2])
    assert [c.status(id) for id in parents] == ["runnable" if what == "cancel" else "awaiting_children"] * 2


def test_a_parent_that_has_left_its_barrier_is_no_reason(db):
    a, b, c = three(db)
    parent = c.insert()
    [claim] = c.claim(1)
    assert c.commit(outcome(claim, "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "q"}])) == ["ok"]
    [child] = c.claim(1, "q")
    assert c.commit(outcome(child, "stop", reason="x")) == ["ok"]
    assert len(c.claim(1)) == 1
    a.begin().rows("select 1 as one from gendurable.instance where id = %s for update", parent)
    assert operate(b, "retry", [child["id"]]) == ["done"]
    a.roll_back()


def test_a_unique_key_in_an_open_transaction_is_busy(db):
    a, b, c = three(db)
    ids = [c.insert(unique_key="one"), c.insert(unique_key="two"), c.insert()]
    assert operate(c, "cancel", ids) == ["done"] * 3
    a.begin().insert(unique_key="one")
    assert operate(b, "retry", ids) == ["busy", "done", "done"]
    a.commit_open()
    assert operate(b, "retry", ids[:1]) == ["no"]


@pytest.mark.parametrize("what", CALLS)
def test_a_locked_table_makes_all_busy(db, what):
    a, b, c = three(db)
    ids = prepared(c, what, 2)
    a.begin().conn.execute("lock table gendurable.instance in access exclusive mode")
    assert operate(b, what, [*ids, 10**9]) == ["busy"] * 3
    a.roll_back()
    assert operate(b, what, [*ids, 10**9]) == ["done", "done", "none"]


def test_many_cancels_of_the_same_rows_beside_workers(db):
    """Each row ends once, by one of them, and no key stands still."""
    rows, c = 300, Session(db, "c")
    c.rows("select count(gd_insert('m', p_partition_key => 'k:' || g %% 7)) from generate_series(1, %s) g", rows)
    ids = [row["id"] for row in c.rows("select id from gendurable.instance order by id")]
    doomed = ids[::2]
    done: list[int] = []
    stop = threading.Event()

    def cancel(number: int) -> None:
        session = Session(db, f"o{number}")
        left = doomed
        while left:
            answers = session.rows(CALLS["cancel"], left)
            done.extend(row["id"] for row in answers if row["result"] == "done")
            left = [row["id"] for row in answers if row["result"] == "busy"]

    def work(number: int) -> None:
        session = Session(db, f"w{number}")
        while not stop.is_set() or session.one(
            "select exists (select from gendurable.instance where finished_at is null)"
        ):
            for claim in session.claim(5):
                session.commit_soon(outcome(claim, "done"))

    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(work, number) for number in range(2)]
        for one in [pool.submit(cancel, number) for number in range(3)]:
            one.result(60)
        stop.set()
        for one in workers:
            one.result(60)
    assert len(done) == len(set(done))
    ended = {row["id"]: row["status"] for row in c.rows("select id, status::text from gendurable.instance")}
    assert {id for id, status in ended.items() if status == "cancelled"} == set(done)
    assert set(ended.values()) <= {"done", "cancelled"}
    no_baton_was_lost(c)
