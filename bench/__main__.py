"""Measure, next to pgbench on the same server: python -m bench [--rounds N] [--only WORD] [--baseline FILE]."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from gendurable_py.embedded import EmbeddedServer

from . import _engine, _server, _sql

OUT = Path(__file__).resolve().parent / "results.json"


@dataclass(frozen=True)
class Workload:
    name: str
    unit: str
    target: str
    run: Callable[[psycopg.Connection, EmbeddedServer, int], float]
    to_yardstick: bool = True


def five_steps(size: int = 80, **options: object) -> Callable[[psycopg.Connection, EmbeddedServer, int], float]:
    def run(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
        _sql.insert(conn, _sql.instances(scale, size, **options))
        return _sql.loop(conn, 5, size)

    return run


def kept(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
    _sql.insert(conn, _sql.instances(scale))
    return _sql.run_ahead(conn, 5)


def end_to_end(machine: str, steps: int, ahead: bool) -> Callable[[psycopg.Connection, EmbeddedServer, int], float]:
    def run(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
        with _engine.dispatcher(server.dsn, ahead=ahead):
            return steps * _engine.drained(conn, machine, 10_000 if steps == 1 else scale)

    return run


def start_latency(percentile: int) -> Callable[[psycopg.Connection, EmbeddedServer, int], float]:
    def run(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
        with _engine.dispatcher(server.dsn, 10):
            commits, starts = _engine.latencies(conn, 200)
        return statistics.quantiles(starts, n=100)[percentile - 1] / statistics.median(commits)

    return run


def late(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
    with _engine.dispatcher(server.dsn, 10):
        return 1000 * max(_engine.lateness(conn, 10, 2))


def inserts_beside(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
    """32 clients that insert single rows while an engine works on another queue, by their rate without an engine."""
    alone = _server.inserts(server, 3)
    _sql.insert(conn, [row | {"fsm": "bench_sync"} for row in _sql.instances(15 * scale)])
    with _engine.dispatcher(server.dsn, 10):
        return _server.inserts(server, 3) / alone


def hot(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
    before, beside, _ = _sql.hot_key(conn, 10 * scale, scale)
    return beside / before


def finished_rows(conn: psycopg.Connection, server: EmbeddedServer, scale: int) -> float:
    """A claim of 100 beside many finished and delayed rows, by its time with none."""
    _sql.insert(conn, _sql.instances(1000))
    empty = _sql.claim_time(conn, 100)
    for kind in ("'done', null, now()", "'runnable', now() + interval '1 day', null"):
        conn.execute(
            "insert into gendurable.instance (fsm, step, queue, status, eligible_at, finished_at) "
            f"select 'bench', 's1', 'default', {kind} from generate_series(1, {200 * scale})"
        )
    conn.execute("analyze gendurable.instance")
    return _sql.claim_time(conn, 100) / empty


WORKLOADS = [
    Workload("bulk insert of 100,000", "rows/s", ">= 6 U", lambda c, s, n: _sql.insert(c, _sql.instances(100_000))),
    Workload("SQL alone: five steps, 100-byte state", "steps/s", ">= 2.2 U", five_steps()),
    Workload("SQL alone: five steps, 2 kB state", "steps/s", ">= 1.2 U", five_steps(2000)),
    Workload(
        "SQL alone: five steps, 10,000 keys",
        "steps/s",
        ">= 0.4 of no keys",
        five_steps(partition_key=lambda n: f"k{n % 10_000}"),
    ),
    Workload("SQL alone: five steps, run-ahead", "steps/s", "", kept),
    Workload("engine: 10,000 no-op jobs, sync", "jobs/s", ">= 1.8 U", end_to_end("bench_sync", 1, False)),
    Workload("engine: 10,000 no-op jobs, async", "jobs/s", ">= 1.8 U", end_to_end("bench_async", 1, False)),
    Workload("engine: five steps", "steps/s", "", end_to_end("bench_five", 5, False)),
    Workload("engine: five steps, run-ahead", "steps/s", ">= 2.2 U", end_to_end("bench_five", 5, True)),
    Workload("insert to start, by durable commits (p50)", "x", "<= 6", start_latency(50), False),
    Workload("insert to start, by durable commits (p99)", "x", "", start_latency(99), False),
    Workload("start of rows delayed by 2 s after their time, the latest of 10", "ms", "<= 50", late, False),
    Workload("32 clients inserting beside a busy engine, by their rate alone", "x", ">= 0.9", inserts_beside, False),
    Workload("rows behind one hot key: unrelated work, by its rate alone", "x", ">= 0.95", hot, False),
    Workload("claim of 100 beside finished and delayed rows, by its time alone", "x", "<= 1.2", finished_rows, False),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="each workload runs so often, in turn (default: 3)")
    parser.add_argument("--only", default="", help="only the workloads with this in their name")
    parser.add_argument("--scale", type=int, default=10_000, help="instances in a workload (default: 10,000)")
    parser.add_argument("--baseline", type=Path, help="a results file of an earlier run to compare with, in ratios")
    options = parser.parse_args()
    chosen = [one for one in WORKLOADS if options.only in one.name]
    if not chosen:
        parser.error(f"no workload has {options.only!r} in its name")
    measured: dict[str, list[float]] = {one.name: [] for one in chosen}
    absolute: dict[str, list[float]] = {one.name: [] for one in chosen}
    yardsticks: list[float] = []
    with _server.server() as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        for number in range(1, options.rounds + 1):
            for one in chosen:
                # a yardstick of its own for each: the machine's speed drifts
                unit = _server.yardstick(server, 2) if one.to_yardstick else 1.0
                _server.clear(conn)
                value = one.run(conn, server, options.scale)
                measured[one.name].append(value / unit)
                absolute[one.name].append(value)
                if one.to_yardstick:
                    yardsticks.append(unit)
                print(f"round {number}: {one.name}: {value:,.2f} {one.unit}", file=sys.stderr, flush=True)
    results = {name: statistics.median(values) for name, values in measured.items()}
    baseline = json.loads(options.baseline.read_text()) if options.baseline else {}
    table = Table(title=f"medians of {options.rounds} rounds; U = {statistics.median(yardsticks or [0]):,.0f} tps")
    for heading in ("workload", "measured", "ratio", "target", *(["by the baseline"] if baseline else [])):
        table.add_column(heading, justify="left" if heading in ("workload", "target") else "right")
    for one in chosen:
        value = statistics.median(absolute[one.name])
        rate = f"{value:,.0f} {one.unit}" if one.to_yardstick else ""
        cells = [one.name, rate, f"{results[one.name]:.2f} {'U' if one.to_yardstick else one.unit}", one.target]
        if baseline:
            before = baseline.get(one.name)
            cells.append(f"{results[one.name] / before:.2f}" if before else "")
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    OUT.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
