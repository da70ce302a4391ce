"""Work while a snapshot is held, as by a dump or a report: no dead row or index entry can be removed."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import psycopg

from . import _sql
from ._measure import Bench

PARTS = 30


@contextlib.contextmanager
def snapshot(bench: Bench) -> Iterator[None]:
    """Another session holds a REPEATABLE READ snapshot while the block runs."""
    with psycopg.connect(bench.server.dsn) as other:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select count(*) from gendurable.instance")
        yield
        other.rollback()


def series(
    conn: psycopg.Connection, total: int, refill: Callable[[], object], answer: _sql.Answer
) -> list[tuple[float, float]]:
    """(steps so far, steps a second) in 30 slices; the time in which `refill` puts in new work does not count."""
    points, done, since = [], 0, 0
    call = _sql.Calls(conn)
    while done < total:
        refill()
        for count in call.rounds(answer):
            done += count
            if done - since >= total / PARTS:
                points.append((float(done), (done - since) / call.seconds))
                since, call.seconds = done, 0.0
            if done >= total:
                break
    return points


def once(bench: Bench, rows: list[_sql.Row]) -> Callable[[], None]:
    """A `refill` that puts these in the first time, and nothing after that: they make their work themselves."""
    left = [rows]

    def refill() -> None:
        if left:
            _sql.insert(bench.conn, left.pop())

    return refill


def end_by_start(points: list[tuple[float, float]]) -> float:
    """The rate of the last tenth by the rate of the first."""
    tenth = max(1, len(points) // 10)
    return statistics.mean(y for _, y in points[-tenth:]) / statistics.mean(y for _, y in points[:tenth])


def plain(bench: Bench) -> float:
    return held(bench, 50 * bench.scale, lambda: _sql.insert(bench.conn, _sql.instances(4000)), _sql.through(5))


def keyed(bench: Bench) -> float:
    def refill() -> None:
        _sql.insert(bench.conn, _sql.instances(10_000, partition_key=lambda n: f"k{n}"))

    return held(bench, 30 * bench.scale, refill, _sql.through(5))


def hot_parent(bench: Bench) -> float:
    """One parent with 10,000 children of one step, which fans out again whenever all have ended."""
    children = [{"fsm": "child"}] * 10_000

    def answer(claim: _sql.Claim) -> _sql.Row:
        if claim.fsm == "child":
            return {"kind": "done"}
        if claim.step == "start":
            return {"kind": "schedule_childs", "step": "again", "childs": children}
        return {"kind": "next", "step": "start"}

    return held(bench, 30 * bench.scale, once(bench, [{"fsm": "parent"}]), answer)


def long_lives(steps: int) -> Callable[[Bench], float]:
    """Half as many instances as the scale that all take so many steps, one after the other in turn: none of their
    versions can go."""

    def run(bench: Bench) -> float:
        count = bench.scale // 2
        refill = once(bench, _sql.instances(count))
        with snapshot(bench):
            # the rounds in which they end are others
            return end_by_start(series(bench.conn, count * (steps - 1), refill, _sql.through(steps)))

    return run


def held(bench: Bench, total: int, refill: Callable[[], object], answer: _sql.Answer) -> float:
    """The rate at the end by the rate at the start, once without a snapshot, for the curve, and once beside it."""
    bench.curves["without"] = series(bench.conn, total // 5, refill, answer)
    with snapshot(bench):
        bench.curves["beside a snapshot"] = series(bench.conn, total, refill, answer)
    return end_by_start(bench.curves["beside a snapshot"])


def caught_up(bench: Bench, seconds: int = 60) -> float:
    """A claim that finds 5 rows, beside 300,000 dead entries, by its time on a clean table; means over a minute."""
    conn = bench.conn
    # as on the connection on which a dispatcher claims
    conn.execute("set synchronous_commit = off")

    def mean(duration: float) -> tuple[float, list[tuple[float, float]]]:
        times: list[tuple[float, float]] = []
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + duration:
            _sql.insert(conn, _sql.instances(5))
            call = _sql.Calls(conn)
            claims = call.claim(100)
            times.append((now - started, call.seconds))
            if claims:
                call.commit(claims, _sql.through(1))
        return statistics.mean(t for _, t in times), times

    clean, _ = mean(seconds / 6)
    with snapshot(bench):
        series(conn, 30 * bench.scale, lambda: _sql.insert(conn, _sql.instances(4000)), _sql.through(5))
        dirty, times = mean(seconds)
    # one point a second: the scans that are rationed show as peaks in it
    for second in range(seconds):
        within = [t for at, t in times if second <= at < second + 1]
        if within:
            bench.curves.setdefault("mean of a second", []).append((second, 1000 * statistics.mean(within)))
    bench.notes.append(
        f"caught-up queue: claim {1e6 * clean:,.0f} us clean, {1e6 * dirty:,.0f} us beside dead entries, "
        f"the longest {1e3 * max(t for _, t in times):,.1f} ms"
    )
    conn.execute("reset synchronous_commit")
    return dirty / clean
