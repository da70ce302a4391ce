"""Where the data come from: a few sessions, kept open, and what one look may cost.

A look is a transaction that only reads, with a limit of time on the server and one here. A session that has broken is
thrown away; the next look makes a new one, so that a server that went away is found again by whoever asks next.

The first look of a session costs most. So one is kept in reserve that has looked at every page before it is used: it
learns as soon as no other such is left, while pages go on; who needs one before that takes one as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

from ..calls import viewing
from ..dispatch.dial import Connect, Dialer

logger = logging.getLogger("gendurable.web")
T = TypeVar("T")
Conn: TypeAlias = "AsyncConnection[Any]"
_SESSIONS = 4
# Rights that are given or taken away are known after so long.
_KNOWN_FOR = 30.0
# A session that learns rests after each look as long as that took, and has so long for all of them.
_LONGEST_REST, _LEARNS = 0.5, 60.0
Look: TypeAlias = "Callable[[Conn], Awaitable[object]]"


class Busy(Exception):
    """All sessions are in use for too long."""


class _Times(TimestamptzLoader):
    """Times that Python has no year for are its first and its last: one row must not keep a page from being seen."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            early = bytes(data).endswith(b"BC") or bytes(data).startswith(b"-")
            return (datetime.min if early else datetime.max).replace(tzinfo=UTC)


class _Limit:
    """Ends a session from which nothing comes: the server itself ends what only takes too long."""

    def __init__(self, conn: Conn, seconds: float) -> None:
        self.passed = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._cut, conn)

    def _cut(self, conn: Conn) -> None:
        self.passed = True
        # Not closed, which whoever waits for an answer would not notice, and not asked: it does not answer.
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._timer.cancel()


class Source:
    """The sessions of one dashboard."""

    def __init__(
        self,
        dsn: str,
        connect: Connect | None,
        patience: float,
        lessons: Callable[[Conn], Awaitable[Iterable[Look]]] | None = None,
    ) -> None:
        """``lessons``: what answers the looks from which a session learns."""
        self._dialer = Dialer(dsn, "gendurable dashboard", connect)
        self._patience = patience
        self._lessons = lessons
        self._learning: asyncio.Task[None] | None = None
        self._learned: weakref.WeakSet[Conn] = weakref.WeakSet()
        self._idle: list[Conn] = []
        self._open = 0
        self._abilities: frozenset[str] = frozenset()
        self._known_until = 0.0

    async def read(self, look: Callable[[Conn], Awaitable[T]]) -> T:
        """What a look answers; it may be made twice, where a session turns out to be broken."""
        return await self._perform(look, reads=True, actor=None)

    async def act(self, actor: str, deed: Callable[[Conn], Awaitable[T]]) -> T:
        """Do something in a transaction that says for whom; never twice."""
        return await self._perform(deed, reads=False, actor=actor)

    async def abilities(self) -> frozenset[str]:
        """The functions that the role of the sessions may call."""
        if time.monotonic() >= self._known_until:
            self._abilities = await self.read(viewing.abilities)
            self._known_until = time.monotonic() + _KNOWN_FOR
        return self._abilities

    def forget(self) -> None:
        """Ask for the abilities anew: a right that was there is gone, or others were given."""
        self._known_until = 0.0

    def prepare(self) -> None:
        """Have a session learn, if no other that has is left; nobody waits for it."""
        if self._lessons is None or any(conn in self._learned for conn in self._idle):
            return
        if not self._idle and self._open >= _SESSIONS:
            return
        loop = asyncio.get_running_loop()
        if self._learning is None or self._learning.done() or self._learning.get_loop() is not loop:
            self._learning = loop.create_task(self._learn(self._lessons), name="gendurable dashboard learns")

    async def close(self) -> None:
        if self._learning is not None and not self._learning.done():
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning
        while self._idle:
            with contextlib.suppress(psycopg.Error):
                await self._idle.pop().close()

    async def _learn(self, lessons: Callable[[Conn], Awaitable[Iterable[Look]]]) -> None:
        conn: Conn | None = None
        try:
            async with asyncio.timeout(_LEARNS):
                conn = self._idle.pop() if self._idle else await self._dial()
                self._learned.add(conn)  # however far it gets: it is not tried again and again
                for look in await self._try(conn, lessons):
                    began = time.monotonic()
                    try:
                        await self._try(conn, look)
                    except psycopg.OperationalError:
                        raise
                    except Exception as error:  # noqa: BLE001 - whoever asks for this page is told
                        logger.debug("a session could not learn from a page: %s", error)
                    await asyncio.sleep(min(time.monotonic() - began, _LONGEST_REST))
        except Exception as error:  # noqa: BLE001 - as above, and a callable may raise whatever it likes
            logger.debug("a session could not learn: %s", error)
        finally:
            self._keep(conn)

    async def _try(self, conn: Conn, look: Callable[[Conn], Awaitable[T]]) -> T:
        limit = _Limit(conn, 2 * self._patience + 1)
        try:
            async with conn.transaction():
                await viewing.within(conn, self._patience, only_reads=True)
                return await look(conn)
        finally:
            limit.end()

    def _keep(self, conn: Conn | None) -> None:
        """Put a session aside that nobody uses; or end it, if it is not in order or there are enough."""
        if conn is None:
            return
        in_order = not conn.closed and conn.info.transaction_status == pq.TransactionStatus.IDLE
        if not in_order or self._open + len(self._idle) >= _SESSIONS:
            conn.pgconn.finish()
        elif conn in self._learned:
            self._idle.append(conn)
        else:
            self._idle.insert(0, conn)  # those that know more are used first

    async def _perform(self, work: Callable[[Conn], Awaitable[T]], *, reads: bool, actor: str | None) -> T:
        for again in (True, False):
            async with self._session(fresh=not again) as (conn, reused):
                begun = False
                limit = _Limit(conn, 2 * self._patience + 1)
                try:
                    async with conn.transaction():
                        await viewing.within(conn, self._patience, only_reads=reads)
                        if actor is not None:
                            await viewing.says_who(conn, actor)
                        begun = True
                        return await work(conn)
                except psycopg.OperationalError as error:
                    if limit.passed:
                        raise psycopg.errors.QueryCanceled("the server has not answered in time") from error
                    # A deed that has begun may have been done.
                    if not (again and reused and conn.closed and (reads or not begun)):
                        raise
                finally:
                    limit.end()
        raise AssertionError

    @contextlib.asynccontextmanager
    async def _session(self, *, fresh: bool) -> AsyncIterator[tuple[Conn, bool]]:
        conn, reused = await self._take(fresh)
        try:
            yield conn, reused
        finally:
            self._open -= 1
            self._keep(conn)

    async def _take(self, fresh: bool) -> tuple[Conn, bool]:
        for _ in range(int(self._patience / 0.02)):
            if self._open < _SESSIONS:
                break
            await asyncio.sleep(0.02)
        else:
            raise Busy
        self._open += 1
        try:
            while fresh and self._idle:
                self._idle.pop().pgconn.finish()
            if self._idle:
                conn, reused = self._idle.pop(), True
            else:
                conn, reused = await self._dial(), False
            self.prepare()
            return conn, reused
        except TimeoutError:
            self._open -= 1
            raise psycopg.OperationalError("the server does not answer") from None
        except BaseException:
            self._open -= 1
            raise

    async def _dial(self) -> Conn:
        async with asyncio.timeout(self._patience):
            conn = await self._dialer.open()
        conn.adapters.register_loader("timestamptz", _Times)
        return conn
