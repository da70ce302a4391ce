"""Heartbeats: the leases of all that is held are renewed, on a connection that nothing else can hold up.

A step whose claim turns out to be lost is told, and ended if it is a task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .._log import logger
from ..calls import working
from ..telemetry.events import Emit, Heartbeat, Lost
from .link import TROUBLE, Link
from .options import Options
from .services import Service
from .work import Held


class Heartbeats(Service):
    """Beats at every ``heartbeat_interval``; after a failure at once again, since the leases run out meanwhile."""

    name = "heartbeat"

    def __init__(self, link: Link, held: Held, emit: Emit, options: Options, doubted: Callable[[], None]) -> None:
        """``doubted``: called when some claims seem to be lost."""
        super().__init__()
        self._link = link
        self._held = held
        self._emit = emit
        self._doubted = doubted
        self._heartbeat_interval = options.heartbeat_interval
        self._lease_ttl = options.lease_ttl

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_interval)
            while not await self._beat():  # noqa: ASYNC110 - it asks the server
                await asyncio.sleep(min(1.0, self._heartbeat_interval / 4))

    async def _beat(self) -> bool:
        claims = self._held.claims()
        if not claims:
            return True
        started = time.perf_counter()
        try:
            lost = await self._link.attempt(working.heartbeat, self._held.worker, claims, self._lease_ttl)
        except TROUBLE as error:
            await self._link.trouble(error)
            return False
        for id, claim_no in lost:
            work = self._held.get(id, claim_no)
            if work is not None and work.doubt():
                logger.info("the claim of %s %s (step %s) is lost", work.row.fsm, id, work.row.step)
                self._held.drop(work)  # told once, however long the step goes on
                self._emit(Lost(id, work.row.fsm, work.row.step))
        if lost:
            self._doubted()
        self._emit(Heartbeat(len(claims), len(lost), time.perf_counter() - started))
        return True
