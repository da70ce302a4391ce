"""FastAPI: gendurable beside an app, and calls in the transaction of a request.

::

    durable = Gendurable(dsn, engine=Engine(dsn, machines=[Checkout]))     # without engine: only a client
    app = FastAPI(lifespan=durable.lifespan)

    @app.post("/orders")
    async def order(conn: Annotated[AsyncConnection, durable.transaction], new: NewOrder) -> ...:
        await conn.execute("insert into orders …")
        await gd.insert(conn, Checkout, {"order": new.order})

The transaction commits when the function has returned, before its response is sent: nobody is told of what might still
be lost. An exception, also `HTTPException`, rolls it back. `transaction` does the same for sessions of SQLAlchemy.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection, pq
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from ..calls import version
from ..errors import VersionMismatch
from . import missing

try:
    import anyio
    import anyio.to_thread
    from anyio.lowlevel import RunVar
    from fastapi import Depends
except ModuleNotFoundError as error:
    raise missing("fastapi", error) from error

__all__ = ["Begins", "Gendurable", "transaction"]

T = TypeVar("T")
# To the end of the function, not of the request: FastAPI sends the response in between.
_SCOPE: Any = "function"


class Gendurable:
    """What an app needs of gendurable while it runs: connections, and an engine if it is to work.

    Args:
        dsn: a connection string, or psycopg's keyword arguments as a dict; empty: as the ``PG*`` variables say.
        engine: runs while the app does, on its loop; it has connections of its own. None: workers run elsewhere.
        size: the most connections that requests use at once, async ones and sync ones each. They open when they are
            needed, and each is looked at before it is given out.
        pool, sync_pool: make a pool of psycopg in place of those, each time the app starts:
            ``lambda: AsyncConnectionPool(dsn, open=False, max_size=50)``.
    """

    def __init__(
        self,
        dsn: str | Mapping[str, Any] = "",
        *,
        engine: AbstractAsyncContextManager[object] | None = None,
        size: int = 10,
        pool: Callable[[], AsyncConnectionPool[Any]] | None = None,
        sync_pool: Callable[[], ConnectionPool[Any]] | None = None,
    ) -> None:
        conninfo, kwargs = (dsn, {}) if isinstance(dsn, str) else ("", dict(dsn))
        self._engine = engine
        self._make_pool = pool or (
            lambda: AsyncConnectionPool(
                conninfo,
                kwargs=kwargs,
                min_size=0,
                max_size=size,
                check=AsyncConnectionPool.check_connection,
                open=False,
                name="gendurable",
            )
        )
        self._make_sync_pool = sync_pool or (
            lambda: ConnectionPool(
                conninfo,
                kwargs=kwargs,
                min_size=0,
                max_size=size,
                check=ConnectionPool.check_connection,
                open=False,
                name="gendurable",
            )
        )
        self._pools: tuple[AsyncConnectionPool[Any], ConnectionPool[Any]] | None = None
        self.transaction: Any = Depends(self._begin, scope=_SCOPE)
        """For async functions: ``conn: Annotated[AsyncConnection, durable.transaction]``. All that a request asks for
        is one connection, in one transaction."""
        self.sync_transaction: Any = Depends(self._begin_sync, scope=_SCOPE)
        """The same for sync ones: ``conn: Annotated[Connection, durable.sync_transaction]``."""

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """While the app runs: ``FastAPI(lifespan=durable.lifespan)``, or inside a lifespan of one's own.

        It starts once the database answers and the engine works. At the end the engine drains, and then the
        connections are closed. It may be started again after that.

        Raises:
            VersionMismatch: gendurable is not installed in the database, or, with an engine, does not fit the package.
            psycopg.OperationalError: the database cannot be reached.
        """
        if self._pools is not None:
            raise RuntimeError("this Gendurable is running already: one for each app, or one lifespan for all")
        pool, sync_pool = self._make_pool(), self._make_sync_pool()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(pool.close)
            stack.push_async_callback(asyncio.to_thread, sync_pool.close)
            await pool.open()
            await asyncio.to_thread(sync_pool.open)
            self._pools = pool, sync_pool
            stack.callback(setattr, self, "_pools", None)
            async with self.begin() as conn:
                await _need_gendurable(conn)
            if self._engine is not None:
                await stack.enter_async_context(self._engine)
            yield

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in a transaction, outside of requests: ``async with durable.begin() as conn``."""
        pool, _ = self._running()
        async with _whole(pool.connection()) as conn, _whole(conn.transaction()):
            yield conn
            _refuse_failed(conn)

    @contextmanager
    def begin_sync(self) -> Iterator[Connection[Any]]:
        """The same for sync code: ``with durable.begin_sync() as conn``. Not on the loop, which it would block."""
        _, pool = self._running()
        with pool.connection() as conn, conn.transaction():
            yield conn
            _refuse_failed(conn)

    # What FastAPI calls: it knows generators only.

    async def _begin(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with self.begin() as conn:
            yield conn

    async def _begin_sync(self) -> AsyncIterator[Connection[Any]]:
        async with _in_threads(self.begin_sync()) as conn:
            yield conn

    def _running(self) -> tuple[AsyncConnectionPool[Any], ConnectionPool[Any]]:
        if self._pools is None:
            raise RuntimeError(
                "this Gendurable does not run: FastAPI(lifespan=durable.lifespan), and in tests a block of "
                "TestClient(app); the lifespan of an app that is mounted in another is not run"
            )
        return self._pools


class Begins(Protocol):
    """Something with ``begin()``, a context manager: a `sessionmaker`, an `Engine`, or an async one of SQLAlchemy."""

    def begin(self) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        """A transaction that commits at the end of the block, and is rolled back by an exception."""


def transaction(source: Begins) -> Any:
    """A dependency: a session of this `sessionmaker` or `async_sessionmaker`, in a transaction that ends as above.

    ``db: Annotated[Session, transaction(make_session)]``. Write it once, and use it by a name: each is a transaction
    of its own.
    """

    async def begin() -> AsyncIterator[Any]:
        made: Any = source.begin()
        async with _whole(made) if hasattr(made, "__aenter__") else _in_threads(made) as session:
            yield session

    return Depends(begin, scope=_SCOPE)


@asynccontextmanager
async def _whole(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """The same block, with an end that is not cut short: a cancelled scope would cancel each await of it again."""
    value = await manager.__aenter__()
    try:
        yield value
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            if not await manager.__aexit__(type(error), error, error.__traceback__):
                raise
    else:
        with anyio.CancelScope(shield=True):
            await manager.__aexit__(None, None, None)


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """A sync block for functions that run in threads, with an end as above.

    FastAPI's own way leaves out the end of a request that is cancelled, in older versions. The beginning may wait for a
    connection, and the threads that functions run in must not all do that; the end must wait for nobody.
    """
    value = await anyio.to_thread.run_sync(manager.__enter__, limiter=_beginners())
    kind, error, trace = None, None, None
    try:
        yield value
    except BaseException as raised:  # noqa: BLE001 - raised again below
        kind, error, trace = type(raised), raised, raised.__traceback__
    leave = functools.partial(manager.__exit__, kind, error, trace)
    with anyio.CancelScope(shield=True):
        swallowed = await anyio.to_thread.run_sync(leave, limiter=anyio.CapacityLimiter(1))
    if error is not None and not swallowed:
        raise error


_limiters: RunVar[anyio.CapacityLimiter] = RunVar("gendurable beginners")


def _beginners() -> anyio.CapacityLimiter:
    """How many threads wait for a connection at once; those who come later wait on the loop."""
    try:
        return _limiters.get()
    except LookupError:
        _limiters.set(anyio.CapacityLimiter(10))
        return _limiters.get()


def _refuse_failed(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    # The server would answer COMMIT by a rollback, and psycopg say nothing of it.
    if conn.info.transaction_status == pq.TransactionStatus.INERROR:
        raise psycopg.errors.InFailedSqlTransaction(
            "the transaction of this request cannot be committed: an SQL error in it was caught\n"
            "HINT:  what may fail belongs in a block of conn.transaction()"
        )


async def _need_gendurable(conn: AsyncConnection[Any]) -> None:
    try:
        await version(conn)
    except psycopg.errors.UndefinedFunction as error:
        raise VersionMismatch(
            "gendurable is not installed in this database, or not in a schema of the search_path",
            hint="gendurable install, or CREATE EXTENSION gendurable",
        ) from error
