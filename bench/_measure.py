"""What a workload is, what it is given, and what it may note beside its one number."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from gendurable_py.embedded import EmbeddedServer


@dataclass
class Bench:
    """What a workload works with: `conn` is in autocommit, the tables are empty."""

    conn: psycopg.Connection
    server: EmbeddedServer
    scale: int
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def value(self, query: str, arguments: tuple[object, ...] = ()) -> float:
        """The one number that a query gives."""
        row = self.conn.execute(query.encode(), arguments).fetchone()
        assert row is not None
        return float(row[0])


@dataclass(frozen=True)
class Plot:
    """A figure in docs/plots/: `name`.svg."""

    name: str
    title: str
    x: str
    y: str


@dataclass(frozen=True)
class Workload:
    """One line of the table. Its number is divided by the yardstick U of its moment, if `to_yardstick`."""

    name: str
    unit: str
    target: str
    run: Callable[[Bench], float]
    to_yardstick: bool = True
    plot: Plot | None = None


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """A thread works while the block runs, until the event is set that it is given."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def lock_waits(bench: Bench, what: str) -> Iterator[None]:
    """Note what the server's sessions waited for, sampled 100 times a second while the block runs."""
    query = b"""select coalesce(wait_event_type || ':' || wait_event, 'running') from pg_stat_activity
        where state = 'active' and pid <> pg_backend_pid() and backend_type = 'client backend'"""
    seen: dict[str, int] = {}

    def sample(over: threading.Event) -> None:
        with psycopg.connect(bench.server.dsn, autocommit=True) as conn:
            while not over.wait(0.01):
                for (event,) in conn.execute(query).fetchall():
                    seen[event] = seen.get(event, 0) + 1

    try:
        with beside(sample):
            yield
    finally:
        total = max(1, sum(seen.values()))
        most = sorted(seen.items(), key=lambda one: -one[1])[:6]
        locked = sum(count for event, count in seen.items() if event.startswith("Lock:"))
        bench.notes.append(
            f"{what}: {100 * locked / total:.1f} % of {total:,} samples wait for a lock; most often "
            + ", ".join(f"{event} {100 * count / total:.0f} %" for event, count in most)
        )


def processor_time(pid: int) -> float:
    """Seconds that a process has spent on processors, with all its threads (Linux: /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
