"""One definition of a call for both kinds of connection.

A call is written once, as a function from its arguments to a `Statement`, or as a generator of statements and pauses
when it takes more than one round trip. `Call` runs it on a sync connection at once, and on an async one as a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, ParamSpec, TypeVar, cast, overload

import psycopg
from psycopg import AsyncConnection, Connection, pq, sql
from psycopg.rows import tuple_row

from ._listen import Catch, arrival, arrival_async, receive
from .errors import InvalidArgument, translate

P = ParamSpec("P")
R = TypeVar("R")

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement(Generic[R]):
    """One SQL statement and how its rows are read."""

    sql: LiteralString | sql.Composed
    params: Sequence[object]
    read: Callable[[Rows], R]


def by_id(rows: Rows) -> dict[int, str]:
    return {row[0]: row[1] for row in rows}


def one_value(rows: Rows) -> Any:
    """The only column of the only row; None where there is no row."""
    return rows[0][0] if rows else None


def nothing(rows: Rows) -> None:
    """For a call whose answer is that it did not raise."""
    return


@dataclass(frozen=True, slots=True)
class Pause:
    """Let so many seconds pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Notified:
    """Wait until something is caught, or so many seconds."""

    catch: Catch
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Run a coroutine to its end and answer its result."""

    coroutine: Coroutine[Any, Any, object]


@dataclass(frozen=True, slots=True)
class About:
    """Ask something of the connection itself, without a round trip."""

    question: Callable[[Connection[object] | AsyncConnection[object]], object]


Command = Statement[Any] | Pause | Notified | Run | About
Script = Generator[Command, Any, R]


class Call(Generic[P, R]):
    """A function of the SQL contract: ``call(conn, …)`` or ``await call(aconn, …)``, in the caller's transaction."""

    def __init__(self, build: Callable[P, Statement[R] | Script[R]]) -> None:
        self._build = build
        functools.update_wrapper(self, build)

    def statement(self, *args: P.args, **kwargs: P.kwargs) -> Statement[R]:
        """The call as one step of a script."""
        built = self._build(*args, **kwargs)
        assert isinstance(built, Statement)
        return built

    @overload
    def __call__(self, conn: Connection[Any], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, conn: AsyncConnection[Any], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def __call__(
        self, conn: Connection[Any] | AsyncConnection[Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> R | Coroutine[Any, Any, R]:
        if isinstance(conn, AsyncConnection):
            return _run_async(conn, self._build(*args, **kwargs))
        if isinstance(conn, Connection):
            return _run(conn, self._build(*args, **kwargs))
        raise _no_connection(conn)


_HINTS = {
    "Pool": "take a connection out of it: with pool.connection() as conn",
    "Cursor": "give the cursor's connection",
    "Engine": "an engine works by itself; calls go over a connection of yours",
    "str": "connect first: psycopg.connect(dsn)",
}


def _no_connection(conn: object) -> InvalidArgument:
    kind = type(conn).__name__
    hint = next((hint for part, hint in _HINTS.items() if part in kind), "the connection comes first in every call")
    return InvalidArgument(f"a {kind} is no psycopg connection", hint=hint)


def call(build: Callable[P, Statement[R]]) -> Call[P, R]:
    """A call of one statement."""
    return Call(build)


def script(build: Callable[P, Script[R]]) -> Call[P, R]:
    """A call of several."""
    return Call(build)


def _run(conn: Connection[Any], built: Statement[R] | Script[R]) -> R:
    if isinstance(built, Statement):
        return cast(R, _perform(conn, built))
    _need_no_pipeline(conn)
    answer: object = None
    try:
        command = next(built)
        while True:
            try:
                answer = _perform(conn, command)
            except BaseException as error:  # noqa: BLE001 - the script decides, and leaves the connection as it was
                _end_command(conn)
                command = built.throw(error)
            else:
                command = built.send(answer)
    except StopIteration as end:
        return cast(R, end.value)


def _end_command(conn: Connection[Any]) -> None:
    """What a signal handler raises may come between a statement and its answer: end it, or nothing more can be said."""
    if conn.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):
            conn.cancel()
        with contextlib.suppress(psycopg.Error):
            while conn.pgconn.get_result() is not None:
                pass


async def _run_async(conn: AsyncConnection[Any], built: Statement[R] | Script[R]) -> R:
    if isinstance(built, Statement):
        return cast(R, await _perform_async(conn, built))
    _need_no_pipeline(conn)
    idle = conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
    answer: object = None
    try:
        command = next(built)
        while True:
            try:
                answer = await _perform_async(conn, command)
            except GeneratorExit:
                _abandon(conn, built, idle)
                raise
            except Exception as error:  # noqa: BLE001 - the script decides
                command = built.throw(error)
            except BaseException as error:  # noqa: BLE001 - a cancellation
                return await _shielded(_clean_up(conn, built, error))
            else:
                command = built.send(answer)
    except StopIteration as end:
        return cast(R, end.value)


async def _clean_up(conn: AsyncConnection[Any], built: Script[R], error: BaseException) -> R:
    """What a script does about a cancellation, to its end: with that, the cancellation is raised again."""
    try:
        while True:
            command = built.throw(error)
            while True:
                try:
                    answer = await _perform_async(conn, command)
                except BaseException as another:  # noqa: BLE001 - as above
                    error = another
                    break
                command = built.send(answer)
    except StopIteration as end:
        return cast(R, end.value)


async def _shielded(work: Coroutine[Any, Any, R]) -> R:
    """Wait for the work also if cancelled meanwhile, again and again."""
    task = asyncio.ensure_future(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise


def _abandon(conn: AsyncConnection[Any], built: Script[R], idle: bool) -> None:
    """The coroutine was closed, or its loop is gone: nothing can be sent any more."""
    try:
        while True:
            built.throw(GeneratorExit())
    except (GeneratorExit, StopIteration):
        pass
    if idle and conn.autocommit and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        conn.pgconn.finish()  # a transaction of ours stands open: the server rolls back what has no session


def _need_no_pipeline(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    if conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        raise InvalidArgument(
            "this call takes several round trips, and the connection is in pipeline mode",
            hint="make it outside of the pipeline; calls of one statement work inside",
        )


def _perform(conn: Connection[Any], command: Command) -> object:
    match command:
        case Statement():
            # A cursor class of our own choice: the connection's may have other placeholders, or other rows.
            with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
                try:
                    cursor.execute(command.sql, command.params)
                    if cursor.pgresult is None:
                        return command.read(_texts(conn, _piped(cursor)))
                    return command.read(_texts(conn, cursor.fetchall()) if _has_rows(cursor) else [])
                except psycopg.Error as error:
                    _raise(error)
        case Pause():
            time.sleep(command.seconds)
        case Notified():
            deadline = time.monotonic() + command.seconds
            while True:
                with conn.lock:
                    receive(conn.pgconn)
                left = deadline - time.monotonic()
                if command.catch.caught or left <= 0:
                    return None
                arrival(command.catch, conn.pgconn.socket, left)
        case Run():
            return _run_coroutine(command.coroutine)
        case About():
            with conn.lock:  # not in the middle of what another thread does with it
                return command.question(conn)
    return None


async def _perform_async(conn: AsyncConnection[Any], command: Command) -> object:
    match command:
        case Statement():
            async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
                try:
                    await cursor.execute(command.sql, command.params)
                    if cursor.pgresult is None:
                        return command.read(_texts(conn, await _piped_async(cursor)))
                    return command.read(_texts(conn, await cursor.fetchall()) if _has_rows(cursor) else [])
                except psycopg.Error as error:
                    _raise(error)
        case Pause():
            await asyncio.sleep(command.seconds)
        case Notified():
            deadline = time.monotonic() + command.seconds
            while True:
                async with conn.lock:
                    receive(conn.pgconn)
                left = deadline - time.monotonic()
                if command.catch.caught or left <= 0:
                    return None
                await arrival_async(command.catch, conn.pgconn.socket, left)
        case Run():
            return await command.coroutine
        case About():
            async with conn.lock:
                return command.question(conn)
    return None


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    # Not "cursor.description": that makes an object for each column, 20 us a claim.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _texts(conn: Connection[Any] | AsyncConnection[Any], rows: Rows) -> Rows:
    # Where the client says that it has no encoding psycopg gives text as bytes. No call answers real ones.
    if conn.pgconn.parameter_status(b"client_encoding") != b"SQL_ASCII":
        return rows
    return [tuple(map(_text, row)) for row in rows]


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return list(map(_text, value)) if isinstance(value, list) else value


def _piped(cursor: psycopg.Cursor[Any]) -> Rows:
    # In a pipeline there is no answer yet; asking for its rows waits for it.
    try:
        return cursor.fetchall()
    except psycopg.ProgrammingError:
        if cursor.pgresult is None or _has_rows(cursor):
            raise
        return []


async def _piped_async(cursor: psycopg.AsyncCursor[Any]) -> Rows:
    try:
        return await cursor.fetchall()
    except psycopg.ProgrammingError:
        if cursor.pgresult is None or _has_rows(cursor):
            raise
        return []


def _raise(error: psycopg.Error) -> None:
    ours = translate(error)
    if ours is error:
        raise error
    raise ours from error


def _run_coroutine(coroutine: Coroutine[Any, Any, object]) -> object:
    try:
        running = asyncio.get_running_loop() is not None
    except RuntimeError:
        running = False
    if not running:  # not where that error is handled: what the coroutine raises would have come from it
        return asyncio.run(coroutine)
    # This thread's loop is busy running us: the coroutine gets a thread and a loop of its own.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
