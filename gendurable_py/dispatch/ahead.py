"""Rows that are claimed before there is a slot for them: of how many, how long they may wait, and what ends that.

With ``prefetch="auto"`` a queue whose steps are short has as many rows ahead as are run in some 20 ms, so that a claim
brings many and no slot waits for one. Only plain rows are claimed ahead (`gd_claim`, "ahead"): they hold up nobody.
Whether there are more of them is known from the last claim alone: it brought all that it asked for.

Steps that become long while rows wait here are what this must survive. What has waited too long is given back, without
burning an attempt, and nothing is claimed ahead for a while: an engine is never much worse than one without.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from .options import Prefetch
from .work import Holding, Work

HORIZON = 0.02
"""Seconds of work that are claimed ahead. None are where steps take longer: by the mean of the squares, in which a few
long ones among many short ones count for what they do, which is to hold the slots."""

LONGEST = 0.05
"""Seconds after which a row that was claimed ahead is given back if no step ends any more, and a third of those after
which it is in any case: a process that gets no processor is late, too, and has no long steps."""
_LOOKS = LONGEST / 2

_MOST = 200
_MEMORY, _LONG_MEMORY = 0.07, 2.0
"""How long the rate counts, and how long that steps were long, in seconds: after that a third of the weight is left."""
_FORGOTTEN = 10 * _MEMORY
_MOST_SKIPPED = 64
"""Claims that bring all they ask for and ask for nothing ahead, behind one that did so in vain: first one, then twice
as many each time. Where all rows have keys, each would lock many that it must leave."""
_REST, _LONGEST_REST = 1.0, 60.0
"""Nothing is claimed ahead for so many seconds after some was given back; twice as long each time it happens again."""


class Pace:
    """How fast one queue works: steps that have ended lately, in what time that was, and how long they were."""

    __slots__ = ("_at", "_ended", "_new", "_new_squares", "_span", "_squares", "_weight", "stands")

    def __init__(self, now: float) -> None:
        self._at = now
        self._ended = self._span = 0.0
        self._weight = self._squares = 0.0
        self._new = 0
        self._new_squares = 0.0
        self.stands = False
        """Whether no step has ended since this was set."""

    def add(self, seconds: float) -> None:
        self._new += 1
        self._new_squares += seconds * seconds
        self.stands = False

    def count(self, now: float) -> int:
        """How many steps end in the horizon, at most as many as have been seen to end."""
        passed = now - self._at
        if passed > 0:
            self._at = now
            left = math.exp(-passed / _LONG_MEMORY)
            self._weight = self._weight * left + self._new
            self._squares = self._squares * left + self._new_squares
            if passed > _FORGOTTEN:  # what is to come has nothing to do with the rate before
                self._ended = self._span = 0.0
            else:
                left = math.exp(-passed / _MEMORY)
                self._ended = self._ended * left + self._new
                self._span = self._span * left + _MEMORY * (1 - left)
            self._new, self._new_squares = 0, 0.0
        if self._squares > self._weight * HORIZON**2:
            return 0
        return min(_MOST, int(self._ended * HORIZON / max(self._span, HORIZON)))


class Backlog(Protocol):
    """Where works wait for a slot."""

    def waiting_since(self, queue: str) -> float | None: ...

    def take_waiting(self, queue: str) -> list[Work]: ...


class Ahead:
    """What one database has ahead, by queue."""

    def __init__(
        self,
        prefetch: Prefetch,
        backlog: Backlog,
        give_back: Callable[[Iterable[Holding]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auto = prefetch == "auto"
        self.fixed = 0 if prefetch == "auto" else prefetch
        """So many rows beyond the free slots, of any kind."""
        self._backlog = backlog
        self._give_back = give_back
        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._more: set[str] = set()
        self._skipped: dict[str, int] = {}
        self._to_skip: dict[str, int] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        self._look_at: float | None = None
        self.allowed = 0
        """How many were to be ahead when that was last asked, in all queues."""

    def ended(self, works: Iterable[Work]) -> None:
        """The steps of these have ended."""
        if self._auto:
            for work in works:
                # One that was cancelled has no end, or not even a beginning.
                if work.ended >= work.started > 0 and (pace := self._paces.get(work.queue)) is not None:
                    pace.add(work.ended - work.started)

    def wanted(self, loads: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """How many plain rows to claim besides those for free slots, by queue; of each its load and its slots."""
        wanted: dict[str, int] = {}
        self.allowed = 0
        if self._auto:
            now = self._clock()
            for queue, (load, slots) in loads.items():
                pace = self._paces.get(queue)
                if pace is None:
                    pace = self._paces[queue] = Pace(now)
                count = pace.count(now)
                if slots == 0 or queue not in self._more or now < self._rests.get(queue, (0.0, 0.0))[0]:
                    continue
                self.allowed += count
                missing = count - max(0, load - slots)
                # All at once: a claim for each that ends would be as dear as it is without.
                if missing > 0 and (load < slots or missing > count // 2):
                    wanted[queue] = missing
        return wanted

    def claimed(self, asked: Mapping[str, int], got: Mapping[str, int], ahead: Mapping[str, int]) -> None:
        """A claim asked for so many rows of each queue, of which so many were to be ahead, and got these."""
        if not self._auto:
            return
        for queue, number in asked.items():
            came, besides = got.get(queue, 0), ahead.get(queue, 0)
            is_full = came >= number > 0
            if besides and came > number - besides:
                self._skipped.pop(queue, None)
                self._to_skip.pop(queue, None)
            elif besides:
                again = min(2 * self._skipped.get(queue, 0) or 1, _MOST_SKIPPED)
                self._skipped[queue] = self._to_skip[queue] = again
            elif is_full and self._to_skip.get(queue):
                self._to_skip[queue] -= 1
            if is_full and not self._to_skip.get(queue):
                self._more.add(queue)
            else:
                self._more.discard(queue)
        if self._look_at is None and any(self._backlog.waiting_since(queue) is not None for queue in asked):
            self._look_later()

    def _look_later(self) -> None:
        self._look_at = self._clock() + _LOOKS
        asyncio.get_running_loop().call_later(_LOOKS, self.look)

    def look(self) -> None:
        """Give back what waits too long, and look again while something waits."""
        now = self._clock()
        late = self._look_at is not None and now - self._look_at > _LOOKS / 2
        self._look_at = None
        for queue, pace in self._paces.items():
            since = self._backlog.waiting_since(queue)
            if since is None:
                continue
            # Where this process was held up itself, what has ended meanwhile is told only now.
            if now - since > (LONGEST if pace.stands and not late else 3 * LONGEST):
                until, rest = self._rests.get(queue, (0.0, 0.0))
                rest = min(2 * rest, _LONGEST_REST) if rest and now - until < 10 * rest else _REST
                self._rests[queue] = now + rest, rest
                self._give_back(self._backlog.take_waiting(queue))
            elif self._look_at is None:
                self._look_later()
            pace.stands = True
