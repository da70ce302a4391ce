"""Flows beside machines that run ahead, in turn, on one dispatcher."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import gendurable_py as gd
from gendurable_py import Child

from . import _server
from ._engine import dispatcher, drain, finish
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
    """What a checkpoint costs in the last tenth of journals of 1,000 entries, by the first tenth: processor time of the
    engine and of its sessions. As many flows at once all the time, so batches are alike."""
    flows, length = 40, 1000
    parts = ((0.05, 0.15), (0.85, 0.95))
    found: dict[str, list[float]] = {"engine": [], "server": [], "rate": []}
    with dispatcher(bench.server.dsn) as process:
        drain(bench.conn, "bench_flow_100", flows)
        for _ in range(ROUNDS):
            _server.clear(bench.conn)
            gd.insert_many(bench.conn, [Child("bench_flow_1000")] * flows)
            parted = [_costs_between(bench, process.pid, flows * length, *part) for part in parts]
            finish(bench.conn)
            for name, first, last in zip(found, *parted, strict=True):
                found[name].append(last / first)
            bench.notes.append("first and last tenth, us of engine, of server, a second: " + _say(parted))
    said = ", ".join(f"{name} {statistics.median(ratios):.2f}" for name, ratios in found.items())
    bench.notes.append(f"last tenth by the first, medians: {said}")
    return statistics.median(found["rate"])


def _say(parted: list[tuple[float, float, float]]) -> str:
    return "; ".join(f"{engine:.0f}, {server:.0f}, {rate:,.0f}" for engine, server, rate in parted)


def _costs_between(bench: Bench, pid: int, entries: int, begin: float, end: float) -> tuple[float, float, float]:
    """Microseconds of the engine's and of the server's processors for an entry, and entries a second, between these
    shares of all entries."""
    marks = [_wait_for(bench, pid, share * entries) for share in (begin, end)]
    (made, at, *spent), (more, later, *used) = marks
    engine, server = (1e6 * (b - a) / (more - made) for a, b in zip(spent, used, strict=True))
    return engine, server, (more - made) / (later - at)


def _wait_for(bench: Bench, pid: int, entries: float) -> tuple[float, ...]:
    """When there are so many entries: how many, the time, and what was spent by then."""
    # one look for each flow, and not at each entry
    there = """select sum(j.seq) from gendurable.instance i cross join lateral (
        select j.seq from gendurable.journal j where j.instance_id = i.id order by j.seq desc limit 1) j"""
    while (count := bench.value(f"select coalesce(({there}), 0)")) < entries:
        time.sleep(0.02)
    sessions = "select pid from pg_stat_activity where application_name like 'gendurable %'"
    pids = [found for (found,) in bench.conn.execute(sessions).fetchall()]
    return count, time.perf_counter(), processor_time(pid), sum(map(processor_time, pids))


def replay(bench: Bench) -> float:
    """Milliseconds of the engine's processor for the replay of 10,000 entries, by ten times that of 1,000."""
    costs: dict[int, list[float]] = {1_000: [], 9_990: []}
    with dispatcher(bench.server.dsn) as process:
        for _ in range(ROUNDS):
            for count, spent in costs.items():
                _server.clear(bench.conn)
                made = gd.insert(bench.conn, "bench_flow_long", {"count": count}, queue="later")
                assert made is not None
                bench.conn.execute(
                    """insert into gendurable.journal values (%s, 1, '{"k": "start", "at": 1, "seed": "x"}')""", (made,)
                )
                bench.conn.execute(
                    "insert into gendurable.journal select %s, n + 2, jsonb_build_object("
                    "'k', 'step', 'name', 'nothing', 'n', n, 'at', 2, 'v', '1') from generate_series(0, %s - 1) n",
                    (made, count),
                )
                before = processor_time(process.pid)
                gd.edit(bench.conn, made, queue="default")
                finish(bench.conn)
                spent.append(1000 * (processor_time(process.pid) - before))
    said = ", ".join(f"{count:,}: {statistics.median(spent):.0f} ms" for count, spent in costs.items())
    bench.notes.append(f"replay of so many entries: {said}")
    return statistics.median(costs[9_990]) / 9.99 / statistics.median(costs[1_000])
