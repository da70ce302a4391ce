"""Where telemetry goes: to the engine's `on_event`, and to what has been hung on the process, which is a tracer
(`telemetry.otel`) and a meter (`telemetry.prometheus`).

Whatever goes wrong there stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from .._contract import Seconds
from .._log import logger
from ..errors import InvalidArgument
from ..machine.claim import ClaimRow
from ..machine.times import interval
from .events import Event

OnEvent = Callable[[str, Mapping[str, float], Mapping[str, object]], None]
"""Telemetry: the name of the event, its numbers, what it is about. Called on the engine's loop: it must be quick."""


class Running(Protocol):
    """A run of a step, as far as telemetry looks at it; what it came to is there when it has ended."""

    row: ClaimRow
    outcome: bytes | None
    error: BaseException | None


class Instrument(Protocol):
    """What a tracer hangs on the package. It must never raise, and may be called in any thread."""

    def step(self, work: Running) -> AbstractContextManager[object]:
        """Stands around one run of a step, in the thread or the task that runs it."""

    def ran(self, row: ClaimRow, seconds: float, outcome: str, error: Exception | None) -> None:
        """A run of a step has ended that took place in the database."""

    def event(self, event: Event) -> None:
        """Hears the events of every engine of this process."""


class Meter(Protocol):
    """What only counts. Of a step that has ended it is told the seconds, without an event: that costs too much."""

    def teller(self, fsm: str, step: str, outcome: str) -> Callable[[float], None]:
        """Where to tell the seconds of such steps; of those that were cancelled the outcome is ``none``."""

    def settle(self) -> None:
        """Called now and then: it has been told many."""

    def event(self, event: Event) -> None:
        """Hears all other events of every engine of this process."""


# Of the whole process, as tracers are. None unless the program asks for it.
current: Instrument | None = None
meter: Meter | None = None

_intervals: dict[str, float] = {}


def use(instrument: Instrument | None, looks: float | None = None) -> None:
    """Hang a tracer on the process. ``looks``: at how many seconds the depth of the queues is to be looked at."""
    global current
    current = instrument
    _want("tracer", looks if instrument is not None else None)


def count_with(counting: Meter | None, looks: float | None = None) -> None:
    """Hang a meter on the process; ``looks`` as in `use`."""
    global meter
    meter = counting
    _want("meter", looks if counting is not None else None)


def _want(who: str, looks: float | None) -> None:
    if looks is None:
        _intervals.pop(who, None)
    else:
        _intervals[who] = looks


def read_looks(depth_interval: Seconds | None) -> float | None:
    """The interval between two looks in seconds.

    Raises:
        InvalidArgument: it is no duration, or out of range.
    """
    if depth_interval is None:
        return None
    seconds = interval(depth_interval, "depth_interval").total_seconds()
    if not 1 <= seconds <= 86_400:
        raise InvalidArgument(f"depth_interval is {seconds:g} s", hint="give 1 second to 1 day")
    return seconds


def looks_every() -> float | None:
    """At how many seconds somebody wants to know the depth of the queues; None: nobody does."""
    return min(list(_intervals.values()), default=None)


class Emitter:
    """Tells an event to all who listen."""

    __slots__ = ("_on_event",)

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    @property
    def heard(self) -> bool:
        """Whether a step that has ended is worth an event: a meter needs none."""
        return self._on_event is not None or current is not None

    def __call__(self, event: Event) -> None:
        on_event, tracer, counting = self._on_event, current, meter
        if on_event is not None:
            try:
                on_event(event.name, event.measurements(), event.metadata())
            except BaseException:  # noqa: BLE001 - not even SystemExit: no step has asked for it
                logger.exception("on_event failed")
        if tracer is not None:
            _tell(tracer, event)
        if counting is not None:
            _tell(counting, event)


def _tell(hearing: Instrument | Meter, event: Event) -> None:
    try:
        hearing.event(event)
    except BaseException:  # noqa: BLE001 - as above
        logger.exception("telemetry failed")
