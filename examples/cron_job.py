"""What cron starts: it asks for the report of a day, waits for it, and says by its exit code how that went.

    0 3 * * *    python -m examples.cron_job

The report is made by a worker, `gendurable worker examples.cron_job`. Started twice for a day (by a second host, by
hand after an alarm) it is the same report, which is waited for, or shown if it is there. Both go to the database of the
PG* variables.
"""

from __future__ import annotations

import sys
from datetime import date

import psycopg
from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import job


class Day(BaseModel):
    day: date


@job(name="cron.report", max_attempts=3)
def report(args: Day) -> dict[str, object]:
    """The report: which days of its month have gone by."""
    return {"day": args.day.isoformat(), "days": args.day.day}


def main(arguments: list[str]) -> int:
    """0: here it is. 1: it failed. 2: no such day. 75 (try again later): it is not ready within five minutes."""
    try:
        day = date.fromisoformat(arguments[0]) if arguments else date.today()
    except ValueError as error:
        print(f"usage: python -m examples.cron_job [YYYY-MM-DD]: {error}", file=sys.stderr)
        return 2
    with psycopg.connect(autocommit=True) as conn:
        id = gd.insert(
            conn,
            report,
            Day(day=day),
            unique_key=f"report:{day}",
            # One that failed lets the key go: the next call makes it anew.
            unique_scope=["runnable", "executing", "awaiting_signal", "awaiting_children", "done"],
            on_conflict="id",
        )
        assert id is not None
        try:
            ended = gd.wait(conn, id, timeout=300, listen=True)
        except TimeoutError as error:
            print(f"{error}: does a worker run?", file=sys.stderr)
            return 75
    if ended.status != "done":
        print(f"instance {id} is {ended.status}: {ended.last_error}", file=sys.stderr)
        return 1
    print(f"instance {id}: {ended.result}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
