"""Queues with a limit: claims side by side, limits that change while claims are under way, who is woken for room."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.races import LOST, Session, no_baton_was_lost, outcome, three
from support.wait import wait_until


def set_limit(session: Session, limit: int | None, queue: str = "default") -> None:
    session.call("set_queue", queue, Jsonb({"limit": limit}))


def executing(session: Session, queue: str = "default") -> int:
    """How many execute, each with a slot of its own, or less than none."""
    query = """select count(*) as rows, count(distinct queue_slot) as slots,
        count(*) filter (where status <> 'executing') as wrong
        from gendurable.instance where queue = %s and (status = 'executing' or queue_slot is not null)"""
    [row] = session.rows(query, queue)
    assert row["wrong"] == 0
    assert row["rows"] == row["slots"]
    count: int = row["rows"]
    return count


def settle(session: Session, queue: str = "default") -> None:
    """Claims until every one knows of the limit."""
    query = "select changed_in is null from gendurable.queue_setting where queue = %s"

    def settled() -> bool:
        assert session.claim(10, queue) == []
        known: bool = session.one(query, queue)
        return known

    wait_until(settled)


def test_a_claim_that_stays_open_holds_up_its_queue_and_no_other(db):
    a, b, c = three(db)
    set_limit(c, 2)
    for _ in range(4):
        c.insert()
        c.insert(queue="other")
    [first] = a.begin().claim(1)
    assert b.claim(10) == []
    assert len(b.rows("select * from gd_claim_many('b', '{\"default\": 3, \"other\": 3}')")) == 3
    assert b.call("maintain")["ran"]
    a.commit_open()
    assert len(b.claim(10)) == 1
    assert executing(c) == 2
    assert a.finish(first) == ["ok"]
    assert len(b.claim(10)) == 1


def test_a_claim_that_is_rolled_back_leaves_its_room(db):
    a, b, c = three(db)
    set_limit(c, 1)
    c.insert()
    assert len(a.begin().claim(1)) == 1
    assert b.claim(10) == []
    a.roll_back()
    assert len(b.claim_soon(limit=10)) == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_that_is_open_has_not_freed_its_slot(db, how):
    a, b, c = three(db)
    set_limit(c, 1)
    c.insert()
    c.insert()
    [claim] = a.claim(1)
    a.begin().commit_one(outcome(claim, "done"))
    assert b.claim(10) == []
    a.end(how)
    assert len(b.claim_soon(limit=10) if how == "commit" else b.claim(10)) == (how == "commit")
    assert executing(c) == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_claim_that_is_under_way_while_the_limit_is_set_counts(db, how):
    a, b, c = three(db)
    for _ in range(10):
        c.insert()
    assert len(a.begin().claim(4)) == 4
    set_limit(c, 3)
    # what is not committed cannot be seen, and nobody waits for it
    assert len(b.claim(10)) == 3
    a.end(how)
    assert b.claim(10) == []
    assert executing(c) == (7 if how == "commit" else 3)
    settle(b)
    assert b.release(*b.rows("select id, claim_no from gendurable.instance where worker = 'b'")) == 3
    assert len(b.claim(10)) == (0 if how == "commit" else 3)
    assert executing(c) == (4 if how == "commit" else 3)


def test_a_claim_that_has_read_the_settings_and_locked_nothing_yet_counts(db):
    """It has no transaction id when the limit is committed, and gets a later one."""
    a, b, c = three(db)
    blocker = Session(db, "blocker")
    for _ in range(10):
        c.insert()
    # against claims, not against reading; and without a transaction id of its own
    blocker.begin().conn.execute("lock table gendurable.instance in exclusive mode")
    under_way = a.begin().blocked(c, a.claim, 4)
    set_limit(c, 0)
    for _ in range(3):
        assert b.claim(10) == []
    blocker.roll_back()
    assert len(under_way.result()) == 4
    # now it is seen by its transaction id alone: the snapshot of its claim is gone
    a.conn.execute("select 1")
    for _ in range(3):
        assert b.claim(10) == []
    a.commit_open()
    set_limit(c, 2)
    assert b.claim(10) == []
    assert executing(c) == 4
    settle(b)


def test_what_is_locked_while_it_has_no_slot_counts(db):
    a, b, c = three(db)
    for _ in range(4):
        c.insert()
    claims = c.claim(2)
    a.begin().commit_one(outcome(claims[0], "next", step="b", delay_ms=100_000))
    set_limit(b, 2)
    assert b.claim(10) == []
    a.roll_back()
    assert b.claim(10) == []
    assert executing(c) == 2


def test_a_limit_that_is_set_again(db):
    a, b, c = three(db)
    for _ in range(10):
        c.insert()
    set_limit(c, 2)
    assert len(a.claim(10)) == 2
    set_limit(c, None)
    assert len(b.begin().claim(3)) == 3
    set_limit(c, 4)
    assert len(a.claim(10)) == 2
    b.commit_open()
    assert a.claim(10) == []
    assert executing(c) == 7


def test_two_operators_and_one_queue(db):
    a, b, c = three(db)
    b.conn.execute("set lock_timeout = 0")
    set_limit(a.begin(), 2)
    with pytest.raises(Exception, match="lock timeout"):
        set_limit(b, 3)
    set_limit(b, 3, "other")
    a.commit_open()
    set_limit(b, 3)
    assert c.one("select max_executing from gd_queues where queue = 'default'") == 3


# -- who is woken


def falls_asleep(session: Session, *queues: str) -> Any:
    row = session.falls_asleep(*queues)
    assert session.claim(10, *queues) == []
    return row


def silence(session: Session, other: Session) -> bool:
    other.conn.execute("notify gendurable, 'fence'")
    return session.told() == ["fence"]


ENDS = {
    "done": lambda s, claim: s.finish(claim),
    "next elsewhere": lambda s, claim: s.commit(outcome(claim, "next", step="b", queue="other")),
    "a long delay": lambda s, claim: s.commit(outcome(claim, "replay", delay_ms=10**7)),
    "await": lambda s, claim: s.commit(outcome(claim, "await", signals="x")),
    "commit_one": lambda s, claim: s.commit_one(outcome(claim, "done")),
    "keep, but elsewhere": lambda s, claim: s.commit(outcome(claim, "next", step="b", queue="other", keep=True)),
    "cancel": lambda s, claim: s.call("cancel", claim["id"]),
    "cancel_many": lambda s, claim: s.rows("select * from gd_cancel_many(%s)", [claim["id"]]),
    "release": lambda s, claim: s.release(claim, delay="1 hour"),
    "raised": lambda s, claim: set_limit(s, 2),
    "removed": lambda s, claim: set_limit(s, None),
}


@pytest.mark.parametrize("end", ENDS)
def test_whoever_makes_room_wakes_who_sleeps(db, end):
    a, b, c = three(db)
    set_limit(c, 1)
    c.insert()
    [claim] = a.claim(1)
    settle(b)
    c.insert(priority=1)
    falls_asleep(b)
    assert silence(b, c)
    ENDS[end](a, claim)
    assert b.told() == ["default"]
    assert len(b.claim_soon()) == 1


UP = {"a lease": "lease_expires_at = now()", "a timeout": "lease_expires_at = now(), timeout_at = now(), attempt = 15"}


@pytest.mark.parametrize("end", UP)
def test_a_claim_that_is_over_wakes_who_sleeps(db, end):
    a, b, c = three(db)
    set_limit(c, 1)
    c.insert()
    [claim] = a.claim(1)
    settle(b)
    falls_asleep(b)
    c.insert()
    assert b.told() == ["default"]
    c.conn.execute(f"update gendurable.instance set {UP[end]} where id = %s".encode(), (claim["id"],))
    assert c.call("reap") == 1
    # where it is due again only after a back-off of minutes as well
    assert b.told() == ["default"]
    assert len(b.claim_soon()) == 1
    assert executing(c) == 1


def test_a_kept_claim_wakes_nobody(db):
    a, b, c = three(db)
    set_limit(c, 1)
    c.insert()
    [claim] = a.claim(1)
    settle(b)
    c.insert()
    falls_asleep(b)
    told_before = silence(b, c)
    [answer] = a.answers(outcome(claim, "next", step="b", keep=True))
    assert answer["detail"]["step"] == "b"
    assert told_before
    assert silence(b, c)


def test_who_was_held_off_by_a_claim_is_woken_if_that_leaves_room(db):
    a, b, c = three(db)
    set_limit(c, 2)
    settle(b)
    falls_asleep(b)
    for _ in range(2):
        c.insert()
        b.told()
    a.begin().claim(1)
    assert b.claim(10) == []
    a.commit_open()
    assert b.told() == ["default"]
    assert len(b.claim(10)) == 1


def test_who_sleeps_while_a_claim_is_open_looks_again(db):
    a, b, c = three(db)
    set_limit(c, 2)
    settle(c)
    a.begin().claim(1)
    due = "select next_due < clock_timestamp() + interval '1 second' from gd_sleep('b', '{default}')"
    assert b.one(due)
    a.commit_open()
    assert b.one(due) is None


def test_release_of_a_hold_wakes_everybody(db):
    a, b, c = three(db)
    c.insert()
    c.call("hold_all", "a test")
    falls_asleep(b)
    assert b.claim() == []
    a.begin().call("release_hold")
    assert b.claim() == []
    a.commit_open()
    assert b.told() == [""]
    assert len(b.claim()) == 1


def test_who_holds_waits_for_nobody(db):
    a, b, c = three(db)
    c.insert()
    a.begin().call("hold_all", "forgotten")
    assert len(b.claim()) == 1
    b.call("hold_all", "forgotten")
    assert b.claim() == []
    assert b.call("release_hold")
    a.commit_open()
    c.insert()
    assert b.claim() == []
    assert b.call("release_hold")
    assert len(b.claim()) == 1


# -- many at a time


@pytest.mark.parametrize(("limit", "sessions", "lost"), [(8, 8, 0.0), (3, 10, 0.0), (4, 6, 0.1)])
def test_never_more_than_the_limit_execute(db, limit, sessions, lost):
    """Each looks in the transaction of its claim, where it sees all that has been committed besides."""
    rows = 120
    c = Session(db, "c")
    set_limit(c, limit)
    c.rows(
        """select count(gd_insert('m', p_priority => g %% 2,
            p_partition_key => case when g %% 3 = 0 then 'k:' || g %% 5 end)) from generate_series(1, %s) g""",
        rows,
    )
    most: list[int] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        session = Session(db, f"w{number}")
        while session.one("select exists (select from gendurable.instance where finished_at is null)"):
            session.begin()
            claims = session.claim(chance.randint(1, 4), lease=LOST if chance.random() < lost else "60 seconds")
            most.append(executing(session))
            session.commit_open()
            for claim in claims:
                if chance.random() < 0.2:
                    session.release(claim)
                elif chance.random() >= lost:
                    session.commit_soon(outcome(claim, "done" if chance.random() < 0.7 else "replay"))
            session.call("reap")
            session.conn.execute(
                "update gendurable.instance set lease_expires_at = now() where worker = %s and status = 'executing'",
                (session.name,),
            )

    with ThreadPoolExecutor(sessions) as pool:
        for done in [pool.submit(work, number) for number in range(sessions)]:
            done.result(60)
    # how many at most depends on who ran when
    assert 0 < max(most) <= limit
    assert executing(c) == 0
    no_baton_was_lost(c)


def test_upkeep_that_forgets_what_was_special_forgets_no_decision_that_is_open(db):
    a, b, c = (Session(db, name) for name in "abc")
    c.call("pause_queue", "q")
    c.call("resume_queue", "q")
    c.insert()
    # its mark is there and not seen; the one of before is seen and goes
    a.begin().call("hold_all", "open")
    assert b.maintain()["ran"]
    assert c.one("select count(*) from gendurable.special") == 0
    a.end("commit")
    assert b.claim(1) == []
    b.maintain()
    assert b.claim(1) == []
    c.call("release_hold")
    assert len(b.claim_soon()) == 1
