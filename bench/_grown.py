"""Calls beside millions of rows that are none of their business, by the same in an empty database of one server."""

from __future__ import annotations

import contextlib
import json
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from . import _beside, _sql
from ._measure import Bench

_SIZES = ((1, 100), (10, 30), (200, 5))
"""How many rows a call, and how many calls of it a round."""


class Side:
    """One of the two databases, and what its calls cost."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        self.spent: dict[str, list[float]] = {}
        self.parked = range(0)
        self._file = Path(f"/proc/{conn.info.backend_pid}/schedstat")

    def used(self) -> float:
        """Microseconds on a processor so far (Linux)."""
        return int(self._file.read_text().split()[0]) / 1000

    def measured(self, what: str, rows: int, call: Callable[[], object]) -> None:
        """Keep what a row of this costs."""
        before = self.used()
        call()
        self.spent.setdefault(what, []).append((self.used() - before) / rows)

    def work(self, size: int, calls: int) -> None:
        """Insert rows, and let them make one step and end, by so many a call."""
        count = size * calls
        self.measured(f"insert of {count}", count, lambda: _sql.insert(self.conn, _sql.instances(count)))
        call = _sql.Calls(self.conn)
        for answer in (_sql.through(2), _sql.through(2)):
            claims: list[list[_sql.Claim]] = []

            def claim(into: list[list[_sql.Claim]] = claims) -> None:
                into += [call.claim(size) for _ in range(calls)]

            def commit(taken: list[list[_sql.Claim]] = claims, answer: _sql.Answer = answer) -> None:
                for one in taken:
                    call.commit(one, answer)

            self.measured(f"claim of {size}", count, claim)
            self.measured(f"commit of {size}", count, commit)

    def signal(self, count: int) -> None:
        """Signal parked rows, one a call, wherever they stand; then they park again."""
        ids = random.sample(self.parked, count)

        def send() -> None:
            for id in ids:
                self.conn.execute("select gd_signal(%s::bigint, 'go')", [id])

        self.measured("signal", len(ids), send)
        while rows := self.conn.execute(
            "select id, claim_no, signals from gd_claim('bench', 'default', 100)"
        ).fetchall():
            sent = [
                {
                    "id": id,
                    "claim_no": no,
                    "kind": "await",
                    "signals": ["go"],
                    "step": "wait",
                    "consume": [signals[0]["id"]],
                }
                for id, no, signals in rows
            ]
            results = self.conn.execute("select distinct result from gd_commit('bench', %s)", [json.dumps(sent)])
            if (found := results.fetchall()) != [("ok",)]:
                raise RuntimeError(f"commit: {found}")

    def collect(self, size: int, calls: int) -> None:
        """Remove the oldest ended rows."""

        def remove() -> None:
            for _ in range(calls):
                self.conn.execute("select gd_gc('30 minutes', %s)", [size])

        self.measured(f"gc of {size}", size * calls, remove)


@contextlib.contextmanager
def twin(bench: Bench) -> Iterator[psycopg.Connection]:
    """A session in an empty database of the same server."""
    bench.conn.execute("drop database if exists bench_empty with (force)")
    bench.conn.execute("create database bench_empty")
    try:
        with psycopg.connect(bench.server.dsn_of("bench_empty"), autocommit=True) as conn:
            conn.execute("create extension gendurable")
            yield conn
    finally:
        bench.conn.execute("drop database bench_empty with (force)")


def rest(bench: Bench) -> None:
    """Nothing is left to do for the autovacuum, and no page waits to be written."""
    bench.conn.execute("vacuum (analyze) gendurable.instance")
    bench.conn.execute("checkpoint")


def growth(bench: Bench) -> float:
    """Five steps while finished rows gather: the rate beside 10,000,000 of them, by the rate in an empty database."""
    points: dict[str, list[tuple[float, float]]] = {"beside finished rows": [], "in an empty database": []}
    with twin(bench) as empty:
        for millions in range(11):
            if millions:
                _beside.fill(bench.conn, "done", 100 * bench.scale)
                rest(bench)
            pairs = []
            spent = []
            for number in range(7 if millions == 10 else 3):
                rates = {}
                for side in (bench.conn, empty) if number % 2 else (empty, bench.conn):
                    one = Side(side)
                    _sql.insert(side, _sql.instances(bench.scale // 2))
                    before = one.used()
                    rates[side] = _sql.loop(side, _sql.through(5)), one.used() - before
                pairs.append((rates[bench.conn][0], rates[empty][0]))
                spent.append(rates[bench.conn][1] / rates[empty][1])
            for name, measured in zip(points, zip(*pairs, strict=True), strict=True):
                points[name].append((millions * 100.0 * bench.scale, statistics.median(measured)))
    bench.curves |= points
    bench.notes.append(
        "five steps beside 10,000,000 finished rows: processor time of the session by that in an empty database "
        f"{statistics.median(spent):.2f} ({min(spent):.2f} to {max(spent):.2f})"
    )
    return statistics.median(one / other for one, other in pairs)


def calls(bench: Bench) -> float:
    """Claim, commit, signal and gc beside 10,000,000 finished and 1,000,000 parked rows: the dearest, by empty."""
    with twin(bench) as empty:
        for conn, scale in ((bench.conn, bench.scale), (empty, 20)):
            for _ in range(10):
                _beside.fill(conn, "old", 100 * scale)
            _beside.fill(conn, "parked", 100 * scale)
            conn.execute("vacuum (analyze) gendurable.instance")
            conn.execute("set synchronous_commit = off")
        sides = Side(bench.conn), Side(empty)
        for one in sides:
            [bounds] = one.conn.execute(
                "select min(id), max(id) + 1 from gendurable.instance where finished_at is null"
            )
            one.parked = range(*bounds)
        rest(bench)
        for number in range(10):
            for one in sides if number % 2 else reversed(sides):
                for size, times in _SIZES:
                    one.work(size, times)
                    one.collect(size, times)
                one.signal(15)
                if not number:
                    one.spent.clear()  # plans
    ratios = {}
    for what, many in sides[0].spent.items():
        few = sides[1].spent[what]
        ratios[what] = statistics.median(one / other for one, other in zip(many, few, strict=True))
        bench.notes.append(
            f"beside 10,000,000 finished and 1,000,000 parked rows: {what}: {statistics.median(many):.1f} us of "
            f"processor a row, in an empty database {statistics.median(few):.1f}: {ratios[what]:.2f}"
        )
    return max(ratios.values())
