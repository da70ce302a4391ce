"""A connection of the engine that comes back: one attempt at a time, with back-off and jitter between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from . import _calls
from ._call import Call
from ._log import logger

P = ParamSpec("P")
R = TypeVar("R")

Emit = Callable[[str, Mapping[str, float], Mapping[str, object]], None]


_LONGEST_PAUSE = 5.0
_LOG_EVERY = 30.0

# A dead network shows only by silence. What the DSN says wins.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

TROUBLE = (psycopg.Error, OSError, TimeoutError)
"""What a server that restarts, is full or is cut off can make of any call."""


def about_data(sqlstate: str | None) -> bool:
    """Whether an error is the fault of what was sent (the classes in which the server isolates a bad outcome), or of a
    conflict that passes; everything else is about the session or the server."""
    return sqlstate is not None and sqlstate[:2] in ("22", "23", "54", "P0", "GD", "40", "55")


def conninfo(dsn: str, worker: str) -> str:
    given = conninfo_to_dict(dsn)
    defaults = {**_DEFAULTS, "application_name": worker[:63]}
    return make_conninfo(dsn, **{key: value for key, value in defaults.items() if key not in given})


class Link:
    """One connection for one purpose.

    `attempt` makes a call once. After a failure the caller awaits `trouble`, which pauses, and tries again if that is
    still right: only the caller knows what it means that a call may or may not have happened.
    """

    def __init__(
        self, dsn: str, name: str, emit: Emit, *, durable: bool = True, notify: bool = True, timeout: float = 30
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._emit = emit
        self._durable = durable
        self._notify = notify
        self._timeout = timeout
        self._conn: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._failures = 0
        self._logged = 0.0
        self._calling = False
        self.uncertain = False
        self.connects = 0
        """How often it connected: a change means that what the session held is gone."""

    @property
    def conn(self) -> psycopg.AsyncConnection[tuple[object, ...]] | None:
        return self._conn

    async def open(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        """The live connection, made now if there is none.

        Raises:
            psycopg.OperationalError: the server cannot be reached now.
        """
        if self._conn is not None and not self._conn.closed:
            return self._conn
        self._conn = None
        try:
            conn = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, prepare_threshold=2 if self._notify else None
            )
        except BaseException as error:
            # A connection that was broken off while it was made stands in the frames that the error remembers, and its
            # socket would stay open until the collector comes by.
            traceback.clear_frames(error.__traceback__)
            raise
        self._conn = conn
        try:
            # Behind a proxy that pools transactions a session has no settings to keep.
            if self._notify:
                await _calls.prepare_session(conn, self._durable)
        except BaseException:
            await self.drop()
            raise
        self.connects += 1
        return conn

    async def attempt(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the call once.

        After a failure ``uncertain`` says whether it may have happened all the same. Unless the error is about the data
        or a conflict, the connection is given up: a fresh session finds the new primary, and has no stale plans.
        """
        self.uncertain = False
        sent = False
        self._calling = True
        limit = asyncio.get_running_loop().call_later(self._timeout, self.hang_up)
        try:
            conn = await self.open()
            sent = True
            answer = await call(conn, *args, **kwargs)
        except TROUBLE as error:
            state = error.sqlstate if isinstance(error, psycopg.Error) else None
            # A server that shuts down may have committed before it said so.
            self.uncertain = sent and (state is None or state[:2] in ("57", "58", "XX"))
            if not about_data(state):
                await self.drop()
            raise
        finally:
            limit.cancel()
            self._calling = False
        if self._failures:
            logger.info("connection for %s works again after %d failures", self._name, self._failures)
            self._emit("recovered", {"failures": self._failures}, {"link": self._name})
            self._failures = 0
            self._logged = 0.0
        return answer

    def hang_up(self) -> None:
        """End a call that is under way, as if the network had: asking a silent server to cancel takes for ever."""
        if self._calling and self._conn is not None and not self._conn.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._conn.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)

    async def trouble(self, error: BaseException) -> None:
        """Tell of a failure, once and then now and then, and pause before the next attempt."""
        self._failures += 1
        now = time.monotonic()
        if self._failures == 1 or now - self._logged >= _LOG_EVERY:
            self._logged = now
            logger.warning("connection for %s failed: %s", self._name, str(error).strip() or type(error).__name__)
        pause = min(_LONGEST_PAUSE, 0.05 * 2 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1.5)
        self._emit("reconnect", {"failures": self._failures, "pause": pause}, {"link": self._name, "error": str(error)})
        await asyncio.sleep(pause)

    async def drop(self) -> None:
        """Give the connection up."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await self._close(conn)

    @staticmethod
    async def _close(conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        with contextlib.suppress(*TROUBLE):
            await conn.close()
