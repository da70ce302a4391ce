"""Heartbeats: the leases of all that is held are renewed, on a connection that nothing else can hold up, and with each
the engine says that it lives.

A step whose claim turns out to be lost is told, and ended if it is a task. The connection also hears the notices of the
server: after one of them the next heartbeat, or the next hello, comes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from .._log import logger
from .._statement import Call
from ..calls import serving, working
from ..errors import GendurableError
from ..telemetry.events import Emit, Heartbeat, Lost
from ..telemetry.steered import Noticed
from .link import TROUBLE, Link
from .notices import Notices
from .options import Options
from .services import Service
from .work import Held

P = ParamSpec("P")
R = TypeVar("R")

_GAP = 0.02
"""Seconds from one notice to the next that is looked at, and four times what the last one cost, if that is longer."""
_LAST_CALL = 0.3
_WHILE_DRAINING = 0.5
"""Seconds between two looks whether anything is left, once it was told to drain."""


class Greeting(Protocol):
    """Whoever says hello (see `hello`)."""

    greeted_at: float | None

    @property
    def has_news(self) -> bool: ...

    async def say(self) -> bool: ...


class Steered(Protocol):
    """What the engine was told (see `steering`)."""

    @property
    def state(self) -> str: ...

    def tell_state(self) -> bool: ...


class Heartbeats(Service):
    """Beats at every ``heartbeat_interval``; after a failure at once again, since the leases run out meanwhile."""

    name = "heartbeat"

    def __init__(
        self,
        link: Link,
        held: Held,
        hello: Greeting,
        steering: Steered,
        emit: Emit,
        options: Options,
        doubted: Callable[[], None],
    ) -> None:
        """``doubted``: called when some claims seem to be lost."""
        super().__init__()
        self._link = link
        self._held = held
        self._hello = hello
        self._steering = steering
        self._emit = emit
        self._doubted = doubted
        self._heartbeat_interval = options.heartbeat_interval
        self._lease_ttl = options.lease_ttl
        self._notices = Notices(held.name)
        self._connects = 0
        self._ending = False
        self._lent: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.beat_at: float | None = None
        """When the leases were last renewed, or there was none, on the monotonic clock."""

    async def run(self) -> None:
        with contextlib.suppress(*TROUBLE):
            await self._listen()  # before it says that it listens
        next_at = time.monotonic()
        while not self._ending:
            news = await self._rest(next_at)
            heard = self._notices.take()
            for what in sorted(heard):
                self._emit(Noticed(what))
            started = time.monotonic()
            in_time = started >= next_at
            beats = in_time or "cancel" in heard
            greets = in_time or news or "hello" in heard
            well = (not beats or await self._beat()) and (not greets or self._ending or await self._greet())
            if not well:
                next_at = time.monotonic() + min(1.0, self._heartbeat_interval / 4)
            elif in_time:
                next_at = started + self._heartbeat_interval
            await self._serve()
            if heard:
                # A burst of notices is one more heartbeat now and then, and not one for each.
                await asyncio.sleep(min(1.0, max(_GAP, 4 * (time.monotonic() - started))))

    async def lend(self, call: Call[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Make a short call of somebody else's, which waits for nothing, between two beats: soon."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._lent.append((lambda: self._link.attempt(call, *args, **kwargs), answer))
        self._notices.poke()
        return await answer

    async def _serve(self) -> None:
        while self._lent and not self._ending:
            attempt, answer = self._lent.popleft()
            if answer.done():
                continue
            try:
                said = await attempt()
            except (*TROUBLE, UnicodeError, GendurableError) as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(said)

    async def leave(self) -> None:
        """Begin no more calls, and let the one that is under way be answered: it is a matter of milliseconds, and where
        it is broken off the driver complains."""
        self._stopped = self._ending = True
        until = time.monotonic() + _LAST_CALL
        while self._link.calling and time.monotonic() < until:  # noqa: ASYNC110 - a call sets no event
            await asyncio.sleep(0.002)

    async def _rest(self, until: float) -> bool:
        """Until it is time, or something was told; answers whether there is something to say."""
        while (left := until - time.monotonic()) > 0:
            self._steering.tell_state()
            if self._hello.has_news:
                return True
            try:
                await self._listen()
                conn = None if self._link.pooled else self._link.conn
                if self._steering.state == "draining":
                    left = min(left, _WHILE_DRAINING)
                if not await self._notices.wait(left, conn):
                    break
            except TROUBLE as error:
                await self._link.drop()
                await self._link.trouble(error)
        return False

    async def _listen(self) -> None:
        """On a connection that is new: whatever was told while there was none was missed."""
        if self._link.pooled or (self._connects == self._link.connects and self._link.conn is not None):
            return
        conn = await self._link.open()
        if self._link.pooled:
            return
        conn.add_notify_handler(self._notices.hear)
        await self._link.attempt(serving.listen_to_control)
        if self._link.conn is conn:
            self._connects = self._link.connects
            if self._hello.greeted_at is not None:
                self._notices.miss()

    async def _greet(self) -> bool:
        try:
            return await self._hello.say()
        except TROUBLE as error:
            await self._link.trouble(error)
            return False

    async def _beat(self) -> bool:
        claims = self._held.claims()
        if not claims:
            self.beat_at = time.monotonic()
            return True
        started = time.perf_counter()
        try:
            lost = await self._link.attempt(working.heartbeat, self._held.worker, claims, self._lease_ttl)
        except TROUBLE as error:
            await self._link.trouble(error)
            return False
        self.beat_at = time.monotonic()
        for id, claim_no in lost:
            work = self._held.get(id, claim_no)
            if work is not None and work.doubt():
                logger.info("the claim of %s %s (step %s) is lost", work.row.fsm, id, work.row.step)
                self._held.drop(work)  # told once, however long the step goes on
                self._emit(Lost(id, work.row.fsm, work.row.step))
        if lost:
            self._doubted()
        self._emit(Heartbeat(len(claims), len(lost), time.perf_counter() - started))
        return True
