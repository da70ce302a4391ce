"""How many steps have ended, and how: counted here, and reported with the next hello.

A report is numbered and sent until the server says that it was counted, so none counts twice and none is lost but with
the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .._log import logger
from ..machine.codec import dumps
from ..telemetry import instrument as telemetry
from ..telemetry.events import Emit, Event, StepEnded

_MOST_ROWS = 500
_MOST_BYTES = 20_000
_MOST_KEYS = 2_000
_OTHERS = ("(others)", "(others)")


_SETTLES = 1024
"""After so many steps of a kind a meter sorts what it was told: a power of two."""


class Count(Protocol):
    """Counts a step that has ended; ``follows``: the step that it named to go on with."""

    def __call__(self, fsm: str, step: str, outcome: str, seconds: float, follows: str | None = None, /) -> None: ...


class _Count:
    """Steps of a kind; ``tell``: what a meter wants their seconds to be told to."""

    __slots__ = ("number", "seconds", "tell")

    def __init__(self, tell: Callable[[float], None] | None) -> None:
        self.number = 0
        self.seconds = 0.0
        self.tell = tell


class Counts:
    """What one engine has counted for one database."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str, str | None], _Count] = {}
        self._report: dict[str, Any] | None = None
        self._no = 0
        self._meter: telemetry.Meter | None = None

    def _add(self, fsm: str, step: str, outcome: str, seconds: float, follows: str | None = None) -> None:
        count = self._counts.get((fsm, step, outcome, follows)) or self._find(fsm, step, outcome, follows)
        count.number += 1
        count.seconds += seconds

    def _add_and_tell(self, fsm: str, step: str, outcome: str, seconds: float, follows: str | None = None) -> None:
        count = self._counts.get((fsm, step, outcome, follows)) or self._find(fsm, step, outcome, follows)
        count.number += 1
        count.seconds += seconds
        try:
            if count.tell is not None:
                count.tell(seconds)
            if self._meter is not None and not count.number % _SETTLES:
                self._meter.settle()
        except BaseException:  # noqa: BLE001 - telemetry that fails stops nothing
            logger.exception("telemetry failed")

    def _find(self, fsm: str, step: str, outcome: str, follows: str | None) -> _Count:
        if len(self._counts) >= _MOST_KEYS:
            (fsm, step), follows = _OTHERS, None
        count = self._counts.get((fsm, step, outcome, follows))
        if count is None:
            count = self._counts[fsm, step, outcome, follows] = _Count(self._teller(fsm, step, outcome))
        return count

    def _teller(self, fsm: str, step: str, outcome: str) -> Callable[[float], None] | None:
        try:
            return None if self._meter is None else self._meter.teller(fsm, step, outcome)
        except BaseException:  # noqa: BLE001 - as above
            logger.exception("telemetry failed")
            return None

    def counting(self) -> Count:
        """What counts steps now: for the reports, and for the meter that hangs on the process, if there is one."""
        meter = telemetry.meter
        if meter is not self._meter:
            self._meter = meter
            for about, count in self._counts.items():
                count.tell = self._teller(*about[:3])
        return self._add if meter is None else self._add_and_tell

    def hearing(self, emit: Emit) -> Emit:
        """Tells events on, and counts the steps that have ended among them."""

        def tell(event: Event) -> None:
            if isinstance(event, StepEnded):
                self.counting()(event.fsm, event.step, event.outcome or "none", event.seconds)
            emit(event)

        return tell

    def report(self) -> dict[str, Any] | None:
        """What is to be said now: the last report, if nobody has counted it, or a new one; None: there is nothing."""
        if self._report is None and self._counts:
            rows: list[list[Any]] = []
            length = 0
            for key in list(self._counts)[:_MOST_ROWS]:
                count = self._counts[key]
                *about, follows = key
                row = [*about, count.number, min(max(count.seconds, 0.0), 1e9), *([] if follows is None else [follows])]
                length += len(dumps(row)) + 2
                if rows and length > _MOST_BYTES:
                    break
                rows.append(row)
                del self._counts[key]
            self._no += 1
            self._report = {"no": self._no, "rows": rows}
        return self._report

    def counted(self, no: int | None) -> None:
        """The server has counted all reports up to this one."""
        if no is not None and self._report is not None and no >= self._report["no"]:
            self._report = None
