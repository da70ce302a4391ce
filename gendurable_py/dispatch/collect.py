"""Collecting: `calls.gc` batch by batch, in a share of the time, as long as there is something to remove.

Whoever finishes a thousand instances a second has a thousand removed a second, and nobody notices: a batch takes some
milliseconds, and most of the time there is none. The server sees to it that one session collects at a time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ..telemetry.events import Collected, Emit

BATCH = 2000
"""Instances that a call removes at most: some ten milliseconds."""
_SHARE = 0.1
_SHARE_OVERDUE = 0.5
_OVERDUE = 60.0
_SHORTEST_PAUSE = 0.01
_LONG = 1.0


class Collector:
    """What a node has removed, and when it does so again. ``remove`` calls the server, and answers how many."""

    def __init__(self, remove: Callable[[], Awaitable[int]], emit: Emit) -> None:
        self._remove = remove
        self._emit = emit
        self.overdue = 0.0
        """For how many seconds the oldest has been waiting for its removal, as `calls.maintain` last told."""

    async def collect(self) -> float | None:
        """Remove a batch. Answers the pause before the next; None: there is no more to remove for now."""
        started = time.perf_counter()
        removed = await self._remove()
        took = time.perf_counter() - started
        self._emit(Collected(removed, took))
        # A batch that ran out of time is no sign that there is nothing left.
        if removed < BATCH / 2 and not (removed and took >= _LONG):
            self.overdue = 0.0
            return None
        # By and by, not at once after a minute: where more ends than a tenth removes, the table finds its size early.
        share = _SHARE + (_SHARE_OVERDUE - _SHARE) * min(1.0, self.overdue / _OVERDUE)
        return max(_SHORTEST_PAUSE, took * (1 / share - 1))
