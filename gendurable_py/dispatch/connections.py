"""The connections of transactional steps: pools that open at the first use, and transactions on what they give.

A connection is the role's own, as a program's would be: its settings, its search_path, its timeouts. Only encoding,
isolation and access mode are said, and only for the transaction. The outcome and the COMMIT are one message: two
statements without parameters, of which the server skips the second where the first fails. Nothing is prepared for it,
so it goes through every proxy, and nothing is missing after a DISCARD ALL of a step.
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
from psycopg import AsyncConnection, AsyncTransaction, Connection, Transaction, generators, pq
from psycopg.abc import PQGen
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from ..calls import dispatching
from ..errors import InvalidArgument, translate
from .dial import Dialer
from .fork import Connected
from .pooled import Shared

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE"

_WAIT = 2.0
_UNPOOLED_PREPARES_AFTER = 5
_MOST_STALE = 3


class NoConnection(Exception):
    """There is no connection now, so nothing has begun."""


class Source(Protocol):
    """Where transactional steps get their connections, each in a transaction that ends with the block."""

    def begun(self, hopeless: Callable[[], bool]) -> AbstractContextManager[Connection[Any]]: ...

    def begun_async(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]: ...

    def commit(self, conn: Connection[Any], schema: str, worker: str, outcome: str) -> None: ...

    async def commit_async(self, conn: AsyncConnection[Any], schema: str, worker: str, outcome: str) -> None: ...

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

    def commit(self, conn: Connection[Any], schema: str, worker: str, outcome: str) -> None:
        """The transaction ends with the block."""
        dispatching.commit_one_text(conn, schema, worker, outcome)

    async def commit_async(self, conn: AsyncConnection[Any], schema: str, worker: str, outcome: str) -> None:
        """The transaction ends with the block."""
        await dispatching.commit_one_text(conn, schema, worker, outcome)

    async def close(self) -> None:
        """It is somebody else's."""


def _forbidden(what: str) -> psycopg.ProgrammingError:
    return psycopg.ProgrammingError(f"{what}() forbidden: the engine ends the transaction of a step with its outcome")


class _Owned(Connection[Any]):
    """A connection in a transaction of the engine's: its step ends savepoints, and nothing else."""

    savepoints = 0
    """Blocks of `transaction` that are open."""

    def commit(self) -> None:
        raise _forbidden("commit")

    def rollback(self) -> None:
        raise _forbidden("rollback")

    @contextlib.contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        with super().transaction(savepoint_name, force_rollback) as block:
            self.savepoints += 1
            try:
                yield block
            finally:
                self.savepoints -= 1


class _OwnedAsync(AsyncConnection[Any]):
    """The same for async steps."""

    savepoints = 0

    async def commit(self) -> None:
        raise _forbidden("commit")

    async def rollback(self) -> None:
        raise _forbidden("rollback")

    @contextlib.asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        async with super().transaction(savepoint_name, force_rollback) as block:
            self.savepoints += 1
            try:
                yield block
            finally:
                self.savepoints -= 1


def _said(pgconn: pq.abc.PGconn, text: bytes, tag: bytes) -> PQGen[None]:
    """Send statements as one message. Raises the first error, and where the last of them answers something else."""
    pgconn.send_query(text)
    results = yield from generators.execute(pgconn)
    for result in results:
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise psycopg.errors.error_from_result(result)
    if results[-1].command_status != tag:
        raise psycopg.InternalError(f"{tag!r} was answered by {results[-1].command_status!r}")


def _ending(conn: _Owned | _OwnedAsync, schema: str, worker: str, outcome: str) -> bytes:
    if conn.savepoints:
        raise InvalidArgument(
            "a block of ctx.conn.transaction() is open behind the step", hint="end it: with ctx.conn.transaction(): ..."
        )
    return dispatching.commit_one_literal(conn, schema, worker, outcome) + b"; COMMIT"


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

    def __init__(self, dialer: Dialer, size: int, shared: Shared, links: list[Connected]) -> None:
        self._dialer = dialer
        self._size = size
        self._shared = shared
        self._links = links
        self._lock = threading.Lock()
        self._used = 0
        self._sync: ConnectionPool[_Owned] | None = None
        self._async: AsyncConnectionPool[_OwnedAsync] | None = None
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

    async def _show_async(self, conn: AsyncConnection[Any]) -> None:
        self._show(conn)

    @contextlib.contextmanager
    def begun(self, hopeless: Callable[[], bool]) -> Iterator[Connection[Any]]:
        """A connection in a transaction, which `commit` commits. ``hopeless``: it need not be waited for.

        Raises:
            NoConnection: there is none now.
        """
        with self._lock:
            if self._sync is None:
                self._sync = ConnectionPool(
                    self._dialer.dsn,
                    connection_class=self._dialer.pooled(_Owned),
                    configure=self._show,
                    **self._arguments(),
                )
            pool = self._sync
        for stale in range(_MOST_STALE + self._size):
            conn = self._take(pool, hopeless)
            try:
                self._prepare(conn)
                with conn.lock:
                    conn.wait(_said(conn.pgconn, _BEGIN, b"BEGIN"))
            except BaseException as error:
                conn.close()
                self._put(pool, conn)
                if not isinstance(error, psycopg.Error):
                    raise
                if stale + 1 == _MOST_STALE + self._size:
                    raise NoConnection(str(error)) from error
            else:
                break
        try:
            yield conn
        finally:
            try:
                if not conn.closed and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    with contextlib.suppress(psycopg.Error):
                        Connection.rollback(conn)
            finally:
                self._put(pool, conn)

    def commit(self, conn: Connection[Any], schema: str, worker: str, outcome: str) -> None:
        """Commit the outcome and the transaction, or raise and do neither."""
        assert isinstance(conn, _Owned)
        text = _ending(conn, schema, worker, outcome)
        try:
            with conn.lock:
                conn.wait(_said(conn.pgconn, text, b"COMMIT"))
        except psycopg.Error as error:
            ours = translate(error)
            raise ours from (None if ours is error else error)

    def _take(self, pool: ConnectionPool[_Owned], hopeless: Callable[[], bool]) -> _Owned:
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

    def _put(self, pool: ConnectionPool[_Owned], conn: _Owned) -> None:
        with self._lock:
            self._used -= 1
        if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.close()  # whatever the step has made of it
        pool.putconn(conn)

    @contextlib.asynccontextmanager
    async def begun_async(self) -> AsyncIterator[AsyncConnection[Any]]:
        """The same for an async step, on the loop of the engine."""
        if self._async is None:
            self._async = AsyncConnectionPool(
                self._dialer.dsn,
                connection_class=self._dialer.pooled(_OwnedAsync),
                configure=self._show_async,
                **self._arguments(),
            )
        pool = self._async
        for stale in range(_MOST_STALE + self._size):
            conn = await self._take_async(pool)
            try:
                self._prepare(conn)
                async with conn.lock:
                    await conn.wait(_said(conn.pgconn, _BEGIN, b"BEGIN"))
            except BaseException as error:
                await conn.close()
                await self._put_async(pool, conn)
                if not isinstance(error, psycopg.Error):
                    raise
                if stale + 1 == _MOST_STALE + self._size:
                    raise NoConnection(str(error)) from error
            else:
                break
        try:
            yield conn
        finally:
            try:
                if not conn.closed and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    with contextlib.suppress(psycopg.Error):
                        await AsyncConnection.rollback(conn)
            finally:
                await self._put_async(pool, conn)

    async def commit_async(self, conn: AsyncConnection[Any], schema: str, worker: str, outcome: str) -> None:
        """The same on a connection of `begun_async`."""
        assert isinstance(conn, _OwnedAsync)
        text = _ending(conn, schema, worker, outcome)
        try:
            async with conn.lock:
                await conn.wait(_said(conn.pgconn, text, b"COMMIT"))
        except psycopg.Error as error:
            ours = translate(error)
            raise ours from (None if ours is error else error)

    async def _take_async(self, pool: AsyncConnectionPool[_OwnedAsync]) -> _OwnedAsync:
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

    async def _put_async(self, pool: AsyncConnectionPool[_OwnedAsync], conn: _OwnedAsync) -> None:
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
