"""Schedules: many who claim at a tick, many who change one, and transactions that stay open."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from support.races import Session, three
from support.wait import run_in_thread, wait_until, wait_until_blocked

import gendurable_py as gd

CLAIMERS = 10


def make_due(session: Session, name: str, ago: str = "1 minute") -> None:
    """The tick of a schedule's bell comes to be some time ago."""
    session.rows(
        "with s as (update gendurable.schedule set next_at = clock_timestamp() - %s::interval where name = %s "
        "returning bell_id, next_at) "
        "update gendurable.instance i set eligible_at = s.next_at from s where i.id = s.bell_id returning i.id",
        ago,
        name,
    )
    session.rows("select set_config('gendurable.floor', '', false)")


def count_bells(session: Session, name: str) -> int:
    found: int = session.one("select count(*) from gendurable.instance where id < 0 and unique_key = %s", name)
    return found


def test_ten_claimers_fire_each_tick_once(db: Any) -> None:
    conn = db.connect()
    gd.schedule(conn, "often", "@every 1 second", "m", catch_up="all")
    stop = threading.Event()

    def claim() -> int:
        with psycopg.connect(db.dsn, autocommit=True) as own:
            count = 0
            while not stop.is_set():
                count += len(own.execute("select id from gd_claim('w', 'default', 3)").fetchall())
            return count

    with ThreadPoolExecutor(CLAIMERS) as pool:
        claims = [pool.submit(claim) for _ in range(CLAIMERS)]
        try:
            wait_until(lambda: conn.execute("select count(*) >= 4 from gd_instances").fetchone()[0])
        finally:
            stop.set()
        got = sum(claim.result() for claim in claims)
    rows = conn.execute("select meta ->> 'tick' from gd_instances where meta ->> 'schedule' = 'often'").fetchall()
    ticks = sorted(datetime.fromisoformat(tick) for (tick,) in rows)
    assert len(set(ticks)) == len(ticks) >= 4
    assert {after - before for before, after in pairwise(ticks)} == {timedelta(seconds=1)}
    assert got <= len(ticks)
    assert conn.execute("select count(*) from gendurable.instance where id < 0").fetchone() == (1,)


def test_ten_sessions_change_one_schedule_two_hundred_times(db: Any) -> None:
    stop = threading.Event()

    def change(number: int) -> None:
        with psycopg.connect(db.dsn, autocommit=True) as own:
            for n in range(20):
                match (number + n) % 5:
                    case 0:
                        gd.unschedule(own, "one")
                    case 1:
                        gd.schedule(own, "one", f"*/{n + 1} * * * *", "m", {"n": n})
                    case 2:
                        own.execute(
                            "select * from gd_announce_schedules(%s)", ('[{"name":"one","cron":"@daily","fsm":"m"}]',)
                        )
                    case 3:
                        gd.schedule(own, "one", "@every 1 second", "m", queue=f"q{n % 3}")
                    case _:
                        try:
                            gd.pause_schedule(own, "one")
                            gd.trigger(own, "one")
                            gd.resume_schedule(own, "one")
                        except gd.UnknownName:
                            pass  # somebody has just unscheduled it

    def claim() -> None:
        with psycopg.connect(db.dsn, autocommit=True) as own:
            while not stop.is_set():
                own.execute('select id from gd_claim_many(\'w\', \'{"default": 5, "q0": 5, "q1": 5, "q2": 5}\')')
                own.execute("select gd_register('m', 1, 'start', %s)", (f"q{int(time.monotonic() * 100) % 3}",))
                own.execute("select gd_maintain()")

    with ThreadPoolExecutor(CLAIMERS + 2) as pool:
        claims = [pool.submit(claim) for _ in range(2)]
        try:
            for done in [pool.submit(change, number) for number in range(CLAIMERS)]:
                done.result()
        finally:
            stop.set()
        for done in claims:
            done.result()
    last = Session(db)
    gd.schedule(last.conn, "one", "@daily", "m")
    assert last.one("select count(*) from gd_schedules") == 1
    assert last.one("select bell_id from gendurable.schedule") == last.one(
        "select id from gendurable.instance where id < 0"
    )
    assert last.maintain()["repaired"] == 0


def test_a_change_waits_for_the_claim_that_fires(db: Any) -> None:
    a, b, c = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm', '{\"queue\": \"q\"}')")
    make_due(a, "one")
    assert len(a.begin().claim(1, "q")) == 1
    changing = run_in_thread(b.rows, "select gd_schedule('one', '@hourly', 'm', '{\"queue\": \"r\"}')")
    wait_until_blocked(c.conn, b.conn)
    assert c.claim(10, "q") == []
    a.commit_open()
    changing.result()
    assert c.rows("select queue, next_at > now() as later from gd_schedules") == [{"queue": "r", "later": True}]
    assert count_bells(c, "one") == 1
    assert c.one("select count(*) from gd_instances") == 1


def test_a_schedule_that_is_being_changed_is_left_alone(db: Any) -> None:
    a, b, _ = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm')")
    make_due(a, "one")
    bell = "select id, xmin::text, eligible_at from gendurable.instance where id < 0"
    before = b.rows(bell)
    a.begin().rows("select gd_schedule('one', '@hourly', 'm', '{\"priority\": 1}')")
    assert b.claim() == []
    a.roll_back()
    assert b.rows(bell) == before
    [row] = b.claim_soon()
    assert row["meta"]["schedule"] == "one"


@pytest.mark.parametrize("call", ["pause_schedule", "resume_schedule"])
def test_what_is_unscheduled_meanwhile_is_not_there(db: Any, call: str) -> None:
    a, b, c = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm')")
    a.begin().rows("select gd_unschedule('one')")
    waiting = run_in_thread(b.call, call, "one")
    wait_until_blocked(c.conn, b.conn)
    a.commit_open()
    with pytest.raises(psycopg.Error) as caught:
        waiting.result()
    assert caught.value.sqlstate == "GD502"


def test_a_tick_that_is_rolled_back_fires_again(db: Any) -> None:
    a, b, _ = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm')")
    make_due(a, "one")
    [lost] = a.begin().claim()
    a.roll_back()
    [row] = b.claim_soon()
    assert row["meta"] == lost["meta"]
    assert b.one("select count(*) from gd_instances") == 1


def test_a_claim_waits_for_nobody_who_has_the_schedule(db: Any) -> None:
    a, b, c = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm')")
    make_due(a, "one")
    c.insert()
    a.begin().rows("select from gendurable.schedule for update")
    assert [row["fsm"] for row in b.claim()] == ["m"]
    assert b.one("select last_tick_at is null from gd_schedules")
    a.roll_back()
    [row] = b.claim_soon()
    assert row["meta"]["schedule"] == "one"


def test_a_claim_waits_for_no_key_of_an_open_transaction(db: Any) -> None:
    a, b, c = three(db)
    a.rows("select gd_schedule('one', '@hourly', 'm', '{\"overlap\": \"skip\"}')")
    assert a.begin().one("select gd_trigger('one')") > 0
    make_due(b, "one")
    c.insert(fsm="other")
    b.rows("select set_config('lock_timeout', '0', false)")
    claiming = run_in_thread(b.claim)
    try:
        assert [row["fsm"] for row in claiming.result(5)] == ["other"]
    except BaseException:
        a.roll_back()
        raise
    assert b.one("select current_setting('lock_timeout')") == "0"
    # the tick stays due, and is told why it waits
    assert b.rows("select last_tick_at, next_at < now() as due, last_error ~ 'lock' as told from gd_schedules") == [
        {"last_tick_at": None, "due": True, "told": True}
    ]
    a.roll_back()
    [row] = b.claim_soon()
    assert row["meta"]["schedule"] == "one"
    assert b.rows("select last_error from gd_schedules") == [{"last_error": None}]


def test_an_announcement_waits_for_nobody(db: Any) -> None:
    a, b, _ = three(db)
    announce = (
        'select name, result from gd_announce_schedules(\'[{"name":"new","cron":"@daily","fsm":"m"},'
        '{"name":"old","cron":"@daily","fsm":"m"}]\') order by name'
    )
    a.rows("select gd_schedule('old', '@daily', 'm')")
    a.begin().rows("select gd_schedule('new', '@daily', 'm'), gd_schedule('old', '@hourly', 'm')")
    assert b.rows(announce) == [{"name": "new", "result": "busy"}, {"name": "old", "result": "same"}]
    a.commit_open()
    assert b.rows(announce) == [{"name": "new", "result": "same"}, {"name": "old", "result": "differs"}]


def test_a_machine_that_moves_takes_its_bells_along_when_they_are_free(db: Any) -> None:
    a, b, c = three(db)
    a.rows(
        "select gd_register('m', 1, 'start', 'q'), "
        "gd_schedule('one', '@hourly', 'm'), gd_schedule('two', '@hourly', 'm')"
    )
    make_due(a, "one")
    assert len(a.begin().claim(5, "q")) == 1
    b.rows("select gd_register('m', 1, 'start', 'r')")
    a.commit_open()
    where = "select name, queue from gd_schedules order by name"
    assert c.rows(where) == [{"name": "one", "queue": "q"}, {"name": "two", "queue": "r"}]
    assert c.maintain()["repaired"] == 0
    assert c.rows(where) == [{"name": "one", "queue": "r"}, {"name": "two", "queue": "r"}]
    assert c.one("select count(*) from gendurable.instance where id < 0 and queue = 'r'") == 2


def test_a_tick_is_durable_whatever_the_session_says(db: Any) -> None:
    session = Session(db)
    session.rows("select gd_schedule('one', '@hourly', 'm')")
    session.rows("select set_config('synchronous_commit', 'off', false)")
    make_due(session, "one")
    session.begin()
    assert len(session.claim()) == 1
    assert session.one("show synchronous_commit") == "on"
    session.commit_open()
    assert session.one("show synchronous_commit") == "off"


def test_the_claimer_that_rings_is_woken_for_the_next_tick(db: Any) -> None:
    a, b, _ = three(db)
    a.rows("select gd_schedule('one', '@every 2 seconds', 'm')")
    a.conn.execute("listen gendurable")
    a.rows("select * from gd_sleep('w', '{default}')")
    make_due(a, "one", "10 milliseconds")
    assert len(a.claim()) == 1
    # its next due time is from before the claim
    assert [note.payload for note in a.conn.notifies(timeout=5, stop_after=1)] == ["default"]
    later = a.one("select next_due > now() from gd_sleep('w', '{default}')")
    assert later
    assert b.one("select count(*) from gd_instances") == 1


def test_many_schedules_tick_together(db: Any) -> None:
    session = Session(db)
    for n in range(120):
        session.rows("select gd_schedule(%s, '@hourly', 'm', '{\"overlap\": \"skip\"}')", f"s{n}")
        make_due(session, f"s{n}")
    got = session.claim(10)
    assert len(got) == 10  # each is taken once, of whatever round it is
    while rows := session.claim(10):
        got += rows
        session.rows("select set_config('gendurable.floor', '', false)")
    assert len({row["id"] for row in got}) == len(got) == 120
    assert len({row["meta"]["schedule"] for row in got}) == 120
