"""What can end a sleep: a poke from this process, a notification of the server, or the time.

A notification is read by whoever reads the connection, so it may be told in the middle of any statement; what is told
while a claim is under way, that claim may miss, and it is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Set
from typing import Any

from psycopg import AsyncConnection, Notify

from .._listen import receive


class Bell:
    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._poked = False
        self._told = False
        self.noted = False
        """Whether something was told before the last claim."""
        self.told_at: float | None = None
        """When the first of these came, on the monotonic clock."""
        self.concern: Set[str] = frozenset()
        """The queues of which to be told: it may be told already while the server is asked to."""

    def poke(self) -> None:
        self._poked = True
        self._event.set()

    async def wait_for_poke(self, seconds: float | None = None) -> bool:
        """Wait for nothing but that, so many seconds at most; answers whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._poked:
                    self._event.clear()
                    await self._event.wait()
        poked, self._poked = self._poked, False
        return poked

    def note(self) -> None:
        """A claim begins: what is told from now on, it may miss."""
        if self._told:
            self._told, self.noted = False, True

    def hear(self, notify: Notify) -> None:
        """Called whenever a notification is read."""
        if notify.channel == "gendurable" and (not notify.payload or notify.payload in self.concern):
            self._told = True
            if self.told_at is None:
                self.told_at = time.monotonic()

    def forget(self) -> None:
        """What was told before the last claim has been seen to."""
        if not self._told:
            self.told_at = None

    async def wait(self, seconds: float, conn: AsyncConnection[Any] | None) -> bool:
        """Until it is told or poked, or the time is over (then true); without a connection nobody can tell."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        socket = -1 if conn is None else conn.pgconn.socket
        if conn is not None:
            loop.add_reader(socket, self._event.set)
        try:
            while True:
                self._event.clear()
                if conn is not None:
                    receive(conn.pgconn)
                if self._poked or self._told:
                    break
                async with asyncio.timeout_at(deadline):
                    await self._event.wait()
        except TimeoutError:
            return True
        finally:
            if conn is not None:
                loop.remove_reader(socket)
        self._poked = False
        return False
