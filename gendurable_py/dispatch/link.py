"""A connection of the engine that comes back: one attempt at a time, with back-off and jitter between them.

Whether a call that failed may have happened all the same is told, and never guessed. `session` says what a connection
is set to, `pooled` what is done where there is no session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import traceback
from typing import Any, ParamSpec, TypeVar, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .._contract import BAD_OUTCOME
from .._log import logger
from .._statement import Call, Statement
from ..telemetry.events import Emit, Reconnecting, Recovered
from . import pooled, session
from .dial import Dialer
from .pooled import Settings, Shared, is_shared, transaction
from .text import Lenient

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST_PAUSE = 5.0
_TRIES = 4
# How a server ends a transaction that takes longer than a setting of the role allows; a statement and a session.
_ROLLED_BACK = ("25P03", "25P04")
_CUT_SHORT = ("57014", "57P05", *_ROLLED_BACK)
_LOG_EVERY = 30.0
_CANCEL = 1.0
# What another session does, and what passes by itself.
_CONFLICTS = ("40", "55")

TROUBLE = (psycopg.Error, OSError, TimeoutError)
"""What a server that restarts, is full or is cut off can make of any call."""


def is_about_data(sqlstate: str | None) -> bool:
    """Whether an error is the fault of what was sent (the classes in which the server isolates a bad outcome), or of a
    conflict that passes; everything else is about the session or the server."""
    return sqlstate is not None and sqlstate[:2] in (*BAD_OUTCOME, *_CONFLICTS)


class Link:
    """One connection for one purpose.

    ``ours``: the session is set to what our statements depend on; else it has the settings of the role.

    `attempt` makes a call once. After a failure the caller awaits `trouble`, which pauses, and tries again if that is
    still right: only the caller knows what it means that a call may or may not have happened.
    """

    def __init__(
        self,
        dialer: Dialer,
        name: str,
        emit: Emit,
        *,
        durable: bool = True,
        ours: bool = True,
        timeout: float = 30,
        shared: Shared | None = None,
    ) -> None:
        self._dialer = dialer
        self._emit = emit
        self._durable = durable
        self._ours = ours
        self._shared = Shared() if shared is None else shared
        self.timeout = timeout
        """For how many seconds a call may go on."""
        self._conn: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._options: str | None = None
        self._version = 0
        self._local: Settings | None = None
        self.failures = 0
        """How many attempts in a row have failed."""
        self.failing_since: float | None = None
        self.answered_at: float | None = None
        """When a call succeeded last, on the monotonic clock."""
        self.error: str | None = None
        """Why the last attempt failed, until one succeeds."""
        self.name = name
        self._logged = 0.0
        self._calling = False
        self.uncertain = False
        self.sent = False
        """Whether the last attempt came so far as to use the connection."""
        self.backend = 0
        """The server process behind the connection, where it has one of its own."""
        self.connects = 0
        """How often it connected: a change means that what the session held is gone."""

    @property
    def conn(self) -> psycopg.AsyncConnection[tuple[object, ...]] | None:
        return self._conn

    @property
    def pooled(self) -> bool:
        """Whether a proxy pools transactions: there is no session, so no `LISTEN` and no lock that stays."""
        return self._shared.pooled

    async def open(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        """The live connection, made now if there is none.

        Raises:
            psycopg.OperationalError: the server cannot be reached now.
        """
        if self._conn is not None and not self._conn.closed:
            return self._conn
        self._conn = None
        for tried in range(_TRIES):
            try:
                self._conn = await self._connected()
            except psycopg.Error as error:
                self._try_otherwise()
                if tried + 1 == _TRIES or (tried and error.sqlstate not in _CUT_SHORT):
                    raise
            else:
                break
        self.connects += 1
        return cast(psycopg.AsyncConnection[tuple[object, ...]], self._conn)

    def _try_otherwise(self) -> None:
        """Connect with the timeouts off from the beginning, or without saying so.

        A timeout of the role may end a session before it can be switched off: only what is said while connecting comes
        before that. Not at first, since proxies refuse such options.
        """
        if self._options is not None or not self._dialer.takes_options:
            self._options = None
            return
        given = str(conninfo_to_dict(self._dialer.dsn).get("options") or os.environ.get("PGOPTIONS") or "")
        off = (f"-c {name}=0" for name in session.timeouts(self._version))
        self._options = " ".join([given, *off]).strip()

    async def _connected(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        more: dict[str, Any] = {} if self._options is None else {"options": self._options}
        try:
            conn = await self._dialer.open(**more)
        except BaseException as error:
            # A connection that was broken off while it was made stands in the frames that the error remembers, and its
            # socket would stay open until the collector comes by.
            traceback.clear_frames(error.__traceback__)
            raise
        self._version = conn.info.server_version
        try:
            await self._settle(conn)
        except BaseException:
            await self._close(conn)
            raise
        return conn

    async def _settle(self, conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """Set what the engine depends on: for the session, or, where there is none, find out what to set each time."""
        if conn.info.parameter_status("server_encoding") == "SQL_ASCII":
            conn.adapters.register_loader("text", Lenient)
        pid = 0 if self.pooled else await pooled.backend(conn)
        if pid not in (0, conn.info.backend_pid) and await is_shared(conn, pid, self._dialer):
            self._shared.pooled = True
            logger.warning(
                "a proxy that pools transactions stands before the database: this engine polls, as with notify=False. "
                "Give it that option, or a connection of its own"
            )
        if not self._ours:
            # What runs here is code of users: it has the role's own settings, as in any session of this role.
            self._local = () if self.pooled else None
            if not self.pooled:
                await session.as_the_role(conn)
                conn.prepare_threshold = 2
            return
        if self.pooled:
            first = session.without_timeouts_locally(conn.info.server_version)
            self._local = await transaction(conn, first, session.wanted_settings.statement(self._durable))
            return
        self._local = None
        self.backend = pid
        await session.without_timeouts(conn, conn.info.server_version)
        if not await session.settings(conn, self._durable):
            await session.own_search_path(conn)
        conn.prepare_threshold = 2

    async def is_not_alone(self) -> None:
        """Another server process answered than before: so there is a proxy that pools, after all."""
        self._shared.pooled = True
        if self._conn is not None:
            with contextlib.suppress(*TROUBLE):
                await session.forget(self._conn)
        await self.drop()
        logger.warning("a proxy that pools transactions stands before the database: this engine polls from now on")

    async def attempt(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the call once.

        After a failure ``uncertain`` says whether it may have happened all the same. Unless the error is about the data
        or a conflict, the connection is given up: a fresh session finds the new primary, and has no stale plans.
        """
        self.uncertain = self.sent = False
        self._calling = True
        limit = asyncio.get_running_loop().call_later(self.timeout, self.hang_up)
        try:
            if self.pooled and self._local is None:
                await self.drop()  # made when that was not known
            conn = await self.open()
            self.sent = True
            if self._local is None:
                answer = await call(conn, *args, **kwargs)
            else:
                answer = await self._in_transaction(self._local, call.statement(*args, **kwargs))
        except TROUBLE as error:
            state = error.sqlstate if isinstance(error, psycopg.Error) else None
            # A server that shuts down may have committed before it said so.
            self.uncertain = self.sent and (state is None or state[:2] in ("57", "58", "XX"))
            if not is_about_data(state):
                if self._local is not None and self._options is None:
                    self._try_otherwise()  # it may have been too long without a transaction
                await self.drop()
            raise
        except UnicodeError:
            self.uncertain = self.sent  # what came back cannot be read: it has happened, but nobody knows what
            raise
        finally:
            limit.cancel()
            self._calling = False
        if self.failures:
            logger.info("connection for %s works again after %d failures", self.name, self.failures)
            self._emit(Recovered(self.failures, self.name))
            self.failures = 0
            self.failing_since = self.error = None
            self._logged = 0.0
        self.answered_at = time.monotonic()
        return answer

    async def insist(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """`attempt` for a call that may happen twice: a few times, where the connection is lost under it at once."""
        for _ in range(_TRIES - 1):
            began = time.monotonic()
            try:
                return await self.attempt(call, *args, **kwargs)
            except psycopg.OperationalError:
                if not self.sent or time.monotonic() - began > self.timeout / _TRIES:
                    raise
        return await self.attempt(call, *args, **kwargs)

    async def _in_transaction(self, made: Settings, statement: Statement[R]) -> R:
        for _ in range(_TRIES - 1):
            conn = await self.open()
            self.sent = True
            try:
                return await transaction(conn, made, statement, self._ours)
            except psycopg.Error as error:
                if error.sqlstate not in _ROLLED_BACK:
                    raise
            self.sent = False
            self._try_otherwise()
            await self.drop()
        conn = await self.open()
        self.sent = True
        return await transaction(conn, made, statement, self._ours)

    async def cancel(self) -> None:
        """Ask the server to give up the call that is under way. If it does, the call fails, and has not happened."""
        if self._calling and self._conn is not None and not self._conn.closed:
            with contextlib.suppress(*TROUBLE):
                await self._conn.cancel_safe(timeout=_CANCEL)

    @property
    def calling(self) -> bool:
        """Whether a call is under way."""
        return self._calling

    def hang_up(self) -> None:
        """End a call that is under way, as if the network had: asking a silent server to cancel takes for ever."""
        if self._calling and self._conn is not None and not self._conn.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._conn.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)

    async def trouble(self, error: BaseException) -> None:
        """Tell of a failure, once and then now and then, and pause before the next attempt."""
        self.failures += 1
        now = time.monotonic()
        if self.failing_since is None:
            self.failing_since = now
        self.error = str(error).strip() or type(error).__name__
        if self.failures == 1 or now - self._logged >= _LOG_EVERY:
            self._logged = now
            logger.warning("connection for %s failed: %s", self.name, self.error)
        pause = min(_LONGEST_PAUSE, 0.05 * 2 ** min(self.failures - 1, 10)) * random.uniform(0.5, 1.5)
        self._emit(Reconnecting(self.failures, pause, self.name, str(error)))
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
