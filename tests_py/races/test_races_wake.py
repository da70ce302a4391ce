"""Wake-ups: whoever makes a row due while a dispatcher falls asleep, and what the sleeper must look at."""

from __future__ import annotations

import pytest
from support.races import LOST, Session, outcome, three
from support.wait import wait_until


def silence(session: Session, other: Session) -> bool:
    """Nothing came, and what is sent from now on does come: so nothing was on its way."""
    other.conn.execute("notify gendurable, 'fence'")
    return session.told() == ["fence"]


def horizon_is_reached(session: Session, horizon) -> bool:
    return session.one("select pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8", str(horizon))


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_writer_that_looks_after_the_sleeper_lay_down(db, how):
    a, b, _ = three(db)
    b.falls_asleep()
    a.begin().insert()
    a.end(how)
    if how == "commit":
        assert b.told() == ["default"]
        assert len(b.claim()) == 1
    else:
        assert silence(b, a)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_writer_that_looked_before_the_sleeper_lay_down(db, how):
    """No notification comes: the sleeper must see that somebody older than its horizon is still writing."""
    a, b, c = three(db)
    id = a.begin().insert()
    horizon = b.falls_asleep()["horizon"]
    assert b.claim() == []
    assert not horizon_is_reached(b, horizon)
    a.end(how)
    assert silence(b, c)
    wait_until(lambda: horizon_is_reached(b, horizon))
    if how == "commit":
        assert [row["id"] for row in b.claim_soon()] == [id]


def test_a_writer_under_a_fixed_snapshot_sees_the_sleeper(db):
    a, b, _ = three(db)
    a.begin("repeatable read").rows("select 1 as one")
    b.falls_asleep()
    a.insert()
    a.commit_open()
    assert b.told() == ["default"]


def test_a_writer_that_began_before_and_writes_after(db):
    a, b, _ = three(db)
    a.begin().insert(queue="side")
    horizon = b.falls_asleep()["horizon"]
    a.insert()
    assert not horizon_is_reached(b, horizon)
    a.commit_open()
    assert b.told() == ["default"]


def test_a_delay_that_ends_before_the_next_poll_wakes_the_sleeper(db):
    a, b, _ = three(db)
    assert b.falls_asleep()["next_due"] is None
    a.rows("select gd_insert('m', p_delay => '1 s')")
    assert b.told() == ["default"]
    assert b.falls_asleep()["next_due"] is not None


def test_nobody_is_told_who_does_not_sleep(db):
    a, b, c = three(db)
    b.falls_asleep()
    b.call("wake", "b")
    a.insert()
    assert silence(b, c)
    b.falls_asleep("side")
    a.insert()
    assert silence(b, c)


def test_another_writer_that_looks_is_taken_for_no_sleeper(db):
    """It holds the lock for as long as it is off its processor: NOTIFY would make everybody wait for its commit."""
    a, b, c = three(db)
    c.conn.execute("listen gendurable")
    b.rows("select pg_advisory_lock(7302, hashtext('default'))")
    a.insert()
    assert silence(c, b)
    c.falls_asleep("other")  # nor is it a sleeper on another queue
    a.insert()
    assert silence(c, b)


def test_a_sleeper_that_is_gone_is_not_waited_for(db):
    a, b, c = three(db)
    b.falls_asleep()
    pid = b.conn.info.backend_pid
    b.conn.close()
    wait_until(lambda: c.rows("select from pg_stat_activity where pid = %s", pid) == [])
    c.conn.execute("listen gendurable")
    a.insert()
    assert silence(c, a)


def test_two_sleepers_and_a_writer_that_sleeps_itself(db):
    a, b, c = three(db)
    for session in (a, b):
        session.falls_asleep()
    c.insert()
    assert a.told() == b.told() == ["default"]
    a.insert()
    assert b.told() == ["default"]


def test_a_sleep_that_was_rolled_back_still_counts(db):
    """The lock is the session's: it stands until gd_wake, and gd_wake finds it."""
    a, b, c = three(db)
    b.begin()
    b.falls_asleep()
    b.roll_back()
    b.conn.execute("listen gendurable")
    a.insert()
    assert b.told() == ["default"]
    b.call("wake", "b")
    a.insert()
    assert silence(b, c)


def parked(session: Session, worker: Session) -> int:
    id = session.insert()
    assert worker.commit(outcome(worker.claim_one(), "await", signals="go")) == ["ok"]
    return id


def keyed_lane(c: Session, a: Session):
    c.insert(partition_key="k")
    holder = a.claim_one()
    c.insert(partition_key="k")
    assert a.claim(10) == []
    return holder


def prepare_signal(a, c):
    id = parked(c, a)
    return lambda: a.signal(id)


def prepare_signal_many(a, c):
    id = parked(c, a)
    return lambda: a.rows("select * from gd_signal_many(%s, 'go')", [id])


def prepare_edit_of_the_queue(a, c):
    id = c.insert(queue="side")
    return lambda: a.one("select gd_edit(%s, p_queue => 'default')", id)


def prepare_edit_that_gives_way(a, c):
    c.call("pause_queue", "side")
    first = c.insert(queue="other", partition_key="k")
    c.insert(partition_key="k")
    assert a.claim() == []
    return lambda: a.one("select gd_edit(%s, p_queue => 'side')", first)


def prepare_next(a, c):
    c.insert()
    claim = a.claim_one()
    return lambda: a.commit(outcome(claim, "next", step="two"))


def prepare_parent(a, c):
    c.insert()
    fan = outcome(a.claim_one(), "schedule_childs", step="j", childs=[{"fsm": "m", "queue": "kids"}])
    assert a.commit(fan) == ["ok"]
    child = a.claim_one("kids")
    return lambda: a.finish(child)


def prepare_children(a, c):
    c.insert(queue="side")
    fan = outcome(a.claim_one("side"), "schedule_childs", step="j", childs=[{"fsm": "m"}])
    return lambda: a.commit(fan)


def prepare_release(a, c):
    c.insert()
    claim = a.claim_one()
    return lambda: a.release(claim)


def prepare_reap(a, c):
    c.insert()
    a.claim_one(lease=LOST)
    return lambda: a.call("reap")


def prepare_retry(a, c):
    id = c.insert()
    assert c.call("cancel", id)
    return lambda: a.call("retry", id)


def prepare_reschedule(a, c):
    id = c.rows("select gd_insert('m', p_delay => '1 day') as id")[0]["id"]
    return lambda: a.one("select gd_reschedule(%s, now())", id)


def prepare_lift_by_end(a, c):
    holder = keyed_lane(c, a)
    return lambda: a.finish(holder)


def prepare_lift_by_cancel(a, c):
    holder = keyed_lane(c, a)
    return lambda: a.call("cancel", holder["id"])


def prepare_limit(a, c):
    keyed_lane(c, a)
    return lambda: a.call("set_key_limit", "k", 2)


def prepare_resume(a, c):
    c.call("pause_queue", "default")
    c.insert()
    return lambda: a.call("resume_queue", "default")


PREPARE = {name.removeprefix("prepare_"): call for name, call in list(globals().items()) if name.startswith("prepare_")}


@pytest.mark.parametrize("what", PREPARE)
def test_whatever_makes_a_row_due_wakes_the_sleeper(db, what):
    a, b, c = three(db)
    call = PREPARE[what](a, c)
    b.falls_asleep()
    a.begin()
    call()
    # at commit, and not before
    assert list(b.conn.notifies(timeout=0)) == []
    a.commit_open()
    assert b.told() == ["default"]
    assert len(b.claim_soon()) == 1


def test_an_end_and_an_await_wake_nobody(db):
    a, b, c = three(db)
    for _ in range(3):
        c.insert()
    claims = a.claim(3)
    b.falls_asleep()
    assert (
        a.commit(
            outcome(claims[0], "done"),
            outcome(claims[1], "await", signals="go"),
            outcome(claims[2], "stop", reason="no"),
        )
        == ["ok"] * 3
    )
    assert silence(b, c)
