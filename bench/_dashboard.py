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

PAIRS = 3
COUNT = 10
BROWSERS = 10
_MILLION = 1_000_000


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
        with urllib.request.urlopen(asked, timeout=60) as answer:
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


def sessions(bench: Bench) -> float:
    """Milliseconds that the sessions of the dashboard have spent on processors (Linux)."""
    found = bench.conn.execute("select pid from pg_stat_activity where application_name = 'gendurable dashboard'")
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for (pid,) in found) / _MILLION


def cost(paths: list[str]) -> Callable[[Bench], float]:
    """The rate of an engine that ten browsers look at, by the rate without."""

    def once(bench: Bench, watched: bool) -> float:
        _server.clear(bench.conn)
        with dispatcher(bench.server.dsn), contextlib.ExitStack() as stack:
            drain(bench.conn, "bench_async", bench.scale)  # caches fill, statements are prepared
            if watched:
                address, pid = stack.enter_context(dashboard(bench.server.dsn))
                seen = stack.enter_context(browsers(address, paths))
                looked, spent, before, began = sum(seen), sessions(bench), processor_time(pid), time.monotonic()
            rate = drain(bench.conn, "bench_async", COUNT * bench.scale).rate
            if watched:
                took = time.monotonic() - began
                bench.notes.append(
                    f"{len(set(paths))} pages: {(sum(seen) - looked) / took:.1f} messages/s; of one core the sessions took "
                    f"{(sessions(bench) - spent) / 10 / took:.2f} %, the dashboard "
                    f"{100 * (processor_time(pid) - before) / took:.2f} %"
                )
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
