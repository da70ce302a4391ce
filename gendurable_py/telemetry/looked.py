"""What one engine at a time has seen of all that is in its database: an event as those of `events`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .events import Event


class QueueDepth(NamedTuple):
    """A queue, as the view gd_queues has it; ``oldest_due``: for how many seconds the first of the due rows waits."""

    due: int
    delayed: int
    executing: int
    parked: int
    limited: int
    oldest_due: float | None
    paused: bool
    workers: int
    slots: int


class TableRows(NamedTuple):
    """A table of ours, as the server's statistics estimate it."""

    live: int
    dead: int


@dataclass(frozen=True, slots=True)
class Looked(Event):
    """It was this engine's turn to look, since telemetry wants to know it.

    ``failed``: failed instances that are kept, 10,000 at most. ``lasts``: for how many seconds this is to be shown.
    ``queues``: a `QueueDepth` by name. ``tables``: `TableRows` by name. ``findings``: the checks of `doctor` that are
    not well, and their level.
    """

    name = "depth"
    numbers = ("seconds", "failed", "lasts")

    seconds: float
    failed: int
    lasts: float
    queues: Mapping[str, QueueDepth]
    tables: Mapping[str, TableRows]
    findings: Mapping[str, str]


class Latest:
    """The last look, as long as it is worth showing: afterwards it is somebody else's turn, or nobody can look."""

    def __init__(self) -> None:
        self._seen: tuple[float, float, Looked] | None = None

    def hear(self, looked: Looked) -> None:
        """The next one."""
        self._seen = (time.monotonic(), time.time(), looked)

    def get(self) -> tuple[float, Looked] | None:
        """When it was (seconds of the epoch), and what was seen; None: nothing that still holds. From any thread."""
        seen = self._seen
        if seen is None or time.monotonic() - seen[0] > seen[2].lasts:
            return None
        return seen[1], seen[2]


def most_first(queues: Mapping[str, QueueDepth], most: int) -> dict[str, QueueDepth]:
    """So many queues, those with the most due rows first; all others as one that is called ``other``."""
    if len(queues) <= most:
        return dict(queues)
    ranked = sorted(queues.items(), key=lambda item: (-item[1].due, -item[1].executing, item[0]))
    found = dict(ranked[:most])
    rest = [depth for _, depth in ranked[most:]] + ([found.pop("other")] if "other" in found else [])
    waits = [depth.oldest_due for depth in rest if depth.oldest_due is not None]
    found["other"] = QueueDepth(
        due=sum(depth.due for depth in rest),
        delayed=sum(depth.delayed for depth in rest),
        executing=sum(depth.executing for depth in rest),
        parked=sum(depth.parked for depth in rest),
        limited=sum(depth.limited for depth in rest),
        oldest_due=max(waits, default=None),
        paused=all(depth.paused for depth in rest),
        workers=max(depth.workers for depth in rest),
        slots=sum(depth.slots for depth in rest),
    )
    return found
