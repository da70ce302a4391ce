"""Where telemetry goes: to the engine's `on_event`, and to what `telemetry.otel` has hung on the process.

Whatever goes wrong there stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from .._log import logger
from ..machine.claim import ClaimRow
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


# Of the whole process, as tracers are. None unless the program asks for it.
current: Instrument | None = None


def use(instrument: Instrument | None) -> None:
    global current
    current = instrument


class Emitter:
    """Tells an event to all who listen."""

    __slots__ = ("_on_event",)

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    @property
    def heard(self) -> bool:
        return self._on_event is not None or current is not None

    def __call__(self, event: Event) -> None:
        on_event, instrument = self._on_event, current
        if on_event is not None:
            try:
                on_event(event.name, event.measurements(), event.metadata())
            except BaseException:  # noqa: BLE001 - not even SystemExit: no step has asked for it
                logger.exception("on_event failed")
        if instrument is not None:
            try:
                instrument.event(event)
            except BaseException:  # noqa: BLE001 - as above
                logger.exception("telemetry failed")
