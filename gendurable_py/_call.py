"""One definition of a call for both kinds of connection.

A call is written once, as a function from its arguments to a `Statement`, or as a generator of statements and pauses
when it takes more than one round trip. `Call` runs it on a sync connection at once, and on an async one as a coroutine.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, ParamSpec, TypeVar, cast, overload

import psycopg
from psycopg import AsyncConnection, Connection, pq, sql
from psycopg.rows import tuple_row

from .errors import translate

P = ParamSpec("P")
R = TypeVar("R")

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement(Generic[R]):
    """One SQL statement and how its rows are read."""

    sql: LiteralString | sql.Composed
    params: Sequence[object]
    read: Callable[[Rows], R]


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


class Catch:
    """Catches the notifications of a connection that match, and lets all others pass to where they would have gone.

    It stands in the way of psycopg's own hook, since a notification may be read in the middle of any statement.
    """

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any], match: Callable[[pq.PGnotify], bool]) -> None:
        self.caught = False
        self._pgconn = conn.pgconn
        self._passed_on = conn.pgconn.notify_handler

        def handle(notify: pq.PGnotify) -> None:
            if match(notify):
                self.caught = True
            elif self._passed_on is not None:
                self._passed_on(notify)

        conn.pgconn.notify_handler = handle

    def end(self) -> None:
        self._pgconn.notify_handler = self._passed_on


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
        built = self._build(*args, **kwargs)
        if isinstance(conn, AsyncConnection):
            return _run_async(conn, built)
        return _run(conn, built)


def call(build: Callable[P, Statement[R]]) -> Call[P, R]:
    """A call of one statement."""
    return Call(build)


def script(build: Callable[P, Script[R]]) -> Call[P, R]:
    """A call of several."""
    return Call(build)


def _run(conn: Connection[Any], built: Statement[R] | Script[R]) -> R:
    if isinstance(built, Statement):
        return cast(R, _perform(conn, built))
    answer: object = None
    try:
        command = next(built)
        while True:
            try:
                answer = _perform(conn, command)
            except Exception as error:  # noqa: BLE001 - the script decides
                command = built.throw(error)
            else:
                command = built.send(answer)
    except StopIteration as end:
        return cast(R, end.value)


async def _run_async(conn: AsyncConnection[Any], built: Statement[R] | Script[R]) -> R:
    if isinstance(built, Statement):
        return cast(R, await _perform_async(conn, built))
    answer: object = None
    try:
        command = next(built)
        while True:
            try:
                answer = await _perform_async(conn, command)
            except Exception as error:  # noqa: BLE001 - the script decides
                command = built.throw(error)
            else:
                command = built.send(answer)
    except StopIteration as end:
        return cast(R, end.value)


def _perform(conn: Connection[Any], command: Command) -> object:
    match command:
        case Statement():
            # A cursor class of our own choice: the connection's may have other placeholders, or other rows.
            with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
                try:
                    cursor.execute(command.sql, command.params)
                    return command.read(cursor.fetchall() if _has_rows(cursor) else [])
                except psycopg.Error as error:
                    _raise(error)
        case Pause():
            time.sleep(command.seconds)
        case Notified():
            deadline = time.monotonic() + command.seconds
            with conn.lock:
                while True:
                    receive(conn.pgconn)
                    left = deadline - time.monotonic()
                    if command.catch.caught or left <= 0:
                        return None
                    with selectors.DefaultSelector() as selector:
                        selector.register(conn.pgconn.socket, selectors.EVENT_READ)
                        selector.select(left)
        case Run():
            return _run_coroutine(command.coroutine)
        case About():
            return command.question(conn)
    return None


async def _perform_async(conn: AsyncConnection[Any], command: Command) -> object:
    match command:
        case Statement():
            async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
                try:
                    await cursor.execute(command.sql, command.params)
                    return command.read(await cursor.fetchall() if _has_rows(cursor) else [])
                except psycopg.Error as error:
                    _raise(error)
        case Pause():
            await asyncio.sleep(command.seconds)
        case Notified():
            deadline = time.monotonic() + command.seconds
            async with conn.lock:
                while True:
                    receive(conn.pgconn)
                    left = deadline - time.monotonic()
                    if command.catch.caught or left <= 0:
                        return None
                    await readable(conn.pgconn.socket, left)
        case Run():
            return await command.coroutine
        case About():
            return command.question(conn)
    return None


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    # Not "cursor.description": that makes an object for each column, 20 us a claim.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _raise(error: psycopg.Error) -> None:
    ours = translate(error)
    if ours is error:
        raise error
    raise ours from error


def _run_coroutine(coroutine: Coroutine[Any, Any, object]) -> object:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # This thread's loop is busy running us: the coroutine gets a thread and a loop of its own.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def receive(pgconn: pq.abc.PGconn) -> None:
    """Read what has arrived, without blocking, and hand the notifications to the connection's hook.

    Raises:
        psycopg.OperationalError: the connection is gone.
    """
    pgconn.consume_input()
    while (notify := pgconn.notifies()) is not None:
        if pgconn.notify_handler is not None:
            pgconn.notify_handler(notify)


async def readable(socket: int, seconds: float) -> None:
    """Wait until the socket has something to read, at most so long."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.add_reader(socket, arrive)
    try:
        await asyncio.wait([arrived], timeout=seconds)
    finally:
        loop.remove_reader(socket)
