"""An engine that is cancelled, in all the ways that a loop has for it: it closes whole, or hurries, and begins anew."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from support.engine import ended, field
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job

Conn = psycopg.Connection[Any]


def sessions(conn: Conn) -> int:
    [(count,)] = conn.execute("select count(*) from pg_stat_activity where application_name like 'gendurable %'")
    return int(count)


async def once(serving: asyncio.Task[None]) -> None:
    serving.cancel()


async def twice(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    await asyncio.sleep(0.02)
    serving.cancel()


async def at_every_turn(serving: asyncio.Task[None]) -> None:
    """As the cancel scopes of anyio do."""
    while not serving.done():
        serving.cancel()
        await asyncio.sleep(0)


async def everything(serving: asyncio.Task[None]) -> None:
    """As programs do at their end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def everything_twice(serving: asyncio.Task[None]) -> None:
    for _ in range(2):
        await everything(serving)
        await asyncio.sleep(0.02)


WAYS: tuple[Callable[[asyncio.Task[None]], Awaitable[None]], ...] = (
    once,
    twice,
    at_every_turn,
    everything,
    everything_twice,
)


class Steps:
    """What is under way: `kind` says of which sort."""

    def __init__(self, kind: str) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()

        @job(name=f"cancel.{kind}.waits")
        async def waits(args: dict[str, Any]) -> None:
            self.entered.set()
            await asyncio.Event().wait()

        @job(name=f"cancel.{kind}.blocks")
        def blocks(args: dict[str, Any]) -> None:
            self.entered.set()
            assert self.gate.wait(60)

        self.job: Any = waits if kind == "async" else blocks


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_nothing_is_left_however_it_is_cancelled(db: Any, conn: Conn, way: Any, kind: str) -> None:
    steps = Steps(kind)
    before, tasks = set(threading.enumerate()), asyncio.all_tasks()
    id = gd.insert(conn, steps.job)
    # Only one that is cancelled once drains for as long as it may.
    engine = Engine(db.dsn, [steps.job], drain_timeout=0.2 if way in (once, everything) else 3600)
    try:
        serving = asyncio.ensure_future(engine.serve())
        while not steps.entered.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.002)
        await way(serving)
        await asyncio.wait([serving], timeout=20)
        assert serving.cancelled()  # it is told at the end, and to who has cancelled it
        assert {task for task in asyncio.all_tasks() if "gendurable" in task.get_name()} <= tasks
        assert "run_in_executor" not in vars(asyncio.get_running_loop())
    finally:
        steps.gate.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("gendurable"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    await asyncio.to_thread(wait_until, lambda: sessions(conn) == 0)
    if kind == "async" and way in (once, twice, at_every_turn):
        assert field(conn, id, "status") == "runnable"  # its end was seen, so it could be given back

    assert id is not None
    gd.cancel(conn, id)  # or it would run again, and be waited for

    @job(name="cancel.after")
    def after(args: dict[str, Any]) -> None: ...

    async with engine:
        await asyncio.to_thread(ended, conn, gd.insert(conn, after))


async def test_a_timeout_a_group_and_wait_for_get_what_they_expect(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await engine.serve()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.serve(), 0.3)

    async def fails() -> None:
        await asyncio.to_thread(wait_until, lambda: sessions(conn))
        raise LookupError

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.serve())
            group.create_task(fails())

    with pytest.raises(ExceptionGroup) as caught:
        await together()
    assert caught.group_contains(LookupError)
    await asyncio.to_thread(wait_until, lambda: sessions(conn) == 0)


async def test_a_cancellation_that_comes_while_it_closes_by_itself_is_not_lost(db: Any, conn: Conn) -> None:
    steps = Steps("closes")
    gd.insert(conn, steps.job)
    engine = Engine(db.dsn, [steps.job], drain_timeout=3600)
    serving = asyncio.ensure_future(engine.serve())
    try:
        while not steps.entered.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.002)
        engine.stop()
        await asyncio.sleep(0.05)
        assert not serving.done()
        serving.cancel()
        await asyncio.wait([serving], timeout=20)
        assert serving.cancelled()
    finally:
        steps.gate.set()


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd, which Linux has")
async def test_a_start_that_is_cancelled_at_any_turn_leaves_no_descriptor(db: Any) -> None:
    engine = Engine(db.dsn)
    async with engine:  # what is made once in a process is there
        pass
    before, tasks = len(os.listdir("/proc/self/fd")), asyncio.all_tasks()
    gc.disable()  # what only the collector would close counts as open
    try:
        for turns in range(0, 60, 2):
            serving = asyncio.ensure_future(engine.serve())
            for _ in range(turns):
                await asyncio.sleep(0)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) == before, turns
            assert asyncio.all_tasks() == tasks
    finally:
        gc.enable()
