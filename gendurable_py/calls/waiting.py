"""Waiting for the end of an instance: the one call that takes more than one round trip.

It owns what a connection listens to: several waits may share one, and it is left as it was.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, Connection, pq

from .._contract import TERMINAL, Seconds
from .._listen import Catch
from .._statement import About, Notified, Pause, Rows, Script, Statement, script
from ..errors import InvalidArgument, UnknownInstance
from ..machine.times import seconds
from .inspecting import result, watch
from .rows import Result

AnyConnection = Connection[Any] | AsyncConnection[Any]


@script
def wait(id: int, timeout: Seconds | None = None, *, listen: bool = False) -> Script[Result]:
    """Wait until an instance has ended. It polls, with pauses that grow from 5 to 100 ms.

    With ``listen=True`` it listens meanwhile on this connection, which must be in autocommit mode: hundreds can wait
    without polling, several of them on one connection. Notifications that are not its own are handed on to the
    handlers of the connection. A wait that is cancelled leaves the connection as it was.

    An instance of a machine with ``retain={"done": 0}`` is kept for those who began to wait before its end, for a
    minute. Not so inside a transaction, on a standby, or for a role that may not watch.

    Raises:
        TimeoutError: it has not ended within ``timeout`` seconds.
        UnknownInstance: there is no such instance, or not any more.
        InvalidArgument: the wait can never end: the connection is inside a transaction that has written something,
            which nobody sees before it commits, or that sees nothing new (REPEATABLE READ, SERIALIZABLE).
    """
    deadline = None if timeout is None else time.monotonic() + seconds(timeout, "the timeout")
    conn = cast(AnyConnection, (yield About(lambda conn: conn)))
    if listen:
        return (yield from _wait_listening(conn, id, timeout, deadline))
    if (yield About(_is_free)):
        # Who is watched is not removed at its end. A watch in an open transaction would hold the instance up.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
            yield from _watch(id)
        return (yield from _wait_until_ended(id, timeout, deadline, None))
    found = yield from _look(id)
    if found.status not in TERMINAL:
        fixed, written = yield Statement(
            "select current_setting('transaction_isolation') in ('repeatable read', 'serializable'), "
            "pg_current_xact_id_if_assigned() is not null",
            (),
            lambda rows: rows[0],
        )
        if fixed or written:
            raise InvalidArgument(
                f"instance {id} cannot end for this connection: its open transaction "
                + ("sees nothing that happens meanwhile" if fixed else "has written, and nobody sees what"),
                hint="commit first, or wait on a connection in autocommit mode",
            )
    return (yield from _wait_until_ended(id, timeout, deadline, None))


def _wait_listening(conn: AnyConnection, id: int, timeout: Seconds | None, deadline: float | None) -> Script[Result]:
    if not (yield About(_is_free)):
        raise InvalidArgument(
            "wait(listen=True) needs a connection in autocommit mode, outside a transaction",
            hint="notifications arrive only between transactions; without listen=True it polls",
        )
    catch: Catch | None = None
    share = _enter(conn)
    try:
        if share.kept is None:
            heard = yield Statement(
                "select 'gendurable_done' = any(array(select pg_listening_channels()))", (), _read_heard
            )
            share.kept = heard
        yield Statement("listen gendurable_done", (), _read_nothing)
        # The hook first: the end may be told in the middle of any statement that follows.
        catch = Catch(conn, lambda notify: _is_done(notify, id))
        yield from _watch(id)
        return (yield from _wait_until_ended(id, timeout, deadline, catch))
    finally:
        if catch is not None:
            catch.end()
        if _leave(conn, share):
            # What it was told, or cancelled for, matters more than a connection that is gone.
            with contextlib.suppress(psycopg.Error):
                yield Statement("unlisten gendurable_done", (), _read_nothing)


def _watch(id: int) -> Script[None]:
    while True:
        # Under REPEATABLE READ a row that was written at this moment is refused: the next transaction sees it.
        with contextlib.suppress(psycopg.errors.SerializationFailure):
            yield watch.statement(id)
            return


def _wait_until_ended(id: int, timeout: Seconds | None, deadline: float | None, catch: Catch | None) -> Script[Result]:
    pause = 0.005
    while True:
        found = yield from _look(id)
        if found.status in TERMINAL:
            return found
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError(f"instance {id} is {found.status} after {timeout} s")
        # Listening, it still looks now and then: whatever is lost on the way, the answer is in the table.
        limit = pause if catch is None else 5.0
        limit = limit if left is None else min(limit, left)
        yield Pause(limit) if catch is None else Notified(catch, limit)
        pause = min(pause * 1.5, 0.1)


def _look(id: int) -> Script[Result]:
    found = yield result.statement(id)
    if found is None:
        raise UnknownInstance(f"there is no instance {id}")
    return cast(Result, found)


@dataclass(slots=True)
class _Share:
    """The waits that listen on one connection. ``kept``: it listened before the first of them, by somebody's wish."""

    waits: int = 0
    kept: bool | None = None


_shares: WeakKeyDictionary[AnyConnection, _Share] = WeakKeyDictionary()
_lock = threading.Lock()


def _enter(conn: AnyConnection) -> _Share:
    with _lock:
        share = _shares.setdefault(conn, _Share())
        share.waits += 1
        return share


def _leave(conn: AnyConnection, share: _Share) -> bool:
    """Whether the connection is to listen no more."""
    with _lock:
        share.waits -= 1
        if share.waits == 0:
            _shares.pop(conn, None)
        return share.waits == 0 and share.kept is False


def _is_free(conn: AnyConnection) -> bool:
    """Whether each statement is a transaction of its own."""
    return conn.autocommit and conn.pgconn.transaction_status == pq.TransactionStatus.IDLE


def _is_done(notify: pq.PGnotify, id: int) -> bool:
    return notify.relname == b"gendurable_done" and notify.extra == str(id).encode()


def _read_heard(rows: Rows) -> bool:
    return bool(rows[0][0])


def _read_nothing(rows: Rows) -> None:
    return None
