"""Upkeep beside what others leave behind: locks, foreign keys, masses of rows that cannot be removed, times ahead.

What one row, key or setting does costs that row, and the rest of the call is done.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.races import LOST, Session, drains, ids, lane, three
from support.wait import wait_until

FOREVER = timedelta.max


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


def lose(session: Session, queue: str = "lost", **arguments: Any) -> int:
    """A claim whose worker is gone."""
    id = session.insert(queue=queue, **arguments)
    session.rows("select set_config('gendurable.floor', '', false)")
    assert id in ids(session.claim(10, queue, LOST))
    return id


# -- a part that fails


@pytest.mark.parametrize("retention", [FOREVER, "1000000 years", "178000000 years", "infinity"])
def test_a_retention_beyond_all_times_keeps_everything_and_the_rest_is_done(db: Any, retention: Any) -> None:
    a = Session(db)
    if retention == "infinity" and a.conn.info.server_version < 170000:
        pytest.skip("an infinite interval needs PostgreSQL 17")
    old = ended(a, 2)
    lost = lose(a)
    answer = maintain(a, retention)
    assert (answer["reaped"], answer["removed"], answer["errors"]) == (1, 0, {})
    assert a.status(lost) == "runnable"
    assert a.one("select gd_gc(%s)", retention) == 0
    assert [a.status(id) for id in old] == ["done", "done"]


@pytest.mark.parametrize("part", ["reaped", "removed"])
def test_a_trigger_that_fails_for_one_row_costs_that_row(db: Any, part: str) -> None:
    a = Session(db)
    old, lost = ended(a, 20), [lose(a) for _ in range(5)]
    bad = old[3] if part == "removed" else lost[2]
    a.conn.execute("""
        create function audit() returns trigger language plpgsql as $$
        begin
            if coalesce(new.id, old.id) = tg_argv[0]::bigint then
                raise exception 'no room' using errcode = 'P0001';
            end if;
            return coalesce(new, old);
        end $$""")
    a.conn.execute(
        "create trigger audit before update or delete on gendurable.instance "
        f"for each row execute function audit({bad})".encode()
    )
    answer = maintain(a)
    assert answer["reaped"] == (4 if part == "reaped" else 5)
    assert answer["removed"] == (19 if part == "removed" else 20)


def test_a_lock_of_a_whole_table_is_not_waited_for(db: Any) -> None:
    a, b, _ = three(db)
    a.insert()
    held = a.claim_one()
    for table in ("gendurable.instance", "gendurable.signal"):
        b.begin().conn.execute(f"lock table {table} in access exclusive mode".encode())
        ended_before = maintain(a)
        assert ended_before["errors"] if table.endswith("instance") else ended_before["ran"]
        if table.endswith("instance"):
            assert (a.one("select gd_reap()"), a.one("select gd_gc()"), a.release(held)) == (0, 0, 0)
        b.roll_back()
    assert a.release(held) == 1


def test_an_open_transaction_keeps_the_others_from_upkeep_for_a_minute_at_most(db: Any) -> None:
    a, b, _ = three(db)
    a.begin()
    assert maintain(a)["ran"] and a.one("select gd_gc()") == 0
    # the lock is that of a minute: the next one is free whatever a does
    later = "select pg_try_advisory_xact_lock(7304, %s * (extract(epoch from clock_timestamp()) / 60 + 1)::int)"
    assert b.one(later, 1) and b.one(later, -1)
    a.roll_back()


# -- rows and keys that somebody has locked


def test_what_cannot_be_given_back_costs_no_other_row(db: Any) -> None:
    a, b, c = three(db)
    # the holder's queue is paused when it is lost, and all that wait behind it are locked: nobody can take the baton
    first = a.insert(partition_key="k", queue="p")
    assert ids(a.claim(1, "p", LOST)) == [first]
    behind = a.insert(partition_key="k", queue="q")
    assert a.claim(5, "q") == []
    b.call("pause_queue", "p")
    others = [lose(a) for _ in range(3)]
    c.begin().rows("select id from gendurable.instance where id = %s for update", behind)
    a.rows("select set_config('gendurable.floor', '', false)")
    assert maintain(a)["reaped"] >= 3
    assert {a.status(id) for id in others} == {"runnable"}
    c.roll_back()
    wait_until(lambda: maintain(a) and a.status(first) == "runnable")
    assert ids(b.claim_soon("q")) == [behind]


def test_release_gives_back_what_it_can(db: Any) -> None:
    a, b, c = three(db)
    first = a.insert(partition_key="k", queue="p")
    [keyed] = a.claim(1, "p")
    behind = a.insert(partition_key="k", queue="q")
    assert a.claim(5, "q") == []
    plain = [a.insert(queue="plain") for _ in range(3)]
    held = a.claim(5, "plain")
    b.call("pause_queue", "p")
    c.begin().rows("select id from gendurable.instance where id = %s for update", behind)
    # with a delay it leaves its turn, and there is nobody to hand the baton to
    assert a.release(keyed, *held, delay="1 hour") >= 3
    assert {a.status(id) for id in plain} == {"runnable"}
    c.roll_back()
    assert a.look(first)["queue"] == "p"


def test_a_lost_claim_is_found_without_the_table_of_priorities(db: Any) -> None:
    a = Session(db)
    lost = lose(a, priority=7)
    held = a.insert(queue="held", priority=-3)
    assert ids(a.claim(1, "held")) == [held]
    a.rows("delete from gendurable.queue_name returning queue")
    assert a.one("select gd_reap()") == 1
    assert a.status(lost) == "runnable"
    assert a.one("select gd_release('w', null)") == 1
    assert a.status(held) == "runnable"


# -- a heartbeat beside the row


def renewals(session: Session) -> int:
    value: int = session.one("select count(*) from gendurable.renewal")
    return value


def beat(session: Session, claim: dict[str, Any], lease: str) -> list[dict[str, Any]]:
    return session.rows(
        "select * from gd_heartbeat(%s, %s, %s::interval)",
        session.name,
        Jsonb([[claim["id"], claim["claim_no"]]] * 2),  # twice is no mistake
        lease,
    )


@pytest.mark.parametrize("taker", ["claim", "reap", "maintain"])
def test_a_locked_row_is_not_lost_while_its_worker_lives(db: Any, taker: str) -> None:
    a, b, c = three(db)
    id = a.insert()
    claim = a.claim_one(lease="200 milliseconds")
    c.begin().rows("select id from gendurable.instance where id = %s for update", id)
    assert beat(a, claim, "1 hour") == []
    wait_until(lambda: a.one("select lease_expires_at < clock_timestamp() from gendurable.instance where id = %s", id))
    assert renewals(a) == 1
    c.commit_open()

    take: dict[str, Callable[[], Any]] = {
        "claim": lambda: b.rows("select set_config('gendurable.floor', '', false)") and b.claim(),
        "reap": lambda: b.one("select gd_reap()"),
        "maintain": lambda: maintain(b)["reaped"],
    }
    assert take[taker]() in ([], 0)
    assert a.finish(claim) == ["ok"]


def test_the_renewal_goes_when_the_row_is_free_again_or_when_it_is_over(db: Any) -> None:
    a, _, c = three(db)
    for _ in range(2):
        a.insert()
    one, two = a.claim(2, lease="1 second")
    c.begin().rows("select id from gendurable.instance for update")
    assert beat(a, one, "1 hour") == [] == beat(a, two, "1 hour")
    assert renewals(a) == 2
    a.conn.execute("update gendurable.renewal set until = now() where instance_id = %s", (two["id"],))
    c.commit_open()
    assert beat(a, one, "1 hour") == []
    assert [row["instance_id"] for row in a.rows("select instance_id from gendurable.renewal")] == [two["id"]]
    maintain(a)
    assert renewals(a) == 0


def test_a_worker_that_is_gone_loses_a_locked_row_when_its_renewal_is_over(db: Any) -> None:
    a, b, c = three(db)
    id = a.insert()
    claim = a.claim_one(lease="50 milliseconds")
    c.begin().rows("select id from gendurable.instance where id = %s for update", id)
    assert beat(a, claim, "100 milliseconds") == []
    c.commit_open()
    [again] = b.claim_soon()
    assert again["id"] == id and again["attempt"] == 1
    assert a.finish(claim) == ["stale"]


def test_while_much_of_the_lease_is_left_nothing_is_written_beside_the_row(db: Any) -> None:
    a, _, c = three(db)
    a.insert()
    claim = a.claim_one(lease="1 hour")
    c.begin().rows("select id from gendurable.instance for update")
    assert beat(a, claim, "1 hour") == []
    assert renewals(a) == 0
    c.roll_back()


def test_a_heartbeat_waits_for_no_other_one(db: Any) -> None:
    a, b, c = three(db)
    for _ in range(2):
        a.insert()
    one, two = a.claim(2, lease="1 second")
    c.begin().rows("select id from gendurable.instance for update")
    b.begin()
    assert beat(b, one, "1 hour") == []
    a.conn.execute("set lock_timeout = 0")
    both = Jsonb([[one["id"], one["claim_no"]], [two["id"], two["claim_no"]]])
    assert a.rows("select * from gd_heartbeat('a', %s, '1 hour')", both) == []
    assert [row["instance_id"] for row in a.rows("select instance_id from gendurable.renewal")] == [two["id"]]
    assert a.one("show lock_timeout") == "0"
    b.roll_back()
    c.roll_back()


# -- bounded, whatever clients once did


def test_a_dropped_baton_is_found_behind_thousands_of_keys(db: Any) -> None:
    a = Session(db)
    a.conn.execute(
        "insert into gendurable.instance (fsm, step, queue, eligible_at, lane_at, partition_key) "
        "select 'm', 's', 'q', now(), now(), 'k' || g from generate_series(1, 5000) g"
    )
    a.conn.execute("update gendurable.instance set eligible_at = null where partition_key = 'k999'")
    calls = [maintain(a)["repaired"] for _ in range(4)]
    assert sum(calls) == 1
    assert a.one("select eligible_at is not null from gendurable.instance where partition_key = 'k999'")


def test_expired_claims_of_many_keys_are_taken_back_in_steps(db: Any) -> None:
    a = Session(db)
    a.conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, eligible_at, lane_at, partition_key, slot_no, "
        "worker, lease_expires_at, claim_no) select 'm', 's', 'q', 'executing', now() - interval '1 h', "
        "now() - interval '1 h', 'k' || g, 0, 'gone', now() - interval '1 min', 1 from generate_series(1, 1500) g"
    )
    steps = []
    while not steps or steps[-1]:
        steps.append(maintain(a)["reaped"])
        assert a.one("select count(*) from pg_locks where locktype = 'advisory'") == 0
    assert sum(steps) == 1500 and max(steps) <= 600


# -- clocks


@pytest.mark.parametrize("keyed", [False, True])
def test_what_a_clock_wrote_that_was_ahead_does_not_wait_for_it(db: Any, keyed: bool) -> None:
    a, b, _ = three(db)
    options = {"partition_key": "k"} if keyed else {}
    due, delayed = a.insert(**options), a.insert(queue="later")
    a.rows("update gendurable.instance set eligible_at = now() + interval '3 h' where id = %s returning id", delayed)
    for column in ("eligible_at", "lane_at", "updated_at"):
        a.conn.execute(f"update gendurable.instance set {column} = {column} + interval '1 h'".encode())
    assert a.claim() == []
    assert maintain(a)["shifted"] == 1
    assert ids(b.claim(queue="default")) == [due]
    assert a.look(delayed)["eligible_at"] > a.one("select now() + interval '3 h'")


def test_a_lease_of_a_clock_that_was_ahead_has_its_length_from_now_on(db: Any) -> None:
    a, b, _ = three(db)
    id = a.insert()
    claim = a.claim_one(lease="50 milliseconds")
    a.conn.execute(
        "update gendurable.instance set updated_at = updated_at + interval '1 h', eligible_at = eligible_at, "
        "lease_expires_at = lease_expires_at + interval '1 h'"
    )
    maintain(a)
    [again] = b.claim_soon()
    assert again["id"] == id and again["claim_no"] > claim["claim_no"]


def test_what_is_parked_in_its_key_with_a_time_ahead_is_lifted(db: Any) -> None:
    a, b, _ = three(db)
    holder, rest = lane(a, a)
    a.conn.execute(
        "update gendurable.instance set lane_at = lane_at + interval '1 h', updated_at = now() + interval '1 h' "
        "where eligible_at is null"
    )
    assert a.finish(holder) == ["ok"]
    assert b.claim(10) == []
    maintain(a)
    drains(b, *rest)
