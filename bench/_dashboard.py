"""What the dashboard costs an engine: its rate while ten browsers watch pages, by its rate alone; in pairs, in turn.
The dashboard and its browsers run on the machine of the server."""

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

from . import _server
from ._engine import ROOT, dispatcher, drain
from ._measure import Bench, processor_time

PAIRS = 5
COUNT = 10
BROWSERS = 10


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


def cost(paths: list[str]) -> Callable[[Bench], float]:
    """The rate of an engine that ten browsers look at, by the rate without; noted: what the sessions have spent."""

    def once(bench: Bench, watched: bool) -> float:
        _server.clear(bench.conn)
        with dispatcher(bench.server.dsn), contextlib.ExitStack() as stack:
            drain(bench.conn, "bench_async", bench.scale)  # caches fill, statements are prepared
            pid, seen = 0, [0]
            if watched:
                address, pid = stack.enter_context(dashboard(bench.server.dsn))
                seen = stack.enter_context(browsers(address, paths))
            sent, before, ours, began = sum(seen), spent(bench), spent(bench, OURS), time.monotonic()
            page = processor_time(pid) if watched else 0.0
            rate = drain(bench.conn, "bench_async", COUNT * bench.scale).rate
            took = time.monotonic() - began
            said = f"{rate:,.0f} jobs/s, {1000 * since(bench, before) / COUNT / bench.scale:.1f} us of the server a job"
            if watched:
                said += (
                    f"; {len(set(paths))} pages: {(sum(seen) - sent) / took:.1f} messages/s, sessions "
                    f"{since(bench, ours, OURS) / 10 / took:.2f} % of a core, dashboard "
                    f"{100 * (processor_time(pid) - page) / took:.2f} %"
                )
            bench.notes.append(said)
        return rate

    def run(bench: Bench) -> float:
        ratios: list[float] = []
        for number in range(PAIRS):
            found = {watched: once(bench, watched) for watched in ((False, True) if number % 2 else (True, False))}
            ratios.append(found[True] / found[False])
        bench.notes.append("pairs: " + ", ".join(f"{one:.3f}" for one in ratios))
        return statistics.median(ratios)

    return run


ONE = ["/"] * BROWSERS
TEN = [
    *("/", "/queues", "/workers", "/machines", "/machine?name=bench_async"),
    *("/instances", "/instances?status=failed", "/queue?name=default", "/limits", "/schedules"),
]
