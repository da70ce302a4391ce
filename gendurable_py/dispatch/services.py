"""What an engine does beside its work, each in a task of its own: heartbeats, the watch over its loop, maintenance."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from ..calls import working
from .executor import Executor
from .held import Held
from .link import TROUBLE, Emit, Link
from .._log import logger
from .arguments import Options
from .watch import Watch
from .work import about

_SHORTEST_PAUSE = 0.05


def late_limit(beat_every: float) -> float:
    """Seconds that a loop may be late."""
    return min(1.0, beat_every / 2)


class Services:
    """The tasks of an engine, which go on until they are stopped. `failed` is told of one that ends before."""

    def __init__(self, failed: Callable[[asyncio.Task[Any], BaseException], None]) -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[Any]] = []
        self._stopped = False

    def start(self, coroutine: Coroutine[Any, Any, object], name: str, *, ends: bool = False) -> asyncio.Task[Any]:
        """One that ``ends`` may do so, and whoever started it looks at how."""
        task = asyncio.get_running_loop().create_task(coroutine, name=f"gendurable {name}")
        if not ends:
            task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self._stopped:
            return
        if task.cancelled():
            self._failed(task, RuntimeError("it was cancelled, and not by the engine"))
        elif (error := task.exception()) is not None:
            self._failed(task, error)

    async def stop(self) -> None:
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Pulse:
    """Heartbeats, and the watch over the loop that they depend on."""

    def __init__(self, link: Link, watch: Watch, executor: Executor, held: Held, emit: Emit, options: Options) -> None:
        self._link = link
        self._watch = watch
        self._executor = executor
        self._held = held
        self._emit = emit
        self._every = options.beat_every
        self._lease = options.lease

    async def run(self) -> None:
        tick, limit = min(1.0, self._every / 4), late_limit(self._every)
        beat_at = time.monotonic() + self._every
        while True:
            self._watch.expect(tick)
            await asyncio.sleep(tick)
            late = self._watch.rest()
            if late > limit:
                why, what = self._watch.verdict(late)
                logger.warning("the event loop was blocked for %.1f s, which delays heartbeats: %s", late, why)
                self._emit("blocked", {"seconds": late}, what)
            # After a failure at once again: the leases run out meanwhile.
            if time.monotonic() >= beat_at and await self._beat():
                beat_at = time.monotonic() + self._every

    async def _beat(self) -> bool:
        claims = self._held.claims()
        if not claims:
            return True
        started = time.perf_counter()
        try:
            lost = await self._link.attempt(working.heartbeat, self._held.worker, claims, self._lease)
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
    """Calls `working.maintain` now and then."""

    def __init__(self, link: Link, emit: Emit, every: float, retention: timedelta) -> None:
        self._link = link
        self._emit = emit
        self._every = every
        self._retention = retention
        self._took = 0.0

    async def run(self) -> None:
        while True:
            # With jitter: nodes that were started together must not call together for ever.
            await asyncio.sleep(self._every * random.uniform(0.8, 1.2))
            until = time.monotonic() + self._every
            try:
                while await self._call() and time.monotonic() < until:  # noqa: ASYNC110 - it polls the server
                    # As much is left to others as this took: it is work that nobody waits for.
                    await asyncio.sleep(max(_SHORTEST_PAUSE, self._took))
            except TROUBLE as error:
                await self._link.trouble(error)
            await self._link.drop()

    async def _call(self) -> bool:
        """Answers whether there is more to do."""
        started = time.perf_counter()
        done = await self._link.attempt(working.maintain, self._retention)
        self._took = time.perf_counter() - started
        counts = {key: value for key, value in done.items() if isinstance(value, int) and not isinstance(value, bool)}
        rest = {"ran": True, "more": False, "errors": {}} | {k: value for k, value in done.items() if k not in counts}
        for said in _each(done.get("errors")):
            logger.warning("gd_maintain could not do all: %s", said)
        self._emit("maintain", {**counts, "seconds": self._took}, rest)
        return done.get("more") is True


def _each(errors: object) -> list[object]:
    """What went wrong, part by part, however the server arranged it."""
    if isinstance(errors, dict):
        return [f"{part}: {said}" for part, said in errors.items()]
    return errors if isinstance(errors, list) else [errors] if errors else []
