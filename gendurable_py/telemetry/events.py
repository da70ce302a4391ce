"""What an engine tells of: a frozen dataclass for each event.

`on_event` hears them by name, with their numbers and what they are about; OpenTelemetry reads the fields. Times are
seconds. ``id``, ``fsm`` and ``step`` are those of the instance that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

EVENTS: dict[str, type[Event]] = {}
"""All events by name."""


class Event:
    """One thing that happened. Of its fields those in ``numbers`` are measurements, and all others metadata."""

    __slots__ = ()

    name: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.facts = tuple(field for field in cls.__annotations__ if field not in cls.numbers)
        EVENTS[cls.name] = cls

    def measurements(self) -> Mapping[str, float]:
        return {key: getattr(self, key) for key in self.numbers}

    def metadata(self) -> Mapping[str, object]:
        return {key: getattr(self, key) for key in self.facts}


Emit = Callable[[Event], None]
"""Tells an event to whoever listens."""


# The work


@dataclass(frozen=True, slots=True)
class Claimed(Event):
    """Rows were claimed; ``queues``: how many by queue."""

    name = "claim"
    numbers = ("rows", "seconds")

    rows: int
    seconds: float
    queues: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StepEnded(Event):
    """A step has ended. An outcome that the server rejected gives a second event, for what `handle` made of it.

    ``outcome``: its kind as in SQL; None if the step was cancelled. ``error``: what was raised, or None.
    """

    name = "step"
    numbers = ("seconds", "attempt")

    seconds: float
    attempt: int
    id: int
    fsm: str
    step: str
    version: int
    queue: str
    outcome: str | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class StepTimedOut(Event):
    """A step was not over within its timeout. It was cancelled or told, and the error is on its way.

    ``seconds``: the timeout. `StepEnded` follows when the run has ended; its outcome is dropped.
    """

    name = "timeout"
    numbers = ("seconds", "attempt")

    seconds: float
    attempt: int
    id: int
    fsm: str
    step: str


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """A batch of outcomes was answered."""

    name = "commit"
    numbers = ("rows", "seconds", "ok", "stale", "busy", "rejected")

    rows: int
    seconds: float
    ok: int
    stale: int
    busy: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Stale(Event):
    """An outcome came too late: the claim was lost."""

    name = "stale"
    numbers = ("count",)

    id: int
    fsm: str
    step: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Busy(Event):
    """An outcome met somebody's lock, and is sent again, apart from the others."""

    name = "busy"
    numbers = ("count", "tries")

    tries: int
    id: int
    fsm: str
    step: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Stuck(Event):
    """An outcome cannot be committed, and is not to blame. It is kept, and tried again after the pause."""

    name = "stuck"
    numbers = ("tries", "pause")

    tries: int
    pause: float
    id: int
    fsm: str
    step: str
    sqlstate: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Rejected(Event):
    """The server refused an outcome."""

    name = "rejected"
    numbers = ("count",)

    id: int
    fsm: str
    step: str
    sqlstate: str | None
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Released(Event):
    """Claims were given back.

    ``reason``: ``unknown`` (no such machine here), ``stopping``, ``unused`` (not started, or cancelled) or
    ``abandoned`` (their claim's answer was lost).
    """

    name = "release"
    numbers = ("rows", "delay")

    rows: int
    delay: float
    reason: str


# Limits

Registered = Literal["created", "same", "different", "failed"]


@dataclass(frozen=True, slots=True)
class RateLimitRegistered(Event):
    """An engine that starts has registered a rate limit that one of its machines declares.

    ``limit``: its name. ``result``: ``created``, ``same`` (it was there), ``different`` (another one was there, and
    stays) or ``failed``, with the ``error``.
    """

    name = "rate_limit"
    numbers = ("allowed", "period", "burst")

    allowed: float
    period: float
    burst: float
    limit: str
    result: Registered
    error: str | None


# Leases


@dataclass(frozen=True, slots=True)
class Heartbeat(Event):
    """Leases were renewed."""

    name = "heartbeat"
    numbers = ("claims", "lost", "seconds")

    claims: int
    lost: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """A heartbeat found out that a claim is lost while its step still runs; told once."""

    name = "lost"
    numbers = ("count",)

    id: int
    fsm: str
    step: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Blocked(Event):
    """The loop stood still.

    ``cause``: ``call`` (a call on the loop blocks), ``busy`` (other threads kept the interpreter) or ``suspended``;
    ``where``: file, line and function. The rest is None unless a step made the call.
    """

    name = "blocked"
    numbers = ("seconds",)

    seconds: float
    cause: str
    where: str | None
    id: int | None
    fsm: str | None
    step: str | None


# Idle, and beside the work


@dataclass(frozen=True, slots=True)
class Asleep(Event):
    """Nothing is due: from now on writers notify. ``due_in`` is told if anything is due later."""

    name = "sleep"
    numbers = ("due_in",)

    due_in: float | None
    queues: list[str]

    def measurements(self) -> Mapping[str, float]:
        return {} if self.due_in is None else {"due_in": self.due_in}


@dataclass(frozen=True, slots=True)
class Awake(Event):
    """There is work again. ``late``: for how long the first of it has waited here: since it became due, as the engine
    knew before, or since a writer told of it. None: it was found by looking."""

    name = "wake"
    numbers = ("late",)

    late: float | None
    queues: list[str]

    def measurements(self) -> Mapping[str, float]:
        return {} if self.late is None else {"late": self.late}


@dataclass(frozen=True, slots=True)
class Saturated(Event):
    """Nothing more is claimed: all slots are taken, or commits lag behind."""

    name = "saturation"
    numbers = ("running",)

    running: int


@dataclass(frozen=True, slots=True)
class Maintained(Event):
    """`gd_maintain` was called.

    ``counts``: what it did, each a measurement of its own. ``said``: ``ran`` (false: another session was at it),
    ``more`` (it is called again soon), ``errors`` (parts that failed).
    """

    name = "maintain"

    counts: Mapping[str, int]
    seconds: float
    said: Mapping[str, object]

    def measurements(self) -> Mapping[str, float]:
        return {**self.counts, "seconds": self.seconds}

    def metadata(self) -> Mapping[str, object]:
        return self.said


@dataclass(frozen=True, slots=True)
class Scheduled(Event):
    """What became of a schedule that the code of this engine declares.

    ``result``: ``made`` (it was not there), ``differs`` (an operator has changed it, or the code has changed: the one
    in the database stays), ``gone`` (it is in the database and no longer in the code), or ``refused`` (schedules
    cannot be announced at all: ``schedule`` and ``fsm`` are None).
    """

    name = "schedule"

    schedule: str | None
    fsm: str | None
    result: str
    message: str


@dataclass(frozen=True, slots=True)
class Collected(Event):
    """`gd_gc` was called: a batch of instances whose retention is over."""

    name = "collect"
    numbers = ("removed", "seconds")

    removed: int
    seconds: float


# Connections


@dataclass(frozen=True, slots=True)
class Reconnecting(Event):
    """A call failed; after the pause it is tried again."""

    name = "reconnect"
    numbers = ("failures", "pause")

    failures: int
    pause: float
    link: str
    error: str


@dataclass(frozen=True, slots=True)
class Recovered(Event):
    """That connection works again."""

    name = "recovered"
    numbers = ("failures",)

    failures: int
    link: str
