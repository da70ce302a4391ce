"""What a gd_run owes to the others of a batch, whatever one of them does: locks, settings, replaced functions."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.races import Session, three
from support.wait import run_in_thread

SETUP = """
create schema app;
create table app.account (id int primary key, n int not null default 0);
insert into app.account select g from generate_series(1, 1000) g;
create table app.other (id int primary key, account int references app.account deferrable initially deferred);
create function app.act(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    if ctx #> '{state,n}' = '20' then
        execute ctx #>> '{state,do}';
    end if;
    return '{"kind": "done"}';
end $$;
select gd_define_step('m', 'act', 'app.act(jsonb)');
"""
MOST_BURNT = 1
REPLACE = """
drop function if exists app.act(jsonb);
create function app.act(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    return '{"kind": "done"}';
end $$;
"""


@pytest.fixture
def trio(db: Any) -> tuple[Session, Session, Session]:
    a, b, c = three(db)
    c.conn.execute(SETUP)
    a.conn.execute("set lock_timeout = 0")
    return a, b, c


def fill(session: Session, count: int, **state: Any) -> list[int]:
    rows = session.insert_many(*({"step": "act", "state": {"n": n, **state}} for n in range(1, count + 1)))
    return [row["id"] for row in rows]


def paid(session: Session) -> list[int]:
    return [row["id"] for row in session.rows("select id, n from app.account where n = 1 order by id")]


def test_who_meets_a_lock_is_told_to_come_last_and_ends_the_transaction(trio):
    a, b, c = trio
    fill(c, 60, do="select")
    b.begin().rows("select from app.account where id in (20, 50) for update")
    claims = Jsonb([[one["id"], one["claim_no"]] for one in a.claim(60)])
    query = "select result, detail from gd_run_claims('a', %s, '{\"budget_ms\": 10000}')"
    answers = a.rows(query, claims)
    # four by themselves and a group of 32: of these only the one that met the lock, and nothing was begun behind them
    assert [one["result"] for one in answers] == ["ok"] * 19 + ["left"] + ["ok"] * 16 + ["left"] * 24
    told = [(n, one["detail"]["again"], one["detail"]["sqlstate"]) for n, one in enumerate(answers, 1) if one["detail"]]
    assert told == [(20, "last", "55P03")]
    assert paid(c) == [*range(1, 20), *range(21, 37)]


def test_all_others_are_done_while_one_account_is_locked(trio):
    a, b, c = trio
    fill(c, 200, do="select")
    b.begin().rows("select from app.account where id = 20 for update")
    running = run_in_thread(a.run, lock_ms=100)
    result = running.result()
    assert (result["ok"], result["busy"], result["error"]) == (199, 1, 0)
    assert a.one("select attempt + crashes from gd_instances where status <> 'done'") == 0
    b.roll_back()
    assert a.run()["ok"] == 1
    assert paid(c) == [*range(1, 201)]


@pytest.mark.parametrize(
    ("do", "sqlstate"),
    [
        ("set transaction read only", "GD507"),
        ("set session authorization pg_monitor", "GD507"),
        ("set search_path = app", "GD507"),
        ("insert into app.other values (1, -1)", "23503"),
        ("call gd_run()", "2D000"),
        ("savepoint s", "0A000"),
    ],
)
def test_what_one_of_a_batch_does_costs_the_others_nothing(trio, do, sqlstate):
    a, _, c = trio
    ids = fill(c, 60, do=do)
    before = a.one("select current_user || session_user || current_setting('search_path')")
    result = a.run()
    assert (result["claimed"], result["ok"], result["error"]) == (60, 59, 1)
    [failed] = c.rows("select id, status, attempt, last_error from gd_instances where status <> 'done'")
    assert (failed["id"], failed["status"], failed["attempt"]) == (ids[19], "runnable", 1)
    assert sqlstate in failed["last_error"]
    assert paid(c) == [n for n in range(1, 61) if n != 20]
    assert a.one("select current_user || session_user || current_setting('search_path')") == before


@pytest.mark.timeout(120)
def test_a_stream_of_drop_and_create_burns_hardly_any_attempt(trio):
    a, b, c = trio
    # each in a transaction of its own: what fails in company does not count anyway
    c.conn.execute("select gd_define_step('m', 'act', 'app.act(jsonb)', '{\"alone\": true}')")
    fill(c, 500, do="select")
    over = threading.Event()

    def replace() -> int:
        """Now and then, or it would be replaced twice in a row."""
        count = done = 0
        while not over.is_set():
            if (now := len(paid(b))) > done:
                b.conn.execute(REPLACE)
                count, done = count + 1, now
        return count

    stream = run_in_thread(replace)
    counts = {"error": 0, "no_handler": 0}
    try:
        while a.one("select count(*) from gd_instances where finished_at is null and attempt = 0"):
            result = a.run()
            counts = {name: counts[name] + result[name] for name in counts}
    finally:
        over.set()
    assert stream.result() > 0
    # It may be replaced twice in a row all the same; once must not count.
    burnt = c.rows("select id, last_error from gd_instances where attempt > 0")
    assert len(burnt) <= MOST_BURNT, burnt[:5]
    c.rows("select gd_reschedule(id, now()) from gd_instances where finished_at is null")
    a.run()
    assert paid(c) == [*range(1, 501)]
