"""How soon: from an insert or a signal to the step that it starts, the engine idle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psycopg

from . import _engine
from ._measure import Bench


def start(percentile: int) -> Callable[[Bench], float]:
    """From the call of an insert to the start of its step, in durable commits of the same run."""

    def run(bench: Bench) -> float:
        with _engine.dispatcher(bench.server.dsn, 10):
            commits, starts = starting(bench.conn, 200)
        return statistics.quantiles(starts, n=100)[percentile - 1] / statistics.median(commits)

    return run


def resume(bench: Bench) -> float:
    """From the call of a signal to the start of the step that awaited it, in durable commits (p50)."""
    conn = bench.conn
    commits, resumed = [], []
    with _engine.dispatcher(bench.server.dsn, 10):
        for _ in range(100):
            commits.append(durable_commit(conn))
            id = conn.execute("select gd_insert('bench_resume')").fetchone()
            while conn.execute("select status from gd_result(%s)", id).fetchone() != ("awaiting_signal",):
                time.sleep(0.002)
            time.sleep(0.01)  # the engine falls asleep again
            called = time.time()
            conn.execute("select gd_signal(%s, 'go')", id)
            resumed.append(told(conn, id) - called)
    return statistics.median(resumed) / statistics.median(commits)


def late(bench: Bench) -> float:
    """By how many milliseconds the latest of ten rows that were delayed by 2 s starts after its time."""
    conn = bench.conn
    due = []
    with _engine.dispatcher(bench.server.dsn, 10):
        for _ in range(10):
            id = conn.execute("select gd_insert('bench_start', p_delay => '2 s')").fetchone()
            query = "select extract(epoch from eligible_at) from gendurable.instance where id = %s"
            at = conn.execute(query, id).fetchone()
            assert at is not None
            due.append((id, float(at[0])))
            time.sleep(0.1)
        return 1000 * max(told(conn, id) - at for id, at in due)


def polled(bench: Bench) -> float:
    """The longest of 20 starts in poll-only mode, by the poll interval of 0.2 s."""
    conn = bench.conn
    with _engine.dispatcher(bench.server.dsn, 10, notify=False, poll_interval=0.2, max_poll_interval=0.2):
        time.sleep(1)
        starts = []
        for n in range(20):
            called = time.time()
            starts.append(told(conn, conn.execute("select gd_insert('bench_start')").fetchone()) - called)
            time.sleep(0.01 * n)  # not in step with the polls
    return max(starts) / 0.2


def starting(conn: psycopg.Connection, count: int) -> tuple[list[float], list[float]]:
    """Seconds of an empty durable commit, and from the call of an insert to the start of its step."""
    commits, starts = [], []
    for _ in range(count):
        commits.append(durable_commit(conn))
        called = time.time()
        starts.append(told(conn, conn.execute("select gd_insert('bench_start')").fetchone()) - called)
        time.sleep(0.01)  # the engine falls asleep again
    return commits, starts


def durable_commit(conn: psycopg.Connection) -> float:
    """Seconds of the smallest transaction that is written to disk."""
    started = time.perf_counter()
    conn.execute("update bench_yardstick set n = n + 1 where id = 1")
    return time.perf_counter() - started


def told(conn: psycopg.Connection, id: tuple[int, ...] | None) -> float:
    """The time that a step gave as the result, by this machine's clock."""
    while (row := conn.execute("select result from gd_result(%s) where status = 'done'", id).fetchone()) is None:
        time.sleep(0.002)
    return float(row[0])
