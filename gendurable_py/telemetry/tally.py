"""Counting the steps that end, so cheaply that the loop does not feel it.

A number is put into a list, and only who asks for the sums, or a thousand steps later the loop, sorts it into its
buckets. With the library's own objects, three locks and four calls for each step, the loop would feel it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the seconds of a histogram."""
OTHER = "other"
"""In place of names that are too many."""


class Names:
    """So many names are told apart; those that come later are called ``other``. For names that users choose."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def call(self, *names: str) -> tuple[str, ...]:
        """These names, or as many times ``other``."""
        if names not in self._known:
            with self._lock:
                if len(self._known) >= self._most:
                    return (OTHER,) * len(names)
                self._known.add(names)
        return names


class _Cell:
    """What is known of one machine, step and outcome."""

    __slots__ = ("buckets", "seconds", "waiting")

    def __init__(self) -> None:
        self.waiting: list[float] = []
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def settle(self) -> None:
        """One thread at a time; others may append meanwhile. Sorted all at once, a number costs a tenth of a loop."""
        count = len(self.waiting)
        part = self.waiting[:count]
        del self.waiting[:count]
        part.sort()
        before = 0
        for place, bound in enumerate(BUCKETS):
            until = bisect_right(part, bound, before)
            self.buckets[place] += until - before
            before = until
        self.buckets[-1] += count - before
        self.seconds += sum(part) if not part or part[0] >= 0 else sum(max(0.0, each) for each in part)


class Sums(NamedTuple):
    """How many steps ended so, by bucket of their seconds (the last one is without a bound), and their sum."""

    fsm: str
    step: str
    outcome: str
    buckets: list[int]
    seconds: float


class Tally:
    """Steps by machine, step and outcome. Machines and steps beyond ``names`` are counted together."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._cells: dict[tuple[str, ...], _Cell] = {}
        self._lock = threading.Lock()

    def teller(self, fsm: str, step: str, outcome: str) -> Callable[[float], None]:
        """What the seconds of such a step are told to: from any thread, it waits for nobody."""
        cell = self._cells.setdefault((*self._names.call(fsm, step), outcome), _Cell())
        with self._lock:
            cell.settle()
        return cell.waiting.append

    def settle(self) -> None:
        """Sort what was told, unless somebody is just doing it."""
        if self._lock.acquire(blocking=False):
            try:
                for cell in list(self._cells.values()):
                    if cell.waiting:
                        cell.settle()
            finally:
                self._lock.release()

    def sums(self) -> Iterator[Sums]:
        """From any thread."""
        for (fsm, step, outcome), cell in list(self._cells.items()):
            with self._lock:
                cell.settle()
                sums = Sums(fsm, step, outcome, list(cell.buckets), cell.seconds)
            yield sums
