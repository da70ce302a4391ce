"""How many steps have ended, and how: counted here, and reported with the next hello.

A report is numbered and sent until the server says that it was counted, so none counts twice and none is lost but with
the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._log import logger
from ..machine.codec import dumps
from ..telemetry import instrument as telemetry
from ..telemetry.events import Emit, Event, StepEnded

_MOST_ROWS = 500
_MOST_BYTES = 20_000
_MOST_KEYS = 2_000
_OTHERS = ("(others)", "(others)")


class Counts:
    """What one engine has counted for one database."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], list[float]] = {}
        self._report: dict[str, Any] | None = None
        self._no = 0

    def add(self, fsm: str, step: str, outcome: str, seconds: float) -> None:
        count = self._counts.get((fsm, step, outcome))
        if count is None:
            if len(self._counts) >= _MOST_KEYS:
                fsm, step = _OTHERS
            count = self._counts.setdefault((fsm, step, outcome), [0, 0.0])
        count[0] += 1
        count[1] += seconds

    def counting(self) -> Callable[[str, str, str, float], None]:
        """What counts a step now: this, and the meter that hangs on the process, if there is one."""
        meter = telemetry.meter
        if meter is None:
            return self.add
        add, ended = self.add, meter.ended

        def both(fsm: str, step: str, outcome: str, seconds: float) -> None:
            add(fsm, step, outcome, seconds)
            try:
                ended(fsm, step, outcome, seconds)
            except BaseException:  # noqa: BLE001 - telemetry that fails stops nothing
                logger.exception("telemetry failed")

        return both

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
                count, seconds = self._counts[key]
                row = [*key, int(count), min(max(seconds, 0.0), 1e9)]
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
