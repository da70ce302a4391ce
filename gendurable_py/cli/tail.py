"""``tail``: a line for each instance as it ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import psycopg
import typer
from pydantic import JsonValue
from rich.text import Text

from .. import calls
from ..calls import Listed, viewing
from .frame import Frame, command
from .output import clock, encode, first_line, plain, styled
from .reading import duration, moment

PANEL = "Looking"
# So many ends are told at once.
_LOOK = 5000
# What commits late may carry an earlier time.
_LATE = timedelta(seconds=5)
_LEAST = timedelta(microseconds=100)


def add(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "tail", panel=PANEL)(tail)


def tail(
    frame: Frame,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="Of this machine.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Of this queue.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed or was cancelled.")] = False,
    since: Annotated[str, typer.Option("--since", help="From this time on, or 5m: ago.", metavar="TIME")] = "now",
    interval: Annotated[str, typer.Option("--interval", "-i", help="How often to look.", metavar="TIME")] = "1s",
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=1, help="End after so many.")] = None,
) -> None:
    """Print a line for each instance as it ends, with its error."""
    wanted: dict[str, JsonValue] = {"status": ["failed", "cancelled"] if failed else ["done", "failed", "cancelled"]}
    wanted |= {name: value for name, value in (("fsm", machine), ("queue", queue)) if value is not None}
    every = max(0.1, duration(interval))
    # By the server's clock, which is the one that ends are told by.
    now = viewing.clock(frame.conn)
    start = now - (datetime.now(UTC) - moment(since))
    told: dict[int, datetime] = {}
    seen = _Seen(start, start)
    left, lost = lines, False
    while True:
        try:
            if lost:
                viewing.clock(frame.conn)
                frame.note("The connection is there again.")
                lost = False
            now = viewing.clock(frame.conn)
            from_, to = seen.next(now)
            found, is_all = _ends(frame, wanted, from_, to)
            if not is_all:
                if seen.narrow():
                    continue
                # They have ended at one moment.
                found, _ = _ends(frame, wanted, from_, to, whole=True)
        except psycopg.OperationalError:
            if not lost:
                frame.note("The connection is lost. Trying again.")
            lost = True
            frame.close()
            time.sleep(every)
            continue
        for row in found:
            assert row.finished_at is not None
            if told.get(row.id) == row.finished_at:
                continue
            told[row.id] = row.finished_at
            _tell(frame, row)
            left = None if left is None else left - 1
            if left == 0:
                return
        seen.go_on(to)
        if len(told) > 10 * _LOOK:
            told = {id: at for id, at in told.items() if at >= to - 2 * _LATE}
        if to >= now:
            time.sleep(every)


class _Seen:
    """Up to where ends were told. The next part is as long as one look can tell all of."""

    def __init__(self, start: datetime, until: datetime) -> None:
        self._start, self._until = start, until
        self._late, self._window = _LATE, timedelta(hours=1)

    def next(self, now: datetime) -> tuple[datetime, datetime]:
        return max(self._start, self._until - self._late), max(self._until, min(now, self._until + self._window))

    def narrow(self) -> bool:
        """Take less, after more had ended than one look tells; False: it is as little as can be."""
        self._late /= 2
        self._window /= 2
        return self._window > _LEAST

    def go_on(self, until: datetime) -> None:
        self._until = until
        self._late, self._window = min(2 * self._late, _LATE), min(2 * self._window, timedelta(hours=1))


def _ends(
    frame: Frame, wanted: dict[str, JsonValue], from_: datetime, to: datetime, *, whole: bool = False
) -> tuple[list[Listed], bool]:
    """What has ended from then to then, oldest first, and whether that is all; ``whole``: however much it is."""
    asked = {**wanted, "finished_after": from_.isoformat(), "finished_before": (to + _LEAST).isoformat()}
    page = calls.list(frame.conn, asked, None, _LOOK, _LOOK)
    found = page.instances
    while whole and page.next is not None:
        page = calls.list(frame.conn, asked, page.next, _LOOK, _LOOK)
        found += page.instances
    return sorted(found, key=lambda row: (row.finished_at or row.inserted_at, row.id)), page.next is None


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
