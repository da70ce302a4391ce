"""Waiting for the end of an instance: the one call that takes more than one round trip."""

from __future__ import annotations

import time
from typing import Any, cast

from psycopg import AsyncConnection, Connection, pq

from ._call import About, Catch, Notified, Pause, Rows, Script, Statement, script
from ._codec import Seconds, interval
from ._rows import Result
from .calls import result, watch
from .errors import InvalidArgument, UnknownInstance

_ENDED = ("done", "failed", "cancelled")


@script
def wait(id: int, timeout: Seconds | None = None, *, listen: bool = False) -> Script[Result]:
    """Wait until an instance has ended. It polls, with pauses that grow from 5 to 100 ms.

    With ``listen=True`` it listens meanwhile on this connection, which must be in autocommit mode: hundreds can wait
    without polling. Notifications that are not its own are handed on to the handlers of the connection.

    Raises:
        TimeoutError: it has not ended within ``timeout`` seconds.
        UnknownInstance: there is no such instance.
    """
    catch: Catch | None = None
    deadline = None if timeout is None else time.monotonic() + interval(timeout, "the timeout").total_seconds()
    if listen:
        if not (yield About(_can_listen)):
            raise InvalidArgument(
                "wait(listen=True) needs a connection in autocommit mode, outside a transaction",
                hint="notifications arrive only between transactions; without listen=True it polls",
            )
        heard = yield Statement("select 'gendurable_done' = any(array(select pg_listening_channels()))", (), _heard)
        yield Statement("listen gendurable_done", (), _ignore)
    try:
        if listen:
            # The hook first: the end may be told in the middle of any statement that follows.
            catch = yield About(lambda conn: Catch(conn, lambda notify: _is_done(notify, id)))
            yield watch.statement(id)
        pause = 0.005
        while True:
            found = yield result.statement(id)
            if found is None:
                raise UnknownInstance(f"there is no instance {id}")
            if found.status in _ENDED:
                return cast(Result, found)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"instance {id} is {found.status} after {timeout} s")
            # Listening, it still looks now and then: whatever is lost on the way, the answer is in the table.
            limit = 5.0 if listen else pause
            limit = limit if left is None else min(limit, left)
            yield Pause(limit) if catch is None else Notified(catch, limit)
            pause = min(pause * 1.5, 0.1)
    finally:
        if catch is not None:
            catch.end()
        if listen and not heard:
            yield Statement("unlisten gendurable_done", (), _ignore)


def _can_listen(conn: Connection[Any] | AsyncConnection[Any]) -> bool:
    return conn.autocommit and conn.pgconn.transaction_status == pq.TransactionStatus.IDLE


def _is_done(notify: pq.PGnotify, id: int) -> bool:
    return notify.relname == b"gendurable_done" and notify.extra == str(id).encode()


def _heard(rows: Rows) -> bool:
    return bool(rows[0][0])


def _ignore(rows: Rows) -> None:
    return None
