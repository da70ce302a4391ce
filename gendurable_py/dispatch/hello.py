"""That this engine lives, what it is and what it can run, said to the server; and what the server says to that.

A server that does not know the call, or a role that may not make it, is told of once: the engine goes on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg

from .._log import logger
from ..calls import serving
from ..calls.rows import Told
from ..errors import GendurableError
from ..machine.codec import dumps
from ..machine.registry import generation, known
from ..telemetry.events import Emit
from ..telemetry.steered import Greeted
from .link import TROUBLE, Link
from .options import Options
from .work import Held

_MISSING = (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege)
"""A role that was not given what is new, or functions of an older release in the place of ours."""
_AGAIN = 600.0
"""Seconds after which it is tried again where it was refused: rights may have been given meanwhile."""
_GOODBYE = 1.0

_MOST_MACHINES = 24_000
_MOST_QUEUES = 12_000
"""Bytes of JSON: a hello has 64,000 at most."""
_MOST_PACKAGES = 100


class Slots(Protocol):
    """How many steps run at once, by queue (see `executor`)."""

    @property
    def limits(self) -> Mapping[str, int]: ...

    @property
    def running(self) -> int: ...


class Steered(Protocol):
    """Does as it is told (see `steering`)."""

    @property
    def state(self) -> str: ...

    def tell_state(self) -> bool: ...

    def apply(self, told: Told) -> bool: ...


class Reporting(Protocol):
    """What was counted (see `counts`)."""

    def report(self) -> dict[str, Any] | None: ...

    def counted(self, no: int | None) -> None: ...


class Hello:
    """Says hello for one engine in one database, over the connection of the heartbeats."""

    def __init__(
        self,
        link: Link,
        held: Held,
        slots: Slots,
        steering: Steered,
        counts: Reporting,
        emit: Emit,
        options: Options,
        *,
        version: str,
        in_sql: Callable[[], int],
        stopping: Callable[[], bool],
    ) -> None:
        """``in_sql``: how many steps run in the database. ``stopping``: whether the engine is about to end."""
        self._link = link
        self._held = held
        self._slots = slots
        self._steering = steering
        self._counts = counts
        self._emit = emit
        self._in_sql = in_sql
        self._stopping = stopping
        self._about = {
            "host": socket.gethostname()[:200] or "?",
            "pid": os.getpid(),
            "version": version,
            "started_at": datetime.now(UTC).isoformat(),
            "interval_ms": max(1000, min(round(options.heartbeat_interval * 1000), 86_400_000)),
            "autoload": sorted(options.autoload)[:_MOST_PACKAGES],
            "sql_steps": options.sql_steps,
        }
        self._machines: list[Any] = []
        self._cut = False
        self._generation = -1
        self._refused_at: float | None = None
        self._clashes = False
        self._noted = True
        self._said: str | None = None
        self.greeted_at: float | None = None
        """When the server last noted it, on the monotonic clock."""

    @property
    def wanted(self) -> bool:
        """Whether it is worth trying now."""
        return self._refused_at is None or time.monotonic() - self._refused_at > _AGAIN

    @property
    def has_news(self) -> bool:
        """Whether it has said another state than it is in now."""
        return self.wanted and self._said is not None and self._said != self._state

    @property
    def _state(self) -> str:
        return "stopping" if self._stopping() else self._steering.state

    async def say(self) -> bool:
        """Say it, do as is told, and say it again if that has changed anything. Answers whether it was noted.

        Raises:
            psycopg.Error, OSError, TimeoutError: the server cannot be asked now.
        """
        self._steering.tell_state()
        self._noted = True
        if self.wanted and await self._say_once():
            await self._say_once()
        return self._noted

    async def _say_once(self) -> bool:
        await self._link.open()  # before the clock is read, since that may take a while
        started = time.perf_counter()
        try:
            told = await self._link.attempt(serving.hello, self._held.name, self._describe())
        except (*_MISSING, GendurableError) as error:
            self._refuse(error)
            return False
        self._refused_at = None
        self._noted = told.noted
        if told.noted:
            self.greeted_at = time.monotonic()
        self._counts.counted(told.counted)
        if told.clash and not self._clashes:
            logger.warning("another process says hello as %s: what one of them is told, both do", self._held.name)
        self._clashes = told.clash
        self._emit(Greeted(time.perf_counter() - started, "noted" if told.noted else "busy", None))
        return self._steering.apply(told)

    def _refuse(self, error: Exception) -> None:
        said = str(error).strip()
        if self._refused_at is None:
            logger.warning("this engine is not seen and cannot be steered, since its hello is refused: %s", said)
            self._emit(Greeted(0.0, "refused", said))
        self._refused_at = time.monotonic()

    def _describe(self) -> dict[str, Any]:
        queues, cut = _cut(list(self._slots.limits.items()), _MOST_QUEUES)
        self._list_machines()
        self._said = self._state
        about = {
            **self._about,
            "at": datetime.now(UTC).isoformat(),
            "queues": dict(queues),
            "machines": self._machines,
            "more": cut or self._cut,
            "listens": not self._link.pooled,
            "state": self._said,
            "running": self._slots.running + self._in_sql(),
        }
        report = self._counts.report()
        return about if report is None else {**about, "counters": report}

    def _list_machines(self) -> None:
        now = generation()
        if now != self._generation:
            self._generation = now
            every = [[spec.name, spec.version, sorted(spec.names)] for spec in known()]
            self._machines, self._cut = _cut(sorted(every), _MOST_MACHINES)

    async def bye(self) -> None:
        """Say the last word, if the server knows this engine: what it has counted, and that it is gone."""
        if self.greeted_at is None:
            return
        self.greeted_at = None
        with contextlib.suppress(*TROUBLE, GendurableError):
            async with asyncio.timeout(_GOODBYE):
                if self._counts.report() is not None:
                    await self._link.attempt(serving.hello, self._held.name, self._describe())
                await self._link.attempt(serving.bye, self._held.name)


def _cut(items: list[Any], most: int) -> tuple[list[Any], bool]:
    """As many as fit into so many bytes of JSON, and whether that leaves some out."""
    length = 0
    for number, item in enumerate(items):
        length += len(dumps(item)) + 2
        if length > most:
            return items[:number], True
    return items, False
