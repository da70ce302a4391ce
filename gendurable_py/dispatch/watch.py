"""The watch over the loop that heartbeats depend on: when it stands still, what does it do?

A service that ticks on the loop, and a thread that looks at it from outside.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from .._log import logger
from ..telemetry.events import Blocked, Emit
from .services import Failed, Service
from .work import Work

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARIES = tuple(
    os.path.join(path, "")
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)
_LONG = 5


class _Reason(NamedTuple):
    """Why it was late: in words, and for the event. Not with the work, which would be kept until the next time."""

    says: str
    cause: str
    where: str | None = None
    id: int | None = None
    fsm: str | None = None
    step: str | None = None


class LoopWatch(Service):
    """Tells when the loop was late, and why.

    The limit is half of the heartbeat interval, at most a second.
    """

    name = "watch"

    def __init__(
        self, heartbeat_interval: float, working: Callable[[asyncio.Task[object] | None], Work | None], emit: Emit
    ) -> None:
        super().__init__()
        self._tick = min(1.0, heartbeat_interval / 4)
        self._limit = min(1.0, heartbeat_interval / 2)
        self._emit = emit
        self._watch = Watch(self._limit, working)

    def start(self, failed: Failed) -> None:
        self._watch.start()
        super().start(failed)

    async def stop(self) -> None:
        await super().stop()
        self._watch.stop()

    def blocked(self) -> float:
        """From any thread: for how many seconds the loop has stood still, where that is more than the limit."""
        late = self._watch.late()
        return late if late > self._limit else 0.0

    async def run(self) -> None:
        while True:
            self._watch.expect(self._tick)
            await asyncio.sleep(self._tick)
            late = self._watch.rest()
            if late > self._limit:
                why = self._watch.verdict(late)
                logger.warning("the event loop was blocked for %.1f s, which delays heartbeats: %s", late, why.says)
                self._emit(Blocked(late, *why[1:]))


class Watch:
    """A thread that wakes up twice within the time that a loop may be late, and does nothing while it is not.

    Where the loop is late and this thread is not, a call on the loop's thread takes long, and its frames tell which.
    Where this thread is late too, the whole process stood still, or something kept the interpreter to itself.
    """

    def __init__(self, limit: float, working: Callable[[asyncio.Task[object] | None], Work | None]) -> None:
        self._limit = limit
        self._working = working
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="gendurable watch", daemon=True)
        self._seen: tuple[float, _Reason] | None = None
        self._due = math.inf
        self._last = 0.0
        self._cpu = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(1)

    def expect(self, seconds: float) -> None:
        """On the loop: it will be there again after so many seconds."""
        self._cpu = time.process_time()
        self._due = time.monotonic() + seconds

    def late(self) -> float:
        """From any thread: for how long it has been expected."""
        return max(0.0, time.monotonic() - self._due)

    def rest(self) -> float:
        """On the loop: here it is, and until it expects something again it may be anywhere. Answers how late it was."""
        self._last, self._due = self._due, math.inf
        return time.monotonic() - self._last

    def verdict(self, late: float) -> _Reason:
        """Why it was, in words and for an event."""
        if self._seen is not None and self._seen[0] == self._last:
            return self._seen[1]
        if time.process_time() - self._cpu < late / 20:
            return _Reason("the process was suspended, or the machine had no time for it", "suspended")
        return _BUSY

    def _main(self) -> None:
        every = self._limit / 2
        woke, told = time.monotonic(), 0.0
        while not self._ended.wait(every):
            now, due = time.monotonic(), self._due
            in_time, woke = now - woke < every + self._limit / 2, now
            late = now - due
            if late < every or not in_time:
                continue
            seen = self._look_at_loop()
            if self._due == due:  # else it went on meanwhile
                self._seen = due, seen
                if late > _LONG * self._limit and told != due:
                    told = due
                    logger.warning("the event loop is blocked, for %.1f s so far: %s", late, seen.says)

    def _look_at_loop(self) -> _Reason:
        frame = sys._current_frames().get(self._loop_thread)
        task = asyncio.current_task(self._loop)
        frames: list[FrameType] = []
        while frame is not None and frame.f_code.co_name not in ("_run_once", "run_forever"):
            frames.append(frame)
            frame = frame.f_back
        if task is None and (not frames or frames[0].f_code.co_name == "select"):
            return _BUSY
        # What was called is more often a library's than the one who should not have called it.
        place = next((frame for frame in frames if _is_users(frame.f_code.co_filename)), frames[0] if frames else None)
        where = "" if place is None else f"{place.f_code.co_filename}:{place.f_lineno} in {place.f_code.co_name}"
        work = self._working(task)
        if work is not None:
            who = (
                f"step {work.row.step} of {work.row.fsm} {work.row.id}"
                if work.flow is None
                else f"{work.row.fsm} {work.row.id}"
            )
        else:
            who = "a callback" if task is None else f"the task {task.get_name()!r}"
        about = (None, None, None) if work is None else (work.row.id, work.row.fsm, work.row.step)
        return _Reason(f"{who} made a call that blocks{f' ({where})' if where else ''}", "call", where or None, *about)


_BUSY = _Reason(
    "other threads kept the interpreter from it (a call that holds its lock, or too many that compute)", "busy"
)


def _is_users(name: str) -> bool:
    return not name.startswith((_OURS, "<frozen", *_LIBRARIES))
