"""A look at the loop from outside of it: when it stands still, what does it do?"""

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

from .._log import logger
from .work import Work, about

_OURS = os.path.dirname(__file__) + os.sep
_LIBRARIES = tuple(
    os.path.join(path, "")
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)
_LONG = 5

_Reason = tuple[str, dict[str, object]]


class Watch:
    """A thread that wakes up twice within the time that a loop may be late, and does nothing while it is not.

    Where the loop is late and this thread is not, a call on the loop's thread takes long, and its frames tell which.
    Where this thread is late too, the whole process stood still, or something kept the interpreter to itself.
    """

    def __init__(self, limit: float, working: Callable[[asyncio.Task[object]], Work | None]) -> None:
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

    def rest(self) -> float:
        """On the loop: here it is, and until it expects something again it may be anywhere. Answers how late it was."""
        self._last, self._due = self._due, math.inf
        return time.monotonic() - self._last

    def verdict(self, late: float) -> _Reason:
        """Why it was, in words and for an event."""
        if self._seen is not None and self._seen[0] == self._last:
            return self._seen[1]
        if time.process_time() - self._cpu < late / 20:
            return _reason("suspended", "the process was suspended, or the machine had no time for it")
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
            seen = self._look()
            if self._due == due:  # else it went on meanwhile
                self._seen = due, seen
                if late > _LONG * self._limit and told != due:
                    told = due
                    logger.warning("the event loop is blocked, for %.1f s so far: %s", late, seen[0])

    def _look(self) -> _Reason:
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
        work = None if task is None else self._working(task)
        if work is not None:
            who = f"step {work.row.step} of {work.row.fsm} {work.row.id}"
        else:
            who = "a callback" if task is None else f"the task {task.get_name()!r}"
        return _reason("call", f"{who} made a call that blocks{f' ({where})' if where else ''}", where or None, work)


def _reason(cause: str, says: str, where: str | None = None, work: Work | None = None) -> _Reason:
    what = {"id": None, "fsm": None, "step": None} if work is None else about(work)
    return says, {"cause": cause, "where": where, **what}


_BUSY = _reason(
    "busy", "other threads kept the interpreter from it (a call that holds its lock, or too many that compute)"
)


def _is_users(name: str) -> bool:
    return not name.startswith((_OURS, "<frozen", *_LIBRARIES))
