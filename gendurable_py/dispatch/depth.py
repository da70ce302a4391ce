"""Looking at all that is in the database, for telemetry: how much waits in each queue, and whether anything is wrong.

One engine at a time looks (see `calls.measuring`): who has looked begins the next turn, and others ask now and then, in
the middle of one, in case it has ended. They ask over the connection of the heartbeats, and have one of their own only
once it is worth a try. After a slow look nobody looks for a while: whoever has made it says so to all, as long as it
lives. Behind a proxy that pools transactions there are no turns, since no lock stays: there all look, the less often
the more they are.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import ParamSpec, Protocol, TypeVar

import psycopg

from .._log import logger
from .._statement import Call
from ..calls import looking, measuring
from ..calls.rows import Finding
from ..errors import GendurableError
from ..telemetry.events import Emit
from ..telemetry.instrument import looks_every
from ..telemetry.looked import Looked, QueueDepth, TableRows
from .link import TROUBLE, Link
from .services import Service

P = ParamSpec("P")
R = TypeVar("R")

_MISSING = (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)
_AGAIN = 600.0
"""Seconds after which it is tried again where it was refused: rights may have been given meanwhile."""
_UNWANTED = 1.0
"""Seconds between two looks whether anybody wants to know."""
_SHARE = 20
"""All pause for so many times as long as a look has taken, and for `_LONGEST` seconds at most."""
_LONGEST = 3600.0
_DOCTOR = 60.0
_MOST = 10_000


class Lending(Protocol):
    """Whoever has a connection that is always there (see `heartbeat`)."""

    async def lend(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Depth(Service):
    """Looks at every interval that telemetry asks for; where nobody asks, it only sleeps."""

    name = "depth"

    def __init__(self, link: Link, beats: Lending, emit: Emit) -> None:
        super().__init__()
        self._link = link
        self._beats = beats
        self._emit = emit
        self._findings: dict[str, str] = {}
        self._doctor_at = 0.0
        self._refused = False
        self._many = 1
        self._began: float | None = None
        self._told: list[int] = []

    async def run(self) -> None:
        while True:
            interval = looks_every()
            if interval is None:
                await self._link.drop()
                await asyncio.sleep(_UNWANTED)
                continue
            self._began = None
            try:
                pause = await (self._look_anyway(interval) if self._link.pooled else self._try(interval))
            except (*_MISSING, GendurableError) as error:
                await self._refuse(error)
                pause = _AGAIN
            except (*TROUBLE, UnicodeError) as error:
                took = 0.0 if self._began is None else time.perf_counter() - self._began
                await self._link.drop()  # and with it the turn
                await self._link.trouble(error)
                pause = await self._rest_after(error, took, interval)
            until = time.monotonic() + pause
            # Any thread may change what is wanted.
            while (left := until - time.monotonic()) > 0 and looks_every() == interval:  # noqa: ASYNC110
                await asyncio.sleep(min(_UNWANTED, left))

    async def _try(self, interval: float) -> float:
        """Answers the pause until it is tried again: where it was this engine's turn, until the next one begins."""
        if self._link.conn is None:
            kept_off = await self._beats.lend(measuring.kept_off, interval)
            if kept_off > 0:
                return _later(kept_off, interval)
        await self._link.open()
        if self._link.pooled:
            return 0.0  # it was found out just now
        await self._link.attempt(measuring.end_turns)
        self._told = []
        had, left = await self._link.attempt(measuring.take_turn, interval)
        kept_off = await self._link.attempt(measuring.kept_off, interval) if had else left
        if kept_off > 0:
            await self._link.drop()
            return _later(kept_off, interval)
        began = time.monotonic()
        took = await self._look(interval)
        rest = self._rest(took)
        done = self._told
        if rest > left:
            self._told = [await self._link.attempt(measuring.keep_off, rest)]
        await self._link.attempt(measuring.let_in, done)
        return max(left - (time.monotonic() - began), rest) + 0.01

    async def _look_anyway(self, interval: float) -> float:
        depths = await self._link.attempt(measuring.depths)
        self._many = max((row[8] for row in depths), default=1) or 1
        pause = interval * self._many * random.uniform(0.8, 1.2)
        took = await self._look(pause)
        return max(pause, self._rest(took))

    async def _look(self, interval: float) -> float:
        """Look, and tell; answers how many seconds it took."""
        self._began = began = time.perf_counter()
        queues = {row[0]: QueueDepth(*row[1:]) for row in await self._ask(measuring.depths)}
        tables = {row[0]: TableRows(*row[1:]) for row in await self._ask(measuring.table_rows)}
        failed = await self._ask(looking.count, {"status": "failed"}, _MOST)
        if time.monotonic() >= self._doctor_at:
            self._findings = _worst(await self._ask(looking.doctor))
            self._doctor_at = time.monotonic() + _DOCTOR
        took = time.perf_counter() - began
        self._began = None
        self._refused = False
        lasts = max(3 * interval, 2 * self._rest(took))
        self._emit(Looked(took, failed.instances, lasts, queues, tables, dict(self._findings)))
        return took

    def _rest(self, took: float) -> float:
        return min(_SHARE * took * self._many, _LONGEST)

    async def _ask(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """A part of a look. Nobody else begins one while it lasts, or, if this process hangs, for as long as it may."""
        if not self._link.pooled:
            self._told.append(await self._link.attempt(measuring.keep_off, self._link.timeout))
        return await self._link.attempt(call, *args, **kwargs)

    async def _rest_after(self, error: BaseException, took: float, interval: float) -> float:
        """The pause after a look that has failed when it had taken so long: it has cost the server as much as others,
        unless it has waited for a lock, or the server cannot be told, which then was not there."""
        pause = self._rest(took)
        if pause <= interval or isinstance(error, psycopg.errors.LockNotAvailable):
            return interval
        if not self._link.pooled:
            try:
                await self._link.attempt(measuring.keep_off, pause)
            except TROUBLE:
                await self._link.drop()
                return interval
        return pause

    async def _refuse(self, error: Exception) -> None:
        if not self._refused:
            logger.warning("the depth of the queues is not looked at, since that is refused: %s", str(error).strip())
        self._refused = True
        await self._link.drop()


def _later(kept_off: float, interval: float) -> float:
    """Not at the beginning of a turn, which is for who has had the one before; and not only when a rest is over, which
    may end sooner, with whoever has said so."""
    return min(kept_off, interval) + interval * (random.choice((0, 1, 2)) + random.uniform(0.3, 0.9))


def _worst(findings: list[Finding]) -> dict[str, str]:
    """The level of each check that is not well."""
    found: dict[str, str] = {}
    for finding in findings:
        if finding.level != "ok" and found.get(finding.check) != "problem":
            found[finding.check] = finding.level
    return found
