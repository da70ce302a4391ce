"""Commits against everything else that touches the same rows: each answer, and what the other session sees."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb
from support.races import LOST, Session, outcome, three


def test_two_sessions_never_share_a_row(db):
    a, b, c = three(db)
    ids = [c.insert() for _ in range(6)]
    first = a.begin().claim(3)
    second = b.claim(10)
    assert [row["id"] for row in first] == ids[:3]
    assert [row["id"] for row in second] == ids[3:]
    a.commit_open()
    assert b.claim(10) == [] and c.claim(10) == []


def test_rows_of_a_claim_that_was_rolled_back_are_free_again(db):
    a, b, c = three(db)
    id = c.insert()
    a.begin().claim_one()
    assert b.claim() == []
    a.roll_back()
    [row] = b.claim_soon()
    assert (row["id"], row["attempt"]) == (id, 0)


def test_a_locked_row_is_busy_and_its_neighbours_commit(db):
    a, b, c = three(db)
    for _ in range(3):
        c.insert()
    claims = a.claim(3)
    b.begin().rows("select from gendurable.instance where id = %s for no key update", claims[1]["id"])
    assert a.finish(*claims) == ["ok", "busy", "ok"]
    assert [c.status(row["id"]) for row in claims] == ["done", "executing", "done"]
    b.roll_back()
    assert a.finish(claims[1]) == ["ok"]


@pytest.mark.parametrize("table", ["step", "machine", "instance"])
def test_a_table_that_a_commit_asks_is_locked(db, table):
    a, b, c = three(db)
    # somebody keeps a history: then it is asked for whom
    c.rows("select gd_register('h', 1, 'start', 'default', %s)", Jsonb({"history": "steps"}))
    c.insert_many(*[{"fsm": "m"}] * 2)
    claims = a.claim(2)
    b.begin().conn.execute(f"lock table gendurable.{table} in access exclusive mode".encode())
    assert a.finish(*claims) == ["busy", "busy"]
    b.roll_back()
    assert a.finish(*claims) == ["ok", "ok"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_the_same_outcome_sent_by_two_sessions_at_once(db, how):
    a, b, c = three(db)
    c.insert()
    claim = a.claim_one()
    step = outcome(claim, "next", step="two", state={"n": 1})
    assert a.begin().commit(step) == ["ok"]
    assert b.commit(step) == ["busy"]
    a.end(how)
    assert b.commit(step) == ["stale" if how == "commit" else "ok"]
    row = c.look(claim["id"])
    assert (row["status"], row["step"], row["state"]) == ("runnable", "two", {"n": 1})


def test_the_same_outcome_sent_twice_is_stale_and_changes_nothing(db):
    a, b, _ = three(db)
    b.insert()
    claim = a.claim_one()
    step = outcome(claim, "next", step="two")
    assert a.commit(step, step) == ["ok", "stale"]
    before = b.look(claim["id"])
    assert a.commit(step) == ["stale"]
    assert b.look(claim["id"]) == before


def test_an_outcome_under_an_old_claim_changes_nothing(db):
    a, b, c = three(db)
    c.insert()
    old = a.claim_one(lease=LOST)
    [new] = b.claim_soon()
    assert new["id"] == old["id"] and new["claim_no"] > old["claim_no"] and new["attempt"] == 1
    before = c.look(old["id"])
    for kind, keys in (
        ("done", {"result": 1}),
        ("stop", {"reason": "no"}),
        ("next", {"step": "two"}),
        ("replay", {}),
        ("await", {"signals": "go"}),
        ("schedule_childs", {"step": "two", "childs": [{"fsm": "child"}]}),
        ("error", {"error": "no"}),
    ):
        assert a.commit(outcome(old, kind, **keys)) == ["stale"], kind
    assert c.look(old["id"]) == before
    assert c.one("select count(*) from gd_instances") == 1
    assert b.finish(new) == ["ok"]


def test_an_expired_lease_that_nobody_took_over_still_commits(db):
    a, _, c = three(db)
    id = c.insert()
    claim = a.claim_one(lease=LOST)
    assert a.finish(claim) == ["ok"] and c.status(id) == "done"


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_while_another_claim_takes_the_row_over(db, how):
    a, b, c = three(db)
    id = c.insert()
    old = a.claim_one(lease=LOST)
    b.begin()
    [new] = b.claim()
    assert new["id"] == id
    assert a.finish(old) == ["busy"]
    b.end(how)
    assert a.finish(old) == ["stale" if how == "commit" else "ok"]
    assert c.status(id) == ("executing" if how == "commit" else "done")


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("key", [None, "k"])
def test_a_reap_before_the_commit(db, how, key):
    a, b, c = three(db)
    id = c.insert(partition_key=key)
    old = a.claim_one(lease=LOST)
    assert b.begin().call("reap") == 1
    assert a.finish(old) == ["busy"]
    b.end(how)
    assert a.finish(old) == ["stale" if how == "commit" else "ok"]
    assert c.status(id) == ("runnable" if how == "commit" else "done")
    if how == "commit":
        [new] = a.claim_soon()
        assert (new["id"], new["attempt"]) == (id, 1)


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("key", [None, "k"])
def test_a_commit_before_the_reap(db, how, key):
    a, b, c = three(db)
    id = c.insert(partition_key=key)
    old = a.claim_one(lease=LOST)
    assert a.begin().finish(old) == ["ok"]
    assert b.call("reap") == 0
    a.end(how)
    assert b.call("reap") == (0 if how == "commit" else 1)
    assert c.status(id) == ("done" if how == "commit" else "runnable")


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_unique_key_in_an_open_transaction_makes_the_fan_out_busy(db, how):
    a, b, c = three(db)
    parent, neighbour = c.insert(step="fan"), c.insert()
    fan, other = a.claim(2)
    childs = [{"fsm": "child", "unique_key": "u"}, {"fsm": "child"}]
    b.begin().insert(unique_key="u", queue="elsewhere")
    out = outcome(fan, "schedule_childs", step="join", childs=childs)
    assert a.commit(out, outcome(other, "done")) == ["busy", "ok"]
    assert c.status(parent) == "executing" and c.status(neighbour) == "done"
    b.end(how)
    assert a.commit(out) == ["ok"]
    # a duplicate is not waited for
    assert c.look(parent)["children_pending"] == (1 if how == "commit" else 2)


def test_commit_one_waits_for_a_lock_and_commits_with_the_steps_own_writes(db):
    a, b, c = three(db)
    c.conn.execute("create table shipment (id bigint)")
    id = c.insert()
    claim = a.claim_one()
    b.begin().signal(id)
    a.begin().conn.execute("insert into shipment values (1)")
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done"))
    b.commit_open()
    waiting.result()
    assert c.status(id) == "executing"
    a.commit_open()
    assert c.status(id) == "done" and c.one("select count(*) from shipment") == 1


@pytest.mark.parametrize("taker", ["cancel", "claim", "reap"])
def test_commit_one_that_loses_its_claim_while_it_waits_raises(db, taker):
    a, b, c = three(db)
    c.insert()
    claim = a.claim_one(lease=LOST)
    b.begin()
    if taker == "cancel":
        assert b.call("cancel", claim["id"])
    elif taker == "claim":
        assert [row["id"] for row in b.claim()] == [claim["id"]]
    else:
        assert b.call("reap") == 1
    a.begin()
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done"))
    b.commit_open()
    with pytest.raises(psycopg.Error) as raised:
        waiting.result()
    assert raised.value.sqlstate == "GD505" and raised.value.diag.message_hint
    a.roll_back()
    assert c.status(claim["id"]) != "done"


def test_commit_one_waits_for_its_key(db):
    a, b, c = three(db)
    ids = [c.insert(partition_key="k") for _ in range(2)]
    claim = a.claim_one()
    assert claim["id"] == ids[0]
    b.begin().claim()  # parks the second row, and holds the key's lock
    waiting = a.blocked(c, a.commit_one, outcome(claim, "done"))
    b.commit_open()
    waiting.result()
    [row] = b.claim_soon()
    assert row["id"] == ids[1]


def test_commit_one_waits_for_its_parent(db):
    a, b, c = three(db)
    parent = c.insert()
    fan = a.claim_one()
    assert a.commit(outcome(fan, "schedule_childs", step="join", childs=[{"fsm": "c"}, {"fsm": "c"}])) == ["ok"]
    one, two = a.claim(2)
    assert b.begin().finish(one) == ["ok"]
    waiting = a.blocked(c, a.commit_one, outcome(two, "done"))
    b.commit_open()
    waiting.result()
    assert (c.status(parent), c.look(parent)["children_pending"]) == ("runnable", 0)


def heartbeat(session: Session, claim) -> list[int]:
    pairs = Jsonb([[claim["id"], claim["claim_no"]]])
    return [row["id"] for row in session.rows("select * from gd_heartbeat(%s, %s)", session.name, pairs)]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_heartbeat_of_a_locked_row_neither_renews_nor_reports_it(db, how):
    a, b, c = three(db)
    c.insert()
    claim = a.claim_one()
    lease = c.look(claim["id"])["lease_expires_at"]
    b.begin().call("cancel", claim["id"])
    assert heartbeat(a, claim) == []
    b.end(how)
    assert c.look(claim["id"])["lease_expires_at"] == (None if how == "commit" else lease)
    assert heartbeat(a, claim) == ([claim["id"]] if how == "commit" else [])


def test_a_release_leaves_what_another_transaction_holds(db):
    a, b, c = three(db)
    c.insert()
    c.insert()
    claims = a.claim(2)
    b.begin().signal(claims[0]["id"])
    assert a.release(*claims) == 1
    assert [c.status(row["id"]) for row in claims] == ["executing", "runnable"]
    b.commit_open()
    assert a.release(*claims) == 1
    assert a.finish(*claims) == ["stale", "stale"]


CALLS = {
    "claim": "select * from gd_claim('w')",
    "claim_many": """select * from gd_claim_many('w', '{"default": 1}')""",
    "commit": "select * from gd_commit('w', '[]')",
    "commit_one": """select gd_commit_one('w', '{"id": 1, "claim_no": 1, "kind": "await", "signals": "go"}')""",
    "heartbeat": "select * from gd_heartbeat('w', '[]')",
    "release": "select gd_release('w', null)",
    "reap": "select gd_reap()",
    "cancel": "select gd_cancel(1)",
    "retry": "select gd_retry(1)",
    "reschedule": "select gd_reschedule(1, now())",
    "pause": "select gd_pause_queue('default')",
    "resume": "select gd_resume_queue('default')",
    "limit": "select gd_set_key_limit('k', 2)",
    "maintain": "select gd_maintain()",
}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("call", CALLS)
def test_a_fixed_snapshot_is_refused(db, call, level):
    a = Session(db)
    a.insert()
    a.begin(level)
    with pytest.raises(psycopg.Error) as raised:
        a.rows(CALLS[call])
    assert raised.value.sqlstate == "GD504" and raised.value.diag.message_hint


def test_an_outcome_of_a_fixed_snapshot_is_refused_before_it_can_miss_a_signal(db):
    """The failure behind GD504: the await would not see the signal, and park for ever."""
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    a.begin("repeatable read").rows("select 1 as one")
    assert b.signal(id) == "delivered"
    with pytest.raises(psycopg.Error) as raised:
        a.commit(outcome(claim, "await", signals="go"))
    assert raised.value.sqlstate == "GD504"
    a.roll_back()
    assert a.commit(outcome(claim, "await", signals="go")) == ["ok"]
    assert [s["name"] for s in a.claim_soon()[0]["signals"]] == ["go"]


def test_inserts_signals_and_watchers_under_a_fixed_snapshot_work_or_raise_40001(db):
    a, b, c = three(db)
    id = c.insert(unique_key="u")
    for call in (lambda: a.signal(id), lambda: a.signal("u"), lambda: a.call("watch", id)):
        [claim] = b.claim_soon()
        a.begin("repeatable read").rows("select 1 as one")
        assert b.commit(outcome(claim, "await", signals="go", timeout_ms=0)) == ["ok"]
        with pytest.raises(errors.SerializationFailure):
            call()
        a.roll_back()
    a.begin("repeatable read").rows("select 1 as one")
    c.insert(unique_key="v")
    with pytest.raises(errors.SerializationFailure):
        a.insert(unique_key="v")
    a.roll_back()
    a.begin("serializable")
    assert a.signal(id) == "delivered" and a.call("watch", id) == "runnable" and a.insert() is not None
    a.commit_open()


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_an_end_that_is_being_committed_when_somebody_begins_to_watch(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    b.conn.execute("listen gendurable_done")
    assert a.begin().finish(claim) == ["ok"]
    waiting = b.blocked(c, b.call, "watch", id)
    a.end(how)
    status = waiting.result()
    if how == "commit":
        assert status == "done"
    else:
        assert status == "executing"
        assert a.finish(claim) == ["ok"]
        assert [n.payload for n in b.conn.notifies(timeout=10, stop_after=1)] == [str(id)]


def test_an_end_while_a_watcher_is_still_open(db):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    b.conn.execute("listen gendurable_done")
    assert b.begin().call("watch", id) == "executing"
    assert a.finish(claim) == ["busy"]
    b.commit_open()
    assert a.finish(claim) == ["ok"]
    assert [n.payload for n in b.conn.notifies(timeout=10, stop_after=1)] == [str(id)]


def test_two_watchers_do_not_wait_for_each_other(db):
    a, b, c = three(db)
    id = c.insert()
    claim = c.claim_one()
    for session in (a, b):
        session.conn.execute("listen gendurable_done")
        assert session.begin().call("watch", id) == "executing"
    a.commit_open()
    b.commit_open()
    assert c.finish(claim) == ["ok"]
    for session in (a, b):
        assert [n.payload for n in session.conn.notifies(timeout=10, stop_after=1)] == [str(id)]


def test_an_open_claim_does_not_keep_other_sessions_from_rows_below_their_floor(db):
    """A worker that claims inside a long transaction must not stop the recovery of lost claims."""
    a, b, c = three(db)
    lost = c.insert()
    b.claim_one(lease=LOST)
    assert [row["id"] for row in b.claim_soon(lease="60 seconds")] == [lost]
    held = c.insert()
    assert a.begin().claim_one()["id"] == held
    late = c.insert(eligible_at="2020-01-01")
    assert [row["id"] for row in b.claim_soon()] == [late]
