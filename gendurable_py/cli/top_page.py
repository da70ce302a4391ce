"""The page of ``top``: what the database says, as lines that fit any screen, and what keys have chosen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue
from rich.cells import cell_len
from rich.text import Text

from ..calls import Crashed, Failure, viewing
from .output import age, first_line, parse_time, plain, span
from .queues import QUEUES, WORKERS, queue_cells, worker_cells
from .trouble import CRASHES, crash_cells

SORTS = ("queue", "due", "delayed", "executing", "parked", "oldest")
# Of workers, failures and crashes so many are shown.
_FEW = 5
_GAP = 2
_LEAST = 6


@dataclass(frozen=True)
class Facts:
    """What the database says at one moment. ``rate``: ends a second since the look before; None: there was none."""

    at: datetime
    queues: list[viewing.Row]
    workers: list[viewing.Row]
    holds: list[viewing.Row]
    failures: list[Failure]
    crashes: list[Crashed]
    ended: int
    rate: float | None
    steps: int
    errors: int

    def as_json(self) -> dict[str, object]:
        return {
            "at": self.at,
            "queues": self.queues,
            "workers": self.workers,
            "holds": self.holds,
            "failures": self.failures,
            "crashes": self.crashes,
            "ended": self.ended,
            "ends_per_second": self.rate,
            "steps_last_minute": self.steps,
            "errors_last_minute": self.errors,
        }


@dataclass
class View:
    """How the page is to look, and what was asked: what the keys have changed."""

    sort: int = 0
    reverse: bool = False
    frozen: bool = False
    ended: bool = False
    chosen: str | None = None
    asked: tuple[str, bool] | None = None  # the queue, and whether it is to be paused
    said: str = ""
    shown: list[str] = field(default_factory=list)  # the queues in the order in which they stand

    def press(self, key: str, paused: Iterable[str] = ()) -> tuple[str, bool] | None:
        """Do what a key asks for; a queue that is to be paused (True) or resumed, once that was confirmed."""
        if self.asked is not None:
            asked, self.asked = self.asked, None
            self.said = "" if key in ("y", "Y") else "Nothing was done."
            return asked if key in ("y", "Y") else None
        self.said = ""
        match key:
            case "q" | "\x03" | "\x04":
                self.ended = True
            case " ":
                self.frozen = not self.frozen
            case "s":
                self.sort = (self.sort + 1) % len(SORTS)
            case "S":
                self.sort = (self.sort - 1) % len(SORTS)
            case "r":
                self.reverse = not self.reverse
            case "j" | "down":
                self._move(1)
            case "k" | "up":
                self._move(-1)
            case "page down":
                self._move(10)
            case "page up":
                self._move(-10)
            case "home" | "g":
                self._move(-len(self.shown))
            case "end" | "G":
                self._move(len(self.shown))
            case "p" if self.shown:
                queue = self.shown[self.place]
                self.asked = (queue, queue not in set(paused))
        return None

    @property
    def place(self) -> int:
        """Where the chosen queue stands; the first, if none is chosen or it is gone."""
        return self.shown.index(self.chosen) if self.chosen in self.shown else 0

    def _move(self, by: int) -> None:
        if self.shown:
            self.chosen = self.shown[min(max(self.place + by, 0), len(self.shown) - 1)]


def page(found: Facts, view: View, width: int, height: int | None, trouble: str = "") -> list[Text]:
    """The lines; ``height`` None: as many as there are, for what is no terminal."""
    name = SORTS[view.sort]
    rows = sorted(found.queues, key=lambda row: _sort_value(row, name), reverse=view.reverse != (view.sort != 0))
    view.shown = [str(row["queue"]) for row in rows]
    head = _head(found, view, trouble)
    parts = [part for part in (_workers(found, width), _failures(found, width), _crashes(found, width)) if part]
    foot = [] if height is None else _foot(view, name, width)
    if height is not None:
        # Queues come first: of the rest what there is room for, the troubles before the workers.
        room = height - len(head) - len(foot) - 4 - min(len(rows), 3)
        while parts and sum(map(len, parts)) > room:
            parts.pop(0)
    used = len(head) + len(foot) + sum(map(len, parts))
    # an empty line and the names of the columns
    most = len(rows) if height is None else max(1, height - used - 2)
    lines = [*head, Text(), *_queues(rows, view, width, most, height is None)]
    for part in parts:
        lines += part
    if height is not None:
        del lines[max(0, height - len(foot)) :]
        lines += [Text()] * (height - len(foot) - len(lines))
    lines += foot
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def _head(found: Facts, view: View, trouble: str) -> list[Text]:
    cells = [dict(zip(QUEUES, row, strict=True)) for row in queue_cells(found.queues)]
    names = ("due", "executing", "delayed", "parked")
    total = {name: sum(_int(row[name]) for row in found.queues) for name in names}
    cut = {name: "+" if any(str(row[name]).endswith("+") for row in cells) else "" for name in names}
    first = Text.assemble(
        (f"{found.at.astimezone():%H:%M:%S}", "bold"),
        *(f"  {name} {total[name]}{cut[name]}" for name in names),
        ("  FROZEN" if view.frozen else "", "bold yellow"),
    )
    said = [] if found.rate is None else [f"ended {found.rate:,.1f}/s"]
    said += [f"steps {found.steps:,}/min"] if found.steps else []
    second = Text("  ".join(said))
    if found.errors:
        second.append(f"{'  ' if said else ''}errors {found.errors:,}/min", style="red")
    waiting = [(since, row["queue"]) for row in found.queues if (since := parse_time(row["oldest_due_at"])) is not None]
    if waiting:
        since, queue = min(waiting, key=lambda one: one[0])
        second.append(f"{'  ' if second.plain else ''}oldest due {age(since, found.at)} in {plain(queue)}")
    lines = [first, second] if second.plain else [first]
    lines += [Text(f"Everything is held: {first_line(hold['reason'])}", style="bold red") for hold in found.holds[:1]]
    lines += [Text(plain(trouble), style="bold red")] if trouble else []
    return lines


def _foot(view: View, name: str, width: int) -> list[Text]:
    if view.asked is not None:
        queue, pause = view.asked
        said = Text(f"{'Pause' if pause else 'Resume'} queue {plain(queue)}? [y/N]", style="bold")
    else:
        said = Text(plain(view.said), style="bold")
    keys = ("  s sort  r turn  j/k move  p pause  space freeze  q quit", "  s r j/k p space  q quit", "  q quit")
    fitting = [f"sorted by {name}{text}" for text in keys if cell_len(f"sorted by {name}{text}") <= width]
    return [said, Text(fitting[0] if fitting else "q quit", style="dim")]


def _queues(rows: Sequence[viewing.Row], view: View, width: int, most: int, is_plain: bool) -> list[Text]:
    if not rows:
        return [Text("There is no queue.")]
    beyond = len(rows) - most
    if beyond > 0:
        most = max(1, most - 1)
        beyond = len(rows) - most
    start = min(max(0, view.place - most // 2), max(0, len(rows) - most))
    seen = rows[start : start + most]
    cells: list[list[object]] = queue_cells(seen)
    if not is_plain:
        cells = [[">" if start + at == view.place else "", *row] for at, row in enumerate(cells)]
    columns = QUEUES if is_plain else (" ", *QUEUES)
    lines = grid(columns, cells, width, optional=("limited", "parked", "delayed", "executing", "", "oldest"))
    if not is_plain:
        lines[1 + view.place - start].stylize("reverse")
    return lines + ([Text(f"... and {beyond} more queues", style="dim")] if beyond > 0 else [])


def _workers(found: Facts, width: int) -> list[Text]:
    busy = sorted(found.workers, key=lambda row: -_int(row["executing"]))[:_FEW]
    cells = [row[:5] for row in worker_cells(busy)]
    return [Text(), *grid(WORKERS[:5], cells, width, optional=("queues", "oldest claim"))] if cells else []


def _failures(found: Facts, width: int) -> list[Text]:
    cells = [
        [row.instances, row.fsm, row.step, age(row.last_at), row.last_id, first_line(row.message)]
        for row in found.failures[:_FEW]
    ]
    columns = ("failed", "machine", "step", "last", "id", "message")
    return [Text(), *grid(columns, cells, width, optional=("step",))] if cells else []


def _crashes(found: Facts, width: int) -> list[Text]:
    cells = crash_cells([row for row in found.crashes if row.crashes > 0][:_FEW])
    return [Text(), *grid(("lost worker", *CRASHES[1:]), cells, width, optional=("worker", "step"))] if cells else []


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int, optional: Sequence[str]) -> list[Text]:
    """Rows below the names of their columns, a line each. Where it is too narrow, columns that are optional go, one
    after the other, then texts are cut. Columns that are empty are left out."""
    texts = [[_text(cell) for cell in row] for row in rows]
    kept = [place for place in range(len(columns)) if place == 0 or any(row[place].plain for row in texts)]
    left = list(optional)

    def sizes() -> dict[int, int]:
        return {at: max(cell_len(columns[at]), *(cell_len(row[at].plain) for row in texts)) for at in kept}

    while sum(sizes().values()) + _GAP * (len(kept) - 1) > width and left:
        name = left.pop(0)
        kept = [place for place in kept if columns[place] != name]
    widths = sizes()
    over = sum(widths.values()) + _GAP * (len(kept) - 1) - width
    # The last one is cut first, then the others of texts, the widest first.
    for place in [kept[-1], *sorted(kept[:-1], key=lambda at: -widths[at])]:
        if over > 0 and not _is_numeric(texts, place):
            cut = min(over, max(0, widths[place] - max(_LEAST, cell_len(columns[place]))))
            widths[place] -= cut
            over -= cut
    lines = [_line([Text(columns[at], style="bold") for at in kept], kept, widths, texts)]
    return lines + [_line([row[at] for at in kept], kept, widths, texts) for row in texts]


def _line(cells: Sequence[Text], kept: Sequence[int], widths: dict[int, int], texts: list[list[Text]]) -> Text:
    made = Text()
    for number, (cell, place) in enumerate(zip(cells, kept, strict=True)):
        part = cell.copy()
        part.truncate(widths[place], overflow="ellipsis")
        space = widths[place] - cell_len(part.plain)
        is_last = number == len(kept) - 1
        made.append(" " * (space if _is_numeric(texts, place) else 0))
        made.append_text(part)
        made.append(" " * (0 if is_last else _GAP + (0 if _is_numeric(texts, place) else space)))
    return made


def _is_numeric(texts: list[list[Text]], place: int) -> bool:
    found = [row[place].plain for row in texts if row[place].plain]
    return bool(found) and all(text.rstrip("+").isdecimal() for text in found)


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(first_line(plain(cell)))


def waited(seconds: float) -> str:
    """That the database has not answered for so long."""
    return f"The database has not answered for {span(seconds)}."


def _sort_value(row: viewing.Row, name: str) -> tuple[float, str]:
    queue = str(row["queue"])
    if name == "queue":
        return 0.0, queue
    if name == "oldest":
        since = parse_time(row["oldest_due_at"])
        return (0.0 if since is None else time.time() - since.timestamp()), queue
    return float(_int(row[name])), queue


def _int(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0
