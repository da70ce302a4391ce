"""Measure, next to pgbench on the same server: python -m bench, or --long; --help lists the options."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from . import _plot, _server
from ._long import LONG
from ._measure import Bench, Workload
from ._workloads import SHORT

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the workloads that take minutes; draws docs/plots")
    parser.add_argument("--rounds", type=int, help="each workload runs so often, in turn (default: 3; 1 with --long)")
    parser.add_argument("--only", default="", help="only the workloads with this in their name")
    parser.add_argument("--scale", type=int, default=10_000, help="instances in a workload (default: 10,000)")
    parser.add_argument("--baseline", type=Path, help="a results file of an earlier run to compare with, in ratios")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.long else 3)
    chosen = [one for one in (LONG if options.long else SHORT) if options.only in one.name]
    if not chosen:
        parser.error(f"no workload has {options.only!r} in its name")

    values: dict[str, list[float]] = {one.name: [] for one in chosen}
    ratios: dict[str, list[float]] = {one.name: [] for one in chosen}
    units: list[float] = []
    notes: list[str] = []
    with _server.server() as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        for number in range(1, rounds + 1):
            for one in chosen:
                # a yardstick of its own for each: the machine's speed drifts
                unit = _server.yardstick(server, 2) if one.to_yardstick else 1.0
                _server.clear(conn)
                bench = Bench(conn, server, options.scale)
                value = one.run(bench)
                values[one.name].append(value)
                ratios[one.name].append(value / unit)
                if one.to_yardstick:
                    units.append(unit)
                print(f"round {number}: {one.name}: {value:,.2f} {one.unit}", file=sys.stderr, flush=True)
                if one.plot and number == rounds:
                    print(f"  drawn: {_plot.draw(one.plot, bench.curves)}", file=sys.stderr, flush=True)
                if number == rounds:
                    notes += bench.notes
    results = {name: statistics.median(measured) for name, measured in ratios.items()}
    medians = {name: statistics.median(measured) for name, measured in values.items()}
    baseline = json.loads(options.baseline.read_text()) if options.baseline else {}
    title = f"medians of {rounds} rounds" + (f"; U = {statistics.median(units):,.0f} tps" if units else "")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(title, chosen, medians, results, baseline))
    for note in notes:
        console.print(note, highlight=False)
    out = HERE / ("results-long.json" if options.long else "results.json")
    out.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def table(
    title: str,
    chosen: list[Workload],
    medians: dict[str, float],
    results: dict[str, float],
    baseline: dict[str, float],
) -> Table:
    made = Table(title=title)
    for heading in ("workload", "measured", "ratio", "target", *(["by the baseline"] if baseline else [])):
        made.add_column(heading, justify="left" if heading in ("workload", "target") else "right")
    for one in chosen:
        rate = f"{medians[one.name]:,.0f} {one.unit}" if one.to_yardstick else ""
        cells = [one.name, rate, f"{results[one.name]:,.2f} {'U' if one.to_yardstick else one.unit}", one.target]
        if baseline:
            before = baseline.get(one.name)
            cells.append(f"{results[one.name] / before:.2f}" if before else "")
        made.add_row(*cells)
    return made


if __name__ == "__main__":
    sys.exit(main())
