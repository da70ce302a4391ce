"""Notifications that arrive on a connection which others use meanwhile: what is theirs reaches them.

`calls.waiting` and the dispatcher's sleep build on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
from collections.abc import Callable, Iterator
from typing import Any

from psycopg import AsyncConnection, Connection, pq


class Catch:
    """Catches the notifications of a connection that match, and lets all others pass to where they would have gone.

    It stands in the way of psycopg's own hook, since a notification may be read in the middle of any statement.
    """

    def __init__(self, conn: Connection[Any] | AsyncConnection[Any], match: Callable[[pq.PGnotify], bool]) -> None:
        self.caught = False
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._match = match
        self._over = False
        self._pgconn = conn.pgconn
        self._passed_on = conn.pgconn.notify_handler
        conn.pgconn.notify_handler = self

    def __call__(self, notify: pq.PGnotify) -> None:
        if not self._over and self._match(notify):
            with self._lock:
                self.caught = True
                if self._wake is not None:
                    self._wake()
        elif self._passed_on is not None:
            self._passed_on(notify)

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            self._wake = wake
            if self.caught:
                wake()
        try:
            yield
        finally:
            with self._lock:
                self._wake = None

    def end(self) -> None:
        self._over = True
        # Another that was set after this one goes on catching; the last to end takes all that are over away.
        handler = self._pgconn.notify_handler
        while isinstance(handler, Catch) and handler._over:
            handler = handler._passed_on
        self._pgconn.notify_handler = handler


def receive(pgconn: pq.abc.PGconn) -> None:
    """Read what has arrived, without blocking, and hand the notifications to the connection's hook.

    Raises:
        psycopg.OperationalError: the connection is gone.
    """
    pgconn.consume_input()
    while (notify := pgconn.notifies()) is not None:
        if pgconn.notify_handler is not None:
            pgconn.notify_handler(notify)


def arrival(catch: Catch, socket: int, seconds: float) -> None:
    """Wait until the socket has something to read or the catch is made, without the lock: others use the connection
    meanwhile, and what is ours may be read by them."""
    ours, theirs = os.pipe()
    try:
        with catch.waking(lambda: os.write(theirs, b"!")), selectors.DefaultSelector() as selector:
            selector.register(socket, selectors.EVENT_READ)
            selector.register(ours, selectors.EVENT_READ)
            selector.select(seconds)
    finally:
        os.close(ours)
        os.close(theirs)


async def arrival_async(catch: Catch, socket: int, seconds: float) -> None:
    """`arrival` on a loop."""
    # A descriptor of our own: a loop has one reader for each, and psycopg's is for whoever holds the lock.
    own = os.dup(socket)
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    try:
        loop.add_reader(own, arrive)
        with catch.waking(arrive):
            await asyncio.wait([arrived], timeout=seconds)
    finally:
        loop.remove_reader(own)
        os.close(own)
