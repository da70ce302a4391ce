"""Counting the steps that end, so cheaply that the loop does not feel it.

A number is put into a list, and only who asks for the sums, or a list that has become long, sorts it into its buckets.
With the library's own objects, three locks and four calls for each step, the loop would feel it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the seconds of a histogram."""
OTHER = "other"
"""In place of names that are too many."""

_LONG = 1000


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
        self.waiting: deque[float] = deque()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def settle(self) -> None:
        while self.waiting:
            seconds = max(0.0, self.waiting.popleft())
            self.buckets[bisect_left(BUCKETS, seconds)] += 1
            self.seconds += seconds


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
        self._cells: dict[tuple[str, str, str], _Cell] = {}
        self._told: dict[tuple[str, str, str], _Cell] = {}
        self._lock = threading.Lock()

    def ended(self, fsm: str, step: str, outcome: str, seconds: float) -> None:
        """Called on the loops of engines: it waits for nobody."""
        cell = self._cells.get((fsm, step, outcome))
        if cell is None:
            cell = self._find(fsm, step, outcome)
        waiting = cell.waiting
        waiting.append(seconds)
        if len(waiting) > _LONG and self._lock.acquire(blocking=False):
            try:
                cell.settle()
            finally:
                self._lock.release()

    def _find(self, fsm: str, step: str, outcome: str) -> _Cell:
        named = (*self._names.call(fsm, step), outcome)
        cell = self._told.setdefault(named, _Cell())  # type: ignore[arg-type]
        if named == (fsm, step, outcome):
            self._cells[named] = cell
        return cell

    def sums(self) -> Iterator[Sums]:
        """From any thread."""
        for (fsm, step, outcome), cell in list(self._told.items()):
            with self._lock:
                cell.settle()
                sums = Sums(fsm, step, outcome, list(cell.buckets), cell.seconds)
            yield sums
