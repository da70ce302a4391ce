"""Making values readable: texts of others that cannot steer a terminal, tables that fit it, times, JSON.

Values come from the database, so from whoever may write there: none is ever read as markup or sent as it is.
"""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import IO, Any, NoReturn

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_STYLES = {
    "done": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "executing": "cyan",
    "ok": "green",
    "warning": "yellow",
    "problem": "bold red",
}
# Steers a terminal, or the direction of what follows; also what is no character at all.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# For what goes into a file or a pipe: nothing is cut there.
_NO_END = 100_000


class Screen(Console):
    """A console of rich that sends nothing of a text that could steer; its broken pipe is the caller's affair."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        # Whoever lays a text out makes it `plain` before, and knows its width; this is for all that was forgotten.
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text, lines=True), segment.style)

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def screen(stream: IO[str]) -> Screen:
    """A console on stdout or stderr. What its encoding cannot say is escaped; in a pipe nothing is cut."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and not _is_unicode(stream):
        reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() or (columns.isdecimal() and int(columns)) else _NO_END
    return Screen(file=stream, width=width, highlight=False, markup=False, emoji=False, legacy_windows=False)


def _is_unicode(stream: IO[str]) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def plain(value: object, *, lines: bool = False) -> str:
    """A value as text without what could steer a terminal; ``lines``: line ends stay."""
    text = "" if value is None else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if (lines and letter == "\n") or unicodedata.category(letter) not in _UNPRINTABLE or letter == "\u200d"
        else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in (text.replace("\r\n", "\n").replace("\t", "    ") if lines else text)
    )


def first_line(value: object) -> str:
    """The first line of a text, made `plain`."""
    text = "" if value is None else str(value).strip()
    return plain(text.split("\n", 1)[0])


def styled(value: object) -> Text:
    """A status or a level in its colour; the word says the same without."""
    text = plain(value)
    return Text(text, style=_STYLES.get(text, ""))


def parse_time(value: object) -> datetime | None:
    """A time as the calls or JSON give it; None: there is none, or Python has no such time."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    return None


def clock(value: object) -> str:
    """A time as the clock of this machine shows it."""
    found = parse_time(value)
    if found is None:
        return plain(value)
    try:
        found = found.astimezone()
    except (OverflowError, ValueError, OSError):
        return plain(value)
    return f"{found:%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """A duration in one unit: ``45 s``, ``12 min``, ``3 h``, ``8 d``."""
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < size * (48 if unit == "h" else 100):
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 or unit != "s" else f"{seconds:.1f} s"
    return f"{seconds / 86400:,.0f} d"


def age(value: object, now: datetime | None = None) -> str:
    """How long ago a time was, or in how long it comes."""
    found = parse_time(value)
    if found is None:
        return plain(value)
    try:
        seconds = ((now or datetime.now(UTC)) - found).total_seconds()
    except (OverflowError, TypeError):
        return plain(value)
    return span(seconds) if seconds >= 0 else f"in {span(-seconds)}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, keep: Sequence[str] = ()) -> Rows:
    """Rows below each other. Of the columns in ``keep`` nothing is cut. Others that are
    empty are left out; numbers stand right, the last column folds."""
    cells = [[cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in row] for row in rows]
    said = [place for place, name in enumerate(columns) if name in keep or any(row[place].plain for row in cells)]
    return Rows(
        tuple(columns[place] for place in said), [[row[place] for place in said] for row in cells], frozenset(keep)
    )


_GAP = 3
# What a column that may be cut has to show.
_LEAST = 6


@dataclass(frozen=True)
class Rows:
    """A table without a frame; where the screen is too narrow for it, a paragraph for each row."""

    columns: tuple[str, ...]
    cells: list[list[Text]]
    keep: frozenset[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [self._least(place) for place in range(len(self.columns))]
        if sum(widths) + _GAP * (len(widths) - 1) > options.max_width:
            yield stack(facts(zip(self.columns, row, strict=True)) for row in self.cells)
        else:
            yield self._as_table(widths)

    def _texts(self, place: int) -> list[str]:
        return [row[place].plain for row in self.cells]

    def _is_numeric(self, place: int) -> bool:
        texts = self._texts(place)
        return any(texts) and all(re.fullmatch(r"[\d,.+>=-]*", text) for text in texts)

    def _least(self, place: int) -> int:
        name = self.columns[place]
        whole = max(map(cell_len, [name, *self._texts(place)]))
        return whole if name in self.keep or self._is_numeric(place) else min(whole, _LEAST)

    def _as_table(self, widths: list[int]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for place, name in enumerate(self.columns):
            is_last = place == len(self.columns) - 1
            made.add_column(
                name,
                justify="right" if self._is_numeric(place) else "left",
                no_wrap=not is_last,
                overflow="fold" if is_last else "ellipsis",
                min_width=widths[place],
            )
        for row in self.cells:
            made.add_row(*row)
        return made


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value}"
    return plain(value)


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Names and values, one a line; what is null or empty is left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if isinstance(value, Text) and not value.plain:
            continue
        if value is not None and value != "" and value != [] and value != {}:
            made.add_row(Text(name), value if isinstance(value, Text) else Text(readable(value)))
    return made


def readable(value: object) -> str:
    """A value for people: texts as they are, everything else as JSON."""
    if isinstance(value, str):
        return plain(value, lines=True)
    if isinstance(value, (bool, int, float)) or value is None:
        return json.dumps(value)
    return plain(json.dumps(value, ensure_ascii=False, default=_default, indent=2), lines=True)


def encode(value: object) -> str:
    """A value as one line of JSON, which any encoding of stdout can say."""
    return json.dumps(_asdict(value), ensure_ascii=not _is_unicode(sys.stdout), default=_default)


def _asdict(value: object) -> object:
    if hasattr(value, "_asdict"):
        return _asdict(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _asdict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_asdict(each) for each in value]
    return value


def _default(value: Any) -> object:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return str(value)


def stack(parts: Iterable[RenderableType]) -> Table:
    """Parts below each other, with an empty line in between."""
    made = Table.grid()
    made.add_column()
    for number, part in enumerate(parts):
        if number:
            made.add_row("")
        made.add_row(part)
    return made
