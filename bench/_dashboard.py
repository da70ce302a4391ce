"""What the dashboard costs an engine that is busy, while ten browsers watch pages: its part of all processor time that
is used, and the engine's rate and processor time with and without it, in pairs, in turn. A rate scatters by more than
that part; processor time does not. The dashboard and its browsers run on the machine of the server."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import _server
from ._engine import ROOT, dispatcher, drain
from ._measure import Bench, processor_time

PAIRS = 5
COUNT = 10
BROWSERS = 10
# Seconds in which its sessions have looked at every page, which they do once.
LEARNS = 20


@contextlib.contextmanager
def dashboard(dsn: str) -> Iterator[tuple[str, int]]:
    """Its address and its process."""
    command = [sys.executable, "-m", "gendurable_py.cli", "dashboard", "--port", "0", "--dsn", dsn]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found is not None
        try:
            yield found[0].rstrip("/"), process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def browsers(address: str, paths: list[str]) -> Iterator[list[int]]:
    """Each watches a page while the block runs, and counts what it is sent."""
    over = threading.Event()
    seen = [0] * len(paths)

    def watch(number: int) -> None:
        asked = urllib.request.Request(address + paths[number], headers={"Accept": "text/event-stream"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            for line in answer:
                seen[number] += line.startswith((b"event: parts", b": same"))
                if over.is_set():
                    break

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(len(paths))]
    for thread in threads:
        thread.start()
    while not all(seen):
        time.sleep(0.01)
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def spent(bench: Bench, whose: str = "true") -> dict[int, float]:
    """Milliseconds that sessions of the server have spent on processors (Linux)."""
    found = bench.conn.execute(f"select pid from pg_stat_activity where {whose}".encode()).fetchall()
    times: dict[int, float] = {}
    for (pid,) in found:
        with contextlib.suppress(FileNotFoundError):
            times[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1_000_000
    return times


def since(bench: Bench, before: dict[int, float], whose: str = "true") -> float:
    return sum(time - before.get(pid, 0) for pid, time in spent(bench, whose).items())


OURS = "application_name = 'gendurable dashboard'"


class Once(NamedTuple):
    """One run: jobs a second; milliseconds of the sessions and of the process of the dashboard, and of all else."""

    rate: float
    sessions: float
    process: float
    engine: float

    @property
    def part(self) -> float:
        return (self.sessions + self.process) / (self.sessions + self.process + self.engine)


def once(bench: Bench, paths: list[str]) -> Once:
    """A backlog is worked off, while a browser watches each of the pages; no pages: without a dashboard."""
    _server.clear(bench.conn)
    count = COUNT * bench.scale
    with dispatcher(bench.server.dsn) as engine, contextlib.ExitStack() as stack:
        drain(bench.conn, "bench_async", bench.scale)  # caches fill, statements are prepared
        pid, seen = engine.pid, [0]
        if paths:
            address, pid = stack.enter_context(dashboard(bench.server.dsn))
            seen = stack.enter_context(browsers(address, paths))
            time.sleep(LEARNS)
        sent, before, ours, began = sum(seen), spent(bench), spent(bench, OURS), time.monotonic()
        page, worked = processor_time(pid), processor_time(engine.pid)
        rate = drain(bench.conn, "bench_async", count).rate
        took = time.monotonic() - began
        sessions = since(bench, ours, OURS)
        found = Once(
            rate,
            sessions,
            1000 * (processor_time(pid) - page) if paths else 0.0,
            since(bench, before) - sessions + 1000 * (processor_time(engine.pid) - worked),
        )
    said = f"{rate:,.0f} jobs/s, {1000 * found.engine / count:.1f} us of engine and server a job"
    if paths:
        said += (
            f"; {len(set(paths))} pages, {(sum(seen) - sent) / took:.1f} messages/s: sessions "
            f"{found.sessions / 10 / took:.2f} % of a core, dashboard {found.process / 10 / took:.2f} %, together "
            f"{100 * found.part:.2f} % of all that was used"
        )
    bench.notes.append(said)
    return found


def cost(paths: list[str]) -> Callable[[Bench], float]:
    """The dashboard's part of all processor time, in percent."""

    def run(bench: Bench) -> float:
        watched: list[Once] = []
        alone: list[Once] = []
        for number in range(PAIRS):
            for each in (True, False) if number % 2 else (False, True):
                (watched if each else alone).append(once(bench, paths if each else []))
        for what, ratios in (
            ("rate", [w.rate / a.rate for w, a in zip(watched, alone, strict=True)]),
            ("processor time of engine and server", [w.engine / a.engine for w, a in zip(watched, alone, strict=True)]),
        ):
            each = ", ".join(f"{one:.3f}" for one in ratios)
            bench.notes.append(f"{what}, watched by not: median {statistics.median(ratios):.3f} of {each}")
        return 100 * statistics.median(one.part for one in watched)

    return run


ONE = ["/"] * BROWSERS
TEN = [
    *("/", "/queues", "/workers", "/machines", "/machine?name=bench_async"),
    *("/instances", "/instances?status=failed", "/queue?name=default", "/limits", "/schedules"),
]
