"""Work that nobody touches, beside it all: how long does it ever stand still?

Rows of a queue, a machine and keys of their own go in at a steady rate and run on an engine of their own. What is
measured is the longest time in which none of them ended, and the longest that an operator's call on their queue took. A
control that only inserts into a table of its own, on the same server and from the same process, tells what the machine
itself stood still for.

    python -m chaos.aside DSN        the engine, until SIGTERM
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

import gendurable_py as gd
from gendurable_py import Engine, job

QUEUE = "aside"
PAUSE = 0.04
# Standing still for longer than the control did, in seconds, is a violation.
LONGEST = 1.0
# What a connection of these clients depends on.
OPTIONS = "-c search_path=public"
TABLE = "create table if not exists chaos.control (n bigint generated always as identity)"
# Ended ones are counted by a sequence, which no removal counts down and no rollback stops.
COUNTING = """
create sequence chaos.aside;
create function chaos.count_aside() returns trigger language plpgsql as $$
begin
    perform nextval('chaos.aside');
    return null;
end $$;
create trigger chaos_aside after update on gendurable.instance for each row
when (new.fsm = 'around.aside' and new.status = 'done' and old.status <> 'done')
execute function chaos.count_aside();
"""


@job(name="around.aside", queue=QUEUE)
def aside(args: dict[str, Any]) -> int:
    n = args["n"]
    assert isinstance(n, int)
    return n


class Gaps:
    """When something moved, and the times between."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.seen: list[tuple[float, float]] = []
        self.moved = 0

    def move(self) -> None:
        now = time.monotonic()
        if now - self._last > LONGEST / 5:
            self.seen.append((self._last, now))
        self._last = now
        self.moved += 1

    def longest(self, since: float = 0, until: float = float("inf")) -> float:
        """The longest one, as far as it lies between the two."""
        return max([0.0, *(min(end, until) - max(start, since) for start, end in self.seen)])


class Aside:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.finish = threading.Event()
        self.ends, self.calls, self.control = Gaps(), Gaps(), Gaps()
        self.failure: BaseException | None = None
        self._since = 0.0
        self._excused: list[tuple[float, float]] = []
        with psycopg.connect(dsn) as conn:
            conn.execute(TABLE)
            conn.execute(COUNTING.encode())
        self._threads = [
            threading.Thread(target=self._guard, args=(call,), daemon=True)
            for call in (self._insert, self._operate, self._watch, self._compare)
        ]

    def start(self) -> None:
        self._since = time.monotonic()
        self.ends, self.calls, self.control = Gaps(), Gaps(), Gaps()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        # What stands still now counts as well.
        for gaps in (self.ends, self.calls, self.control):
            gaps.move()
        self.finish.set()
        for thread in self._threads:
            thread.join(30)

    def excuse(self, since: float) -> None:
        """The server was taken away at that time, and is back by now; sessions and leases need some seconds more."""
        self._excused.append((since, time.monotonic() + 5))

    def _guard(self, call: Callable[[psycopg.Connection[Any]], None]) -> None:
        while not self.finish.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, options=OPTIONS) as conn:
                    while not self.finish.wait(PAUSE):
                        call(conn)
            except psycopg.OperationalError:
                self.finish.wait(PAUSE)
            except BaseException as error:  # noqa: BLE001 - told by the scene
                self.failure = error
                return

    def _insert(self, conn: psycopg.Connection[Any]) -> None:
        gd.insert(conn, aside, {"n": 1})
        gd.insert(conn, aside, {"n": 2}, partition_key=f"aside:{time.monotonic_ns() % 3}")

    def _operate(self, conn: psycopg.Connection[Any]) -> None:
        gd.set_key_limit(conn, "aside too", 2)
        self.calls.move()
        gd.pause_queue(conn, "aside too")
        self.calls.move()
        gd.resume_queue(conn, "aside too")
        self.calls.move()

    def _watch(self, conn: psycopg.Connection[Any]) -> None:
        before = -1
        while not self.finish.wait(PAUSE):
            row = conn.execute("select last_value from chaos.aside").fetchone()
            assert row is not None
            if row[0] != before:
                before = row[0]
                self.ends.move()

    def _compare(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute("insert into chaos.control default values")
        self.control.move()

    def stood_still(self) -> list[str]:
        return [
            f"{what} for {end - start:.1f} s, from {start - self._since:.1f} s on; the control at most"
            f" {self.control.longest(start, end):.1f} s"
            for what, gaps in (("no work of its own queue ended", self.ends), ("no operator's call ended", self.calls))
            for start, end in without_excuse(gaps, self.control, self._excused)
        ]


def without_excuse(gaps: Gaps, control: Gaps, excused: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When it stood still for longer than the machine did, and the server was there."""
    return [
        (start, end)
        for start, end in gaps.seen
        if end - start - control.longest(start, end) > LONGEST
        and not any(since < end and start < until for since, until in excused)
    ]


def main() -> None:
    Engine(sys.argv[1], [aside], queues={QUEUE: 4}, lease_ttl=30, heartbeat_interval=5, retention=60).run()


if __name__ == "__main__":
    main()
