"""How a connection is made: from a connection string, or by a callable of the user's, which may know what changes.

What a callable answers is a connection of whatever kind; the session behind it is taken over into one of the kind that
is needed, and what it was in is left without. So one callable, sync or async, serves every purpose.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import psycopg
from psycopg import AsyncConnection, Connection, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import InvalidArgument

Made: TypeAlias = "Connection[Any] | AsyncConnection[Any]"
Connect: TypeAlias = "Callable[[], Made | Awaitable[Made]]"
C = TypeVar("C", bound="Connection[Any] | AsyncConnection[Any]")
S = TypeVar("S", bound="type[Connection[Any]] | type[AsyncConnection[Any]]")

# A dead network shows only by silence. What the DSN says wins.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
# What a callable may take: it asks others for a token first.
_PATIENCE = 60.0


def conninfo(dsn: str, worker: str) -> str:
    given = conninfo_to_dict(dsn)
    defaults = {**_DEFAULTS, "application_name": worker[:63]}
    return make_conninfo(dsn, **{key: value for key, value in defaults.items() if key not in given})


class Dialer:
    """Makes the connections to one database."""

    def __init__(self, dsn: str, worker: str, connect: Connect | None = None) -> None:
        self.dsn = conninfo(dsn, worker)
        """For a callable of no use, and empty but for defaults."""
        self._worker = worker
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def takes_options(self) -> bool:
        """Whether options of the session can be said while connecting."""
        return self._connect is None

    async def open(self, **more: Any) -> AsyncConnection[tuple[object, ...]]:
        """A new connection in autocommit, which prepares nothing and speaks UTF-8.

        Raises:
            psycopg.Error: it cannot be made now.
        """
        self._loop = asyncio.get_running_loop()
        if self._connect is None:
            return await AsyncConnection.connect(
                self.dsn, autocommit=True, prepare_threshold=None, client_encoding="UTF8", **more
            )
        conn = cast("AsyncConnection[tuple[object, ...]]", await self._adopted(AsyncConnection))
        conn.prepare_threshold = None
        return conn

    def pooled(self, kind: S) -> S:
        """The class of connections that a pool is to make: the same kind, made here where a callable makes them."""
        if self._connect is None:
            return kind
        loop = self._loop
        assert loop is not None  # an engine opens other connections first
        if issubclass(kind, AsyncConnection):

            async def connect_async(_: str = "", **kwargs: Any) -> Any:
                return await self._adopted(kind)

            connect: Any = connect_async
        else:

            def connect_sync(_: str = "", **kwargs: Any) -> Any:
                # The pool asks from threads of its own; an async callable belongs to the loop of the engine.
                return asyncio.run_coroutine_threadsafe(self._adopted(kind), loop).result(_PATIENCE)

            connect = connect_sync
        return cast(S, type(kind.__name__, (kind,), {"connect": staticmethod(connect)}))

    async def _adopted(self, kind: type[C]) -> C:
        try:
            async with asyncio.timeout(_PATIENCE):
                made = await self._call()
        except (psycopg.Error, InvalidArgument):
            raise
        except TimeoutError as error:
            raise psycopg.OperationalError(f"connect gave no connection within {_PATIENCE:g} s") from error
        except Exception as error:
            raise psycopg.OperationalError(f"connect raised {type(error).__name__}: {error}") from error
        # Settled on the loop; what pools of sync steps get is taken over once more.
        conn = _take_over(made, kind if issubclass(kind, AsyncConnection) else AsyncConnection)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._settle(conn)
        except BaseException:
            conn.pgconn.finish()
            raise
        if isinstance(conn, kind):
            return conn
        taken = _take_over(conn, kind)
        cast("Connection[Any]", taken).autocommit = True
        return taken

    async def _settle(self, conn: AsyncConnection[Any]) -> None:
        """What is said while connecting where there is a string, as far as it can be said later."""
        await conn.set_autocommit(True)
        wanted = {"client_encoding": "UTF8"}
        if not conn.info.parameter_status("application_name"):
            wanted["application_name"] = self._worker[:63]
        for name, value in wanted.items():
            if conn.info.parameter_status(name) != value:
                await conn.execute("select pg_catalog.set_config(%s, %s, false)", (name, value), prepare=False)

    async def _call(self) -> object:
        assert self._connect is not None
        if inspect.iscoroutinefunction(self._connect):
            return await self._connect()
        made = await asyncio.to_thread(self._connect)
        return await made if inspect.isawaitable(made) else made


def _take_over(made: object, kind: type[C]) -> C:
    if not isinstance(made, (Connection, AsyncConnection)):
        raise InvalidArgument(
            f"connect answered a {type(made).__name__}", hint="answer a psycopg connection: psycopg.connect(...)"
        )
    if made.closed:
        raise psycopg.OperationalError("connect answered a connection that is closed")
    session = made.pgconn
    if session.transaction_status != pq.TransactionStatus.IDLE:
        session.finish()
        raise psycopg.OperationalError(
            "connect answered a connection with a transaction open: make it with autocommit=True, or commit"
        )
    conn = kind(session)
    del made.pgconn  # its owner is the other one now, and it must not say that it was forgotten
    return conn
