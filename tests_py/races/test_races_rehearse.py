"""A rehearsal beside others: what it holds while it runs, and that it holds nothing afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.races import Row, Session, drains, no_baton_was_lost, outcome, three

SETUP = """
create schema app;
create table app.account (id int primary key, n int not null default 0);
insert into app.account select g from generate_series(1, 300) g;
create function app.pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    return jsonb_build_object('kind', 'done', 'result', current_setting('lock_timeout'));
end $$;
create function app.hang(ctx jsonb) returns jsonb language plpgsql set lock_timeout = 0 as $$
begin
    update app.account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    perform pg_advisory_xact_lock(4711);
    return '{"kind": "done"}';
end $$;
create function app.send(ctx jsonb) returns jsonb language sql as $$
    select '{"kind": "done", "signal": [{"unique_key": "target", "name": "go"}]}'::jsonb
$$;
create function app.wait(ctx jsonb) returns jsonb language sql as $$
    select pg_sleep(1000);
    select '{"kind": "done"}'::jsonb
$$;
select gd_define_step('m', 'pay', 'app.pay(jsonb)'), gd_define_step('m', 'hang', 'app.hang(jsonb)');
select gd_define_step('m', 'send', 'app.send(jsonb)'), gd_define_step('m', 'wait', 'app.wait(jsonb)');
"""


@pytest.fixture
def trio(db: Any) -> tuple[Session, Session, Session]:
    a, b, c = three(db)
    c.conn.execute(SETUP)
    return a, b, c


def fill(session: Session, step: str, count: int, **arguments: Any) -> list[int]:
    return [session.insert(step=step, state={"n": n}, **arguments) for n in range(1, count + 1)]


def rehearse(session: Session, id: int | None = None, limit: int = 100) -> list[Row]:
    return session.rows("select * from gd_rehearse(p_id => %s, p_limit => %s)", id, limit)


def results(rows: list[Row]) -> list[str]:
    return [row["result"] for row in rows]


def test_a_runner_beside_the_open_transaction_finds_all_rows(trio):
    a, b, c = trio
    made = fill(c, "pay", 20) + fill(c, "pay", 5, partition_key="k")
    c.call("set_rate_limit", "api", 100, "1 hour")
    made += fill(c, "pay", 5, rate_limit="api")
    a.begin()
    assert results(rehearse(a)) == ["ok"] * 30
    # not one row of the instances or of the accounts, no key and no bucket
    assert b.rows("select id from gendurable.instance where id > 0 for update nowait")
    assert b.rows("select id from app.account for update nowait")
    assert (
        a.one("select count(*) from pg_locks where pid = pg_backend_pid() and locktype in ('advisory', 'tuple')") == 0
    )
    assert b.one("call gd_run()")["ok"] == 30
    a.commit_open()
    assert {c.status(id) for id in made} == {"done"}
    assert c.one("select sum(n) from app.account") == 30
    no_baton_was_lost(c)


def test_nobody_is_notified(trio):
    a, b, c = trio
    [id] = fill(c, "send", 1)
    c.insert(unique_key="target", step="pay", queue="other")
    for channel in ("gendurable", "app"):
        b.conn.execute(f"listen {channel}".encode())
    channels = a.rows("select pg_listening_channels() as name")
    a.begin()
    assert results(rehearse(a, id)) == ["ok"]
    a.commit_open()
    assert channels == []
    # our own notification comes behind whatever there was before
    a.rows("select pg_notify('app', 'end')")
    assert [note.payload for note in b.conn.notifies(timeout=10, stop_after=1)] == ["end"]
    assert c.rows("select * from gd_signals((select id from gd_instances where unique_key = 'target'))") == []


def test_a_lock_is_waited_for_once(trio):
    a, b, c = trio
    a.conn.execute("set lock_timeout = 0")
    fill(c, "pay", 4)
    b.begin().rows("select from app.account where id = 2 for update")
    rows = rehearse(a)
    assert results(rows) == ["ok", "busy", "ok", "ok"]
    assert [row["after"].get("result") for row in rows] == ["500ms", None, "20ms", "20ms"]
    assert rows[1]["after"]["sqlstate"] == "55P03" and rows[1]["writes"] is None
    assert a.one("show lock_timeout") == "0"
    # Other than in a run the row of the instance is locked first: who has a row of the step's and then signals must not
    # be the victim of a deadlock, so it waits for less than deadlock_timeout, however long the caller would.
    a.conn.execute("set lock_timeout = '1min'")
    assert rehearse(a)[0]["after"]["result"] == "500ms"
    a.conn.execute("set lock_timeout = '7ms'")
    assert [row["after"].get("result") for row in rehearse(a)] == ["7ms", None, "7ms", "7ms"]
    b.roll_back()


def test_an_instance_that_somebody_has_locked_is_passed_over(trio):
    a, b, c = trio
    first, second = fill(c, "pay", 2)
    b.begin().rows("select from gendurable.instance where id = %s for update", first)
    [row] = rehearse(a, first)
    assert (row["result"], row["after"]) == ("waits", {"why": "another transaction holds it"})
    assert [row["id"] for row in rehearse(a)] == [second]
    b.roll_back()
    assert [row["id"] for row in rehearse(a)] == [first, second]


def test_a_target_that_somebody_has_locked_is_busy(trio):
    a, b, c = trio
    [id] = fill(c, "send", 1)
    target = c.insert(unique_key="target", step="pay", queue="other")
    b.begin().rows("select from gendurable.instance where id = %s for update", target)
    [row] = rehearse(a, id)
    assert (row["result"], row["writes"]) == ("busy", None)
    b.roll_back()
    assert results(rehearse(a, id)) == ["ok"]


def test_others_work_while_it_runs(trio):
    a, b, c = trio
    [held] = fill(c, "hang", 1)
    c.begin().rows("select pg_advisory_xact_lock(4711)")
    watcher = Session(a.db, "d")
    running = a.blocked(watcher, rehearse, a)
    for n in (11, 12, 13):
        b.insert(step="pay", state={"n": n})
    assert b.one("call gd_run()")["ok"] == 3
    assert b.claim(10) == []
    c.commit_open()
    [row] = running.result()
    assert (row["id"], row["result"]) == (held, "ok")
    assert [claim["id"] for claim in b.claim_soon(limit=10)] == [held]


def test_a_key_that_it_rehearses_goes_on(trio):
    a, b, c = trio
    made = fill(c, "hang", 3, partition_key="k")
    holder = b.claim_one()
    assert holder["id"] == made[0]
    [row] = rehearse(a, made[1])
    assert row["after"]["why"] == "others come before it in its key: k"
    [other] = fill(c, "hang", 1)
    c.begin().rows("select pg_advisory_xact_lock(4711)")
    watcher = Session(a.db, "d")
    running = a.blocked(watcher, rehearse, a)  # it holds the key, whose rows it has parked, and the row of another
    assert b.commit(outcome(holder, "done")) in (["busy"], ["ok"])
    c.commit_open()
    assert [row["id"] for row in running.result()] == [other]
    if c.status(made[0]) != "done":
        assert b.commit_soon(outcome(holder, "done")) == "ok"
    c.call("cancel", other)
    drains(b, *made[1:])


def test_a_cancelled_rehearsal_has_not_happened(trio):
    a, b, c = trio
    fill(c, "pay", 2)
    [last] = fill(c, "wait", 1)
    a.begin()
    a.conn.execute("savepoint before; set local statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        rehearse(a)
    a.conn.execute("rollback to before")
    assert a.one("select coalesce(current_setting('gendurable.running', true), '')") == ""
    assert b.rows("select id from gendurable.instance where id > 0 for update nowait")
    assert c.one("select sum(n) from app.account") == 0
    assert results(rehearse(a, limit=2)) == ["ok", "ok"]
    a.roll_back()
    assert c.look(last)["crashes"] == 0


def test_a_killed_rehearsal_leaves_no_trace(trio):
    a, b, c = trio
    [id] = fill(c, "hang", 1)
    before = c.look(id)
    b.begin().rows("select pg_advisory_xact_lock(4711)")
    running = a.blocked(c, rehearse, a)
    c.rows("select pg_terminate_backend(%s)", a.conn.info.backend_pid)
    with pytest.raises(psycopg.Error):
        running.result()
    b.roll_back()
    assert c.look(id) == before
    assert [claim["id"] for claim in c.claim_soon()] == [id]


def test_a_claim_of_the_session_finds_all_that_was_rehearsed(trio):
    a, _, c = trio
    fill(c, "pay", 30)
    a.claim(3)
    a.begin()
    assert len(rehearse(a)) == 27
    assert len(a.claim(100)) == 27
    a.roll_back()
    assert len(rehearse(a)) == 27
    assert len(a.claim(100)) == 27
    assert rehearse(a) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_fixed_snapshot_is_refused(trio, level):
    a, _, c = trio
    fill(c, "pay", 1)
    a.begin(level)
    with pytest.raises(psycopg.Error) as caught:
        rehearse(a)
    assert caught.value.sqlstate == "GD504"
    a.roll_back()
    a.conn.execute(f"set default_transaction_isolation = '{level}'".encode())
    assert a.begin() and results(rehearse(a)) == ["ok"]
    a.roll_back()


def test_what_runs_elsewhere_is_seen_as_it_is_committed(trio):
    # Each of its statements has a snapshot of its own.
    a, b, c = trio
    [id] = fill(c, "pay", 1)
    a.begin()
    assert results(rehearse(a, id)) == ["ok"]
    b.rows("select gd_cancel(%s)", id)
    [row] = rehearse(a, id)
    assert row["after"] == {"why": "it has ended: cancelled"}
    a.roll_back()


def test_many_rehearse_at_once(trio):
    a, b, c = trio
    made = fill(c, "pay", 10)
    a.begin()
    b.begin()
    seen = [len(rehearse(session)) for session in (a, b, c)]
    assert seen == [10, 10, 10]
    a.roll_back()
    b.commit_open()
    claims = c.claim(100)
    assert sorted(claim["id"] for claim in claims) == made
    assert c.finish(*claims) == ["ok"] * 10
