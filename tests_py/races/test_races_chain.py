"""Chains of steps in SQL beside others: locks in a link, signals meanwhile, cancels and what they leave behind."""

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
insert into app.account select g from generate_series(1, 800) g;
create function app.first(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,first}')::int;
    return '{"kind": "next", "step": "second"}';
end $$;
create function app.second(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,second}')::int;
    if ctx #> '{state,hangs}' = 'true' then
        perform pg_sleep(600);
    end if;
    return '{"kind": "done"}';
end $$;
create function app.raises(ctx jsonb) returns jsonb language plpgsql as $$
begin
    raise exception using errcode = '40001', message = 'whatever happens';
end $$;
select gd_define_step('m', 'first', 'app.first(jsonb)'), gd_define_step('m', 'second', 'app.second(jsonb)'),
    gd_define_step('m', 'raises', 'app.raises(jsonb)');
"""


@pytest.fixture
def trio(db: Any) -> tuple[Session, Session, Session]:
    a, b, c = three(db)
    c.conn.execute(SETUP)
    a.conn.execute("set lock_timeout = 0")
    return a, b, c


def fill(session: Session, count: int, **state: Any) -> list[int]:
    return [session.insert(step="first", state={"first": n, "second": 400 + n, **state}) for n in range(1, count + 1)]


def paid(session: Session) -> dict[int, int]:
    return {row["id"]: row["n"] for row in session.rows("select id, n from app.account where n > 0")}


def left(session: Session) -> list[Row]:
    return session.rows("select step, status, attempt, crashes from gd_instances where status <> 'done' order by id")


def test_a_lock_that_a_link_meets_leaves_the_links_before_it(trio):
    a, b, c = trio
    fill(c, 20)
    b.begin().rows("select from app.account where id = 407 for update")
    result = a.run(lock_ms=50)
    assert (result["ok"], result["busy"], result["error"]) == (result["claimed"] - 1, 1, 0)
    assert left(c) == [{"step": "second", "status": "runnable", "attempt": 0, "crashes": 0}]
    b.roll_back()
    assert a.run()["ok"] == 1
    assert paid(c) == dict.fromkeys([*range(1, 21), *range(401, 421)], 1)


def test_a_link_waits_for_a_lock_hardly_at_all(trio):
    # Its transaction holds what the links before it have locked.
    a, b, c = trio
    [id] = fill(c, 1)
    b.begin().rows("select from app.account where id = 401 for update")
    claim = a.claim_one()
    # it does not run into the limit of the one that is first
    [row] = a.rows(
        "select result from gd_run_claims('w', %s, %s)",
        Jsonb([[id, claim["claim_no"]]]),
        Jsonb({"lock_ms": 3_600_000}),
    )
    assert row["result"] == "ok"
    assert left(c) == [{"step": "second", "status": "runnable", "attempt": 0, "crashes": 0}]


def test_a_signal_that_comes_during_a_chain_is_there_for_its_last_step(trio):
    a, b, c = trio
    c.conn.execute("""
        create function app.waits(ctx jsonb) returns jsonb language sql as $$
            select '{"kind": "await", "signals": "go", "step": "woken"}'::jsonb
        $$""")
    c.conn.execute("select gd_define_step('m', 'second', 'app.waits(jsonb)')")
    [id] = fill(c, 1)
    b.begin().rows("select from app.account where id = 1 for update")
    running = a.blocked(c, a.run, lock_ms=100_000)
    assert c.signal(id) == "delivered"
    b.roll_back()
    assert running.result()["ok"] == 1
    assert c.status(id) == "runnable"
    assert c.look(id)["step"] == "woken"


def test_a_cancel_during_a_chain_undoes_the_chain(trio):
    a, b, c = trio
    fill(c, 1)
    b.begin().rows("select from app.account where id = 1 for update")
    running = a.blocked(c, a.run, lock_ms=100_000)
    c.rows("select pg_cancel_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result()
    b.roll_back()
    assert left(c) == [{"step": "first", "status": "runnable", "attempt": 0, "crashes": 0}]
    assert paid(c) == {}


def test_a_link_without_an_end_burns_its_own_attempt(trio):
    # The first time nobody knows which link it was, so the next run makes one step at a time.
    a, _, c = trio
    fill(c, 1, hangs=True)
    a.conn.execute("set statement_timeout = '1s'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        a.run()
    [row] = left(c)
    assert (row["step"], row["attempt"]) == ("first", 0)
    with pytest.raises(psycopg.errors.QueryCanceled):
        a.run()
    [row] = left(c)
    assert (row["step"], row["attempt"]) == ("second", 1)
    assert paid(c) == {1: 1}


def test_a_killed_chain_has_left_nothing(trio):
    a, b, c = trio
    c.conn.execute("""
        create or replace function app.second(ctx jsonb) returns jsonb language plpgsql set lock_timeout = '100s' as $$
        begin
            perform pg_advisory_xact_lock(4711);
            return '{"kind": "done"}';
        end $$""")
    fill(c, 1)
    b.begin().rows("select pg_advisory_xact_lock(4711)")
    running = a.blocked(c, a.run, lease_ms=1)
    c.rows("select pg_terminate_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        running.result()
    b.roll_back()
    assert paid(c) == {}
    # what was lost makes one step at a time
    assert wait_until(lambda: c.run()["ok"]) == 2
    assert paid(c) == {1: 1}
    assert c.one("select max(attempt) from gd_instances") == 0


def test_a_cancel_while_it_claims_gives_back_what_was_busy(trio):
    # It holds a claim that has met a lock while it claims others: a cancel there must not leave it to its lease.
    a, b, c = trio
    c.rows("select gd_pause_queue('other')")
    fill(c, 1)
    b.begin().rows("select from app.account where id = 1 for update")
    running = a.blocked(c, a.run, lock_ms=1000)
    # the next claim waits for this
    b.conn.execute("lock table gendurable.doubtful_key in access exclusive mode")
    wait_until(
        lambda: c.one(
            "select count(*) from pg_locks where pid = %s and not granted "
            "and relation = 'gendurable.doubtful_key'::regclass",
            a.conn.info.backend_pid,
        )
    )
    c.rows("select pg_cancel_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result()
    b.roll_back()
    assert left(c) == [{"step": "first", "status": "runnable", "attempt": 0, "crashes": 0}]


@pytest.mark.parametrize("locked", [False, True])
def test_one_of_a_large_group_holds_up_itself_alone(trio, locked):
    # Behind transactions without a failure all of a batch is one statement.
    a, b, c = trio
    fill(c, 400)
    if locked:
        b.begin().rows("select from app.account where id = 350 for update")
    else:
        c.conn.execute("alter table app.account add check (id <> 350 or n = 0)")
    result = a.run(batch=100, lock_ms=50, chain=1)
    assert (result["busy"], result["error"]) == ((1, 0) if locked else (0, 1))
    assert [(row["step"], row["attempt"]) for row in left(c)] == [("first", 0 if locked else 1)]
    b.roll_back()
    if locked:
        assert a.run()["ok"] == 1
    assert paid(c) == {n: 1 for n in range(1, 801) if locked or n not in (350, 750)}


def test_what_raises_as_a_lock_would_does_not_come_back_for_ever(trio):
    a, _, c = trio
    c.insert(step="raises")
    assert a.run()["error"] == 1
    [row] = left(c)
    assert (row["status"], row["attempt"]) == ("runnable", 1)


def test_a_lock_that_is_held_is_no_attempt_however_often(trio):
    a, b, c = trio
    fill(c, 1)
    b.begin().rows("select from app.account where id = 1 for update")
    for _ in range(3):
        assert a.run(lock_ms=20)["busy"] == 1
    assert left(c) == [{"step": "first", "status": "runnable", "attempt": 0, "crashes": 0}]
