"""Where telemetry goes: to the engine's `on_event`, and to what `gendurable_py.otel` has switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from .._log import logger

if TYPE_CHECKING:
    from ..dispatch.work import Work


OnEvent = Callable[[str, Mapping[str, float], Mapping[str, object]], None]
"""Telemetry: the name of the event, its numbers, what it is about. Called on the engine's loop: it must be quick."""


class Instrument(Protocol):
    """What a tracer hangs on the package. It must never raise, and may be called in any thread."""

    def carrier(self) -> Mapping[str, str]:
        """The keys of ``meta`` by which an instance that is inserted now remembers its trace."""

    def step(self, work: Work) -> AbstractContextManager[object]:
        """Stands around one run of a step, in the thread or the task that runs it."""

    def event(self, name: str, measurements: Mapping[str, float], metadata: Mapping[str, object]) -> None:
        """Hears the events of every engine of this process."""


# Of the whole process, as tracers are: an insert knows no engine. None unless the program asks for it.
current: Instrument | None = None


def use(instrument: Instrument | None) -> None:
    global current
    current = instrument


def carrier() -> Mapping[str, str] | None:
    instrument = current
    return None if instrument is None else instrument.carrier()


def traced(meta: Mapping[str, object] | None, keys: Mapping[str, str] | None) -> Mapping[str, object] | None:
    """The meta of an instance with the trace it is inserted in; one that the caller gave is never mixed with it."""
    if not keys or (meta and "traceparent" in meta):
        return meta
    return {**keys, **(meta or {})}


class Emitter:
    """Tells an event to all who listen. Telemetry that fails stops nothing."""

    __slots__ = ("_on_event",)

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    @property
    def heard(self) -> bool:
        return self._on_event is not None or current is not None

    def __call__(self, name: str, measurements: Mapping[str, float], metadata: Mapping[str, object]) -> None:
        instrument = current
        for listener in (self._on_event, None if instrument is None else instrument.event):
            if listener is not None:
                try:
                    listener(name, measurements, metadata)
                except BaseException:  # noqa: BLE001 - not even SystemExit: no step has asked for it
                    logger.exception("on_event failed")
