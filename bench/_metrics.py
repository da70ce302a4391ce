"""What metrics cost a dispatcher: its processor time for a step that does nothing, with the endpoint, looks and
scrapes, by without; in pairs, in turn."""

from __future__ import annotations

import contextlib
import statistics
import threading
import urllib.request
from collections.abc import Callable, Iterator

from . import _server
from ._engine import dispatcher, drain
from ._measure import Bench, beside, processor_time

PAIRS = 5
COUNT = 4
_SCRAPE = 5.0


@contextlib.contextmanager
def scraped(url: str) -> Iterator[None]:
    """Scrapes at once and then every 5 seconds, three times as often as usual, while the block runs."""

    def scrape(over: threading.Event) -> None:
        while True:
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                answer.read()
            if over.wait(_SCRAPE):
                break

    with beside(scrape):
        yield


def cost(machine: str, steps: int) -> Callable[[Bench], float]:
    """Processor time with metrics by without; the throughput is noted."""

    def once(bench: Bench, metrics: bool) -> tuple[float, float]:
        _server.clear(bench.conn)
        with dispatcher(bench.server.dsn, metrics=metrics) as process, contextlib.ExitStack() as stack:
            assert process.stdout is not None
            if metrics:
                stack.enter_context(scraped(process.stdout.readline().strip()))
            drain(bench.conn, machine, bench.scale // 10)  # caches fill, statements are prepared
            before = processor_time(process.pid)
            rate = drain(bench.conn, machine, COUNT * bench.scale).rate
            return (processor_time(process.pid) - before) / (COUNT * bench.scale * steps), rate

    def run(bench: Bench) -> float:
        times: list[float] = []
        rates: list[float] = []
        for number in range(PAIRS):
            found = {metrics: once(bench, metrics) for metrics in ((False, True) if number % 2 else (True, False))}
            times.append(found[True][0] / found[False][0])
            rates.append(found[True][1] / found[False][1])
        pairs = ", ".join(f"{one:.3f}" for one in times)
        bench.notes.append(
            f"{machine} with metrics: processor time {pairs}; throughput " + ", ".join(f"{one:.3f}" for one in rates)
        )
        return statistics.median(times)

    return run
