"""The connections of transactional steps: pools that open at the first use, and transactions on what they give.

A connection is the role's own, as a program's would be: its settings, its search_path, its timeouts. Only encoding,
isolation and access mode are said, and only for the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection, Connection, IsolationLevel, pq
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from .fork import Connected
from .pooled import Shared

_WAIT = 2.0
_UNPOOLED_PREPARES_AFTER = 5
_MOST_STALE = 3


class NoConnection(Exception):
    """There is no connection now, so nothing has begun."""


class Source(Protocol):
    """Where transactional steps get their connections, each in a transaction that ends with the block."""

    def begun(self, hopeless: Callable[[], bool]) -> AbstractContextManager[Connection[Any]]: ...

    def begun_async(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]: ...

    async def close(self) -> None: ...


class Given:
    """A connection that is there: what happens on it is a transaction, or a savepoint in the one that is open."""

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any]) -> None:
        self._conn = conn

    def may_run(self, is_async: bool) -> bool:
        """Whether steps of this kind can use it."""
        return isinstance(self._conn, AsyncConnection) is is_async

    @contextlib.contextmanager
    def begun(self, hopeless: Callable[[], bool]) -> Iterator[Connection[Any]]:
        assert isinstance(self._conn, Connection)
        with self._conn.transaction():
            yield self._conn

    @contextlib.asynccontextmanager
    async def begun_async(self) -> AsyncIterator[AsyncConnection[Any]]:
        assert isinstance(self._conn, AsyncConnection)
        async with self._conn.transaction():
            yield self._conn

    async def close(self) -> None:
        """It is somebody else's."""


class _Seen:
    """A connection of a pool, for those who part a forked child from it."""

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any]) -> None:
        self._of = weakref.ref(conn)

    @property
    def conn(self) -> Connection[Any] | AsyncConnection[Any] | None:
        conn = self._of()
        return None if conn is None or conn.closed else conn


class Connections:
    """For one database: a pool for sync steps and one for async ones, each of so many connections at most."""

    def __init__(self, dsn: str, size: int, shared: Shared, links: list[Connected]) -> None:
        self._dsn = dsn
        self._size = size
        self._shared = shared
        self._links = links
        self._lock = threading.Lock()
        self._used = 0
        self._sync: ConnectionPool[Connection[Any]] | None = None
        self._async: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._closed = False

    def _arguments(self) -> dict[str, Any]:
        return {
            "kwargs": {"autocommit": True, "client_encoding": "UTF8"},
            "min_size": 0,
            "max_size": self._size,
            "open": False,
            "name": "gendurable transactions",
        }

    def _prepare(self, conn: Connection[Any] | AsyncConnection[Any]) -> None:
        """Before each use: a step may have left something else."""
        conn.prepare_threshold = None if self._shared.pooled else _UNPOOLED_PREPARES_AFTER
        conn.row_factory = tuple_row

    def _show(self, conn: Connection[Any] | AsyncConnection[Any]) -> None:
        with self._lock:
            for link in [each for each in self._links if isinstance(each, _Seen) and each.conn is None]:
                self._links.remove(link)
            self._links.append(_Seen(conn))

    def _configure(self, conn: Connection[Any]) -> None:
        conn.isolation_level, conn.read_only, conn.deferrable = IsolationLevel.READ_COMMITTED, False, False
        self._show(conn)

    async def _configure_async(self, conn: AsyncConnection[Any]) -> None:
        await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
        await conn.set_read_only(False)
        await conn.set_deferrable(False)
        self._show(conn)

    @contextlib.contextmanager
    def begun(self, hopeless: Callable[[], bool]) -> Iterator[Connection[Any]]:
        """A connection in a transaction, which is committed at the end. ``hopeless``: it need not be waited for.

        Raises:
            NoConnection: there is none now.
        """
        with self._lock:
            if self._sync is None:
                self._sync = ConnectionPool(self._dsn, configure=self._configure, **self._arguments())
            pool = self._sync
        with contextlib.ExitStack() as stack:
            for stale in range(_MOST_STALE + self._size):
                conn = self._take(pool, hopeless)
                transaction = conn.transaction()
                try:
                    self._prepare(conn)
                    transaction.__enter__()
                except psycopg.Error as error:
                    conn.close()
                    self._put(pool, conn)
                    if stale + 1 == _MOST_STALE + self._size:
                        raise NoConnection(str(error)) from error
                else:
                    break
            stack.callback(self._put, pool, conn)
            stack.push(transaction)
            yield conn

    def _take(self, pool: ConnectionPool[Connection[Any]], hopeless: Callable[[], bool]) -> Connection[Any]:
        while True:
            try:
                pool.open()
                conn = pool.getconn(_WAIT)
            except PoolTimeout as error:
                # With all of them in use it is a matter of time; with none of them the server is not there.
                if self._used == 0 or self._closed or hopeless():
                    raise NoConnection(str(error)) from error
            except psycopg.Error as error:  # it has been closed
                raise NoConnection(str(error)) from error
            else:
                with self._lock:
                    self._used += 1
                return conn

    def _put(self, pool: ConnectionPool[Connection[Any]], conn: Connection[Any]) -> None:
        with self._lock:
            self._used -= 1
        if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.close()  # whatever the step has made of it
        pool.putconn(conn)

    @contextlib.asynccontextmanager
    async def begun_async(self) -> AsyncIterator[AsyncConnection[Any]]:
        """The same for an async step, on the loop of the engine."""
        if self._async is None:
            self._async = AsyncConnectionPool(self._dsn, configure=self._configure_async, **self._arguments())
        pool = self._async
        async with contextlib.AsyncExitStack() as stack:
            for stale in range(_MOST_STALE + self._size):
                conn = await self._take_async(pool)
                transaction = conn.transaction()
                try:
                    self._prepare(conn)
                    await transaction.__aenter__()
                except BaseException as error:
                    await conn.close()
                    await self._put_async(pool, conn)
                    if not isinstance(error, psycopg.Error):
                        raise
                    if stale + 1 == _MOST_STALE + self._size:
                        raise NoConnection(str(error)) from error
                else:
                    break
            stack.push_async_callback(self._put_async, pool, conn)
            stack.push_async_exit(transaction)
            yield conn

    async def _take_async(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> AsyncConnection[Any]:
        while True:
            try:
                await pool.open()
                conn = await pool.getconn(_WAIT)
            except PoolTimeout as error:
                if self._used == 0 or self._closed:
                    raise NoConnection(str(error)) from error
            except psycopg.Error as error:
                raise NoConnection(str(error)) from error
            else:
                with self._lock:
                    self._used += 1
                return conn

    async def _put_async(self, pool: AsyncConnectionPool[AsyncConnection[Any]], conn: AsyncConnection[Any]) -> None:
        with self._lock:
            self._used -= 1
        if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            await conn.close()
        await pool.putconn(conn)

    async def close(self) -> None:
        """Close what is idle; what is in use closes when it comes back."""
        self._closed = True
        if self._async is not None:
            await self._async.close(timeout=1)
        if self._sync is not None:
            await asyncio.to_thread(self._sync.close, 1)
