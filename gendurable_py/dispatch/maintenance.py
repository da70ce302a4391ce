"""Maintenance: `calls.maintain` and the collector now and then, on one node or on all of them.

The server sees to it that one session does each at a time. What takes long is left room for others.
"""

from __future__ import annotations

import asyncio
import random
import time

from .._log import logger
from ..calls import operating
from ..telemetry.events import Emit, Maintained
from .collect import BATCH, Collector
from .link import TROUBLE, Link
from .options import Options
from .services import Service

_SHORTEST_PAUSE = 0.05
_IDLE = 1.0


class Maintenance(Service):
    """Both at every ``reap_interval``, and as long as there is more to do: in turn, on one connection."""

    name = "maintenance"

    def __init__(self, link: Link, emit: Emit, options: Options) -> None:
        assert options.reap_interval is not None
        super().__init__()
        self._link = link
        self._emit = emit
        self._reap_interval = options.reap_interval
        self._retention = options.retention
        self._collector = Collector(lambda: link.attempt(operating.gc, self._retention, BATCH), emit)

    async def run(self) -> None:
        maintain_at = collect_at = time.monotonic() + self._pause()
        while True:
            await asyncio.sleep(min(maintain_at, collect_at) - time.monotonic())
            maintains = maintain_at <= collect_at
            pause: float | None = None
            try:
                pause = await (self._maintain() if maintains else self._collector.collect())
            except TROUBLE as error:
                await self._link.trouble(error)
            at = time.monotonic() + (self._pause() if pause is None else pause)
            if maintains:
                maintain_at = at
            else:
                collect_at = at
            if min(maintain_at, collect_at) - time.monotonic() > _IDLE:
                await self._link.drop()

    def _pause(self) -> float:
        # With jitter: nodes that were started together must not call together for ever.
        return self._reap_interval * random.uniform(0.8, 1.2)

    async def _maintain(self) -> float | None:
        """Answers the pause before the next call; None: there is no more to do for now."""
        started = time.perf_counter()
        done = await self._link.attempt(operating.maintain, self._retention)
        took = time.perf_counter() - started
        overdue = done.get("overdue")
        if isinstance(overdue, (int, float)) and done.get("ran") is True:
            self._collector.overdue = float(overdue)
        said = ("overdue", "ran", "more", "errors")
        counts = {key: value for key, value in done.items() if isinstance(value, int) and key not in said}
        rest = {"ran": True, "more": False, "errors": {}, "overdue": 0.0} | {
            key: value for key, value in done.items() if key not in counts
        }
        for problem in _list_errors(done.get("errors")):
            logger.warning("gd_maintain could not do all: %s", problem)
        self._emit(Maintained(counts, took, rest))
        # What is left to remove is the collector's. As much is left to others as this took: nobody waits for it.
        return max(_SHORTEST_PAUSE, took) if done.get("more") is True and counts.get("reaped") else None


def _list_errors(errors: object) -> list[object]:
    """What went wrong, part by part, however the server arranged it."""
    if isinstance(errors, dict):
        return [f"{part}: {said}" for part, said in errors.items()]
    return errors if isinstance(errors, list) else [errors] if errors else []
