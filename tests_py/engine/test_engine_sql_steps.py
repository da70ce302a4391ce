"""Mixed machines: steps that are functions of the database, run by the dispatcher beside Python steps."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.engine import Events, ended, field, running
from support.proxy import Proxy
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Done, Engine, Next, sql_step, step
from gendurable_py.testing import drain

SETUP = """
create table account (id int primary key, n int not null default 0);
insert into account select g from generate_series(0, 1000) g;
create function pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    return '{"kind": "next", "step": "close"}';
end $$;
create function pay_and_end(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    if (ctx #> '{state,bad}')::boolean then
        raise exception 'no money';
    end if;
    return '{"kind": "done"}';
end $$;
create function enter(jsonb) returns jsonb language sql as $$
    select jsonb '{"kind": "next", "step": "start"}'
$$;
create function hang(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    perform pg_advisory_xact_lock(4711);
    return '{"kind": "done"}';
end $$;
"""


class Mixed(FSM, name="mixed"):
    audit = sql_step()

    @step
    def start(self, ctx: gd.Context[dict[str, Any]]) -> Next:
        return Next(self.audit)

    @step
    async def close(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        return Done(ctx.state["n"])


@pytest.fixture(autouse=True)
def functions(conn: psycopg.Connection[Any]) -> None:
    conn.execute(SETUP)
    gd.define_step(conn, "mixed", "audit", "pay(jsonb)")
    for name in ("pay_and_end", "hang"):
        gd.define_step(conn, "alien", name, f"{name}(jsonb)")


@pytest.fixture
def holder(conn: psycopg.Connection[Any], db: Database) -> psycopg.Connection[Any]:
    """Holds the lock that `hang` waits for, which the sessions of the role do for long."""
    name = conn.info.dbname
    conn.execute(f"alter role current_user in database {name} set lock_timeout = '30s'".encode())
    made = db.connect(autocommit=False)
    made.execute("select pg_advisory_xact_lock(4711)")
    return made


def fill(conn: psycopg.Connection[Any], step: str, count: int, **state: Any) -> list[int]:
    """Instances of a machine that no Python class declares."""
    made = gd.insert_many(
        conn, [{"fsm": "alien", "step": step, "state": {"n": n, **state}} for n in range(1, count + 1)]
    )
    return [one.id for one in made]


def paid(conn: psycopg.Connection[Any]) -> dict[int, int]:
    return dict(conn.execute("select id, n from account where n > 0").fetchall())


def once(count: int) -> dict[int, int]:
    return dict.fromkeys(range(1, count + 1), 1)


def backends(conn: psycopg.Connection[Any], waiting: bool = True) -> list[int]:
    """The server processes that are in a call of gd_run_claims: those that wait for a lock there, or all."""
    query = (
        "select pid from pg_stat_activity where datname = current_database() and state = 'active' "
        "and query like '%%gd_run_claims%%' and pid <> pg_backend_pid() and (wait_event_type = 'Lock' or not %s)"
    )
    return [row[0] for row in conn.execute(query, (waiting,)).fetchall()]


def test_a_thousand_instances_go_through_python_sql_and_python_in_one_queue(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    made = gd.insert_many(conn, [gd.Child(Mixed, {"n": n}) for n in range(1, 1001)])
    events = Events()
    with running(Engine(db.dsn, [Mixed], queues={"default": 50}, on_event=events)):
        results = ended(conn, *(one.id for one in made), timeout=60)
    assert sorted(result.result for result in results) == list(range(1, 1001))
    assert paid(conn) == once(1000)
    assert {(about["step"], about["outcome"]) for _, about in events.named("step")} == {
        ("start", "next"),
        ("audit", "ok"),
        ("close", "done"),
    }
    assert events.count("step") == 3000
    assert sum(numbers["ok"] for numbers, _ in events.named("commit")) == 3000


def test_a_step_of_a_machine_that_no_class_declares_runs(conn: psycopg.Connection[Any], db: Database) -> None:
    ids = fill(conn, "pay_and_end", 3)
    with running(Engine(db.dsn)):
        assert {result.status for result in ended(conn, *ids)} == {"done"}
    assert paid(conn) == once(3)


def test_a_first_step_in_sql_and_run_ahead_into_it(conn: psycopg.Connection[Any], db: Database) -> None:
    class Ahead(FSM, name="ahead", run_ahead=True, initial="enter"):
        enter = sql_step()
        middle = sql_step("audit it")

        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Next:
            return Next(self.middle)

    gd.define_step(conn, "ahead", "enter", "enter(jsonb)")
    gd.define_step(conn, "ahead", "audit it", "pay_and_end(jsonb)")
    id = gd.insert(conn, Ahead, {"n": 1})
    with running(Engine(db.dsn, [Ahead])):
        assert ended(conn, id)[0].status == "done"
    assert paid(conn) == once(1)


def test_an_error_costs_its_row_alone_and_is_told(conn: psycopg.Connection[Any], db: Database) -> None:
    ids = fill(conn, "pay_and_end", 20)
    bad = gd.insert(conn, "alien", {"n": 30, "bad": True}, step="pay_and_end", max_attempts=1)
    more = fill(conn, "pay_and_end", 20)
    events = Events()
    with running(Engine(db.dsn, on_event=events)):
        results = ended(conn, *ids, bad, *more)
    assert field(conn, bad, "status") == "failed"
    assert "no money" in field(conn, bad, "last_error")
    assert len(results) == 41
    assert paid(conn) == dict.fromkeys(range(1, 21), 2)
    [(_, about)] = [event for event in events.named("step") if event[1]["id"] == bad]
    assert about["outcome"] == "error"
    assert about["error"].sqlstate == "P0001"


def test_a_row_that_somebody_has_locked_holds_up_itself_alone(conn: psycopg.Connection[Any], db: Database) -> None:
    other = db.connect(autocommit=False)
    other.execute("select from account where id = 7 for update")
    ids = fill(conn, "pay_and_end", 40)
    with running(Engine(db.dsn)):
        ended(conn, *(ids[:6] + ids[7:]))
        assert field(conn, ids[6], "status") == "executing"
        other.rollback()
        ended(conn, *ids)
        assert field(conn, ids[6], "attempt") == 0
    assert paid(conn) == once(40)


def test_a_slow_one_holds_up_neither_commits_nor_python_steps_nor_its_lease(
    conn: psycopg.Connection[Any], db: Database, holder: psycopg.Connection[Any]
) -> None:
    class Plain(FSM, name="plain_beside"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done()

    [slow] = fill(conn, "hang", 1)
    events = Events()
    engine = Engine(db.dsn, [Plain], lease_ttl=1, heartbeat_interval=0.2, on_event=events)
    with running(engine):
        wait_until(lambda: backends(conn))
        beats = events.count("heartbeat")
        plain = [gd.insert(conn, Plain, {}) for _ in range(30)]
        ended(conn, *plain)
        # renewed well beyond its lease
        wait_until(lambda: events.count("heartbeat") > beats + 8)
        assert backends(conn)
        holder.rollback()
        assert ended(conn, slow)[0].status == "done"
    assert field(conn, slow, "attempt") == 0
    assert paid(conn) == once(1)
    assert events.count("lost") == 0


def test_a_killed_session_loses_nothing_and_applies_nothing_twice(conn: psycopg.Connection[Any], db: Database) -> None:
    ids = fill(conn, "pay_and_end", 300)
    stop = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        with psycopg.connect(db.dsn, autocommit=True) as own:
            while not stop.is_set() and len(killed) < 5:
                for pid in backends(own, waiting=False):
                    if own.execute("select pg_terminate_backend(%s)", (pid,)).fetchone() == (True,):
                        killed.append(pid)
                stop.wait(0.002)

    thread = threading.Thread(target=kill)
    with running(Engine(db.dsn, queues={"default": 20})):
        thread.start()
        try:
            ended(conn, *ids, timeout=60)
        finally:
            stop.set()
            thread.join()
    assert killed
    assert paid(conn) == once(300)


def test_the_session_dies_in_the_middle_of_a_call(
    conn: psycopg.Connection[Any], db: Database, holder: psycopg.Connection[Any]
) -> None:
    ids = [*fill(conn, "pay_and_end", 5), *fill(conn, "hang", 1)]
    with running(Engine(db.dsn)):
        [pid] = wait_until(lambda: backends(conn))
        conn.execute("select pg_terminate_backend(%s)", (pid,))
        wait_until(lambda: [other for other in backends(conn) if other != pid])
        holder.rollback()
        ended(conn, *ids)
    assert paid(conn) == {**once(5), 1: 2}
    # it was asked for again, and not given back
    assert conn.execute("select max(attempt) from gd_instances").fetchone() == (0,)


def test_a_lost_answer_is_asked_for_again(conn: psycopg.Connection[Any], db: Database) -> None:
    events = Events()
    with Proxy(db.dsn) as proxy, running(Engine(proxy.dsn, on_event=events)):
        warm = fill(conn, "pay_and_end", 1)
        ended(conn, *warm)
        proxy.lose_answer_to(b"gd_run_claims")
        ids = fill(conn, "pay_and_end", 5)
        ended(conn, *ids)
        wait_until(lambda: proxy.answers_lost == 1)
        more = fill(conn, "pay_and_end", 1)
        ended(conn, *more)
        # what was committed is stale then, and nobody is told that it was lost
        wait_until(lambda: sum(numbers["ok"] for numbers, _ in events.named("commit")) >= 2)
        assert events.count("stale") == 0
    assert paid(conn) == {**dict.fromkeys(range(2, 6), 1), 1: 3}


@pytest.mark.parametrize("notify", [True, False])
def test_stopping_in_the_middle_gives_back_what_has_not_run(
    conn: psycopg.Connection[Any], db: Database, holder: psycopg.Connection[Any], notify: bool
) -> None:
    ids = [*fill(conn, "hang", 1), *fill(conn, "pay_and_end", 300)]
    with running(Engine(db.dsn, queues={"default": 50}, drain_timeout=0.3, notify=notify)):
        wait_until(lambda: backends(conn))
    assert not backends(conn, waiting=False)
    assert conn.execute("select count(*) from gd_instances where status = 'executing'").fetchone() == (0,)
    holder.rollback()
    with running(Engine(db.dsn)):
        ended(conn, *ids)
    assert paid(conn) == {**once(300), 1: 2}
    assert conn.execute("select max(attempt) from gd_instances").fetchone() == (0,)


def test_a_drain_waits_for_what_runs(
    conn: psycopg.Connection[Any], db: Database, holder: psycopg.Connection[Any]
) -> None:
    engine = Engine(db.dsn, drain_timeout=20)
    [id] = fill(conn, "hang", 1)
    with running(engine):
        wait_until(lambda: backends(conn))
        engine.stop()
        wait_until(lambda: engine._life.draining.told)
        holder.rollback()
        assert ended(conn, id)[0].status == "done"


def test_a_method_of_the_same_name_is_not_called_and_a_warning_says_so(
    conn: psycopg.Connection[Any], db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Shadowed(FSM, name="shadowed"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done("in Python")

    gd.define_step(conn, "shadowed", "start", "pay_and_end(jsonb)")
    id = gd.insert(conn, Shadowed, {"n": 1})
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [Shadowed])):
        assert ended(conn, id)[0] == gd.Result("done", None, None)
    assert paid(conn) == once(1)
    assert [r for r in caplog.messages if "its method is not called" in r and "shadowed v1" in r]


def test_an_engine_without_steps_in_sql_leaves_them_to_others(conn: psycopg.Connection[Any], db: Database) -> None:
    class Shadowed(FSM, name="shadowed_2"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done("in Python")

    gd.define_step(conn, "shadowed_2", "start", "pay_and_end(jsonb)")
    left = gd.insert(conn, Shadowed, {"n": 1})
    first = gd.insert(conn, Mixed, {"n": 2})
    events = Events()
    with running(Engine(db.dsn, [Mixed, Shadowed], sql_steps=False, on_event=events)):
        wait_until(lambda: field(conn, first, "step") == "audit")
        wait_until(lambda: events.count("sleep"))
        assert field(conn, first, "status") == "runnable"
        assert field(conn, left, "status") == "runnable"
        assert events.count("release") == 0
    assert paid(conn) == {}
    with running(Engine(db.dsn, [Mixed, Shadowed])):
        ended(conn, left, first)
    assert paid(conn) == {1: 1, 2: 1}


def test_a_definition_that_comes_later_is_found_at_a_row_of_it(conn: psycopg.Connection[Any], db: Database) -> None:
    with running(Engine(db.dsn)):
        gd.define_step(conn, "later", "start", "pay_and_end(jsonb)")
        id = gd.insert(conn, "later", {"n": 1})
        assert ended(conn, id)[0].status == "done"
    assert paid(conn) == once(1)


def test_a_function_that_is_gone_gives_its_rows_back(conn: psycopg.Connection[Any], db: Database) -> None:
    events = Events()
    with running(Engine(db.dsn, reap_interval=0.2, on_event=events)):
        ended(conn, *fill(conn, "pay_and_end", 1))
        conn.execute("alter function pay_and_end(jsonb) rename to elsewhere")
        [id] = fill(conn, "pay_and_end", 1)
        wait_until(lambda: events.count("release"))
        conn.execute("alter function elsewhere(jsonb) rename to pay_and_end")
        conn.execute("select gd_reschedule(%s, clock_timestamp())", (id,))
        assert ended(conn, id)[0].status == "done"
    assert field(conn, id, "attempt") == 0
    assert paid(conn) == {1: 2}


def test_drain_runs_steps_in_sql(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction(force_rollback=True):
        ids = [gd.insert(conn, Mixed, {"n": n}) for n in (1, 2, 3)]
        bad = gd.insert(conn, "alien", {"n": 30, "bad": True}, step="pay_and_end", max_attempts=1)
        assert drain(conn, [Mixed]) == 10
        assert {gd.result(conn, id).status for id in ids} == {"done"}  # type: ignore[union-attr, arg-type]
        assert gd.result(conn, bad).status == "failed"  # type: ignore[union-attr, arg-type]
        assert paid(conn) == once(3)
    assert paid(conn) == {}


def test_python_steps_go_on_behind_any_number_of_waiting_ones(
    conn: psycopg.Connection[Any], db: Database, holder: psycopg.Connection[Any]
) -> None:
    class Behind(FSM, name="behind"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done()

    ids = [*fill(conn, "hang", 1), *fill(conn, "pay_and_end", 900)]
    events = Events()
    with running(Engine(db.dsn, [Behind], queues={"default": 50}, on_event=events)):
        wait_until(lambda: backends(conn))
        python = [gd.insert(conn, Behind, {}) for _ in range(20)]
        ended(conn, *python)
        # it does not claim what others could run meanwhile
        row = conn.execute("select count(*) from gd_instances where status = 'executing'").fetchone()
        assert row is not None
        assert 1 <= row[0] <= 300
        holder.rollback()
        ended(conn, *ids, timeout=30)
    assert paid(conn) == {**once(900), 1: 2}


def test_steps_in_sql_need_no_slot(conn: psycopg.Connection[Any], db: Database) -> None:
    gate, entered = threading.Event(), threading.Event()

    class Long(FSM, name="long"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            entered.set()
            gate.wait(20)
            return Done()

    with running(Engine(db.dsn, [Long], queues={"default": 1}, poll_interval=0.1)):
        long = gd.insert(conn, Long, {})
        entered.wait(10)
        ended(conn, *fill(conn, "pay_and_end", 20))
        assert field(conn, long, "status") == "executing"
        gate.set()
        ended(conn, long)
    assert paid(conn) == once(20)
