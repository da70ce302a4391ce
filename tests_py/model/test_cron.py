"""Cron: the SQL against a model of Vixie's cron, around every kind of change of the clock, and against croniter.

`GENDURABLE_CRON_EXPRESSIONS=4000`: 370,000 ticks, half a minute; by default a quarter of that.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from support import vixie

ZONES = [
    "Australia/Lord_Howe",  # half an hour
    "Antarctica/Troll",  # two hours
    "Pacific/Chatham",  # at 2:45 and 3:45
    "Africa/Casablanca",  # four times a year, by the moon
    "Pacific/Apia",
    "Europe/Dublin",  # its summer time is the standard
    "America/New_York",
    "Europe/Berlin",
    "America/Santiago",  # at midnight
    "Asia/Beirut",  # at midnight
    "Africa/Cairo",  # at midnight, on a Friday
    "America/Havana",  # at midnight
    "Atlantic/Azores",
]
EXPRESSIONS = int(os.environ.get("GENDURABLE_CRON_EXPRESSIONS", "1000"))
FROM, TO = datetime(2024, 1, 1, tzinfo=UTC), datetime(2033, 1, 1, tzinfo=UTC)

TICKS = """
    with recursive c as (select gendurable._parse_cron(%(cron)s) as c), t (at) as (
        select gendurable._next_tick(c.c, %(zone)s, 'epoch', %(from)s) from c
        union all
        select gendurable._next_tick(c.c, %(zone)s, 'epoch', t.at) from t, c where t.at <= %(to)s
    )
    select at from t where at <= %(to)s order by at
"""


def find_changes(conn: psycopg.Connection[Any], zone: str) -> list[datetime]:
    rows = conn.execute(
        """
        select g from (
            select g, (g at time zone %(zone)s) - (g at time zone 'UTC') as ahead,
                lag((g at time zone %(zone)s) - (g at time zone 'UTC')) over (order by g) as before
            from generate_series(%(from)s::timestamptz, %(to)s, '30 minutes') g
        ) x where ahead <> before
        """,
        {"zone": zone, "from": FROM, "to": TO},
    )
    return [row[0] for row in rows]


def read_clock(
    conn: psycopg.Connection[Any], zone: str, start: datetime, end: datetime
) -> list[tuple[datetime, datetime]]:
    return conn.execute(
        "select g, g at time zone %s from generate_series(%s::timestamptz, %s, '1 minute') g", (zone, start, end)
    ).fetchall()


def test_the_ticks_are_those_of_vixie_where_clocks_change(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set timezone = 'UTC'")
    rng = random.Random(20240331)
    changes = {zone: find_changes(conn, zone) for zone in ZONES}
    assert sum(map(bool, changes.values())) == len(ZONES) - 1  # Apia has no summer time any more
    compared = expressions = 0
    per_window = 8
    while expressions < EXPRESSIONS:
        zone = rng.choice(ZONES)
        change = rng.choice(changes[zone] or [datetime(2026, 4, 5, 14, tzinfo=UTC)])
        start = change - timedelta(hours=rng.randint(5, 40), minutes=rng.randint(0, 59))
        end = change + timedelta(hours=rng.randint(5, 40))
        clock = read_clock(conn, zone, start + vixie.MINUTE, end)
        around = clock[round((change - start) / vixie.MINUTE)][1].hour
        hours = [(around + far) % 24 for far in (-2, -1, 0, 1, 2)]
        for _ in range(per_window):
            expressions += 1
            text = vixie.draw(rng, hours)
            expected = vixie.ticks(vixie.Expression.read(text), clock)
            places = {"cron": text, "zone": zone, "from": start, "to": end}
            found = [row[0] for row in conn.execute(TICKS, places)]
            assert found == expected, (text, zone, start, end)
            compared += len(found)
            if len(expected) > 1:
                # what is missed is told by its last one
                first, moment = expected[0], rng.choice(expected) + timedelta(seconds=rng.randint(0, 7200))
                last = max(tick for tick in expected if tick <= moment)
                assert conn.execute(
                    "select gendurable._last_tick(gendurable._parse_cron(%s), %s, 'epoch', %s, %s)",
                    (text, zone, first, min(moment, end)),
                ).fetchone() == (last,), (text, zone, first, moment)
    print(f"{expressions} expressions, {compared} ticks")
    assert compared > 20 * EXPRESSIONS


def test_all_days_of_a_leap_century_are_found(conn: psycopg.Connection[Any]) -> None:
    # on a clock that never changes the model needs no minutes
    rng = random.Random(7)
    for _ in range(60):
        text = " ".join(["7", "5", *vixie.draw(rng).split()[2:]])
        expression = vixie.Expression.read(text)
        day = datetime(rng.randint(2020, 2110), rng.randint(1, 12), 1, 5, 7, tzinfo=UTC)
        days = (day + timedelta(days=n) for n in range(1, 15_000))
        expected = next((at for at in days if expression.fits(at.replace(tzinfo=None))), None)
        found = conn.execute(
            "select gendurable._next_tick(gendurable._parse_cron(%s), 'UTC', 'epoch', %s)", (text, day)
        ).fetchone()
        assert found == (expected,), (text, day)


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *"])
def test_what_names_no_day_has_no_tick(conn: psycopg.Connection[Any], text: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    asked = "select gendurable._next_tick(gendurable._parse_cron(%s), 'UTC', 'epoch', %s)"
    assert conn.execute(asked, (text, at)).fetchone() == (None,)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select gd_schedule('never', %s, 'm')", (text,))
    assert caught.value.sqlstate == "GD501"


# croniter: a library that many know. Where it differs from Vixie's cron, it does so in a way that is told here.


def has_one_value(text: str) -> bool:
    """``a-a`` and ``a-a/n``: croniter reads 11-11/10 as */10."""
    for field in text.split():
        for item in field.split(","):
            first, dash, last = item.partition("/")[0].partition("-")
            if dash and first.lower() == last.lower():
                return True
    return False


def has_late_star(text: str) -> bool:
    """A ``*`` later in a list: croniter makes the whole field ``*``, cron looks at the first character only."""
    return any(item.startswith("*") for field in text.split() for item in field.split(",")[1:])


def has_step_from_seven(text: str) -> bool:
    """``7/n``: there is one more Sunday; croniter goes on with the whole week."""
    return any(item.startswith("7/") for item in text.split()[4].split(","))


def draw_wild(rng: random.Random) -> str:
    """As `vixie.draw`, with the two forms that croniter reads otherwise now and then."""
    fields = vixie.draw(rng).split()
    if rng.random() < 0.1:
        fields[1] = f"{(hour := rng.randint(0, 23))}-{hour}" + rng.choice(["", "/5"])
    if rng.random() < 0.1:
        fields[4] = f"{rng.randint(0, 7)},*"
    return " ".join(fields)


def walk_croniter(text: str, start: datetime, count: int, zone: Any = UTC) -> Iterator[datetime]:
    croniter = pytest.importorskip("croniter", reason="croniter is missing: pip install croniter")
    # with the days of Vixie's cron, star flag and all
    walk = croniter.croniter(text, start.astimezone(zone), implement_cron_bug=True)
    for _ in range(count):
        yield walk.get_next(datetime).astimezone(UTC)


def test_croniter_says_the_same_but_for_forms_that_it_reads_otherwise(conn: psycopg.Connection[Any]) -> None:
    croniter = pytest.importorskip("croniter", reason="croniter is missing: pip install croniter")
    rng = random.Random(42)
    seen: Counter[str] = Counter()
    for _ in range(4 * EXPRESSIONS):
        text = draw_wild(rng)
        start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randint(0, 4_000_000))
        ours = conn.execute(
            "select gendurable._next_tick(gendurable._parse_cron(%s), 'UTC', 'epoch', %s)", (text, start)
        ).fetchone()
        assert ours is not None
        theirs: datetime | None = None
        with suppress(croniter.CroniterBadDateError):
            theirs = next(walk_croniter(text, start, 1))
        if ours == (theirs,):
            seen["same" if theirs else "never"] += 1
        elif has_one_value(text):
            seen["a-a"] += 1
        elif has_late_star(text):
            seen["a,*"] += 1
        elif has_step_from_seven(text):
            seen["7/n"] += 1
        else:
            raise AssertionError((text, start, ours, theirs))
    print(dict(seen))
    assert seen["a-a"] > 0
    assert seen["a,*"] > 0
    assert seen["same"] > 3 * EXPRESSIONS


def test_where_clocks_change_croniter_differs_in_two_ways(conn: psycopg.Connection[Any]) -> None:
    rng = random.Random(99)
    by_clock, by_elapsed, same = 0, 0, 0
    for zone in ("Europe/Berlin", "America/New_York"):
        for change in find_changes(conn, zone)[:8]:
            start, end = change - timedelta(hours=3), change + timedelta(hours=6)
            texts = ["*/15 2 * * *", "30 2 * * *", "30 1 * * *", *(vixie.draw(rng, (1, 2, 3)) for _ in range(12))]
            for text in texts:
                places = {"cron": text, "zone": zone, "from": start, "to": end}
                ours = {row[0] for row in conn.execute(TICKS, places)}
                theirs: set[datetime] = set()
                for tick in walk_croniter(text, start, 600, ZoneInfo(zone)):
                    if tick > end:
                        break
                    theirs.add(tick)
                if ours == theirs:
                    same += 1
                elif vixie.Expression.read(text).wild:
                    # by elapsed time: at the end of the skipped hour as well
                    assert theirs - ours == {change}, (text, zone, change)
                    assert ours < theirs, (text, zone, change)
                    by_elapsed += 1
                else:
                    # by the clock: in the second pass of the repeated hour as well
                    assert ours < theirs, (text, zone, change)
                    assert all(change <= tick < change + timedelta(hours=1) for tick in theirs - ours)
                    by_clock += 1
    print({"same": same, "by the clock": by_clock, "by elapsed time": by_elapsed})
    assert by_clock > 0
    assert by_elapsed > 0
    assert same > 5 * (by_clock + by_elapsed)
