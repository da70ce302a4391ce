"""Looking at all that is in the database, for telemetry: how much waits in each queue, and whether anything is wrong.

One engine at a time looks (see `calls.measuring`): who has looked begins the next turn, and others try now and then, in
the middle of one, in case it has ended. Behind a proxy that pools transactions there are no turns, since no lock stays:
there all look, the less often the more they are.
"""

from __future__ import annotations

import asyncio
import random
import time

import psycopg

from .._log import logger
from ..calls import looking, measuring
from ..calls.rows import Finding
from ..errors import GendurableError
from ..telemetry.events import Emit
from ..telemetry.instrument import looks_every
from ..telemetry.looked import Looked, QueueDepth, TableRows
from .link import TROUBLE, Link
from .services import Service

_MISSING = (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)
_AGAIN = 600.0
"""Seconds after which it is tried again where it was refused: rights may have been given meanwhile."""
_UNWANTED = 1.0
"""Seconds between two looks whether anybody wants to know."""
_SHARE = 20
"""A pause lasts so many times as long as the look before it."""
_DOCTOR = 60.0
_MOST = 10_000


class Depth(Service):
    """Looks at every interval that telemetry asks for; where nobody asks, it only sleeps."""

    name = "depth"

    def __init__(self, link: Link, emit: Emit) -> None:
        super().__init__()
        self._link = link
        self._emit = emit
        self._findings: dict[str, str] = {}
        self._doctor_at = 0.0
        self._refused = False

    async def run(self) -> None:
        while True:
            interval = looks_every()
            if interval is None:
                await self._link.drop()
                await asyncio.sleep(_UNWANTED)
                continue
            try:
                pause = await (self._look_anyway(interval) if self._link.pooled else self._try(interval))
            except (*_MISSING, GendurableError) as error:
                await self._refuse(error)
                pause = _AGAIN
            except (*TROUBLE, UnicodeError) as error:
                await self._link.drop()  # and with it the turn
                await self._link.trouble(error)
                pause = interval
            until = time.monotonic() + pause
            # Any thread may change what is wanted.
            while (left := until - time.monotonic()) > 0 and looks_every() == interval:  # noqa: ASYNC110
                await asyncio.sleep(min(_UNWANTED, left))

    async def _try(self, interval: float) -> float:
        """Answers the pause until it is tried again: where it was this engine's turn, until the next one begins."""
        await self._link.open()
        if self._link.pooled:
            return 0.0  # it was found out just now
        await self._link.attempt(measuring.end_turns)
        had, left = await self._link.attempt(measuring.take_turn, interval)
        if not had:
            await self._link.drop()
            # Not at the beginning of a turn, which is for who has had the one before.
            return left + interval * (random.choice((0, 1, 2)) + random.uniform(0.3, 0.9))
        began = time.monotonic()
        took = await self._look(interval)
        return max(left - (time.monotonic() - began), _SHARE * took) + 0.01

    async def _look_anyway(self, interval: float) -> float:
        depths = await self._link.attempt(measuring.depths)
        many = max((row[8] for row in depths), default=1)
        pause = interval * max(1, many) * random.uniform(0.8, 1.2)
        took = await self._look(pause)
        return max(pause, _SHARE * took)

    async def _look(self, interval: float) -> float:
        """Look, and tell; answers how many seconds it took."""
        began = time.perf_counter()
        queues = {row[0]: QueueDepth(*row[1:]) for row in await self._link.attempt(measuring.depths)}
        tables = {row[0]: TableRows(*row[1:]) for row in await self._link.attempt(measuring.table_rows)}
        failed = await self._link.attempt(looking.count, {"status": "failed"}, _MOST)
        if time.monotonic() >= self._doctor_at:
            self._findings = _worst(await self._link.attempt(looking.doctor))
            self._doctor_at = time.monotonic() + _DOCTOR
        took = time.perf_counter() - began
        self._refused = False
        lasts = max(3 * interval, 2 * _SHARE * took)
        self._emit(Looked(took, failed.instances, lasts, queues, tables, dict(self._findings)))
        return took

    async def _refuse(self, error: Exception) -> None:
        if not self._refused:
            logger.warning("the depth of the queues is not looked at, since that is refused: %s", str(error).strip())
        self._refused = True
        await self._link.drop()


def _worst(findings: list[Finding]) -> dict[str, str]:
    """The level of each check that is not well."""
    found: dict[str, str] = {}
    for finding in findings:
        if finding.level != "ok" and found.get(finding.check) != "problem":
            found[finding.check] = finding.level
    return found
