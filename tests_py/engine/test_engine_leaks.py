"""What an engine leaves behind: no memory while it runs, and nothing at all once it has stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from support.engine import Events, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job
from gendurable_py.dispatch.contexts import Contexts
from gendurable_py.dispatch.threads import Threads

Conn = psycopg.Connection[Any]

SETTLE, WAKEUPS = 200, 1200


def test_a_days_worth_of_wake_ups_leaves_memory_flat(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    slept, ran = threading.Semaphore(0), threading.Semaphore(0)
    cycles = 0

    @job(name="leaks.tick")
    def tick(args: dict[str, Any]) -> None:
        ran.release()

    @job(name="leaks.tick_async")
    async def tick_async(args: dict[str, Any]) -> None:
        ran.release()

    def hear(name: str, measurements: Any, metadata: Any) -> None:
        nonlocal cycles
        if name == "sleep":
            slept.release()
        cycles += name == "wake"

    def wake(times: int) -> None:
        for n in range(times):
            assert slept.acquire(timeout=10)
            gd.insert(conn, tick if n % 2 else tick_async)
            assert ran.acquire(timeout=10)

    def footprint() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), sys.getallocatedblocks()

    caplog.set_level(logging.CRITICAL)  # what it logs would be kept for the report
    # Heartbeats and maintenance, with its new connection each time, go on meanwhile.
    options: dict[str, Any] = {"poll_interval": 600, "max_poll_interval": 600, "heartbeat_interval": 0.2}
    with running(Engine(db.dsn, [tick, tick_async], reap_interval=0.05, on_event=hear, **options)):
        wake(SETTLE)  # caches fill, statements are prepared
        objects, blocks = footprint()
        wake(WAKEUPS)
        more_objects, more_blocks = footprint()
    assert cycles >= SETTLE + WAKEUPS - 1
    # One object, or a string, that stayed from each wake-up would be far above this.
    assert more_objects - objects < WAKEUPS / 4
    assert more_blocks - blocks < WAKEUPS / 2


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd, which Linux has")
async def test_no_descriptor_is_left_however_it_ends(db: Any, conn: Conn, empty_db: Any) -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    def sessions() -> int:
        [(count,)] = conn.execute("select count(*) from pg_stat_activity where application_name like 'gendurable %'")
        return int(count)

    entered = asyncio.Event()

    @job(name="leaks.forever")
    async def forever(args: dict[str, Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    before, tasks, threads = len(descriptors()), asyncio.all_tasks(), set(threading.enumerate())
    # It ends well.
    events = Events()
    async with Engine(db.dsn, [forever], reap_interval=0.01, on_event=events):
        await asyncio.to_thread(wait_until, lambda: events.count("maintain") and events.count("sleep"))
    # It is told to stop at once, in the middle of a step.
    gd.insert(conn, forever)
    engine = Engine(db.dsn, [forever], drain_timeout=3600)
    async with engine:
        await entered.wait()
        engine.stop()
        engine.stop()
    # It is cancelled while it serves.
    serving = asyncio.ensure_future(Engine(db.dsn, [forever], drain_timeout=0).serve())
    await asyncio.to_thread(wait_until, sessions)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    # It never starts.
    with pytest.raises(gd.VersionMismatch):
        await Engine(empty_db.dsn).serve()
    await asyncio.sleep(0)  # the loop lets go of what it ran last: a connect that was cancelled, for example
    assert len(descriptors()) == before
    assert asyncio.all_tasks() == tasks
    assert {thread for thread in threading.enumerate() if "gendurable" in thread.name} <= threads
    await asyncio.to_thread(wait_until, lambda: sessions() == 0)


async def test_threads_that_are_told_to_end_get_no_company() -> None:
    """The look for more threads took the word to end for work that waits, and a new thread took it from the old one."""
    gate, entered = threading.Event(), threading.Event()

    def blocks(work: Any, loop: Any) -> None:
        entered.set()
        assert gate.wait(60)

    ran = Threads(asyncio.get_running_loop(), 10, blocks, lambda work: None, Contexts())
    ran.put(cast("Any", SimpleNamespace(turn=None, ctx=SimpleNamespace(_cancelled=False))))
    while not entered.is_set():  # noqa: ASYNC110 - set in a thread
        await asyncio.sleep(0.001)
    ran.close()
    await asyncio.sleep(0.1)
    gate.set()
    assert await ran.join(time.monotonic() + 20) == 0
    assert len(ran._threads) == 1
