"""A fault of the server, or a lock of somebody, costs time: no outcome is given up for it, and nothing else stops."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import Any, ClassVar

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.faults import broken_commits
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, Next, ScheduleChilds, embedded, job, step

Conn = psycopg.Connection[Any]


class Stuck(FSM, name="faults.stuck"):
    handled: ClassVar[list[Exception]] = []

    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("end")

    @step
    async def end(self, ctx: Context[Any]) -> Done:
        return Done(ctx.id)

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        self.handled.append(error)
        return Done("given up")


@job(name="faults.free")
def free(args: dict[str, Any]) -> str:
    return "free"


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize(
    "sqlstate", ["53100", "54000", "55000", "55P03", "22P05", "23514", "P0001", "GD504", "GD501", "42501", "XX000"]
)
def test_an_outcome_outlives_a_fault_of_the_server(
    db: Any, conn: Conn, sqlstate: str, run_ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    Stuck.handled.clear()
    told = "busy" if sqlstate == "55P03" else "stuck"
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [Stuck, free], on_event=events, run_ahead=run_ahead)),
    ):
        with broken_commits(conn, sqlstate, "the cupboard is full"):
            ids = [made.id for made in gd.insert_many(conn, [Stuck] * 5)]
            wait_until(lambda: {about["id"] for _, about in events.named(told)} >= set(ids))
            assert {field(conn, id, "status") for id in ids} == {"executing"}
        assert {result.status for result in ended(conn, *ids, timeout=30)} == {"done"}
        assert [result.result for result in ended(conn, *ids)] == ids
    assert Stuck.handled == []
    assert events.count("rejected") == 0
    if told == "stuck":
        assert {(about["sqlstate"], about["message"].splitlines()[0]) for _, about in events.named("stuck")} == {
            (sqlstate, "the cupboard is full")
        }
        assert any("the cupboard is full" in record.getMessage() for record in caplog.records)


def test_a_fault_that_meets_one_outcome_stops_no_other(db: Any, conn: Conn) -> None:
    events = Events()
    with running(Engine(db.dsn, [Stuck, free], on_event=events)):
        with broken_commits(conn, "P0001", "not this one", "new.fsm = 'faults.stuck'"):
            both = [made.id for made in gd.insert_many(conn, [Stuck, free] * 20)]
            assert {result.result for result in ended(conn, *both[1::2])} == {"free"}
            wait_until(lambda: events.count("stuck") >= 20)
            later = [made.id for made in gd.insert_many(conn, [free] * 20)]
            assert {result.result for result in ended(conn, *later)} == {"free"}
            assert {field(conn, id, "status") for id in both[::2]} == {"executing"}
        assert [result.result for result in ended(conn, *both[::2], timeout=30)] == both[::2]
    tries = [numbers["tries"] for numbers, about in events.named("stuck") if about["id"] == both[0]]
    assert tries == sorted(set(tries)), "each try is told once"


def test_while_nothing_commits_no_more_is_claimed_than_can_wait(db: Any, conn: Conn) -> None:
    runs = itertools.count()

    @job(name="faults.counted")
    def counted(args: dict[str, Any]) -> int:
        return next(runs)

    events = Events()
    with running(Engine(db.dsn, [counted], on_event=events)):
        with broken_commits(conn, "53100", "full"):
            ids = [made.id for made in gd.insert_many(conn, [counted] * 1000)]
            wait_until(lambda: events.count("saturation") and events.count("stuck") >= 20)
            ran = next(runs)
            assert ran < 400, "a step that cannot be committed may have to run again"
        assert {result.status for result in ended(conn, *ids, timeout=60)} == {"done"}
    assert next(runs) == 1001, "no step ran twice"


def fill(conn: Conn) -> None:
    for n in range(1000):
        conn.execute("select pg_notify('noise', rpad(%s::text, 7900, 'x'))", (n,))


def test_the_notify_queue_is_full(caplog: pytest.LogCaptureFixture) -> None:
    try:
        embedded.installation(18)
    except ImportError:
        pytest.skip("needs a server of its own: pip install 'gendurable_py[embedded]'")
    events = Events()
    with embedded.start(settings={"fsync": "off", "max_notify_queue_pages": "64"}) as server:
        conn = psycopg.connect(server.dsn, autocommit=True)
        slow = psycopg.connect(server.dsn, autocommit=True)
        with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(server.dsn, [free], on_event=events)):
            gate = [gd.insert(conn, free, delay=1.5) for _ in range(3)]
            for id in gate:
                gd.watch(conn, id or 0)
            slow.execute("listen noise")
            slow.execute("begin")
            with pytest.raises(psycopg.OperationalError, match="NOTIFY queue"):
                fill(conn)
            wait_until(lambda: events.count("stuck"))
            assert {field(conn, id, "status") for id in gate} == {"executing"}
            slow.rollback()
            slow.execute("select 1")
            # The server forgets what all have read when a notification is written, which it just refuses, or by this.
            wait_until(lambda: conn.execute("select pg_notification_queue_usage() < 0.5").fetchone() == (True,))
            assert {result.status for result in ended(conn, *gate, timeout=30)} == {"done"}
        assert any("NOTIFY queue" in record.getMessage() for record in caplog.records)
        conn.close()
        slow.close()


class Parent(FSM, name="faults.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(free, delay=0.5)] * int(ctx.state["n"]))

    @step
    def join(self, ctx: Context[Any]) -> Done:
        return Done(len(ctx.childs))


@pytest.mark.parametrize("run_ahead", [False, True])
def test_what_is_behind_the_lock_of_one_client_stops_no_unrelated_work(db: Any, conn: Conn, run_ahead: bool) -> None:
    events = Events()
    client = db.connect(autocommit=False)
    with running(Engine(db.dsn, [Parent, free], {"default": 5}, on_event=events, run_ahead=run_ahead)):
        parent = gd.insert(conn, Parent, {"n": 300})
        wait_until(lambda: field(conn, parent, "status") == "awaiting_children")
        gd.signal(client, parent or 0, "note")  # and the transaction stays open
        wait_until(lambda: len({about["id"] for _, about in events.named("busy")}) == 300, 30)
        jobs = [made.id for made in gd.insert_many(conn, [free] * 200)]
        assert {result.status for result in ended(conn, *jobs)} == {"done"}
        client.commit()
        assert ended(conn, parent, timeout=30)[0].result == 300


def test_one_that_is_free_again_does_not_wait_for_the_many_that_are_not(db: Any, conn: Conn) -> None:
    events = Events()
    client, other = db.connect(autocommit=False), db.connect(autocommit=False)
    gate, entered = threading.Event(), threading.Event()

    @job(name="faults.one")
    def one(args: dict[str, Any]) -> str:
        entered.set()
        assert gate.wait(30)
        return "one"

    with running(Engine(db.dsn, [Parent, free, one], {"default": 20}, on_event=events)):
        parent = gd.insert(conn, Parent, {"n": 600})
        wait_until(lambda: field(conn, parent, "status") == "awaiting_children")
        gd.signal(client, parent or 0, "note")
        wait_until(lambda: len({about["id"] for _, about in events.named("busy")}) == 600, 30)
        id = gd.insert(conn, one)
        assert entered.wait(10)
        gd.signal(other, id or 0, "note")
        gate.set()
        wait_until(lambda: any(about["id"] == id for _, about in events.named("busy")))
        other.commit()
        assert ended(conn, id)[0].result == "one"
        assert field(conn, parent, "status") == "awaiting_children"
        client.commit()
        assert ended(conn, parent, timeout=30)[0].result == 600
