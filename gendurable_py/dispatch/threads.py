"""The threads that run sync steps, fed by one plain queue: as many as the work that waits needs.

A sync step costs no future and no wake-up of its own. `executor` owns them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from .contexts import Contexts
from .work import Work, break_off

_TICK = 0.002


class Wanted(Protocol):
    """Whether a run of a step is still wanted."""

    _cancelled: bool


class Threaded(Protocol):
    """What runs in a thread: a work, or a step of a flow. ``turn``: who has it begins it."""

    @property
    def ctx(self) -> Wanted: ...

    @property
    def turn(self) -> threading.Lock | None: ...


class Threads:
    """Daemon threads fed by one queue, started only when the ones there are cannot keep up.

    No-op steps never need more than one or two threads, and many waiting threads make each hand-over dearer; blocking
    steps need as many as there are. So while work waits, a look every 2 ms doubles the threads if the process is idle
    or all of them sit on the same step as before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        perform: Callable[[Any, asyncio.AbstractEventLoop], None],
        finished: Callable[[Any], None],
        contexts: Contexts,
    ) -> None:
        self._loop = loop
        self._contexts = contexts
        self._limit = limit
        self._perform = perform
        self._finished = finished
        self._queue: SimpleQueue[Threaded | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._current: list[Threaded | None] = []
        self._seen: list[int] = []
        self._ticking = False
        self._clocks = (0.0, 0.0)
        self._closed = False

    def put(self, work: Threaded) -> None:
        self._queue.put(work)
        if not self._ticking:
            self._ticking = True
            if not self._threads:
                self._start()
            self._clocks = (time.process_time(), time.perf_counter())
            self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        waiting = self._queue.qsize()
        if not waiting or self._closed:
            self._ticking = False
            return
        count = len(self._threads)
        cpu, clock = time.process_time(), time.perf_counter()
        idle = cpu - self._clocks[0] < 0.7 * (clock - self._clocks[1])
        # Told apart by their addresses: the works themselves would be kept until the next look.
        current = list(map(id, self._current))
        stuck = all(a == b for a, b in zip(current, self._seen, strict=False))
        self._clocks, self._seen = (cpu, clock), current
        # A thread that is between two steps will take what waits: only if all are in one is another needed.
        if all(self._current) and (idle or stuck):
            for _ in range(min(count, waiting, self._limit - count)):
                self._start()
        self._loop.call_later(_TICK, self._tick)

    def _start(self) -> None:
        slot = len(self._threads)
        self._current.append(None)
        thread = threading.Thread(target=self._main, args=(slot,), name=f"gendurable-{slot}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _main(self, slot: int) -> None:
        current, get, loop, finished = self._current, self._queue.get, self._loop, self._finished
        perform, fresh = self._perform, self._contexts.fresh
        while (work := get()) is not None:
            current[slot] = work
            if not work.ctx._cancelled and (work.turn is None or work.turn.acquire(blocking=False)):
                try:
                    fresh().run(perform, work, loop)
                except BaseException as error:  # noqa: BLE001 - without its thread the slot would be lost for ever
                    if isinstance(work, Work):
                        break_off(work, error)
            current[slot] = None
            finished(work)
            del work

    def allow(self, limit: int) -> None:
        """There may be so many from now on; those that are there stay."""
        self._limit = max(self._limit, limit)

    def withdraw(self) -> list[Any]:
        """Take back what no thread has started."""
        taken: list[Any] = []
        while True:
            try:
                work = self._queue.get_nowait()
            except Empty:
                return taken
            if work is not None:
                taken.append(work)

    def close(self) -> None:
        """Let every thread end after its step; those that sit in a step for ever are daemons."""
        # One more would take what one of those here is told to end by.
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    async def join(self, deadline: float) -> int:
        """Wait until they have ended; answers how many have not."""
        while (  # noqa: ASYNC110 - a thread's end sets no event
            alive := sum(thread.is_alive() for thread in self._threads)
        ) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return alive
