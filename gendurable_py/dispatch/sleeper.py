"""What the engine does when nothing is due: sleep so that no wake-up can be lost.

It announces itself by `sleep` on the connection that listens, claims once more, and then waits for a notification, the
next due time or the poll interval. A writer that looked before the announcement was there does not notify; so it also
claims, with growing pauses, until every transaction older than the announcement has ended, and asks for the next due
time again: they may have written for later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Set
from typing import Any

from psycopg import AsyncConnection, Notify

from ..calls import dispatching
from ..calls import working
from .link import Emit, Link
from .._listen import receive
from .arguments import Options

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 1.0
_SECOND_LOOK = 0.01

# Who sleeps makes the next writers notify, and they wait for each other's commits then. Where several rows came since
# the last sleep, more are on their way: a few more looks, each a little later, spare them that.
_SEVERAL = 4
_LINGER = (0.002, 0.004, 0.008)


class Sleeper:
    """The idle side of the connection that claims.

    The feeder calls `idle` whenever a claim found nothing, and claims again when it returns; `busy` when it found
    something.
    """

    def __init__(self, link: Link, emit: Emit, options: Options) -> None:
        self._link = link
        self._emit = emit
        self._poll = options.poll
        self._max_poll = options.max_poll
        self._event = asyncio.Event()
        self._poked = False
        self._told = False
        self._noted = False
        self._connects = 0
        self._asleep: Set[str] = frozenset()
        self._concern: Set[str] = frozenset()
        """What it was told to sleep on last: it may be told already while that call is under way."""
        self._horizon: str | None = None
        self._due_at: float | None = None
        self._poll_at = 0.0
        self._idle_for = options.poll
        self._pause = _FIRST_PAUSE
        self._found = 0
        self._looks = 0

    @property
    def polls(self) -> bool:
        """Whether nobody can tell this process of new work: behind a proxy that pools transactions, or told so."""
        return self._link.pooled

    def poke(self) -> None:
        """Something changed in this process: a slot is free, or the engine stops."""
        self._poked = True
        self._event.set()

    async def poked(self) -> None:
        """Wait for nothing but that."""
        while not self._poked:
            self._event.clear()
            await self._event.wait()
        self._poked = False

    def claiming(self) -> None:
        """A claim begins: what is told from now on, it may miss."""
        if self._told:
            self._told, self._noted = False, True

    async def prepare(self) -> None:
        """Listen, on a connection that is new."""
        if self._connects != self._link.connects or self._link.conn is None:
            self._asleep = frozenset()
            conn = await self._link.open()
            if self.polls:
                return
            conn.add_notify_handler(self._hear)
            await self._link.attempt(dispatching.listen)
            if self._link.conn is conn:
                self._connects = self._link.connects

    async def busy(self, worker: str, rows: Counter[str]) -> None:
        """So many rows came from these queues: while there is work, nobody needs to notify."""
        queues = rows.keys()
        self._found += rows.total()
        self._looks = 0
        self._idle_for = self._poll
        self._pause = _FIRST_PAUSE
        if queues & self._asleep:
            self._asleep = frozenset()
            if self._connects == self._link.connects:
                await self._link.attempt(working.wake, worker)
            self._emit("wake", {}, {"queues": sorted(queues)})

    async def idle(self, worker: str, queues: Set[str]) -> None:
        """Wait until it is worth claiming again, or until something changed in this process."""
        if not self.polls:
            await self.prepare()
        if self.polls:
            self._asleep = frozenset()
            if await self._wait(self._idle_for, None):
                self._idle_for = min(self._idle_for * 2, self._max_poll)
            return
        if self._found >= _SEVERAL and self._looks < len(_LINGER):
            self._looks += 1
            await self._wait(_LINGER[self._looks - 1], None)
            return
        if not queues <= self._asleep:
            await self._announce(worker, queues | self._asleep)
            return
        now, again = time.monotonic(), False
        if now >= self._poll_at:
            self._idle_for = min(self._idle_for * 2, self._max_poll)
        if self._noted or now >= self._poll_at or (self._due_at is not None and now >= self._due_at):
            # Told, polled or due, and nothing was there: it may have been about a later time, so ask for the next one.
            again, self._noted = True, False
            await self._announce(worker, self._asleep)
            now = time.monotonic()
        limit = self._poll_at - now
        if again:
            # Or it became due after the claim and before that question, which is about later ones; or somebody had
            # the row locked for a moment, and will not tell again: look once more.
            limit = min(limit, _SECOND_LOOK)
        if self._due_at is not None:
            # A row that is due but cannot be had (its key is busy) must not make this spin.
            limit = min(limit, self._due_at - now if self._due_at > now else self._pause)
        if self._horizon is not None:
            limit = min(limit, self._pause)
        self._pause = min(self._pause * 2, self._poll, _LONGEST_PAUSE)
        await self._wait(limit, self._link.conn)
        if self._horizon is not None and not self.polls:
            query = (self._horizon, worker, sorted(self._asleep))
            settled, due_in, backend = await self._link.attempt(dispatching.settled, *query)
            await self._same(backend)
            if settled:
                # The claim that follows is the last that an older writer could have made necessary; what it may have
                # written for later counts from now on.
                self._horizon = None
                self._due_at = self._after(due_in)

    async def _announce(self, worker: str, queues: Set[str]) -> None:
        new = not queues <= self._asleep
        self._concern = queues
        due_in, horizon, backend = await self._link.attempt(dispatching.sleep, worker, sorted(queues))
        await self._same(backend)
        self._due_at = self._after(due_in)
        self._poll_at = time.monotonic() + self._idle_for
        if new:
            self._found = 0
            self._asleep = queues
            self._horizon = horizon
            due = {} if due_in is None else {"due_in": due_in}
            self._emit("sleep", due, {"queues": sorted(queues)})

    async def _same(self, backend: int) -> None:
        """Whoever answers is the one that sleeps, or sessions are shared."""
        if backend != self._link.backend and not self.polls:
            await self._link.is_not_alone()

    @staticmethod
    def _after(seconds: float | None) -> float | None:
        return None if seconds is None else time.monotonic() + seconds

    def covers(self, queues: Set[str]) -> bool:
        """Whether these queues were empty when last looked at, and a notification will tell when they are not."""
        return queues <= self._asleep

    async def _wait(self, seconds: float, conn: AsyncConnection[Any] | None) -> bool:
        """Until a notification for one of the queues arrives, something is poked, or the time is over (then true)."""
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

    def _hear(self, notify: Notify) -> None:
        """Called whenever a notification is read, which may be in the middle of any statement."""
        if notify.channel == "gendurable" and (not notify.payload or notify.payload in self._concern):
            self._told = True
