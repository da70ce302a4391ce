"""What `make bench-long` runs: what takes minutes, or shows a shape over time."""

from __future__ import annotations

import contextlib
import statistics

from . import _beside, _engine, _grown, _held, _limits, _memory, _steady
from ._measure import Bench, Plot, Workload, lock_waits
from ._workloads import fan_out


def dispatchers(bench: Bench) -> float:
    """Four dispatchers on one queue, by one: medians of three turns."""
    rates: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(3):
        for count, measured in rates.items():
            bench.conn.execute("truncate gendurable.instance cascade")
            with contextlib.ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(_engine.dispatcher(bench.server.dsn, 100))
                stack.enter_context(lock_waits(bench, f"{count} dispatchers"))
                measured.append(5 * _engine.drain(bench.conn, "bench_five", 2 * bench.scale).rate)
    return statistics.median(rates[4]) / statistics.median(rates[1])


STEPS = ("steps so far", "steps/s")

LONG = [
    Workload(
        "500,000 steps beside a held snapshot, last tenth by first",
        "x",
        ">= 0.85",
        _held.plain,
        False,
        Plot("held-plain", "Five steps, no keys", *STEPS),
    ),
    Workload(
        "300,000 steps of 10,000 keys beside a held snapshot, last tenth by first",
        "x",
        ">= 0.5",
        _held.keyed,
        False,
        Plot("held-keyed", "Five steps, 10,000 keys", *STEPS),
    ),
    Workload(
        "300,000 steps of a parent's children beside a held snapshot, last tenth by first",
        "x",
        ">= 0.5",
        _held.hot_parent,
        False,
        Plot("held-parent", "One parent, 10,000 children at a time", *STEPS),
    ),
    Workload(
        "claim in a caught-up queue beside 300,000 dead entries, by clean",
        "x",
        "<= 3",
        _held.caught_up,
        False,
        Plot("held-caught-up", "Claims that find 5 rows, beside 300,000 dead entries", "seconds", "ms a claim"),
    ),
    Workload(
        "24 steps of 5,000 beside a held snapshot, last tenth by first", "x", ">= 0.8", _held.long_lives(24), False
    ),
    Workload(
        "100 steps of 5,000 beside a held snapshot, last tenth by first", "x", ">= 0.6", _held.long_lives(100), False
    ),
    Workload("four dispatchers on one queue, by one", "x", ">= 0.9", dispatchers, False),
    Workload("fan-out and join of 100,000, by 100,000 independent jobs", "x", "<= 1.5", fan_out(100_000), False),
    Workload(
        "claim of 100 beside 10,000,000 finished and 1,000,000 delayed rows",
        "x",
        "<= 1.2",
        _beside.ended_and_delayed(1000, 100),
        False,
    ),
    Workload(
        "steady state under retention, last minute by the second",
        "x",
        ">= 0.9",
        _steady.steady,
        False,
        Plot("steady", "One engine, a backlog, a retention of 60 seconds", "minutes", "jobs/s"),
    ),
    Workload(
        "memory of an engine: 1,000,000 jobs and 100,000 signalled instances, at most",
        "MB",
        "<= 80",
        _memory.memory,
        False,
    ),
    Workload(
        "claim, commit, signal, gc beside 10,000,000 finished and 1,000,000 parked rows, the dearest by empty",
        "x",
        "<= 1.2",
        _grown.calls,
        False,
    ),
    Workload(
        "five steps beside 10,000,000 finished rows, by an empty database",
        "x",
        ">= 0.95",
        _grown.growth,
        False,
        Plot("growth", "Five steps while finished rows gather", "finished rows", "steps/s"),
    ),
    Workload("rate limit 100/s, one session: part used", "", ">= 0.97", _limits.used(100, 100, 1), False),
    Workload("rate limit 100/s, ten sessions: part used", "", ">= 0.95", _limits.used(100, 100, 10), False),
    Workload(
        "rate limit 100/s, three queues, ten sessions: part used",
        "",
        ">= 0.95",
        _limits.used(100, 10, 10, queues=3),
        False,
    ),
    Workload("rate limit 10/s, twenty buckets: part used", "", ">= 0.9", _limits.used(10, 5, 10, buckets=20), False),
    Workload(
        "rate limit 100/s, weights .5 to 20, a tenth lost and replayed: part used",
        "",
        "",
        _limits.used(100, 20, 10, weights=(0.5, 1, 2, 20), lost=0.1, again=0.1),
        False,
    ),
    Workload("rate limit 200/s, fifty keys: part used", "", "", _limits.used(200, 200, 6, keys=50), False),
    Workload(
        "free jobs beside 20,000 rows in line at 50/s, by alone", "x", ">= 0.9", _limits.beside_line(50, 20_000), False
    ),
    Workload(
        "free jobs beside 20,000 rows in line at 1,000/s, by alone",
        "x",
        ">= 0.7",
        _limits.beside_line(1000, 20_000),
        False,
    ),
    Workload("claim that rings a bell and starts two, by a plain claim of two", "x", "<= 3.5", _limits.ring, False),
    Workload("putting a row into a line, by an ordinary claim", "x", "", _limits.backlog, False),
    Workload("claim of rows that find their tokens, by one of free rows", "x", "", _limits.at_hand, False),
    Workload("one engine at 50/s: part used", "", ">= 0.95", _limits.engines(1), False),
    Workload("five engines at 50/s: part used", "", ">= 0.9", _limits.engines(5), False),
]
