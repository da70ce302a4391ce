"""Claimed rows whose step is a function of the database: which of them go with the next call, and how many may wait.

A call is a transaction, and reaches what it can in a tenth of a second. What it did not reach comes back in front; what
has met a lock comes back alone, after a pause that grows, so that nobody waits for its lock again and again.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque

from .work import InSql

_MOST = 200
"""Claims of one call: what it does not reach it has looked at in vain."""
_FIRST = 50

# What waits here is what takes about so long; the rest may be had by others.
_AHEAD = 1.0
_LEAST_AHEAD = 4
_MOST_AHEAD = 1000
# What waits for locks does not count against claiming, up to this.
_MOST_LOCKED = 1000

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 5.0
_PAUSE_EACH = 0.5
_FIRST_FAULT = 0.5
_LONGEST_FAULT = 60.0


class Backlog:
    """What waits for the connection of steps in SQL."""

    def __init__(self) -> None:
        self._todo: deque[InSql] = deque()
        self._locked: list[tuple[float, int, InSql]] = []
        self._number = 0
        self._turn = False
        self._size = _FIRST
        self._ahead = _MOST
        self._full = False

    def is_full(self, running: int) -> bool:
        """Whether enough waits, with what is running; then until half of it is done."""
        waiting = len(self._todo) + running + max(0, len(self._locked) - _MOST_LOCKED)
        self._full = waiting >= (self._ahead // 2 if self._full else self._ahead)
        return self._full

    @property
    def room(self) -> int:
        """How many more may be had at once."""
        return max(0, min(_MOST, self._ahead - len(self._todo)))

    @property
    def others(self) -> bool:
        """Whether some wait that have met no lock."""
        return bool(self._todo)

    def add(self, work: InSql) -> None:
        self._todo.append(work)

    def put_back(self, works: list[InSql]) -> None:
        """These were not reached: they come before the others."""
        self._todo.extendleft(reversed(works))

    def lock(self, work: InSql) -> None:
        """It met somebody's lock. With many of them the pauses grow, so that each takes little of the time."""
        work.locked += 1
        longest = max(_LONGEST_PAUSE, _PAUSE_EACH * len(self._locked))
        self._wait(work, min(_FIRST_PAUSE * 2 ** min(work.locked - 1, 16), longest))

    def fault(self, work: InSql) -> float:
        """The server cannot commit it now; answers the pause."""
        work.faults += 1
        pause: float = min(_FIRST_FAULT * 2 ** min(work.faults - 1, 16), _LONGEST_FAULT)
        self._wait(work, pause)
        return pause

    def _wait(self, work: InSql, pause: float) -> None:
        self._number += 1
        heapq.heappush(self._locked, (time.monotonic() + pause * random.uniform(0.8, 1.2), self._number, work))

    def next(self) -> list[InSql]:
        """One that has met a lock, alone, or as many of the others as one call may reach: in turn."""
        self._turn = not self._turn
        if self._locked and self._locked[0][0] <= time.monotonic() and (self._turn or not self._todo):
            return [heapq.heappop(self._locked)[2]]
        return [self._todo.popleft() for _ in range(min(self._size, len(self._todo)))]

    def next_at(self) -> float | None:
        """When one that has met a lock is due, on the monotonic clock."""
        return self._locked[0][0] if self._locked else None

    def learn(self, sent: int, ran: int, left: int, seconds: float) -> None:
        """How many a call reaches, and how many make about a second."""
        if left:
            self._size = max(1, min(_MOST, 2 * ran))
        elif sent == self._size:
            self._size = min(_MOST, 2 * self._size)
        if ran:
            wanted = ran / max(seconds, 1e-6) * _AHEAD
            self._ahead = int(max(_LEAST_AHEAD, min(_MOST_AHEAD, (self._ahead + wanted) / 2)))

    def narrow(self, size: int) -> None:
        """Something is wrong with one of so many: fewer at a time, down to one alone, until they get through."""
        self._size = max(1, size)

    def clear(self) -> list[InSql]:
        """Nothing is to be run any more; answers what waited."""
        waiting = [*self._todo, *(work for _, _, work in self._locked)]
        self._todo.clear()
        self._locked.clear()
        return waiting
