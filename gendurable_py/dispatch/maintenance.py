"""Maintenance: `calls.maintain` now and then, on one node or on all of them.

The server sees to it that one session does it at a time. What takes long is left room for others.
"""

from __future__ import annotations

import asyncio
import random
import time

from .._log import logger
from ..calls import operating
from ..telemetry.events import Emit, Maintained
from .link import TROUBLE, Link
from .options import Options
from .services import Service

_SHORTEST_PAUSE = 0.05


class Maintenance(Service):
    """Calls at every ``reap_interval``, and as long as there is more to do."""

    name = "maintenance"

    def __init__(self, link: Link, emit: Emit, options: Options) -> None:
        assert options.reap_interval is not None
        super().__init__()
        self._link = link
        self._emit = emit
        self._reap_interval = options.reap_interval
        self._retention = options.retention
        self._took = 0.0

    async def run(self) -> None:
        while True:
            # With jitter: nodes that were started together must not call together for ever.
            await asyncio.sleep(self._reap_interval * random.uniform(0.8, 1.2))
            until = time.monotonic() + self._reap_interval
            try:
                while await self._maintain() and time.monotonic() < until:  # noqa: ASYNC110 - it polls the server
                    # As much is left to others as this took: it is work that nobody waits for.
                    await asyncio.sleep(max(_SHORTEST_PAUSE, self._took))
            except TROUBLE as error:
                await self._link.trouble(error)
            await self._link.drop()

    async def _maintain(self) -> bool:
        """Answers whether there is more to do."""
        started = time.perf_counter()
        done = await self._link.attempt(operating.maintain, self._retention)
        self._took = time.perf_counter() - started
        counts = {key: value for key, value in done.items() if isinstance(value, int) and not isinstance(value, bool)}
        rest = {"ran": True, "more": False, "errors": {}} | {k: value for k, value in done.items() if k not in counts}
        for said in _list_errors(done.get("errors")):
            logger.warning("gd_maintain could not do all: %s", said)
        self._emit(Maintained(counts, self._took, rest))
        return done.get("more") is True


def _list_errors(errors: object) -> list[object]:
    """What went wrong, part by part, however the server arranged it."""
    if isinstance(errors, dict):
        return [f"{part}: {said}" for part, said in errors.items()]
    return errors if isinstance(errors, list) else [errors] if errors else []
