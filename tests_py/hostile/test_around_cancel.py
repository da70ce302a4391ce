"""Cancelling masses, retrying what failed, and what a commit answers beside others: locks, settings, their faults."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.races import Session, ids, no_baton_was_lost, outcome, three


def maintain(session: Session) -> dict[str, Any]:
    value: dict[str, Any] = session.one("select gd_maintain()")
    return value


# -- cancel


def family(session: Session, children: int, keys: int) -> int:
    parent = session.insert(queue="parent")
    session.conn.execute(
        "insert into gendurable.instance (fsm, step, queue, eligible_at, lane_at, partition_key, parent_id) "
        "select 'm', 's', 'child', now(), now(), 'k' || g %% %s, %s from generate_series(1, %s) g",
        (keys, parent, children),
    )
    return parent


def carriers(session: Session) -> int:
    """Rows that have ended and are still due, since they carry the baton of their key."""
    value: int = session.one(
        "select count(*) from gendurable.instance where finished_at is not null and eligible_at is not null"
    )
    return value


@pytest.mark.parametrize(("children", "keys"), [(50_000, 50_000), (3_000, 700)])
def test_a_cascade_over_many_keys_ends_and_leaves_no_key_stuck(db: Any, children: int, keys: int) -> None:
    a, b, _ = three(db)
    parent = family(a, children, keys)
    a.rows("select gd_insert('m', p_queue => 'child')")  # the queue and its priority are known
    held = a.claim(200, "child")
    # strangers that wait behind rows of the family: parked, in another queue
    names = [row["partition_key"] for row in held if row["partition_key"]][:100]
    strangers = [a.insert(queue="stranger", partition_key=name) for name in names]
    while a.claim(200, "stranger"):
        pass
    assert a.call("cancel", parent, "enough", True) is True
    assert a.one("select count(*) from gd_instances where parent_id is not null and status = 'cancelled'") == children

    ran: list[int] = []
    for _ in range(2000):
        b.claim(1000, "child")  # carriers hand their batons on
        got = b.claim(200, "stranger")
        b.finish(*got)
        ran += ids(got)
        b.rows("select set_config('gendurable.floor', '', false)")
        if len(ran) == len(strangers) and carriers(b) == 0:
            break
    assert sorted(ran) == sorted(strangers)
    no_baton_was_lost(b)


def test_the_carriers_of_a_queue_that_nobody_serves_are_relieved_by_upkeep(db: Any) -> None:
    a, b, _ = three(db)
    parent = family(a, 1200, 1200)
    a.rows("select gd_insert('m', p_queue => 'child')")
    held = [row for row in a.claim(1200, "child") if row["partition_key"]]
    stranger = a.insert(queue="stranger", partition_key=held[-1]["partition_key"])
    assert a.claim(5, "stranger") == []
    b.call("pause_queue", "child")
    assert a.call("cancel", parent, None, True) is True
    calls = [maintain(a)["repaired"] for _ in range(4)]
    assert calls == [0, 0, 0, 0]
    assert ids(b.claim_soon("stranger")) == [stranger]
    assert carriers(a) == 0


def test_a_gate_that_parks_behind_a_slot_that_is_being_freed_is_not_stuck(db: Any) -> None:
    a, b, c = three(db)
    parent = family(a, 600, 600)
    a.rows("select gd_insert('m', p_queue => 'child')")
    held = [row for row in a.claim(600, "child") if row["partition_key"]]
    last = max(held, key=lambda row: row["partition_key"])  # its key is behind the 500 that are locked
    stranger = a.insert(queue="stranger", partition_key=last["partition_key"])
    a.begin()
    assert a.call("cancel", parent, None, True) is True
    assert b.claim(5, "stranger") == []
    assert c.look(stranger)["eligible_at"] is None  # it parked: for b the slot is in use
    a.commit_open()
    c.claim(1000, "child")
    assert ids(b.claim_soon("stranger")) == [stranger]
    no_baton_was_lost(c)


# -- unique keys that open transactions hold


@pytest.mark.parametrize("setting", ["0", "1ms", "1h"])
def test_many_unique_keys_in_open_inserts_cost_a_claim_one_short_wait(db: Any, setting: str) -> None:
    a, b, _ = three(db)
    objects = [{"unique_key": f"u{n}", "unique_scope": ["executing"]} for n in range(1500)]
    a.insert_many(*objects)
    b.begin().insert_many(*({**one, "unique_scope": ["runnable", "executing"]} for one in objects))
    a.conn.execute(f"set lock_timeout = '{setting}'".encode())
    # a detector of hangs: ten milliseconds for each of the rows would be twice as long
    a.conn.execute("set statement_timeout = '8s'")
    got = a.claim(1500)
    assert len(got) == 1500
    assert a.one("select count(*) from gd_instances i where i.status = 'executing'") == 1500
    assert a.one("show lock_timeout") == setting
    b.roll_back()
    assert a.finish(*got) == ["ok"] * 1500


# -- what is nobody's lock


def test_an_error_of_the_database_around_it_is_not_answered_busy(db: Any) -> None:
    a = Session(db)
    a.insert()
    claim = a.claim_one()
    a.conn.execute("""
        create function refuse() returns trigger language plpgsql as $$
        begin
            raise exception 'not now' using errcode = '55000';
        end $$""")
    a.conn.execute("create trigger refuse before update on gendurable.instance for each row execute function refuse()")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        a.finish(claim)
    a.conn.execute("drop trigger refuse on gendurable.instance")
    assert a.finish(claim) == ["ok"]


def test_every_table_can_be_written_under_a_publication_for_all_tables(db: Any) -> None:
    a = Session(db)
    bare = a.rows("""
        select c.relname from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind = 'r' and c.relreplident <> 'f'
            and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)""")
    assert bare == []


# -- retry


@pytest.mark.parametrize("how", ["stop", "error", "cancel", "crash"])
def test_a_retry_is_shown_the_signal_that_the_failed_step_had(db: Any, how: str) -> None:
    a = Session(db)
    id = a.insert(max_attempts=1)
    assert a.commit(outcome(a.claim_one(), "await", signals="go", timeout_ms=3_600_000)) == ["ok"]
    a.signal(id, "other", 0)
    a.signal(id, "go", 1)
    claim = a.claim_one()
    if how == "stop":
        a.commit(outcome(claim, "stop", reason="x"))
    elif how == "error":
        a.commit(outcome(claim, "error", error="x"))
    elif how == "cancel":
        a.call("cancel", id)
    else:
        a.rows("update gendurable.instance set crashes = 19, lease_expires_at = now() where id = %s returning id", id)
        assert a.one("select gd_reap()") == 1
    assert a.signal(id, "go", 2) == "no_target"
    assert a.call("retry", id) is True
    again = a.claim_one()
    same = ("step", "awaits", "timed_out", "signals")
    assert {name: again[name] for name in same} == {name: claim[name] for name in same}
    # as before its failure: what it was shown does not wake it again, and the end drops what is left
    assert a.commit(outcome(again, "await", signals="go")) == ["ok"]
    assert a.status(id) == "awaiting_signal"
    a.signal(id, "go", 3)
    assert a.finish(a.claim_one()) == ["ok"]
    assert a.one("select count(*) from gendurable.signal") == 0


def test_a_step_that_failed_at_its_deadline_is_retried_at_its_deadline(db: Any) -> None:
    a = Session(db)
    id = a.insert()
    a.commit(outcome(a.claim_one(), "await", signals="go", timeout_ms=1))
    [claim] = a.claim_soon()
    assert claim["timed_out"]
    a.commit(outcome(claim, "stop", reason="x"))
    a.call("retry", id)
    assert a.claim_one()["timed_out"]


def test_a_retry_at_another_step_awaits_nothing_and_has_the_inbox(db: Any) -> None:
    a = Session(db)
    id = a.insert()
    a.commit(outcome(a.claim_one(), "await", signals="go", timeout_ms=3_600_000))
    a.signal(id, "go", 1)
    a.commit(outcome(a.claim_one(), "stop", reason="x"))
    a.call("retry", id, "other")
    again = a.claim_one()
    assert (again["step"], again["awaits"], again["timed_out"]) == ("other", None, False)
    assert [signal["payload"] for signal in again["signals"]] == [1]


def test_the_inbox_of_what_failed_goes_with_its_row(db: Any) -> None:
    a = Session(db)
    id = a.insert()
    a.signal(id)
    a.commit(outcome(a.claim_one(), "stop", reason="x"))
    assert a.one("select count(*) from gendurable.signal") == 1
    assert a.one("select gd_gc('0')") == 1
    assert a.one("select count(*) from gendurable.signal") == 0
