"""Sessions of SQLAlchemy, over the driver psycopg (``postgresql+psycopg://``): calls in their transaction, and hooks.

Calls take a session (or a connection) of SQLAlchemy in place of one of psycopg, and commit and roll back with it::

    with Session(engine) as db, db.begin():
        db.add(Order(id=42))
        insert(db, Checkout, {"order": 42})

Transactional steps get a session by a hook::

    class Transfer(FSM, name="transfer"):
        @step(transactional=session(engine))
        def debit(self, ctx):
            ctx.conn.get(Account, 1).balance -= 10        # a Session
            return Done()

What the step calls ``commit()`` on ends a savepoint: the transaction is the engine's, and takes the outcome with it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import psycopg

from .. import calls
from .._statement import Call
from ..errors import InvalidArgument
from . import missing

try:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session
except ModuleNotFoundError as error:
    raise missing("sqlalchemy", error) from error

__all__ = [
    "SessionCall",
    "async_session",
    "call",
    "cancel",
    "cancel_many",
    "find",
    "get",
    "insert",
    "insert_many",
    "reschedule",
    "result",
    "retry",
    "session",
    "signal",
    "signal_many",
]

P = ParamSpec("P")
R = TypeVar("R")

AnySession = Session | scoped_session[Any] | Connection
AnyAsyncSession = AsyncSession | async_scoped_session[Any] | AsyncConnection

_ISOLATION = "READ COMMITTED"


# -- calls in the transaction of a session


@overload
def call(on: AnySession, function: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def call(on: AnyAsyncSession, function: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
def call(
    on: AnySession | AnyAsyncSession, function: Call[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R | Coroutine[Any, Any, R]:
    """Make any call of gendurable_py on the connection of a session, and in its transaction.

    ``call(db, gd.childs, id)``; an async session awaits it. A session that has no transaction begins one, as for each
    statement of its own: nothing is kept unless it commits. Nothing is flushed. A session without a single bind is
    passed by its connection: ``call(db.connection(bind_arguments=…), …)``.

    Raises:
        InvalidArgument: the driver is another one than psycopg, or what the call itself refuses.
        psycopg.Error: as from the call on a psycopg connection, not in one of SQLAlchemy's exceptions.
    """
    if isinstance(on, AsyncSession | async_scoped_session | AsyncConnection):
        return _call_async(on, function, *args, **kwargs)
    return _call(on, function, *args, **kwargs)


def _call(on: AnySession, function: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    connection = _begun(on)
    driver: Any = connection.connection.driver_connection
    try:
        if isinstance(driver, psycopg.Connection):
            return function(driver, *args, **kwargs)
        if isinstance(driver, psycopg.AsyncConnection):
            # In a function that an async session runs: whoever waits, waits in the loop.
            adapted = cast(Any, connection.connection.dbapi_connection)
            return cast(R, adapted.run_async(lambda raw: function(raw, *args, **kwargs)))
    except psycopg.Error as error:
        if driver.closed:
            # The pool has to know, and nobody else will tell it.
            connection.invalidate(error)
        raise
    raise InvalidArgument(
        f"{connection.dialect.name}+{connection.dialect.driver} is not the driver psycopg (3)",
        hint="create_engine('postgresql+psycopg://…'), or create_async_engine with the same address",
    )


async def _call_async(on: AnyAsyncSession, function: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    if isinstance(on, async_scoped_session):
        on = cast(AsyncSession, on())
    return await on.run_sync(lambda inner: _call(inner, function, *args, **kwargs))


def _begun(on: object) -> Connection:
    if isinstance(on, Connection):
        if not on.in_transaction():
            # What the driver begins by itself SQLAlchemy would not commit.
            on.begin()
        return on
    if isinstance(on, Session | scoped_session):
        return on.connection()
    kind = type(on).__name__
    raise InvalidArgument(
        f"a {kind} is no session or connection of SQLAlchemy",
        hint="make one: Session(engine), or engine.begin()"
        if "Engine" in kind or "maker" in kind
        else "the session comes first; calls on a psycopg connection are those of gendurable_py",
    )


class SessionCall(Generic[P, R]):
    """A call of gendurable_py that takes a session: ``insert(db, …)``, or ``await insert(async_db, …)``. See `call`."""

    def __init__(self, function: Call[P, R]) -> None:
        self._function = function
        functools.update_wrapper(cast(Any, self), cast(Any, function))

    @overload
    def __call__(self, on: AnySession, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, on: AnyAsyncSession, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def __call__(
        self, on: AnySession | AnyAsyncSession, /, *args: P.args, **kwargs: P.kwargs
    ) -> R | Coroutine[Any, Any, R]:
        return call(on, self._function, *args, **kwargs)


insert = SessionCall(calls.insert)
insert_many = SessionCall(calls.insert_many)
signal = SessionCall(calls.signal)
signal_many = SessionCall(calls.signal_many)
cancel = SessionCall(calls.cancel)
cancel_many = SessionCall(calls.cancel_many)
retry = SessionCall(calls.retry)
reschedule = SessionCall(calls.reschedule)
find = SessionCall(calls.find)
get = SessionCall(calls.get)
result = SessionCall(calls.result)


# -- hooks for transactional steps


def session(
    engine: Engine, make: Callable[..., Session] = Session, **options: Any
) -> Callable[[Callable[[Any], None]], AbstractContextManager[Session]]:
    """A hook for sync steps: ``ctx.conn`` is a new `Session`.

    ``make`` is its class, or a `sessionmaker`; the options are its own. The engine should have as many connections as
    steps run at once.
    """

    @contextmanager
    def hook(commit: Callable[[Any], None]) -> Iterator[Session]:
        with engine.connect().execution_options(isolation_level=_ISOLATION) as connection, connection.begin():
            with make(bind=connection, join_transaction_mode="create_savepoint", **options) as made:
                yield made
                made.commit()
            commit(connection.connection.driver_connection)

    return hook


def async_session(
    engine: AsyncEngine, make: Callable[..., AsyncSession] = AsyncSession, **options: Any
) -> Callable[[Callable[[Any], Awaitable[None]]], AbstractAsyncContextManager[AsyncSession]]:
    """The same for async steps: ``ctx.conn`` is a new `AsyncSession`. Use its engine on the loop of the steps alone."""

    @asynccontextmanager
    async def hook(commit: Callable[[Any], Awaitable[None]]) -> AsyncIterator[AsyncSession]:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level=_ISOLATION)
            async with connection.begin():
                async with make(bind=connection, join_transaction_mode="create_savepoint", **options) as made:
                    yield made
                    await made.commit()
                raw = await connection.get_raw_connection()
                await commit(raw.driver_connection)

    return hook
