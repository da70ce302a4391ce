"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from rich.table import Table

STEPS = ("validate", "reserve", "charge", "ship", "notify")


class Row(NamedTuple):
    """One order as gd_instances tells it, and the process that ran its last step."""

    key: str
    customer: str
    step: str
    status: str
    attempt: int
    crashes: int
    last_error: str | None
    pid: int | None

    @property
    def place(self) -> str:
        return self.status if self.status in ("done", "failed", "cancelled") else self.step


class Board(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, rows: Sequence[Row]) -> None: ...

    def say(self, text: str) -> None: ...


def make_board(killed: set[int]) -> Board:
    """`killed`: processes that are no more, shown as such."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        return _Live(killed)
    return _Plain()


def _totals(rows: Sequence[Row]) -> str:
    counts = Counter(row.place for row in rows)
    names = [*STEPS, "done", *(name for name in ("failed", "cancelled") if counts[name])]
    return "  ".join(f"{name} {counts[name]:2}" for name in names)


class _Plain:
    def __init__(self) -> None:
        self._started = time.monotonic()
        self._totals = ""
        self._totals_at = 0.0
        self._told: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {text}", flush=True)

    def show(self, rows: Sequence[Row]) -> None:
        for row in rows:
            turn = (row.step, row.attempt)
            if row.attempt > 0 and self._told.get(row.key) != turn:
                why = "its worker was lost" if row.crashes else row.last_error
                self.say(f"{row.key}: {row.step} again, attempt {row.attempt} ({why})")
            self._told[row.key] = turn
        totals, now = _totals(rows), time.monotonic()
        if totals != self._totals and (now > self._totals_at + 0.5 or all(row.place == "done" for row in rows)):
            self._totals, self._totals_at = totals, now
            self.say(totals)


class _Live:
    def __init__(self, killed: set[int]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._killed = killed
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=10)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def show(self, rows: Sequence[Row]) -> None:
        self._live.update(self._table(rows))

    def _table(self, rows: Sequence[Row]) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        wide = self._console.size.width >= 120
        table = Table(caption=_totals(rows), caption_style="bold", box=SIMPLE_HEAD if wide else None)
        for name in ("order", *STEPS, "attempt", "process", *(("customer", "last error") if wide else ())):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        # A screen that is too low for all shows those that still run.
        room = max(self._console.size.height - 6, 5)
        if len(rows) > room:
            rows = sorted(rows, key=lambda row: row.place == "done")[:room]
        for row in rows:
            done = row.place == "done"
            reached = len(STEPS) if done else STEPS.index(row.step)
            now = _MARKS.get(row.status, f"[red]{row.status}[/]")
            marks = ["[green]✓[/]" if at < reached else now if at == reached else "" for at in range(len(STEPS))]
            lost = row.pid in self._killed and row.status == "executing"
            process = "" if row.pid is None else f"[red]{row.pid} killed[/]" if lost else str(row.pid)
            attempt = str(row.attempt) if row.attempt and not done else ""
            more = (row.customer, "" if done else escape(row.last_error or "")) if wide else ()
            table.add_row(row.key, *marks, attempt, process, *more)
        return table


_MARKS = {"runnable": "[dim]waits[/]", "executing": "[yellow]runs[/]"}
