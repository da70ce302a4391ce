"""What the engine does when nothing is due: sleep so that no wake-up can be lost.

It owns the wake-up protocol of this side. It announces itself by `sleep` on the connection that listens, claims once
more, and then waits for a notification, the next due time or the poll interval. A writer that looked before the
announcement was there does not notify; so it also claims, with growing pauses, until every transaction older than the
announcement has ended, and asks for the next due time again: they may have written for later.

::

    looking --several rows came--> lingering --a few looks more--> asleep --work--> looking
       └------------------few or none of them----------------------^

Where nobody can tell this process of new work it only polls, and is looking all the time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from enum import Enum

from ..calls import dispatching, working
from ..telemetry.events import Asleep, Awake, Emit
from .bell import Bell
from .link import Link
from .options import Options

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 1.0
_SECOND_LOOK = 0.01

# Who sleeps makes the next writers notify, and they wait for each other's commits then. Where several rows came since
# the last sleep, more are on their way: a few more looks, each a little later, spare them that.
_SEVERAL = 4
_LINGER = (0.002, 0.004, 0.008)


class State(Enum):
    LOOKING = "nobody notifies: it claims, and a claim that finds nothing is followed by sleep"
    LINGERING = "several rows came: it looks a few times more"
    ASLEEP = "writers notify, and it claims when it is told, or when something may be due"


@dataclass(slots=True)
class Announcement:
    """That it sleeps on these queues, and what the server said to that."""

    queues: Set[str]
    horizon: str | None
    """Transactions older than this may have missed it; None: all of them have ended."""
    due_at: float | None
    """When the next row will be due, on the monotonic clock, as far as anybody knew."""
    poll_at: float
    look_again: bool
    """Whether what was told before it may have been missed by the claim that followed."""


class Sleeper:
    """The idle side of the connection that claims.

    The feeder calls `idle` whenever a claim found nothing, and claims again when it returns; `busy` when it found
    something. It may be asleep on some queues while others have work: only what is asked for counts.
    """

    def __init__(self, link: Link, emit: Emit, options: Options) -> None:
        self._link = link
        self._emit = emit
        self._poll_interval = options.poll_interval
        self._max_poll_interval = options.max_poll_interval
        self._bell = Bell()
        self._connects = 0
        self._announced: Announcement | None = None
        self._idle_for = options.poll_interval
        self._pause = _FIRST_PAUSE
        self._found = 0
        """Rows since the last sleep."""
        self._looks = 0
        """How often it has lingered since the last row."""
        self.poke = self._bell.poke
        """Something changed in this process: a slot is free, or the engine stops."""
        self.poked = self._bell.wait_for_poke
        self.claiming = self._bell.note
        """A claim begins: what is told from now on, it may miss."""

    @property
    def polls(self) -> bool:
        """Whether nobody can tell this process of new work: behind a proxy that pools transactions, or told so."""
        return self._link.pooled

    def covers(self, queues: Set[str]) -> bool:
        """Whether these queues were empty when last looked at, and a notification will tell when they are not."""
        return self._announced is not None and queues <= self._announced.queues

    def state_for(self, queues: Set[str]) -> State:
        """Where it stands, for the queues that a claim found empty."""
        if self._found >= _SEVERAL and self._looks < len(_LINGER):
            return State.LINGERING
        return State.ASLEEP if self.covers(queues) else State.LOOKING

    async def prepare(self) -> None:
        """Listen, on a connection that is new."""
        if self._connects != self._link.connects or self._link.conn is None:
            self._announced = None
            conn = await self._link.open()
            if self.polls:
                return
            conn.add_notify_handler(self._bell.hear)
            await self._link.attempt(dispatching.listen)
            if self._link.conn is conn:
                self._connects = self._link.connects

    async def busy(self, worker: str, rows: Counter[str]) -> None:
        """So many rows came from these queues: while there is work, nobody needs to notify."""
        queues = rows.keys()
        self._found += rows.total()
        self._looks = 0
        self._idle_for = self._poll_interval
        self._pause = _FIRST_PAUSE
        if self._announced is not None and queues & self._announced.queues:
            late = self._how_late(self._announced)
            self._announced = None
            if self._connects == self._link.connects:
                await self._link.attempt(working.wake, worker)
            self._emit(Awake(late, sorted(queues)))
        self._bell.forget()

    def _how_late(self, announced: Announcement) -> float | None:
        """For how many seconds what has woken it has waited: what was to become due, or what it was told of."""
        now = time.monotonic()
        known = [at for at in (announced.due_at, self._bell.told_at) if at is not None and at <= now]
        return now - min(known) if known else None

    async def withdraw(self, worker: str) -> None:
        """It will not claim for a while: nobody needs to notify, and its queues look as if nobody served them."""
        if self._announced is not None:
            self._announced = None
            if self._connects == self._link.connects:
                await self._link.attempt(working.wake, worker)

    async def idle(self, worker: str, queues: Set[str]) -> None:
        """Wait until it is worth claiming again, or until something changed in this process."""
        if not self.polls:
            await self.prepare()
        if self.polls:
            await self._poll()
            return
        match self.state_for(queues):
            case State.LINGERING:
                self._looks += 1
                await self._bell.wait(_LINGER[self._looks - 1], None)
            case State.LOOKING:
                # And look once more: what came before the announcement was not told.
                await self._announce(worker, queues)
            case State.ASLEEP:
                assert self._announced is not None
                await self._sleep_on(worker, self._announced)

    async def _poll(self) -> None:
        self._announced = None
        if await self._bell.wait(self._idle_for, None):
            self._idle_for = min(self._idle_for * 2, self._max_poll_interval)

    async def _announce(self, worker: str, queues: Set[str]) -> None:
        """From looking to asleep."""
        self._bell.forget()
        queues = queues | (frozenset() if self._announced is None else self._announced.queues)
        # What was told before has committed: if it is about a later time, that is asked for here.
        look_again, self._bell.noted = self._bell.noted, False
        due_at, due_in, horizon = await self._ask(worker, queues)
        self._found = 0
        self._announced = Announcement(queues, horizon, due_at, time.monotonic() + self._idle_for, look_again)
        self._emit(Asleep(due_in, sorted(queues)))

    async def _ask(self, worker: str, queues: Set[str]) -> tuple[float | None, float | None, str | None]:
        """When the next row is due: on the monotonic clock, and in seconds."""
        self._bell.concern = queues
        due_in, horizon, backend = await self._link.attempt(dispatching.sleep, worker, sorted(queues))
        await self._check_backend(backend)
        return _time_after(due_in), due_in, horizon

    async def _sleep_on(self, worker: str, announced: Announcement) -> None:
        """Asleep, and the last claim found nothing: until the next is worth it."""
        now = time.monotonic()
        again, announced.look_again = announced.look_again, False
        due_at = announced.due_at
        self._bell.forget()
        if now >= announced.poll_at:
            self._idle_for = min(self._idle_for * 2, self._max_poll_interval)
        if self._bell.noted or now >= announced.poll_at or (due_at is not None and now >= due_at):
            # Told, polled or due, and nothing was there: it may have been about a later time, so ask for the next one.
            again, self._bell.noted = True, False
            announced.due_at, _, _ = await self._ask(worker, announced.queues)
            now = time.monotonic()
            announced.poll_at = now + self._idle_for
        await self._bell.wait(self._longest_wait(announced, now, again), self._link.conn)
        if announced.horizon is not None and not self.polls:
            query = (announced.horizon, worker, sorted(announced.queues))
            settled, due_in, backend = await self._link.attempt(dispatching.settled, *query)
            await self._check_backend(backend)
            if settled:
                # The claim that follows is the last that an older writer could have made necessary; what it may have
                # written for later counts from now on.
                announced.horizon = None
                announced.due_at = _time_after(due_in)

    def _longest_wait(self, announced: Announcement, now: float, again: bool) -> float:
        limit = announced.poll_at - now
        if again:
            # Or it became due after the claim and before that question, which is about later ones; or somebody had
            # the row locked for a moment, and will not tell again: look once more.
            limit = min(limit, _SECOND_LOOK)
        if announced.due_at is not None:
            # A row that is due but cannot be had (its key is busy) must not make this spin.
            limit = min(limit, announced.due_at - now if announced.due_at > now else self._pause)
        if announced.horizon is not None:
            limit = min(limit, self._pause)
        self._pause = min(self._pause * 2, self._poll_interval, _LONGEST_PAUSE)
        return limit

    async def _check_backend(self, backend: int) -> None:
        """Whoever answers is the one that sleeps, or sessions are shared."""
        if backend != self._link.backend and not self.polls:
            await self._link.is_not_alone()


def _time_after(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
