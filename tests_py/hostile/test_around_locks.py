"""Open and forgotten transactions of others stop the rows that they touched, and those behind them in their key, and
nothing else. Here: claims, pauses, resumes and limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.races import Session, ids, no_baton_was_lost, outcome
from support.wait import wait_until

FORGOTTEN: dict[str, Callable[[Session, int], Any]] = {
    "cancel": lambda s, id: s.rows("select gd_cancel(%s)", id),
    "reschedule": lambda s, id: s.rows("select gd_reschedule(%s, now())", id),
    "claim": lambda s, id: s.claim(10),
    "signal": lambda s, id: s.signal(id),
    "commit_one": lambda s, id: s.commit_one(outcome(s.claim_one(), "done")),
    "commit": lambda s, id: s.finish(s.claim_one()),
    "release": lambda s, id: s.release(s.claim_one()),
    "insert": lambda s, id: s.insert(partition_key="k", unique_key="u"),
    "for update": lambda s, id: s.rows("select from gendurable.instance where id = %s for update", id),
    "pause": lambda s, id: s.rows("select gd_pause_queue('of somebody')"),
    "limit": lambda s, id: s.rows("select gd_set_key_limit('of somebody', 2)"),
}
DECISIONS = {
    "pause": "select gd_pause_queue('side')",
    "resume": "select gd_resume_queue('paused')",
    "limit": "select gd_set_key_limit('other', 3)",
    "no limit": "select gd_set_key_limit('limited', null)",
}


@pytest.fixture
def sessions(db: Any) -> tuple[Session, Session, Session]:
    w = Session(db)
    w.rows("select gd_pause_queue('paused')")
    w.rows("select gd_set_key_limit('limited', 2)")
    return w, Session(db, "forgetful"), Session(db, "operator")


def test_a_key_is_put_down_once_however_many_commits_meet_an_open_decision(db: Any) -> None:
    w, operator = Session(db), Session(db, "operator").begin()
    operator.call("pause_queue", "somewhere else")
    for key in ("a", "b"):
        w.insert_many(*({"partition_key": key} for _ in range(10)))
    for _ in range(20):
        [claim, *_] = w.claim_soon()
        assert w.finish(claim) == ["ok"]
    assert w.rows("select partition_key as key, count(*) from gendurable.doubtful_key group by 1 order by 1") == [
        {"key": "a", "count": 1},
        {"key": "b", "count": 1},
    ]
    operator.end("commit")
    w.insert(partition_key="c")
    w.claim_soon()
    wait_until(lambda: w.claim() == [] and w.one("select count(*) from gendurable.doubtful_key") == 0)


def test_a_transaction_of_several_decisions_takes_one_of_the_places(db: Any) -> None:
    first, second = Session(db, "first").begin(), Session(db, "second").begin()
    first.call("pause_queue", "a")
    second.call("pause_queue", "b")
    first.end("commit")
    second.call("pause_queue", "c")
    second.call("set_key_limit", "d", 2)
    held = "select count(distinct objid) from pg_locks where locktype = 'advisory' and classid = 7305"
    assert second.one(held) == 1
    second.end("rollback")
    second.call("resume_queue", "b")
    assert second.one(held) == 0


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_a_decision_waits_for_nobodys_transaction(
    sessions: tuple[Session, Session, Session], forgotten: str, decision: str
) -> None:
    w, forgetful, operator = sessions
    first = w.insert(partition_key="k")
    w.insert(partition_key="k", queue="side")
    FORGOTTEN[forgotten](forgetful.begin(), first)
    operator.conn.execute("set statement_timeout = '10 s'")
    operator.rows(DECISIONS[decision])
    # And nobody waits for the decision, should it be the one that is forgotten.
    operator.begin().rows(DECISIONS[decision].replace("side", "side 2").replace("other", "other 2"))
    free = w.insert()
    keyed = w.insert(partition_key="of its own")
    assert {free, keyed} <= set(ids(w.claim_soon(limit=10)))
    operator.roll_back()
    forgetful.roll_back()


def test_the_key_of_a_forgotten_transaction_goes_on_when_it_ends(sessions: tuple[Session, Session, Session]) -> None:
    """What it passed on by what was true before the decision is looked at again."""
    w, forgetful, operator = sessions
    holder = w.insert(partition_key="k")
    claim = w.claim_one()
    waiting = w.insert(partition_key="k", queue="side")
    operator.rows("select gd_pause_queue('side')")
    assert w.claim(10) == []
    # The end of the holder passes over the paused row, and is not committed yet.
    forgetful.name = "w"
    forgetful.begin().commit_one(outcome(claim, "done"))
    operator.rows("select gd_resume_queue('side')")
    forgetful.commit_open()
    assert w.status(holder) == "done"
    assert ids(w.claim_soon("side")) == [waiting]
    assert w.one("select count(*) from gendurable.doubtful_key") == 0
    no_baton_was_lost(w)


def test_a_decision_sees_what_those_have_done_that_it_waited_for(sessions: tuple[Session, Session, Session]) -> None:
    """A pause that had read before who waits would leave the baton in its queue."""
    w, ending, operator = sessions
    w.insert(partition_key="k", queue="side")
    claim = w.claim_one("side")
    w.insert(partition_key="k", queue="side")
    last = w.insert(partition_key="k")
    assert w.claim(10, "side") == w.claim(10) == []
    # The end of the holder passes the baton to a row of the queue that is about to be paused.
    ending.name = "w"
    ending.begin().commit_one(outcome(claim, "done"))
    pid = operator.conn.info.backend_pid
    pausing = operator.started(
        w,
        operator.rows,
        "select gd_pause_queue('side')",
        until=lambda: w.one("select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", pid),
    )
    ending.commit_open()
    pausing.result()
    assert ids(w.claim_soon()) == [last]
    no_baton_was_lost(w)


@pytest.mark.parametrize("status", ["executing", "awaiting_signal", "done"])
def test_only_a_row_that_still_waits_is_lifted(sessions: tuple[Session, Session, Session], status: str) -> None:
    """A decision reads who is first, and lifts in a later statement, without the lock of the key."""
    w, *_ = sessions
    id = w.insert(partition_key="k")
    claim = w.claim_one(lease="100 ms")
    if status == "awaiting_signal":
        w.commit_one(outcome(claim, "await", signals="go"))
    elif status == "done":
        w.commit_one(outcome(claim, "done"))
    before = w.look(id)
    assert before["status"] == status
    w.rows("select gendurable._lift_rows(array[%s], clock_timestamp())", id)
    assert w.look(id)["eligible_at"] == before["eligible_at"]


def test_a_sleeper_looks_soon_at_keys_in_doubt(sessions: tuple[Session, Session, Session]) -> None:
    w, *_ = sessions
    assert w.one("select next_due is null from gd_sleep('w', '{default}')")
    w.conn.execute("insert into gendurable.doubtful_key values ('k')")
    assert w.one("select next_due < clock_timestamp() + interval '1 second' from gd_sleep('w', '{default}')")
    w.claim()
    assert w.one("select count(*) from gendurable.doubtful_key") == 0


def test_keys_whose_locks_are_held_for_ever_do_not_keep_others_in_doubt(
    sessions: tuple[Session, Session, Session],
) -> None:
    w, forgetful, _ = sessions
    forgetful.begin().rows(
        "select count(pg_advisory_xact_lock(gendurable._key_lock('held ' || n))) from generate_series(1, 300) n"
    )
    w.conn.execute("insert into gendurable.doubtful_key select 'held ' || n from generate_series(1, 300) n")
    w.conn.execute("insert into gendurable.doubtful_key values ('free')")

    def free_is_settled() -> bool:
        w.claim()
        return bool(w.one("select not exists (select from gendurable.doubtful_key where partition_key = 'free')"))

    wait_until(free_is_settled)
    assert w.one("select count(*) from gendurable.doubtful_key") == 300


def test_while_a_decision_is_forgotten_a_hot_key_goes_on_in_order(
    sessions: tuple[Session, Session, Session],
) -> None:
    w, _, operator = sessions
    rows = [w.insert(partition_key="hot") for _ in range(200)]
    operator.begin().rows("select gd_pause_queue('of somebody')")
    done: list[int] = []
    while len(done) < 5:
        [claim] = w.claim_soon()
        done.append(claim["id"])
        assert w.finish(claim) == ["ok"]
    assert done == rows[:5]
    operator.roll_back()
    while len(done) < len(rows):
        [claim] = w.claim_soon()
        done.append(claim["id"])
        assert w.finish(claim) == ["ok"]
    assert done == rows


def test_a_key_goes_on_at_once_while_a_decision_is_forgotten(sessions: tuple[Session, Session, Session]) -> None:
    w, _, operator = sessions
    rows = [w.insert(partition_key="hot") for _ in range(8)]
    operator.begin().rows("select gd_pause_queue('of somebody')")
    # What waits behind the first one is put off by the claim that meets it, and not for whoever comes next.
    for id in rows:
        [claim] = w.claim(10)
        assert claim["id"] == id
        assert w.finish(claim) == ["ok"]


def test_four_forgotten_decisions_are_too_many_and_it_says_so(db: Any) -> None:
    w = Session(db)
    forgotten = [Session(db, str(n)).begin() for n in range(4)]
    for n, session in enumerate(forgotten):
        session.rows("select gd_pause_queue(%s)", f"q{n}")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="do not end") as caught:
        w.rows("select gd_pause_queue('one more')")
    assert caught.value.diag.message_hint
    forgotten[2].roll_back()
    w.rows("select gd_pause_queue('one more')")
    for session in forgotten[:2] + forgotten[3:]:
        session.roll_back()


def test_two_who_decide_the_same_meet_an_error_and_not_each_other(db: Any) -> None:
    w, other = Session(db), Session(db, "other")
    other.begin().rows("select gd_pause_queue('q')")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        w.rows("select gd_pause_queue('q')")
    other.roll_back()


# -- a give-back keeps its turn


@pytest.mark.parametrize("delay", ["0", "10 seconds", "1 hour"])
def test_a_give_back_never_moves_a_keyed_rows_place(db: Any, delay: str) -> None:
    w = Session(db)
    first, second = w.insert(partition_key="k"), w.insert(partition_key="k")
    claim = w.claim_one()
    place = w.look(first)["lane_at"]
    for _ in range(3):
        w.release(claim, delay=delay)
        assert w.look(first)["lane_at"] == place and w.look(second)["status"] == "runnable"
        got = w.claim(10)
        if not got:
            # Nobody lifts it before its time, and it is due again at that time.
            w.conn.execute("update gendurable.instance set eligible_at = now() where id = %s", (first,))
            got = w.claim_soon(limit=10)
        assert ids(got) == [first]
        claim = got[0]
    w.finish(claim)
    assert ids(w.claim_soon(limit=10)) == [second]
    no_baton_was_lost(w)


# -- a clock that was set back


def test_what_was_due_by_a_clock_that_was_set_back_is_due_by_the_new_one(db: Any) -> None:
    w = Session(db)
    free = [w.insert() for _ in range(3)]
    keyed = [w.insert(partition_key="k") for _ in range(2)]
    delayed = w.insert(delay="50 minutes")
    w.rows("select from gd_claim('w', 'nothing')")
    late = w.insert(queue="late")
    # As if all this, and this session's last claim, had been an hour later.
    w.conn.execute(
        "update gendurable.instance set eligible_at = eligible_at + interval '1 hour',"
        " lane_at = lane_at + interval '1 hour', updated_at = updated_at + interval '1 hour',"
        " inserted_at = inserted_at + interval '1 hour'"
    )
    hour = w.one("select (extract(epoch from clock_timestamp() + interval '59 minutes 30 seconds') * 1000000)::bigint")
    lane = f"[[{hour}, 0], [{hour}, 0], {hour}, 0, 0]"
    w.rows(
        "select set_config('gendurable.floor', gendurable._sealed(%s), false)",
        f'{{"": [{hour}], "default": {{"": [{hour}, 9999999, null, "{{0}}"], "0": {lane}}}}}',
    )
    assert w.one("select next_due < clock_timestamp() + interval '2 seconds' from gd_sleep('w', '{default}')")
    got = [claim["id"] for _ in range(3) for claim in w.claim(10)]
    assert got[:4] == [*free, keyed[0]]
    assert delayed not in got
    # Also what came after the last claim that the session made by the old clock.
    assert ids(w.claim(10, "late")) == [late]
    w.rows("select gd_wake('w')")
