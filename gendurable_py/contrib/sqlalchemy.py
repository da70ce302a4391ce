"""SQLAlchemy sessions for transactional steps, over the driver psycopg (``postgresql+psycopg://``).

::

    engine = create_engine("postgresql+psycopg://localhost/shop")

    class Transfer(FSM, name="transfer"):
        @step(transactional=session(engine))
        def debit(self, ctx):
            ctx.conn.get(Account, 1).balance -= 10        # a Session
            return Done()

What the step calls ``commit()`` on ends a savepoint: the transaction is the engine's, and takes the outcome with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

__all__ = ["async_session", "session"]

_ISOLATION = "READ COMMITTED"


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
