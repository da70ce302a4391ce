"""Editing, deleting and signalling by hand beside claims, commits and each other; what is written down of it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg.types.json import Jsonb
from support.races import Row, Session, no_baton_was_lost, outcome, three

CALLS = {
    "cancel": "select * from gd_cancel_many(%s, 'away')",
    "delete": "select * from gd_delete_many(%s)",
    "signal": "select * from gd_signal_many(%s, 'go')",
}


def operate(session: Session, what: str, ids: list[int]) -> list[str]:
    return [row["result"] for row in session.rows(CALLS[what], ids)]


def prepared(session: Session, what: str, count: int) -> list[int]:
    ids = [session.insert() for _ in range(count)]
    if what == "delete":
        assert operate(session, "cancel", ids) == ["done"] * count
    return ids


@pytest.mark.parametrize("what", ["delete", "signal"])
def test_a_locked_row_is_busy_and_the_others_are_done(db, what):
    a, b, c = three(db)
    ids = prepared(c, what, 4)
    a.begin().rows("select 1 as one from gendurable.instance where id = %s for no key update", ids[1])
    assert operate(b, what, ids) == ["done", "busy", "done", "done"]
    a.roll_back()
    assert operate(b, what, ids[1:2]) == ["done"]


@pytest.mark.parametrize("table", ["instance", "audit"])
@pytest.mark.parametrize("what", CALLS)
def test_a_locked_table_makes_all_busy(db, what, table):
    a, b, c = three(db)
    ids = prepared(c, what, 2)
    a.begin().conn.execute(f"lock table gendurable.{table} in access exclusive mode".encode())
    assert operate(b, what, [*ids, 10**9]) == ["busy"] * 3
    a.roll_back()
    assert operate(b, what, [*ids, 10**9]) == ["done", "done", "none"]


def test_what_is_written_down_in_an_open_transaction_holds_nobody_up(db):
    a, b, c = three(db)
    ids = [c.insert() for _ in range(3)]
    a.begin().call("cancel", ids[0])
    assert b.call("cancel", ids[1]) is True
    assert operate(b, "cancel", ids[2:]) == ["done"]
    c.rows("update gendurable.audit set at = at - interval '1 year' returning no")
    b.begin().rows("select no from gendurable.audit order by no limit 1 for update")
    assert c.maintain()["errors"] == {}
    assert c.one("select count(*) from gd_audit()") == 1
    b.roll_back()
    c.maintain()
    assert c.one("select count(*) from gd_audit()") == 0
    a.commit_open()
    assert c.one("select count(*) from gd_audit()") == 1


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_an_edit_waits_for_a_claim_that_is_under_way(db, how):
    a, b, c = three(db)
    id = c.insert(state={"n": 1})
    a.begin().claim_one()
    editing = b.blocked(c, lambda: b.one("select gd_edit(%s, 'later')", id))
    a.end(how)
    assert editing.result() is (how == "rollback")
    assert c.look(id)["step"] == ("later" if how == "rollback" else "start")


def test_a_claim_does_not_wait_for_an_edit_and_finds_the_row_when_it_is_over(db):
    a, b, c = three(db)
    first, second = c.insert(state={"n": 1}), c.insert()
    a.begin().rows("select gd_edit(%s, 'later', %s)", first, Jsonb({"n": 2}))
    assert [claim["id"] for claim in b.claim(5)] == [second]
    a.commit_open()
    [claim] = b.claim_soon()
    assert (claim["id"], claim["step"], claim["state"]) == (first, "later", {"n": 2})


def test_an_edit_waits_for_the_key_and_lets_its_next_row_run(db):
    a, b, c = three(db)
    ids = [c.insert(partition_key="k") for _ in range(2)]
    a.begin().rows("select pg_advisory_xact_lock(gendurable._key_lock('k'))")
    editing = b.blocked(c, lambda: b.one("select gd_edit(%s, p_priority => 5)", ids[0]))
    a.roll_back()
    assert editing.result() is True
    assert c.claim_one()["id"] == ids[1]
    no_baton_was_lost(c)


def test_a_child_whose_parent_is_made_to_run_again_is_kept(db):
    a, b, c = three(db)
    parent = c.insert()
    assert c.commit(outcome(c.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "q"}])) == [
        "ok"
    ]
    child = c.claim_one("q")
    assert c.call("cancel", parent) is True
    assert c.finish(child) == ["ok"]
    a.begin().call("retry", parent)
    assert operate(b, "delete", [child["id"]]) == ["busy"]
    deleting = b.blocked(c, lambda: b.call("delete", child["id"]))
    a.commit_open()
    assert deleting.result() is False
    assert operate(b, "delete", [child["id"]]) == ["no"]


def test_who_deletes_waits_for_a_retry_and_leaves_what_runs_again(db):
    a, b, c = three(db)
    id = c.insert()
    assert c.call("cancel", id) is True
    a.begin().call("retry", id)
    deleting = b.blocked(c, lambda: b.call("delete", id))
    a.commit_open()
    assert deleting.result() is False
    assert c.status(id) == "runnable"


def test_an_await_in_an_open_transaction_is_busy_and_then_answered(db):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    a.begin().commit_one(outcome(claim, "await", signals="go"))
    assert operate(b, "signal", [id]) == ["busy"]
    a.commit_open()
    assert operate(b, "signal", [id]) == ["done"]
    assert [signal["name"] for signal in c.claim_one()["signals"]] == ["go"]


def test_a_signal_to_what_executes_answers_the_await_that_follows(db):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    assert operate(b, "signal", [id]) == ["done"]
    assert a.commit(outcome(claim, "await", signals="go")) == ["ok"]
    assert c.status(id) == "runnable"


def test_the_same_dedup_key_at_the_same_time_comes_once(db):
    a, b, c = three(db)
    ids = [c.insert() for _ in range(2)]
    query = "select * from gd_signal_many(%s, 'go', null, 'once')"
    a.begin().rows(query, ids[:1])
    assert [row["result"] for row in b.rows(query, ids)] == ["busy", "done"]
    a.commit_open()
    assert [row["result"] for row in b.rows(query, ids)] == ["no", "no"]
    assert c.one("select count(*) from gendurable.signal") == 2


def test_who_leaves_the_line_of_a_rate_limit_wakes_the_sleeper(db):
    a, b, c = three(db)
    c.rows("select gd_set_rate_limit('slow', 1, '1 day')")
    first = c.insert(rate_limit="slow")
    second = c.insert(rate_limit="slow")
    assert [claim["id"] for claim in a.claim()] == [first]
    assert c.look(second)["bucket_at"] is not None
    b.conn.execute("listen gendurable")
    b.rows("select * from gd_sleep('b', array['default'])")
    assert c.one("select gd_edit(%s, p_priority => 1)", second) is True
    assert [note.payload for note in b.conn.notifies(timeout=10, stop_after=1)] == ["default"]


def test_edits_of_keyed_rows_beside_workers_leave_no_key_standing(db):
    """Queues and priorities are changed all the time: each row runs once in the end, and no key stands still."""
    c = Session(db, "c")
    c.rows(
        "select count(gd_insert('m', p_queue => 'q' || g %% 2, p_partition_key => 'k:' || g %% 5)) "
        "from generate_series(1, 200) g"
    )
    ids = [row["id"] for row in c.rows("select id from gendurable.instance order by id")]
    stop = threading.Event()
    ended: list[int] = []

    def edit(seed: int) -> int:
        session, chance, count = Session(db, f"e{seed}"), random.Random(seed), 0
        while not stop.is_set():
            count += session.one(
                "select gd_edit(%s, p_queue => %s, p_priority => %s)::int",
                chance.choice(ids),
                f"q{chance.randrange(2)}",
                chance.randrange(3),
            )
        return count

    def work(number: int) -> None:
        session = Session(db, f"w{number}")
        while session.one("select exists (select from gendurable.instance where finished_at is null)"):
            claims: list[Row] = session.claim(3, f"q{number % 2}")
            for claim in claims:
                assert session.commit_soon(outcome(claim, "done")) == "ok"
                ended.append(claim["id"])

    with ThreadPoolExecutor(6) as pool:
        editors = [pool.submit(edit, seed) for seed in range(2)]
        workers = [pool.submit(work, number) for number in range(4)]
        try:
            for one in workers:
                one.result(90)
        finally:
            stop.set()
        assert sum(one.result(60) for one in editors) > 0
    assert sorted(ended) == ids
    no_baton_was_lost(c)
