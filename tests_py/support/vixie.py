"""A model of Vixie's cron, minute by minute, as `man 8 cron` tells it, and expressions for it.

Nothing of the SQL is used here but what the server's clocks show, so that both have the same time-zone files. The loop
is that of cron.c: it wakes each minute, keeps a virtual time beside the clock, and looks at how far the two are apart.
Jobs whose minute or hour begins with ``*`` follow the clock's own minutes, all others the virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MINUTE = timedelta(minutes=1)


def read_field(text: str, low: int, high: int, names: Sequence[str] = (), last_day: int | None = None) -> set[int]:
    """``a/n`` is no form of Vixie's: from ``a`` on, to the end of the week where 7 is Sunday once more."""

    def number(word: str) -> int:
        return names.index(word.lower()) + low if word.lower() in names else int(word)

    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        elif last:
            begin, end = number(first), number(last)
        else:
            begin = number(first)
            end = max(begin, last_day or high) if step else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


@dataclass(frozen=True)
class Expression:
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    wild: bool
    """MIN_STAR or HR_STAR."""
    both: bool
    """DOM_STAR or DOW_STAR: both days must fit."""

    @classmethod
    def read(cls, text: str) -> Expression:
        minute, hour, day, month, weekday = text.split()
        return cls(
            frozenset(read_field(minute, 0, 59)),
            frozenset(read_field(hour, 0, 23)),
            frozenset(read_field(day, 1, 31)),
            frozenset(read_field(month, 1, 12, MONTHS)),
            frozenset(number % 7 for number in read_field(weekday, 0, 7, DAYS, 6)),
            wild=minute[0] == "*" or hour[0] == "*",
            both=day[0] == "*" or weekday[0] == "*",
        )

    def fits(self, local: datetime) -> bool:
        if local.minute not in self.minutes or local.hour not in self.hours or local.month not in self.months:
            return False
        day, weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        return day and weekday if self.both else day or weekday


def ticks(expression: Expression, clock: Iterable[tuple[datetime, datetime]]) -> list[datetime]:
    """When it runs, for a clock that shows a local time at each minute (instant, local time)."""
    found: list[datetime] = []
    virtual: datetime | None = None
    for instant, local in clock:
        runs = expression.wild and expression.fits(local)
        if virtual is None:
            virtual = local - MINUTE
        # The clock is ahead: it catches up, minute by minute. Behind: it waits until the clock has come to it.
        while virtual < local:
            virtual += MINUTE
            runs = runs or (not expression.wild and expression.fits(virtual))
        if runs:
            found.append(instant)
    return found


def draw_field(rng: random.Random, low: int, high: int, likely: Sequence[int], names: Sequence[str] = ()) -> str:
    """A field that no croniter reads otherwise: no ``*`` behind a comma, no range of one value."""

    def value() -> int:
        return rng.choice(likely) if rng.random() < 0.7 else rng.randint(low, high)

    def word(number: int) -> str:
        if names and number - low < len(names) and rng.random() < 0.4:
            return rng.choice([str.lower, str.upper, str.title])(names[number - low])
        return str(number)

    def item() -> str:
        kind = rng.random()
        if kind < 0.5:
            return word(value())
        first, last = sorted((value(), rng.randint(low, high)))
        if kind < 0.8 and first < last:
            return f"{word(first)}-{word(last)}" + (f"/{rng.randint(1, high // 2)}" if rng.random() < 0.4 else "")
        return f"{word(first)}/{rng.randint(1, high // 2)}"

    return ",".join(item() for _ in range(rng.choice([1, 1, 1, 2, 3])))


def draw(rng: random.Random, hours: Sequence[int] = tuple(range(24))) -> str:
    """An expression; ``hours``: those that it mostly names."""

    def star(high: int) -> str:
        return "*" if rng.random() < 0.5 else f"*/{rng.randint(1, high)}"

    minute = star(59) if rng.random() < 0.25 else draw_field(rng, 0, 59, (0, 15, 30, 45, 59))
    hour = star(23) if rng.random() < 0.3 else draw_field(rng, 0, 23, hours)
    day = star(31) if rng.random() < 0.8 else draw_field(rng, 1, 31, (1, 15, 28, 29, 30, 31))
    month = "*" if rng.random() < 0.8 else draw_field(rng, 1, 12, (3, 4, 9, 10, 11), MONTHS)
    weekday = star(7) if rng.random() < 0.8 else draw_field(rng, 0, 7, (0, 6, 7), DAYS)
    return " ".join([minute, hour, day, month, weekday])
