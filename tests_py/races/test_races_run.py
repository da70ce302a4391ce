"""Steps in SQL beside others: locks that somebody holds, signals, cancels, kills, and the transactions of a gd_run."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support.races import Row, Session, three
from support.wait import wait_until

SETUP = """
create schema app;
create table app.account (id int primary key, n int not null default 0);
insert into app.account select g from generate_series(1, 300) g;
create function app.pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    return '{"kind": "done"}';
end $$;
create function app.hang(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    if ctx #> '{state,n}' = ctx #> '{state,bad}' then
        perform pg_advisory_xact_lock(4711);
    end if;
    return '{"kind": "done"}';
end $$;
create function app.wait(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    while ctx #> '{state,n}' = ctx #> '{state,bad}' and not pg_try_advisory_xact_lock(4711) loop
        perform pg_sleep(0.01);
    end loop;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'pay', 'app.pay(jsonb)'), gd_define_step('m', 'hang', 'app.hang(jsonb)'),
    gd_define_step('m', 'wait', 'app.wait(jsonb)');
"""


def fill(session: Session, step: str, count: int, **state: Any) -> list[int]:
    return [session.insert(step=step, state={"n": n, **state}) for n in range(1, count + 1)]


def is_in_handler(observer: Session, session: Session) -> bool:
    """Whether its handler waits for the lock, in such a way that no lock_timeout ends it."""
    asleep = "select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = %s"
    return bool(observer.one(asleep, session.conn.info.backend_pid))


def paid(session: Session) -> dict[int, int]:
    return {row["id"]: row["n"] for row in session.rows("select id, n from app.account where n > 0")}


def statuses(session: Session) -> dict[str, int]:
    return {
        row["status"]: row["c"] for row in session.rows("select status, count(*) as c from gd_instances group by 1")
    }


def reset(session: Session, **settings: str) -> Session:
    """A session of anybody: without the lock_timeout of the tests."""
    session.conn.execute("set lock_timeout = 0")
    for name, value in settings.items():
        session.conn.execute(f"set {name} = '{value}'".encode())
    return session


@pytest.fixture
def trio(db: Any) -> tuple[Session, Session, Session]:
    a, b, c = three(db)
    c.conn.execute(SETUP)
    return reset(a), b, c


def test_one_locked_row_holds_up_itself_alone(trio):
    a, b, c = trio
    fill(c, "pay", 40)
    b.begin().rows("select from app.account where id = 20 for update")
    result = a.run(lock_ms=50)
    assert (result["ok"], result["busy"], result["error"]) == (39, 1, 0)
    [row] = c.rows("select attempt, crashes, status, last_error from gd_instances where status <> 'done'")
    assert row == {"attempt": 0, "crashes": 0, "status": "runnable", "last_error": None}
    b.roll_back()
    assert a.run()["ok"] == 1
    assert paid(c) == dict.fromkeys(range(1, 41), 1)


def test_the_instance_is_locked_behind_the_handler(trio):
    # A client changes the row and then signals, as a trigger does: the step has the same order of locks.
    a, b, c = trio
    [id] = fill(c, "pay", 1)
    b.begin().rows("update app.account set n = n where id = 1 returning id")
    claim = a.claim_one()
    running = a.blocked(c, a.rows, "select result from gd_run_claims('w', %s)", Jsonb([[id, claim["claim_no"]]]))
    assert b.signal(id) == "delivered"
    b.commit_open()
    assert running.result() == [{"result": "ok"}]


def test_what_is_in_a_transaction_block_has_not_happened(trio):
    a, _, c = trio
    fill(c, "pay", 1)
    a.begin()
    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        a.run()
    a.roll_back()
    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        a.conn.execute(
            "do 'declare r jsonb; begin call gd_run(p_result => r); exception when data_exception then null; end'"
        )
    assert statuses(c) == {"runnable": 1}
    a.conn.execute("do 'declare r jsonb; begin call gd_run(p_result => r); end'")
    assert statuses(c) == {"done": 1}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_session_with_another_isolation_level_runs_as_any_other(trio, level):
    a, _, c = trio
    fill(c, "pay", 60)
    a.conn.execute(f"set default_transaction_isolation = '{level}'".encode())
    assert a.run(batch=20)["ok"] == 60
    assert a.one("show transaction_isolation") == level


def test_a_limit_counts_claims(trio):
    a, _, c = trio
    fill(c, "pay", 30)
    assert a.run(limit=7)["claimed"] == 7
    assert a.run(limit=0)["claimed"] == 0
    assert statuses(c) == {"done": 7, "runnable": 23}


def test_what_it_cannot_run_stays_due(trio):
    a, _, c = trio
    fill(c, "pay", 2)
    fill(c, "python", 2)
    c.conn.execute("create function app.gone(jsonb) returns jsonb language sql return null::jsonb")
    c.conn.execute("select gd_define_step('m', 'gone', 'app.gone(jsonb)')")
    c.conn.execute("drop function app.gone(jsonb)")
    fill(c, "gone", 1)
    result = a.run()
    assert (result["ok"], result["no_handler"]) == (2, 0)
    assert result["refused"] == [{"fsm": "m", "step": "gone", "problem": "there is no such function"}]
    assert statuses(c) == {"done": 2, "runnable": 3}


def test_a_cancel_leaves_what_is_complete_and_gives_back_the_rest(trio):
    a, b, c = trio
    fill(c, "wait", 20, bad=12)
    b.begin().rows("select pg_advisory_xact_lock(4711)")
    # The first four run one by one, the twelfth stands in a group that is not complete. It does not wait for the lock
    # itself: the server makes one error of a cancel and a lock_timeout of the same moment, and says it was the latter.
    running = a.started(c, a.run, until=lambda: is_in_handler(c, a), budget_ms=100)
    c.rows("select pg_cancel_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result()
    assert statuses(c) == {"done": len(paid(c)), "runnable": 20 - len(paid(c))}
    assert 12 not in paid(c) and len(paid(c)) >= 4
    assert c.one("select max(attempt + crashes) <= 1 from gd_instances")
    b.roll_back()
    assert a.run()["error"] == 0
    assert paid(c) == dict.fromkeys(range(1, 21), 1)


def test_a_handler_without_an_end_does_not_starve_its_queue(trio):
    # Nothing tells which one of a group it was: the next time each of them runs by itself.
    a, _, c = trio
    c.conn.execute("""
        create function app.loops(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            if ctx #> '{state,n}' = ctx #> '{state,bad}' then
                perform pg_sleep(600);
            end if;
            return '{"kind": "done"}';
        end $$""")
    c.conn.execute("select gd_define_step('m', 'loops', 'app.loops(jsonb)')")
    fill(c, "loops", 20, bad=12)
    reset(a, statement_timeout="1s")
    for _ in range(2):
        with pytest.raises(psycopg.errors.QueryCanceled):
            a.run(budget_ms=100)
    [row] = c.rows("select (state ->> 'n')::int as n, attempt, last_error from gd_instances where attempt > 0")
    assert (row["n"], row["attempt"]) == (12, 1)
    assert "57014" in row["last_error"]
    reset(a, statement_timeout="0")
    a.run()
    assert statuses(c) == {"done": 19, "runnable": 1}


def test_it_ends_by_itself_at_half_of_the_statement_timeout(trio):
    a, _, c = trio
    fill(c, "pay", 1)
    reset(a, statement_timeout="1s")
    a.rows("call gd_run(p_for => '1 hour')")
    assert statuses(c) == {"done": 1}


def test_a_killed_run_is_a_crash_and_no_attempt(trio):
    a, b, c = trio
    [id] = fill(c, "hang", 1, bad=1)
    b.begin().rows("select pg_advisory_xact_lock(4711)")
    running = a.blocked(c, a.run, lock_ms=100_000, lease_ms=1)
    c.rows("select pg_terminate_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        running.result()
    b.roll_back()
    assert wait_until(lambda: b.run()["ok"]) == 1
    assert paid(c) == {1: 1}
    assert c.one("select attempt from gd_instances where id = %s", id) == 0


def test_what_the_commit_cannot_have_is_undone_with_what_was_written(trio):
    # The parent of one is locked: its end cannot be counted.
    a, b, c = trio
    parent = c.insert(queue="parents")
    claim = c.claim_one("parents")
    childs = [{"fsm": "m", "step": "pay", "state": {"n": n}} for n in (1, 2)]
    assert c.commit({**claim_of(claim), "kind": "schedule_childs", "step": "end", "childs": childs}) == ["ok"]
    c.insert(step="pay", state={"n": 3})
    b.begin().rows("select from gendurable.instance where id = %s for update", parent)
    result = a.run()
    assert (result["ok"], result["busy"]) == (1, 2)
    assert paid(c) == {3: 1}
    b.roll_back()
    assert a.run()["ok"] == 2
    assert paid(c) == {1: 1, 2: 1, 3: 1}


def claim_of(claim: Row) -> Row:
    return {"id": claim["id"], "claim_no": claim["claim_no"]}
