"""What changes while one looks: ``top``, a page that is drawn anew, and ``tail``, a line for each end."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from .. import calls
from ..calls import Failure, Listed, viewing
from .frame import Frame, command
from .output import age, clock, encode, first_line, plain, styled, table
from .queues import QUEUES, WORKERS, queue_cells, worker_cells
from .reading import duration, moment

PANEL = "Looking"
# What ends between two looks of the tail is read in so many pages at most.
_PAGES = 20
_PAGE = 1000
_COUNTED = 10_000


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "top", panel=PANEL)(top)
    command(app, "tail", panel=PANEL)(tail)


# -- top

_SORTS = ("queue", "due", "delayed", "executing", "parked", "oldest")


@dataclass
class _View:
    """How the page is to look: what the keys have changed."""

    sort: int = 0
    reverse: bool = False
    paused: bool = False
    ended: bool = False

    def press(self, key: str) -> None:
        match key:
            case "q" | "\x03" | "\x04":
                self.ended = True
            case " " | "p":
                self.paused = not self.paused
            case "s":
                self.sort = (self.sort + 1) % len(_SORTS)
            case "S":
                self.sort = (self.sort - 1) % len(_SORTS)
            case "r":
                self.reverse = not self.reverse


@dataclass
class _Facts:
    """What the database says at one moment."""

    at: datetime
    queues: list[viewing.Row]
    workers: list[viewing.Row]
    holds: list[viewing.Row]
    failures: list[Failure]
    ended: int
    rate: float | None
    steps: int

    def as_json(self) -> dict[str, object]:
        return {
            "at": self.at,
            "queues": self.queues,
            "workers": self.workers,
            "holds": self.holds,
            "failures": self.failures,
            "ended": self.ended,
            "ends_per_second": self.rate,
            "steps_last_minute": self.steps,
        }


def top(
    frame: Frame,
    interval: Annotated[str, typer.Option("--interval", "-i", help="How often to look.", metavar="TIME")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    since: Annotated[str, typer.Option("--failures", help="Failures of so long.", metavar="TIME")] = "1h",
) -> None:
    """Watch queues, workers and failures. Keys: s sorts by the next column, r reverses, space pauses, q ends."""
    span = timedelta(seconds=duration(since))
    every = max(0.1, duration(interval))
    found = _look(frame, None, span)
    view = _View()
    if once or frame.json or not frame.out.is_terminal:
        while True:
            if frame.json:
                frame.line(encode(found.as_json()))
            else:
                frame.out.print(_page(found, view, None))
            if once or not frame.json:
                return
            time.sleep(every)
            found = _look(frame, found, span)
    with _keys() as keys, Live(console=frame.out, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + every
        while not view.ended:
            live.update(_page(found, view, frame.out.height), refresh=True)
            key = keys(max(0.0, due - time.monotonic()))
            if key:
                view.press(key)
            if time.monotonic() >= due:
                due = time.monotonic() + every
                if not view.paused:
                    found = _look(frame, found, span)


def _look(frame: Frame, before: _Facts | None, span: timedelta) -> _Facts:
    now = datetime.now(UTC)
    conn = frame.conn
    ended, rate = 0, None
    if before is not None:
        counted = calls.count(conn, {"finished_after": before.at.isoformat()}, most=_COUNTED)
        ended = counted.instances
        rate = ended / max(0.001, (now - before.at).total_seconds())
    return _Facts(
        now,
        viewing.queues(conn),
        viewing.workers(conn),
        viewing.holds(conn),
        calls.failures(conn, None, now - span, limit=5),
        ended,
        rate,
        sum(row.ended for row in calls.stats(conn, 2) if row.minute <= now - timedelta(minutes=1)),
    )


def _page(found: _Facts, view: _View, height: int | None) -> RenderableType:
    name = _SORTS[view.sort]
    rows = sorted(found.queues, key=lambda row: _sort_value(row, name), reverse=view.reverse != (view.sort != 0))
    room = len(rows) if height is None else max(3, height - 14 - min(5, len(found.workers)))
    total = {name: sum(_int(row[name]) for row in rows) for name in ("due", "delayed", "executing", "parked")}
    rate = "" if found.rate is None else f"  ended {found.rate:,.1f}/s"
    rate += f"  steps {found.steps:,}/min" if found.steps else ""
    state = "  PAUSED" if view.paused else ""
    head = Text.assemble(
        (f"{found.at.astimezone():%H:%M:%S}", "bold"),
        f"  due {total['due']}  executing {total['executing']}  delayed {total['delayed']}  parked {total['parked']}",
        rate,
        (state, "bold yellow"),
    )
    parts: list[RenderableType] = [head]
    parts += [Text(f"Everything is held: {first_line(hold['reason'])}", style="bold red") for hold in found.holds[:1]]
    parts += [Text(), table(QUEUES, queue_cells(rows[:room]), keep=("oldest",)) if rows else Text("There is no queue.")]
    if len(rows) > room:
        parts.append(Text(f"... and {len(rows) - room} more queues", style="dim"))
    if found.workers:
        busy = sorted(found.workers, key=lambda row: -_int(row["executing"]))
        # The first columns fit anywhere.
        parts += [Text(), table(WORKERS[:5], [cells[:5] for cells in worker_cells(busy[:5])])]
    if found.failures:
        cells = [(row.instances, row.fsm, row.step, age(row.last_at), row.message[:200]) for row in found.failures]
        columns = ("failed", "machine", "step", "last", "message")
        parts += [Text(), table(columns, cells, keep=("failed", "last"))]
    if height is not None:
        parts += [Text(), Text(f"sorted by {name}   s sort  r reverse  space pause  q quit", style="dim")]
    return Group(*parts)


def _sort_value(row: viewing.Row, name: str) -> tuple[float, str]:
    queue = str(row["queue"])
    if name == "queue":
        return 0.0, queue
    if name == "oldest":
        since = row["oldest_due_at"]
        found = datetime.fromisoformat(since) if isinstance(since, str) and since[:1].isdigit() else None
        return (0.0 if found is None else time.time() - found.timestamp()), queue
    return float(_int(row[name])), queue


def _int(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    """Read keys as they are pressed, if somebody can press any; the terminal is left as it was."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield _Keys(number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class _Keys:
    def __init__(self, number: int | None) -> None:
        self._number = number

    def __call__(self, seconds: float) -> str:
        """The next key within so many seconds; nothing: none was pressed."""
        if self._number is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self._number], [], [], seconds)
        return os.read(self._number, 1).decode("latin-1") or "q" if ready else ""


# -- tail


def tail(
    frame: Frame,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="Of this machine.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Of this queue.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed or was cancelled.")] = False,
    since: Annotated[str, typer.Option("--since", help="From this time on, or 5m: ago.", metavar="TIME")] = "now",
    interval: Annotated[str, typer.Option("--interval", "-i", help="How often to look.", metavar="TIME")] = "1s",
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=1, help="End after so many.")] = None,
) -> None:
    """Print a line for each instance as it ends, with its error. Of those that are done it sees the ones that are
    among the 20,000 newest instances."""
    wanted: dict[str, JsonValue] = {}
    if machine is not None:
        wanted["fsm"] = machine
    if queue is not None:
        wanted["queue"] = queue
    every = max(0.1, duration(interval))
    told: dict[int, datetime] = {}
    start = moment(since)
    left = lines
    while True:
        # What commits late may carry an earlier time.
        from_ = max(start, (max(told.values()) if told else start) - timedelta(seconds=5))
        found = _ends(frame, {**wanted, "finished_after": from_.isoformat()}, failed)
        for row in found:
            assert row.finished_at is not None
            if told.get(row.id) == row.finished_at:
                continue
            told[row.id] = row.finished_at
            _tell(frame, row)
            left = None if left is None else left - 1
            if left == 0:
                return
        if len(told) > 10 * _PAGE:
            oldest = max(told.values()) - timedelta(seconds=10)
            told = {id: at for id, at in told.items() if at >= oldest}
        time.sleep(every)


def _ends(frame: Frame, wanted: dict[str, JsonValue], failed: bool) -> list[Listed]:
    """What has ended since then, oldest first."""
    kinds: list[list[JsonValue]] = [["failed", "cancelled"]] if failed else [["failed", "cancelled"], ["done"]]
    found: list[Listed] = []
    for kind in kinds:
        cursor: JsonValue = None
        for _ in range(_PAGES):
            page = calls.list(frame.conn, {**wanted, "status": kind}, cursor, _PAGE)
            found += page.instances
            cursor = page.next
            if cursor is None or len(page.instances) < _PAGE:
                break
    return sorted(found, key=lambda row: (row.finished_at or row.inserted_at, row.id))


def _tell(frame: Frame, row: Listed) -> None:
    if frame.json:
        frame.line(encode(row))
        return
    text = Text.assemble(
        f"{clock(row.finished_at)}  {row.id}  ", styled(row.status), f"  {plain(row.fsm)} {plain(row.step)}"
    )
    if row.last_error and row.status != "done":
        text.append(f"  {first_line(row.last_error)}")
    frame.out.print(text, soft_wrap=True)
