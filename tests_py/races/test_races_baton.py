"""The baton of a key is never dropped, whatever takes its row away and whatever is open meanwhile."""

from __future__ import annotations

import pytest
from support.races import LOST, Session, drains, ids, lane, no_baton_was_lost, outcome, three
from support.wait import run_in_thread, wait_until


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_cancelling_the_holder_passes_the_baton_on(db, how):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    assert c.begin().call("cancel", holder["id"])
    assert b.claim(10) == []
    assert a.finish(holder) == ["busy"]
    c.end(how)
    if how == "commit":
        assert a.finish(holder) == ["stale"]
    else:
        assert a.finish(holder) == ["ok"]
    drains(b, two, three_)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_cancelling_the_lifted_head_passes_the_baton_on(db, how):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    assert a.finish(holder) == ["ok"]
    assert c.begin().call("cancel", two)
    assert b.claim(10) == []
    c.end(how)
    drains(b, *([three_] if how == "commit" else [two, three_]))


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_cancel_of_a_parked_head_beside_the_end_of_the_holder(db, how):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    assert a.begin().finish(holder) == ["ok"]
    waiting = b.blocked(c, b.call, "cancel", two)
    a.end(how)
    assert waiting.result() is True
    if how == "rollback":
        assert a.finish(holder) == ["ok"]
    drains(b, three_)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_rescheduling_the_lifted_head_passes_the_baton_on(db, how):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    assert a.finish(holder) == ["ok"]
    assert c.begin().one("select gd_reschedule(%s, now() + interval '1 hour')", two)
    assert b.claim(10) == []
    c.end(how)
    if how == "rollback":
        return drains(b, two, three_)
    drains(b, three_)
    assert c.one("select gd_reschedule(%s, now() - interval '1 s')", two)
    return drains(b, two)


def test_pausing_the_queue_of_the_lifted_head_passes_the_baton_on(db):
    a, b, c = three(db)
    one = c.insert(partition_key="k")
    holder = a.claim_one()
    two = c.insert(partition_key="k", queue="side")
    three_ = c.insert(partition_key="k")
    assert a.claim(10, "side") == [] and a.claim(10) == []
    assert a.finish(holder) == ["ok"] and c.look(one)["status"] == "done"
    assert c.look(two)["eligible_at"] is not None and c.look(three_)["eligible_at"] is None
    c.call("pause_queue", "side")
    assert b.claim(10, "side") == []
    [claim] = b.claim_soon(limit=10)
    assert claim["id"] == three_
    c.call("resume_queue", "side")
    assert b.claim(10, "side") == []
    assert b.finish(claim) == ["ok"]
    assert ids(b.claim_soon("side")) == [two]
    no_baton_was_lost(c)


def test_an_end_while_a_pause_of_the_next_rows_queue_is_open(db):
    """The end lifts a row of a queue that is paused a moment later: the row behind it must not wait for the resume."""
    a, b, c = three(db)
    c.insert(partition_key="k")
    holder = a.claim_one()
    c.insert(partition_key="k", queue="side")
    third = c.insert(partition_key="k")
    assert a.claim(10, "side") == [] and a.claim(10) == []
    c.begin().call("pause_queue", "side")
    result = a.finish(holder)
    c.commit_open()
    if result == ["busy"]:
        assert a.commit_soon(outcome(holder, "done")) == "ok"
    no_baton_was_lost(c)
    assert ids(b.claim_soon(limit=10)) == [third]


def test_a_pause_of_the_next_rows_queue_while_the_end_is_open(db):
    a, b, c = three(db)
    c.insert(partition_key="k")
    holder = a.claim_one()
    c.insert(partition_key="k", queue="side")
    third = c.insert(partition_key="k")
    assert a.claim(10, "side") == [] and a.claim(10) == []
    assert a.begin().finish(holder) == ["ok"]
    # It waits for nobody, and what the open end has passed on by what was true before is looked at again.
    c.call("pause_queue", "side")
    a.commit_open()
    assert ids(b.claim_soon(limit=10)) == [third]
    no_baton_was_lost(c)


def test_rows_that_park_while_the_resume_of_their_queue_is_open(db):
    """The resume does not see the row that parks meanwhile, and the commits do not see the resume."""
    a, b, c = three(db)
    moved = c.insert(partition_key="k", queue="side")
    first = a.claim_one("side")
    other = c.insert(partition_key="k")
    assert b.claim(10) == []
    c.call("pause_queue", "side")
    c.begin().call("resume_queue", "side")
    result = a.commit(outcome(first, "next", step="two"))
    if result == ["ok"]:
        [second] = b.claim_soon(limit=10)
        assert second["id"] == other
        result = b.finish(second)
    c.commit_open()
    if result == ["busy"]:
        return  # they wait for the resume instead: as good
    no_baton_was_lost(c)
    assert ids(b.claim_soon("side")) == [moved]


@pytest.mark.parametrize("by", ["claim", "reap"])
def test_the_crash_cap_passes_the_baton_on(db, by):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    c.conn.execute(
        "update gendurable.instance set crashes = 19, lease_expires_at = now() where id = %s", (holder["id"],)
    )
    if by == "claim":
        assert ids(b.begin().claim(10)) in ([], [two])
        b.roll_back()
        drains(b, two, three_)
    else:
        assert c.call("reap") == 1
        drains(b, two, three_)
    assert c.status(holder["id"]) == "failed"


@pytest.mark.parametrize("key", ["other", None])
def test_changing_the_key_passes_the_old_keys_baton_on(db, key):
    a, b, c = three(db)
    busy = c.insert(partition_key="other", queue="side")
    other = a.claim_one("side")
    assert other["id"] == busy
    holder, [two, three_] = lane(c, a)
    move = outcome(holder, "next", step="two", partition_key=key, delay_ms=0)
    assert b.begin().finish(other) == ["ok"]
    if key:
        # the new key is b's for now
        assert a.commit(move) == ["busy"]
    b.roll_back()
    assert a.commit(move) == ["ok"]
    first = b.claim_soon(limit=10)
    assert set(ids(first)) == ({two} if key else {two, holder["id"]})
    assert b.finish(*first) == ["ok"] * len(first)
    if key:
        assert ids(b.claim_soon(limit=10)) == [three_]
        assert a.finish(other) == ["ok"]
        assert ids(b.claim_soon(limit=10)) == [holder["id"]]
    else:
        drains(b, three_)
    no_baton_was_lost(c)


def test_a_new_limit_works_at_once_for_what_waits(db):
    a, b, c = three(db)
    holder, [two, three_] = lane(c, a)
    c.begin().call("set_key_limit", "k", 2)
    assert b.claim(10) == []
    c.commit_open()
    [claim] = b.claim_soon(limit=10)
    assert claim["id"] == two and b.claim(10) == []
    c.call("set_key_limit", "k", None)
    assert a.finish(holder) == ["ok"]
    assert b.claim(10) == []  # the other one still runs
    assert b.finish(claim) == ["ok"]
    drains(b, three_)


def test_a_row_that_parks_while_a_new_limit_is_open(db):
    """The limit does not see the row that is parked under the old one: it must be lifted all the same."""
    a, b, c = three(db)
    c.insert(partition_key="k")
    a.claim_one()
    c.begin().call("set_key_limit", "k", 2)
    two = a.insert(partition_key="k")
    assert b.claim(10) == []
    c.commit_open()
    assert ids(b.claim_soon(limit=10)) == [two]


@pytest.mark.parametrize("order", ["limit first", "claim first"])
def test_a_new_limit_beside_a_claim_that_parks(db, order):
    a, b, c = three(db)
    c.insert(partition_key="k")
    a.claim_one()
    two = c.insert(partition_key="k")
    if order == "limit first":
        c.begin().call("set_key_limit", "k", 2)
        assert b.claim(10) == []
        c.commit_open()
    else:
        assert b.begin().claim(10) == []
        c.call("set_key_limit", "k", 2)
        b.commit_open()
    assert ids(b.claim_soon(limit=10)) == [two]


# -- calls that read the clock, and get the key's lock only later

PAUSE = """
create function pause() returns void language plpgsql as $$
begin
    while current_setting('test.pause', true) = 'on' and not pg_try_advisory_xact_lock_shared(4242) loop
        perform pg_sleep(0.001);
    end loop;
end $$;
create function pause_row() returns trigger language plpgsql as $$
begin
    perform public.pause();
    return new;
end $$;
"""
PAUSE_CALL = """
create or replace function gendurable._is_ready(p_worker text, p_lease interval) returns boolean language plpgsql as $$
begin
    perform public.pause();
    return true;
end $$"""
PAUSE_ROW = """
create trigger pause before update on gendurable.instance
for each row when (old.fsm = 'pause') execute function pause_row()"""


@pytest.mark.parametrize("call", ["commit", "reap at the cap"])
def test_a_row_that_parks_between_the_clock_and_the_keys_lock_of_a_call(db, call):
    """The call began before the row was there: whoever frees the slot must see it all the same."""
    a, b, c = three(db)
    gate = Session(db, "gate").begin()
    gate.rows("select pg_advisory_xact_lock(4242)")
    c.conn.execute(PAUSE.encode())
    if "cap" in call:
        # on its way to the key's row the call meets another one, and stops there
        c.conn.execute(PAUSE_ROW.encode())
        c.insert(fsm="pause")
        a.claim_one(lease=LOST)
        c.insert(partition_key="k", queue="side")
        holder = a.claim_one("side", LOST)
        c.conn.execute("update gendurable.instance set crashes = 19 where id = %s", (holder["id"],))
    else:
        c.conn.execute(PAUSE_CALL.encode())
        c.insert(partition_key="k")
        holder = a.claim_one()
    a.conn.execute("set test.pause = on")
    running = {
        "commit": lambda: run_in_thread(a.finish, holder),
        "reap at the cap": lambda: run_in_thread(a.call, "reap"),
    }[call]()
    pid = a.conn.info.backend_pid
    wait_until(lambda: b.one("select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", pid))
    two = b.insert(partition_key="k")
    assert b.claim(10) == []
    assert b.look(two)["eligible_at"] is None
    gate.commit_open()
    running.result()
    no_baton_was_lost(c)
    claims = b.claim_soon(limit=10)
    assert two in ids(claims)
