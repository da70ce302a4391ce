"""What the history of a machine costs: kept steps that keep none, their steps or their states, in turn in one run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

from . import _server, _sql
from ._measure import Bench, processor_time

MODES = ("none", "steps", "states")


def _one(bench: Bench, mode: str, count: int, steps: int, size: int) -> float:
    """Microseconds of the server's CPU a step."""
    _server.clear(bench.conn)
    bench.conn.execute("select gd_register('bench', 1, 'start', 'default', %s)", [json.dumps({"history": mode})])
    _sql.insert(bench.conn, _sql.instances(count, size))
    before = processor_time(bench.conn.info.backend_pid)
    _sql.run_ahead(bench.conn, steps)
    return 1e6 * (processor_time(bench.conn.info.backend_pid) - before) / (count * steps)


def by_none(mode: str, size: int = 80) -> Callable[[Bench], float]:
    """The cost of a kept step with a history, by that without one: the median of pairs."""

    def run(bench: Bench) -> float:
        count = max(bench.scale // 4, 200)
        for each in MODES:
            _one(bench, each, 200, 5, size)  # plans
        ratios = []
        for _ in range(5):
            without = _one(bench, "none", count, 5, size)
            ratios.append(_one(bench, mode, count, 5, size) / without)
        bench.conn.execute("truncate gendurable.history")
        bench.conn.execute("select gd_register('bench', 1, 'start', 'default', '{\"history\": null}')")
        return statistics.median(ratios)

    return run


def removal(mode: str) -> Callable[[Bench], float]:
    """The cost of removing an instance of five steps with its history, by that of one without."""

    def run(bench: Bench) -> float:
        spent = {}
        for each in ("none", mode):
            _one(bench, each, bench.scale, 5, 80)
            bench.conn.execute("vacuum analyze")
            before = processor_time(bench.conn.info.backend_pid)
            while bench.value("select gd_gc('0', 1000)"):
                pass
            spent[each] = processor_time(bench.conn.info.backend_pid) - before
        bench.conn.execute("select gd_register('bench', 1, 'start', 'default', '{\"history\": null}')")
        return spent[mode] / spent["none"]

    return run
