"""Rate limits: what was started when, and whether it was ever more than a bucket gives."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """A claim of a limited row: its bucket and weight, and between which times (seconds of one clock) it was made."""

    bucket: str
    weight: float
    began: float
    ended: float


def excess(starts: Iterable[Start], rate: float, burst: float, firsts: int = 1_000_000) -> float:
    """How much more was started, in the worst of all windows, than burst + rate * T: 0 or less if the limit held.

    A claim was made at some time between its begin and its return. So what lies in a window for certain is what began
    behind the begin of the first and returned before the return of the last, and the window is at least as long as from
    that begin to that return. For each begin, from the last one on, the ends behind it are walked in order; of more
    than `firsts` begins for every n-th.
    """
    worst = float("-inf")
    by_bucket: dict[str, list[Start]] = defaultdict(list)
    for start in starts:
        by_bucket[start.bucket].append(start)
    for bucket in by_bucket.values():
        behind: list[tuple[float, float]] = []
        every = 1 + len(bucket) // firsts
        for at, start in enumerate(sorted(bucket, key=lambda one: one.began, reverse=True)):
            insort(behind, (start.ended, start.weight))
            if at % every:
                continue
            weight = 0.0
            for ended, one in behind:
                weight += one
                worst = max(worst, weight - burst - rate * (ended - start.began))
    return worst
