"""What each of the programs here has in common: its arguments, a counter of what was handled, and its answer."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any


@dataclass
class Run:
    """``count`` jobs, or instances or functions of five steps, by one process with ``slots`` at once."""

    dsn: str
    workload: str
    count: int
    slots: int
    handled: Counter[tuple[int, int]] = field(default_factory=Counter)
    began: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def steps(self) -> int:
        return 1 if self.workload == "jobs" else 5

    def handle(self, number: int, step: int = 0) -> None:
        """The work itself: that job ``number`` came to this step is counted."""
        with self._lock:
            self.handled[number, step] += 1

    def start(self) -> None:
        """What is to be measured begins now: all is inserted, and no worker has begun."""
        self.began = time.monotonic()

    def wait(self, ended: Callable[[], int]) -> None:
        """Wait until the database says that all have ended; then answer on stdout."""
        while (there := ended()) < self.count:
            if time.monotonic() - self.began > 110:
                raise SystemExit(f"{there} of {self.count} have ended after 110 seconds")
            time.sleep(0.02)
        self.answer(time.monotonic() - self.began, there)

    def answer(self, seconds: float, ended: int) -> None:
        wanted = {(number, step) for number in range(self.count) for step in range(self.steps)}
        print(
            json.dumps(
                {
                    "seconds": seconds,
                    "ended": ended,
                    "missing": len(wanted - set(self.handled)),
                    "repeated": sum(self.handled.values()) - len(self.handled),
                }
            ),
            flush=True,
        )


def run() -> Run:
    """As the arguments say: dsn, workload, count, slots."""
    dsn, workload, count, slots = sys.argv[1:]
    return Run(dsn, workload, int(count), int(slots))


def released(package: str) -> str:
    return version(package)


def rows(dsn: str, query: str) -> Callable[[], int]:
    """A function that asks this on a connection of its own."""
    import psycopg

    conn: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)

    def ask() -> int:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    return ask
