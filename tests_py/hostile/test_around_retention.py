"""Retention beside what others leave behind: locks, foreign keys, triggers, masses of rows that cannot be removed.

What one row does costs that row, and the rest of the call is done.
"""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.plans import shared_buffers
from support.races import LOST, Session, ids, outcome, three
from support.wait import wait_until


def ended(session: Session, count: int, queue: str = "old") -> list[int]:
    """Instances that ended a month ago, one a second."""
    session.insert_many(*({"queue": queue} for _ in range(count)))
    claims = session.claim(count, queue)
    session.finish(*claims)
    session.rows(
        "update gendurable.instance set finished_at = now() - interval '30 days' + id * interval '1 s' "
        "where queue = %s and finished_at is not null returning id",
        queue,
    )
    return sorted(ids(claims))


def maintain(session: Session, retention: Any = "7 days") -> dict[str, Any]:
    value: dict[str, Any] = session.one("select gd_maintain(%s)", retention)
    return value


@pytest.mark.parametrize("when", ["", "deferrable initially deferred"])
def test_a_foreign_key_of_the_application_costs_the_rows_it_refers_to(db: Any, when: str) -> None:
    a = Session(db)
    old = ended(a, 50)
    lost = a.insert(queue="lost")
    assert ids(a.claim(1, "lost", LOST)) == [lost]
    a.conn.execute(f"create table orders (instance bigint references gendurable.instance {when})".encode())
    a.conn.execute("insert into orders values (%s), (%s)", (old[7], old[31]))
    answer = maintain(a)
    assert (answer["reaped"], answer["removed"]) == (1, 48)
    assert answer["errors"]["removed"]["sqlstate"] == "23503"
    assert answer["errors"]["removed"]["rows"] == 2
    assert a.status(lost) == "runnable"
    assert a.rows("select id from gd_instances where queue = 'old' order by id") == [{"id": old[7]}, {"id": old[31]}]
    a.conn.execute("drop table orders")
    assert a.one("select gd_gc()") == 2


def test_many_rows_that_cannot_be_removed_do_not_stand_in_the_way_of_the_others(db: Any) -> None:
    a = Session(db)
    old = ended(a, 3000)
    a.conn.execute("create table orders (instance bigint primary key references gendurable.instance)")
    a.conn.execute("insert into orders select unnest(%s::bigint[])", (old[:2500],))
    calls = 0
    while a.one("select count(*) from gd_instances where queue = 'old'") > 2500:
        maintain(a)
        calls += 1
        assert calls < 12, "it does not get past them"
    # and it comes round: what can be removed by now is found again
    a.conn.execute("delete from orders where instance = any(%s)", (old[:10],))
    wait_until(lambda: maintain(a) and a.one("select count(*) from gd_instances where queue = 'old'") == 2490, 30)


def test_a_trigger_that_fails_for_one_child_costs_that_child(db: Any) -> None:
    a = Session(db)
    parent = a.insert()
    children = [{"fsm": "m", "queue": "kids"}] * 20
    assert a.commit(outcome(a.claim_one(), "schedule_childs", step="join", childs=children)) == ["ok"]
    kids = a.claim(20, "kids")
    assert set(a.finish(*kids)) == {"ok"}
    assert ids(claims := a.claim()) == [parent]
    assert a.finish(*claims) == ["ok"]
    bad = sorted(ids(kids))[7]
    a.conn.execute(
        f"""
        create function audit() returns trigger language plpgsql as $$
        begin
            if new.id = {bad} then
                raise exception 'no room' using errcode = 'P0001';
            end if;
            return new;
        end $$""".encode()
    )
    a.conn.execute("create trigger audit before update on gendurable.instance for each row execute function audit()")
    assert a.one("select gd_gc('0')") == 20
    assert a.rows("select id from gd_instances") == [{"id": bad}]
    a.conn.execute("drop trigger audit on gendurable.instance")
    assert a.one("select gd_gc('0')") == 1


@pytest.mark.parametrize("when", ["raise", "refuse"])
def test_a_trigger_that_keeps_what_is_fleeting_keeps_it_as_done(db: Any, when: str) -> None:
    a = Session(db)
    a.call("register", "m", 1, "start", "default", Jsonb({"retain": {"done": 0}}))
    old = [a.insert() for _ in range(4)]
    assert a.signal(old[1], dedup="k") == "delivered"
    act = "raise exception 'no' using errcode = 'P0001';" if when == "raise" else "return null;"
    a.conn.execute(
        f"""
        create function audit() returns trigger language plpgsql as $$
        begin
            if old.id = {old[1]} then
                {act}
            end if;
            return old;
        end $$""".encode()
    )
    a.conn.execute("create trigger audit before delete on gendurable.instance for each row execute function audit()")
    assert a.finish(*a.claim()) == ["ok"] * 4
    # one that raises takes the removal of its batch back; one that refuses, its own
    kept = old if when == "raise" else [old[1]]
    assert [row["id"] for row in a.rows("select id from gd_instances where status = 'done' order by id")] == kept
    assert a.one("select gd_gc()") == len(kept) - 1
    assert a.one("select count(*) from gendurable.signal_seen") == 1
    a.conn.execute("drop trigger audit on gendurable.instance")
    assert a.one("select gd_gc()") == 1
    assert a.one("select count(*) from gendurable.signal_seen") == 0


def test_old_children_of_a_live_parent_do_not_stop_retention(db: Any) -> None:
    a = Session(db)
    parent = a.insert()
    a.conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, finished_at, parent_id) "
        "select 'm', 's', 'c', 'done', now() - interval '60 days', %s from generate_series(1, 50000)",
        (parent,),
    )
    old = ended(a, 3)
    # 20,000 looks, each at the row and at its parent
    assert shared_buffers(db.connect(), "select gd_gc()") < 200_000
    for _ in range(3):
        maintain(a)
    assert a.rows("select id from gd_instances where id = any(%s)", old) == []
    assert a.one("select count(*) from gd_instances where queue = 'c'") == 50000
    # the parent ends, and all of them can go
    assert ids(a.claim()) == [parent]
    a.conn.execute(
        "update gendurable.instance set status = 'done', finished_at = now(), eligible_at = null, worker = null, "
        "lease_expires_at = null where id = %s",
        (parent,),
    )
    removed = [maintain(a) for _ in range(3)]
    assert [answer["removed"] for answer in removed] == [2000] * 3
    assert all(answer["more"] for answer in removed)


def test_many_families_that_somebody_has_locked_do_not_hold_up_the_others(db: Any) -> None:
    a, b, _ = three(db)
    a.conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, finished_at, parent_id, barrier_no) "
        "select 'm', 's', 'kids', 'done', now() - interval '1 day', 10000000 + g, 1 from generate_series(1, 3000) g"
    )
    a.conn.execute(
        "insert into gendurable.ended_parent (parent_id) select 10000000 + g from generate_series(1, 3000) g"
    )
    b.begin().rows("select id from gendurable.instance where parent_id <= 10000000 + 2500 for update")
    for _ in range(3):
        a.one("select gd_gc('0')")
    assert a.one("select count(*) from gd_instances where parent_id > 10000000 + 2500") == 0
    assert a.one("select count(*) from gd_instances") == 2500 == a.one("select count(*) from gendurable.ended_parent")
    b.roll_back()
    wait_until(lambda: a.one("select gd_gc('0')") is not None and a.one("select count(*) from gd_instances") == 0)
    assert a.one("select count(*) from gendurable.ended_parent") == 0


def test_an_open_transaction_that_collected_holds_up_no_parent_and_no_other_collector(db: Any) -> None:
    a, b, c = three(db)
    parent = a.insert()
    children = [{"fsm": "m", "queue": "kids"}] * 2
    assert a.commit(outcome(a.claim_one(), "schedule_childs", step="join", childs=children)) == ["ok"]
    first, second = a.claim(2, "kids")
    assert a.finish(first) == ["ok"]
    assert b.begin().one("select gd_gc('0')") == 0
    assert a.finish(second) == ["ok"]
    [claim] = a.claim()
    assert (claim["id"], a.finish(claim)) == (parent, ["ok"])
    # the collector of the next minute
    assert c.one("select count(*) from gendurable._remove_old('0', 100, clock_timestamp() + interval '5 s')") == 1
    assert c.one("select count(*) from gd_instances") == 0
    b.roll_back()
