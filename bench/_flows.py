"""Flows beside machines that run ahead, in turn, on one dispatcher."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from . import _server
from ._engine import dispatcher, drain
from ._measure import Bench, processor_time

ROUNDS = 5


def by_machine(checkpoints: int, count: int) -> Callable[[Bench], float]:
    """Checkpoints of flows a second by steps of a machine with run-ahead: the median of rounds in turn."""

    def run(bench: Bench) -> float:
        ratios: list[float] = []
        costs: dict[str, list[float]] = {"flow": [], "steps": []}
        with dispatcher(bench.server.dsn, run_ahead=True) as process:
            for kind in costs:
                drain(bench.conn, f"bench_{kind}_{checkpoints}", count // 4)
            for _ in range(ROUNDS):
                rates = {}
                for kind, spent in costs.items():
                    _server.clear(bench.conn)
                    before = processor_time(process.pid)
                    rates[kind] = drain(bench.conn, f"bench_{kind}_{checkpoints}", count).rate
                    spent.append(1e6 * (processor_time(process.pid) - before) / (count * checkpoints))
                ratios.append(rates["flow"] / rates["steps"])
        said = ", ".join(f"{statistics.median(spent):.0f} us of a {kind}" for kind, spent in costs.items())
        bench.notes.append(f"flows of {checkpoints}: client CPU {said}; " + ", ".join(f"{one:.2f}" for one in ratios))
        return statistics.median(ratios)

    return run


def linear(bench: Bench) -> float:
    """The rate of flows of 1,000 checkpoints by those of 100: 1 where no checkpoint is dearer than the one before."""
    rates = {}
    with dispatcher(bench.server.dsn):
        drain(bench.conn, "bench_flow_100", 50)
        for checkpoints, count in ((100, 100), (1000, 10)):
            _server.clear(bench.conn)
            rates[checkpoints] = checkpoints * drain(bench.conn, f"bench_flow_{checkpoints}", count).rate
    return rates[1000] / rates[100]
