"""Rows that are claimed before there is a slot for them (``prefetch="auto"``), by engines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Context, Engine, job
from gendurable_py.dispatch import ahead
from gendurable_py.dispatch.ahead import HORIZON
from gendurable_py.dispatch.executor import Executor
from gendurable_py.dispatch.work import Work

Conn = psycopg.Connection[Any]

SELDOM: dict[str, Any] = {"reap_interval": None, "poll_interval": 60, "max_poll_interval": 60}


def statuses(conn: Conn, machine: str) -> dict[str, int]:
    query = "select status::text, count(*) from gd_instances where fsm = %s group by 1"
    return dict(conn.execute(query, (machine,)).fetchall())


class Claims:
    """How many rows each claim of an engine brought."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, name: str, numbers: Any, about: Any) -> None:
        if name == "claim":
            self.sizes.append(numbers["rows"])


def test_short_steps_are_claimed_ahead_of_their_slots(db: Any, conn: Conn) -> None:
    @job(name="ahead.short")
    async def short(args: dict[str, Any]) -> None:
        await asyncio.sleep(0.001)

    claims = Claims()
    gd.insert_many(conn, [short] * 3000)
    with running(Engine(db.dsn, [short], {"default": 4}, on_event=claims, **SELDOM)):
        wait_until(lambda: statuses(conn, "ahead.short") == {"done": 3000}, 60)
    assert max(claims.sizes) > 4


def test_long_steps_are_never_claimed_ahead(db: Any, conn: Conn) -> None:
    @job(name="ahead.long")
    async def long(args: dict[str, Any]) -> None:
        await asyncio.sleep(2 * HORIZON)

    claims = Claims()
    gd.insert_many(conn, [long] * 60)
    with running(Engine(db.dsn, [long], {"default": 4}, on_event=claims, **SELDOM)):
        wait_until(lambda: statuses(conn, "ahead.long") == {"done": 60}, 60)
    assert max(claims.sizes) <= 4


def test_rows_with_a_key_never_wait_for_a_slot(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would hold their keys meanwhile. Those between them do wait."""
    waited: Counter[bool] = Counter()
    submit = Executor.submit

    def note(self: Executor, work: Work) -> None:
        submit(self, work)
        if work in self._backlog[work.queue]:
            waited[work.row.partition_key is not None] += 1

    monkeypatch.setattr(Executor, "submit", note)

    @job(name="ahead.keyed")
    async def keyed(args: dict[str, Any]) -> None:
        await asyncio.sleep(0.001)

    # a few with a key behind many without
    keys = [f"k{n}" if n % 250 > 240 else None for n in range(3000)]
    gd.insert_many(conn, [gd.Insert(keyed, {}, partition_key=key) for key in keys])
    with running(Engine(db.dsn, [keyed], {"default": 4}, **SELDOM)):
        wait_until(lambda: statuses(conn, "ahead.keyed") == {"done": 3000}, 60)
    assert waited[False] > 0
    assert waited[True] == 0


def _blocked(db: Any, conn: Conn, name: str) -> tuple[Engine, list[int], threading.Event]:
    """Short steps in front of steps that take until they are told: some of those are claimed ahead."""
    opened = threading.Event()

    @job(name=name, max_attempts=1)
    async def work(args: dict[str, Any], ctx: Context[Any]) -> int:
        if args.get("blocks"):
            while not opened.is_set():  # noqa: ASYNC110 - it is set in another thread
                await asyncio.sleep(0.005)
        else:
            await asyncio.sleep(0.001)
        return int(ctx.attempt)

    gd.insert_many(conn, [work] * 2000)
    blocking = [m.id for m in gd.insert_many(conn, [gd.Insert(work, {"blocks": True})] * 100)]
    assert None not in blocking
    return Engine(db.dsn, [work], {"default": 4}, **SELDOM), blocking, opened  # type: ignore[return-value]


def test_what_is_ahead_of_steps_that_become_long_is_given_back(db: Any, conn: Conn) -> None:
    engine, blocking, opened = _blocked(db, conn, "ahead.turns")
    with running(engine):
        wait_until(lambda: statuses(conn, "ahead.turns") == {"done": 2000, "executing": 4, "runnable": 96}, 60)
        opened.set()
        found = ended(conn, *blocking, timeout=60)
    # no attempt was burnt
    assert Counter((r.status, r.result) for r in found) == {("done", 0): 100}


def test_what_is_ahead_is_given_back_at_the_end(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "LONGEST", 3600)  # nothing is given back before
    engine, blocking, opened = _blocked(db, conn, "ahead.ends")
    with running(engine):
        wait_until(lambda: statuses(conn, "ahead.ends").get("done") == 2000, 60)
        wait_until(lambda: statuses(conn, "ahead.ends").get("executing", 0) > 4, 60)
        engine.stop()
        wait_until(lambda: statuses(conn, "ahead.ends").get("executing") == 4, 60)
        opened.set()
        wait_until(lambda: statuses(conn, "ahead.ends").get("done") == 2004, 60)
    assert Counter((field(conn, id, "status"), field(conn, id, "attempt")) for id in blocking) == {
        ("done", 0): 4,
        ("runnable", 0): 96,
    }


def test_two_engines_share_what_there_is(db: Any, conn: Conn) -> None:
    """As steps that wait for something else have it: both have the same rate, and neither takes the other's work."""

    @job(name="ahead.shared")
    async def shared(args: dict[str, Any], ctx: Context[Any]) -> str:
        await asyncio.sleep(0.004)
        # of which engine it is says the task that runs it
        return next(name for name, engine in engines.items() if engine._executor.working(asyncio.current_task()))  # type: ignore[arg-type]

    engines = {name: Engine(db.dsn, [shared], {"default": 4}, **SELDOM) for name in "ab"}
    gd.insert_many(conn, [shared] * 3000)
    with running(*engines.values()):
        wait_until(lambda: statuses(conn, "ahead.shared") == {"done": 3000}, 60)
    shares = dict(
        conn.execute(
            "select result #>> '{}', count(*) from gd_instances where fsm = 'ahead.shared' group by 1"
        ).fetchall()
    )
    assert min(shares["a"], shares["b"]) > 1000, shares


def test_an_urgent_row_does_not_wait_for_the_backlog(db: Any, conn: Conn) -> None:
    order: list[str] = []

    @job(name="ahead.order")
    async def work(args: dict[str, Any]) -> None:
        order.append(args["what"])
        await asyncio.sleep(0.001)

    gd.insert_many(conn, [gd.Insert(work, {"what": "usual"})] * 4000)
    with running(Engine(db.dsn, [work], {"default": 4}, **SELDOM)):
        wait_until(lambda: len(order) > 1000, 60)
        at = len(order)
        gd.insert(conn, work, {"what": "urgent"}, priority=-1)
        wait_until(lambda: "urgent" in order, 60)
        assert order.index("urgent") < 4000
        wait_until(lambda: len(order) == 4001, 60)
    assert order.index("urgent") >= at


def test_a_queue_that_is_empty_beside_one_that_is_ahead_is_told_of_new_work(db: Any, conn: Conn) -> None:
    """A claim that only wants rows ahead says nothing of a queue that is asleep."""

    @job(name="ahead.busy", queue="busy")
    async def busy(args: dict[str, Any]) -> None:
        await asyncio.sleep(0.001)

    @job(name="ahead.quiet", queue="quiet")
    async def quiet(args: dict[str, Any]) -> None:
        pass

    with running(Engine(db.dsn, [busy, quiet], {"busy": 2, "quiet": 2}, **SELDOM)):
        for _ in range(3):
            ids = [m.id for m in gd.insert_many(conn, [busy] * 300)]
            time.sleep(0.02)
            ids += [m.id for m in gd.insert_many(conn, [quiet] * 3)]
            assert {r.status for r in ended(conn, *ids, timeout=30)} == {"done"}
