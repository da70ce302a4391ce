"""Transactional steps: a step, what it writes and its outcome in one transaction of the database.

The row of the instance is locked last, by the commit of the outcome, and the claim was committed before. So a step
that takes its process or its connection with it leaves a trace, and whoever signals or cancels its instance waits for
the end of that commit alone. Nothing is set in a session: what a step sees is what its role sees, and a proxy that
pools transactions keeps nothing of ours. Where the connections come from stands in `connections`.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection, pq

from ..calls import dispatching
from ..errors import ClaimLost, InvalidArgument
from ..machine.context import Context
from ..machine.encode import encode_outcome
from . import fork
from .answers import CONFLICTS, Fate
from .connections import NoConnection, Source
from .work import Work

AGAIN = 5
"""How often a step runs again in place because of what another session does."""

# The connection, or the server as a whole: what our own call says of these is no fault of the step.
_AWAY = ("08", "53", "57P", "58")
_CUT = ("08", "57P01", "57P02", "57P03")


class Transactions:
    """Runs the transactional steps of one database, on connections of its own or those of hooks."""

    def __init__(self, connections: Source) -> None:
        self._connections = connections
        self._home: str | None = None

    def run(self, work: Work) -> None:
        """Run a sync step until it has its fate, or raise its error."""
        for tried in range(AGAIN + 1):
            attempt = _Attempt(work)
            try:
                self._attempt(attempt)
            except BaseException as error:
                again = self._judge(attempt, error, tried)
                if again is None:
                    return
                if not again:
                    raise
            else:
                attempt.succeed()
                return
            time.sleep(_pause(tried))
            _renew(work)

    async def run_async(self, work: Work) -> None:
        """The same for an async step."""
        for tried in range(AGAIN + 1):
            attempt = _Attempt(work)
            try:
                await self._attempt_async(attempt)
            except BaseException as error:
                again = self._judge(attempt, error, tried)
                if again is None:
                    return
                if not again:
                    raise
            else:
                attempt.succeed()
                return
            await asyncio.sleep(_pause(tried))
            _renew(work)

    def _attempt(self, attempt: _Attempt) -> None:
        work, hook = attempt.work, attempt.work.step.transactional

        send = dispatching.commit_one_text if callable(hook) else self._connections.commit

        def commit(conn: Connection[Any]) -> None:
            attempt.need_ready(conn, Connection)
            if self._home is None:
                self._home = dispatching.home(conn)
            send(conn, self._home or "public", work.worker, attempt.text)
            attempt.committed = True

        manager: AbstractContextManager[Any]
        manager = hook(attempt.guarded(commit)) if callable(hook) else self._own(attempt, attempt.guarded(commit))
        if not isinstance(manager, AbstractContextManager):
            raise _no_manager(manager, "a context manager", "contextlib.contextmanager")
        with manager as conn, attempt.inside(conn):
            attempt.outcome = _encode(work, work.step.run(work.ctx))
        attempt.need_committed()

    async def _attempt_async(self, attempt: _Attempt) -> None:
        work, hook = attempt.work, attempt.work.step.transactional

        send = dispatching.commit_one_text if callable(hook) else self._connections.commit_async

        async def commit(conn: AsyncConnection[Any]) -> None:
            attempt.need_ready(conn, AsyncConnection)
            if self._home is None:
                self._home = await dispatching.home(conn)
            await send(conn, self._home or "public", work.worker, attempt.text)
            attempt.committed = True

        manager: AbstractAsyncContextManager[Any]
        guarded = attempt.guarded_async(commit)
        manager = hook(guarded) if callable(hook) else self._own_async(attempt, guarded)
        if not isinstance(manager, AbstractAsyncContextManager):
            raise _no_manager(manager, "an async context manager", "contextlib.asynccontextmanager")
        async with manager as conn:
            with attempt.inside(conn):
                made: Any = work.step.run(work.ctx)
                attempt.outcome = _encode(work, await made)
        attempt.need_committed()

    @contextmanager
    def _own(self, attempt: _Attempt, commit: Callable[[Connection[Any]], None]) -> Iterator[Connection[Any]]:
        """A transaction of the engine, as a hook would make one."""
        with self._connections.begun(lambda: attempt.work.cancelled) as conn:
            attempt.conn = conn
            yield conn
            commit(conn)

    @asynccontextmanager
    async def _own_async(self, attempt: _Attempt, commit: Callable[..., Any]) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._connections.begun_async() as conn:
            attempt.conn = conn
            yield conn
            await commit(conn)

    def _judge(self, attempt: _Attempt, error: BaseException, tried: int) -> bool | None:
        """What an error means: None: the work has its fate; True: it is to run again; False: it is the step's."""
        work = attempt.work
        if fork.generation != attempt.born or not isinstance(error, Exception):
            return False
        if isinstance(error, NoConnection):
            work.fate = Fate.UNSTARTED
            return None
        if attempt.lost:
            work.fate = Fate.LOST
            return None
        driver = _of_driver(error)
        state = None if driver is None else driver.sqlstate
        if state in ("42883", "3F000"):
            self._home = None  # it may have moved to another schema
        if driver is not None and attempt.is_cut_off(driver):
            work.fate = Fate.CRASHED
            return None
        if state in CONFLICTS:
            return tried < AGAIN and not work.cancelled
        if attempt.calling and state is not None and state.startswith(_AWAY):
            work.fate = Fate.CRASHED
            return None
        return False

    async def close(self) -> None:
        """Give up the connections; those that a step still uses, when it gives them back."""
        await self._connections.close()


class _Attempt:
    """One run of a step, up to the end of its transaction."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.born = fork.generation
        self.outcome: bytes | None = None
        self.conn: Connection[Any] | AsyncConnection[Any] | None = None
        self.raised: BaseException | None = None
        self.calling = False
        """Whether the step is over, and its outcome was sent."""
        self.committed = False
        """Whether the outcome was taken. Its transaction may still fail."""
        self.lost = False

    @property
    def text(self) -> str:
        return (self.outcome or b"null").decode("utf-8", "replace")

    @contextmanager
    def inside(self, conn: object) -> Iterator[None]:
        """The step itself: what it raises is remembered, since a hook may swallow it."""
        ctx = self.work.ctx
        ctx._conn = conn
        try:
            yield
        except BaseException as error:
            self.raised = error
            raise
        finally:
            ctx._conn = None
        if fork.generation != self.born:
            fork.leave(None)  # a child that came back from the step: the rest is the parent's

    def guarded(self, commit: Callable[[Any], None]) -> Callable[[Any], None]:
        """What a hook calls: what it raises is remembered, too."""

        def call(conn: Any) -> None:
            try:
                commit(conn)
            except BaseException as error:
                self._note(error)
                raise

        return call

    def guarded_async(self, commit: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def call(conn: Any) -> None:
            try:
                await commit(conn)
            except BaseException as error:
                self._note(error)
                raise

        return call

    def _note(self, error: BaseException) -> None:
        self.raised = error
        self.lost = self.lost or isinstance(error, ClaimLost)

    def need_ready(self, conn: Any, kind: type[Any]) -> None:
        """Raises where nothing can be committed on this connection."""
        if not isinstance(conn, kind):
            raise InvalidArgument(
                f"commit was called with a {type(conn).__name__}",
                hint=f"give it the psycopg.{kind.__name__} that the step has written on",
            )
        if self.calling:
            raise InvalidArgument("commit was called twice", hint="a hook calls it once, as the last that it does")
        if self.outcome is None:
            raise InvalidArgument("commit was called, but the step has no outcome yet", hint="call it after the yield")
        self.conn = conn
        if self.work.cancelled:
            raise ClaimLost("the claim was lost while the step ran")
        status = conn.info.transaction_status
        if status == pq.TransactionStatus.INERROR:
            raise InvalidArgument(
                "the step went on after an error of its transaction",
                hint="let the error out, or run what may fail in a savepoint: with ctx.conn.transaction()",
            )
        # without autocommit it is idle, too, where the step has sent nothing: ours begins the transaction then
        if status == pq.TransactionStatus.IDLE and conn.autocommit:
            raise InvalidArgument(
                "the transaction of the step has ended before its outcome",
                hint="a transactional step neither commits nor rolls back; the engine does both",
            )
        if conn.closed and not conn.broken:
            raise InvalidArgument("the step closed its connection", hint="leave ctx.conn open: it is the engine's")
        self.calling = True

    def need_committed(self) -> None:
        """Raises where a hook has ended as if all were well, and it is not."""
        if self.raised is not None:
            raise self.raised
        if not self.committed:
            raise InvalidArgument(
                "the hook of a transactional step did not call commit", hint="call commit(connection) after the yield"
            )

    def is_cut_off(self, driver: psycopg.Error) -> bool:
        """Whether the connection is gone, and not by the step itself."""
        if self.conn is not None:
            return self.conn.broken
        # of a hook, whose connection is not known before its commit
        state = driver.sqlstate
        return state.startswith(_CUT) if state else isinstance(driver, psycopg.OperationalError) and not driver.pgconn

    def succeed(self) -> None:
        self.work.outcome = self.outcome
        self.work.fate = Fate.COMMITTED


def _renew(work: Work) -> None:
    """A context as it was before: the step may have changed the state, and has taken signals."""
    old = work.ctx
    work.ctx = Context(work.row, work.spec.codec)
    if hasattr(old, "_draining"):
        work.ctx._draining = old._draining
    work.ctx._cancelled = old._cancelled


def _pause(tried: int) -> float:
    return float(0.002 * 2**tried * random.uniform(0.5, 1.5))


def _of_driver(error: BaseException) -> psycopg.Error | None:
    """What psycopg raised, also where a library has raised an error of its own from it."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None or isinstance(seen, psycopg.Error):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _no_manager(made: object, wanted: str, decorator: str) -> InvalidArgument:
    if inspect.iscoroutine(made):
        made.close()
    return InvalidArgument(
        f"the hook of a transactional step made a {type(made).__name__}, not {wanted}",
        hint=f"decorate it: @{decorator}",
    )


def _encode(work: Work, returned: object) -> bytes:
    return work.encode_own(returned) or encode_outcome(work.ctx, work.spec, returned, False)
