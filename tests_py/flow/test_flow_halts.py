"""Flows whose steps run while something stops them: pauses, holds, limits, drains, locks. No step runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.flows import kinds_of
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.dispatch.work import Work
from gendurable_py.flow import FlowContext, flow
from gendurable_py.machine.claim import ClaimRow

Conn = psycopg.Connection[Any]

ran: Counter[str] = Counter()
gates: dict[str, threading.Event] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()
    gates.clear()
    gates.update({name: threading.Event() for name in ("slow", "quick")})


def in_thread(name: str) -> str:
    ran[name] += 1
    assert name not in gates or gates[name].wait(30)
    return name


async def on_loop(name: str) -> str:
    ran[name] += 1
    while not gates[name].is_set():  # noqa: ASYNC110 - the test sets it in another thread
        await asyncio.sleep(0.001)
    return name


@flow(name="halts.threads")
async def threads(ctx: FlowContext) -> list[str]:
    async def beside() -> str:
        await ctx.step("quick", in_thread, "quick")
        return await ctx.step("second", in_thread, "second")

    slow, second = await asyncio.gather(ctx.step("slow", in_thread, "slow"), beside())
    return [slow, second, await ctx.step("last", in_thread, "last")]


@flow(name="halts.tasks")
async def tasks(ctx: FlowContext) -> list[str]:
    async def beside() -> str:
        await ctx.step("quick", on_loop, "quick")
        return await ctx.step("second", in_thread, "second")

    slow, second = await asyncio.gather(ctx.step("slow", on_loop, "slow"), beside())
    return [slow, second, await ctx.step("last", in_thread, "last")]


ONCE = {"slow": 1, "quick": 1, "second": 1, "last": 1}

STOPS = {
    "queue": ("gd_pause_queue('default')", "gd_resume_queue('default')"),
    "machine": ("gd_pause_machine('{fsm}')", "gd_resume_machine('{fsm}')"),
    "instance": ("gd_pause({id})", "gd_resume({id})"),
    "hold": ("gd_hold_all('a look')", "gd_release_hold()"),
    "limit": ("""gd_set_queue('default', '{{"limit": 0}}')""", """gd_set_queue('default', '{{"limit": null}}')"""),
}


@pytest.mark.parametrize("function", [threads, tasks])
@pytest.mark.parametrize("what", STOPS)
def test_what_runs_ends_under_its_claim_and_nothing_begins(db: Any, conn: Conn, what: str, function: Any) -> None:
    stop, go = STOPS[what]
    with running(Engine(db.dsn, machines=[function])):
        id = gd.insert(conn, function, partition_key="k")
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        said = {"id": id, "fsm": f"halts.{function.__name__}"}
        conn.execute(f"select {stop.format(**said)}".encode())
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step"])
        assert field(conn, id, "status") == "executing"
        gates["slow"].set()
        wait_until(lambda: field(conn, id, "status") == "runnable")
        assert kinds_of(conn, id) == ["start", "step", "step"]
        assert ran == {"slow": 1, "quick": 1}
        conn.execute(f"select {go.format(**said)}".encode())
        [result] = ended(conn, id)
    assert result.result == ["slow", "second", "last"]
    assert ran == ONCE


def test_a_pause_that_ends_before_the_step_lets_the_flow_go_on(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[threads])):
        id = gd.insert(conn, threads)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        conn.execute("select gd_pause_queue('default')")
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step"])
        conn.execute("select gd_resume_queue('default')")
        gates["slow"].set()
        [result] = ended(conn, id)
    assert result.result == ["slow", "second", "last"]
    assert ran == ONCE


def test_what_is_cancelled_in_a_pause_is_let_go(db: Any, conn: Conn) -> None:
    events = Events()
    engine = Engine(db.dsn, machines=[threads], heartbeat_interval=0.1, on_event=events)
    with running(engine):
        id = gd.insert(conn, threads)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        conn.execute("select gd_pause_queue('default')")
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step"])
        conn.execute("select gd_cancel(%s)", (id,))
        wait_until(lambda: events.count("lost"))
        gates["slow"].set()
    assert [one.status for one in ended(conn, id)] == ["cancelled"]
    assert ran == {"slow": 1, "quick": 1}


def test_a_large_inbox_takes_no_claim_away(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[threads])):
        id = gd.insert(conn, threads)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        gd.signal(conn, id or 0, "said", "".join(map(str, range(20_000))))
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step"])
        assert field(conn, id, "status") == "executing"
        gates["slow"].set()
        assert ended(conn, id)[0].result == ["slow", "second", "last"]
    assert ran == ONCE


@flow(name="halts.given_up")
async def given_up(ctx: FlowContext) -> str:
    async def beside() -> None:
        await ctx.step("quick", in_thread, "quick")
        await asyncio.sleep(0.01)
        slow.cancel()

    slow = asyncio.ensure_future(ctx.step("slow", in_thread, "slow"))
    await asyncio.gather(slow, beside(), return_exceptions=True)
    return await ctx.step("last", in_thread, "last")


def test_a_step_that_nobody_waits_for_any_more_is_waited_for_before_it_is_given_back(db: Any, conn: Conn) -> None:
    events = Events()
    with running(Engine(db.dsn, machines=[given_up], on_event=events)):
        id = gd.insert(conn, given_up)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        conn.execute("select gd_pause_queue('default')")
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step", "timer"])
        assert field(conn, id, "status") == "executing"
        gates["slow"].set()
        wait_until(lambda: field(conn, id, "status") == "runnable")
        conn.execute("select gd_resume_queue('default')")
        assert ended(conn, id)[0].result == "last"
    assert ran == {"slow": 1, "quick": 1, "last": 1}
    assert events.count("stale") == 0


@contextlib.contextmanager
def outcome_behind_a_lock(db: Any, id: int | None, events: Events) -> Iterator[None]:
    """The step "quick" has ended, and its outcome meets the lock of another session while the block runs."""
    with db.connect(autocommit=False) as other:
        other.execute("select from gendurable.instance where id = %s for update", (id,))
        gates["quick"].set()
        wait_until(lambda: events.count("busy"))
        yield


@pytest.mark.parametrize("function", [threads, tasks])
def test_a_drain_waits_for_steps_beside_an_outcome_behind_a_lock(db: Any, conn: Conn, function: Any) -> None:
    events = Events()
    engine = Engine(db.dsn, machines=[function], on_event=events, drain_timeout=30)
    with running(engine):
        id = gd.insert(conn, function)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        with outcome_behind_a_lock(db, id, events):
            engine.stop()
            wait_until(lambda: events.count("busy") > 8)  # it could have ended by now, without the step
        gates["slow"].set()
        wait_until(lambda: field(conn, id, "status") == "runnable")  # leaving stops it again, which would hurry it
    assert kinds_of(conn, id) == ["start", "step", "step"]
    assert ran == {"slow": 1, "quick": 1}
    with running(Engine(db.dsn, machines=[function])):
        assert ended(conn, id)[0].result == ["slow", "second", "last"]
    assert ran == ONCE


def test_a_drained_worker_begins_nothing_beside_what_runs(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, machines=[threads], heartbeat_interval=0.1)
    with running(engine):
        id = gd.insert(conn, threads)
        wait_until(lambda: ran == {"slow": 1, "quick": 1})
        conn.execute("select gd_drain_worker(%s)", (engine.worker,))
        wait_until(lambda: conn.execute("select state from gd_workers").fetchone() == ("draining",))
        gates["quick"].set()
        wait_until(lambda: kinds_of(conn, id) == ["start", "step"])
        gates["slow"].set()
        wait_until(lambda: field(conn, id, "status") == "runnable")
        assert ran == {"slow": 1, "quick": 1}
        conn.execute("select gd_resume_worker(%s)", (engine.worker,))
        assert ended(conn, id)[0].result == ["slow", "second", "last"]
    assert ran == ONCE


def test_a_kept_claim_that_cannot_go_on_is_told_by_its_names(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    renew = Work.renew

    def fail_once(work: Work, row: ClaimRow) -> None:
        monkeypatch.setattr(Work, "renew", renew)
        raise MemoryError("no room")

    monkeypatch.setattr(Work, "renew", fail_once)
    gates["slow"].set()
    gates["quick"].set()
    with running(Engine(db.dsn, machines=[threads])):
        id = gd.insert(conn, threads)
        wait_until(lambda: f"halts.threads {id} cannot go on here" in caplog.text)


def large(name: str) -> str:
    return in_thread(name) + "." * 5_000_000


@flow(name="halts.large")
async def larger(ctx: FlowContext) -> list[str]:
    await asyncio.gather(ctx.step("quick", in_thread, "quick"), *(ctx.step(f"{n}", large, "slow") for n in range(3)))
    return [await ctx.step("last", in_thread, "last")]


@pytest.mark.parametrize("what", ["pause", "drain"])
def test_what_no_single_commit_can_carry_is_not_left_behind(db: Any, conn: Conn, what: str) -> None:
    events = Events()
    engine = Engine(db.dsn, machines=[larger], on_event=events, drain_timeout=60)
    with running(engine):
        id = gd.insert(conn, larger)
        wait_until(lambda: ran == {"slow": 3, "quick": 1})
        with outcome_behind_a_lock(db, id, events):
            gates["slow"].set()
            wait_until(lambda: events.count("checkpoint") == 4)
            if what == "pause":
                conn.execute("select gd_pause_machine('halts.large')")
            else:
                engine.stop()
        wait_until(lambda: field(conn, id, "status") == "runnable")
    assert kinds_of(conn, id) == ["start", "step", "step", "step", "step"]
    conn.execute("select gd_resume_machine('halts.large')")
    with running(Engine(db.dsn, machines=[larger])):
        assert ended(conn, id)[0].result == ["last"]
    assert ran == {"slow": 3, "quick": 1, "last": 1}
