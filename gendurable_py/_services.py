"""What an engine does beside its work, each in a task of its own: heartbeats, the watch over its loop, maintenance."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from . import calls
from ._executor import Executor
from ._held import Held
from ._link import TROUBLE, Emit, Link
from ._log import logger
from ._options import Options
from ._work import about


class Services:
    """The tasks of an engine, which go on until they are stopped. `failed` is told of one that ends by an error."""

    def __init__(self, failed: Callable[[asyncio.Task[None], BaseException], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"gendurable {name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task, error)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Pulse:
    """Heartbeats, and the watch over the loop that they depend on."""

    def __init__(self, link: Link, executor: Executor, held: Held, emit: Emit, options: Options) -> None:
        self._link = link
        self._executor = executor
        self._held = held
        self._emit = emit
        self._every = options.beat_every
        self._lease = options.lease

    async def run(self) -> None:
        tick = min(1.0, self._every / 4)
        beat_at = time.monotonic() + self._every
        while True:
            before = time.monotonic()
            await asyncio.sleep(tick)
            now = time.monotonic()
            late = now - before - tick
            if late > min(1.0, self._every / 2):
                logger.warning(
                    "the event loop was blocked for %.1f s: a blocking call in an async step delays heartbeats", late
                )
                self._emit("blocked", {"seconds": late}, {})
            # After a failure at once again: the leases run out meanwhile.
            if now >= beat_at and await self._beat():
                beat_at = time.monotonic() + self._every

    async def _beat(self) -> bool:
        claims = self._held.claims()
        if not claims:
            return True
        started = time.perf_counter()
        try:
            lost = await self._link.attempt(calls.heartbeat, self._held.worker, claims, self._lease)
        except TROUBLE as error:
            await self._link.trouble(error)
            return False
        for id, claim_no in lost:
            work = self._held.get(id, claim_no)
            # One that has its outcome may be committed by now; the answer to its commit tells.
            if work is not None and work.outcome is None:
                logger.info("the claim of %s %s (step %s) is lost", work.row.fsm, id, work.row.step)
                self._executor.lose(work)
                self._held.drop(work)  # told once, however long the step goes on
                self._emit("lost", {"count": 1}, about(work))
        seconds = time.perf_counter() - started
        self._emit("heartbeat", {"claims": len(claims), "lost": len(lost), "seconds": seconds}, {})
        return True


class Upkeep:
    """Calls `calls.maintain` now and then."""

    def __init__(self, link: Link, emit: Emit, every: float, retention: timedelta) -> None:
        self._link = link
        self._emit = emit
        self._every = every
        self._retention = retention

    async def run(self) -> None:
        while True:
            # With jitter: nodes that were started together must not call together for ever.
            await asyncio.sleep(self._every * random.uniform(0.8, 1.2))
            started = time.perf_counter()
            try:
                done = await self._link.attempt(calls.maintain, self._retention)
            except TROUBLE as error:
                await self._link.trouble(error)
            else:
                counts = {
                    key: value for key, value in done.items() if isinstance(value, int) and not isinstance(value, bool)
                }
                rest = {key: value for key, value in done.items() if key not in counts}
                self._emit("maintain", {**counts, "seconds": time.perf_counter() - started}, rest)
            await self._link.drop()
