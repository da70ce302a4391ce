"""What `make bench` runs."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from . import (
    _beside,
    _dashboard,
    _engine,
    _flows,
    _history,
    _latency,
    _metrics,
    _server,
    _sql,
    _transactional,
)
from ._measure import Bench, Workload, lock_waits, processor_time
from ._steps import STEPS


def five_steps(size: int = 80, fewer: int = 1, **options: Any) -> Callable[[Bench], float]:
    def run(bench: Bench) -> float:
        _sql.insert(bench.conn, _sql.instances(bench.scale // fewer, size, **options))
        return _sql.loop(bench.conn, _sql.through(5, size))

    return run


def keys_by_none(keys: int) -> Callable[[Bench], float]:
    """Five steps over so many keys, by the rate without keys."""

    def run(bench: Bench) -> float:
        without = five_steps()(bench)
        _server.clear(bench.conn)
        return five_steps(partition_key=lambda n: f"k{n % keys}")(bench) / without

    return run


def kept(bench: Bench) -> float:
    _sql.insert(bench.conn, _sql.instances(bench.scale))
    return _sql.run_ahead(bench.conn, 5)


def cost(measure: Callable[[Bench], float], **options: Any) -> Callable[[Bench], float]:
    """How much a step of a five-step loop costs, by a counter that grows; the first loop pays for full pages."""

    def run(bench: Bench) -> float:
        for _ in range(2):
            _sql.insert(bench.conn, _sql.instances(bench.scale, **options))
            before = measure(bench)
            steps = sum(_sql.Calls(bench.conn).rounds(_sql.through(5)))
            spent = measure(bench) - before
        return spent / steps

    return run


def wal(bench: Bench) -> float:
    return bench.value("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")


def buffers(bench: Bench) -> float:
    bench.conn.execute("select pg_stat_force_next_flush()")
    return bench.value("select blks_hit + blks_read from pg_stat_database where datname = current_database()")


def processor(bench: Bench) -> float:
    return 1e6 * processor_time(bench.conn.info.backend_pid)


def end_to_end(machine: str, steps: int, count: int = 10_000, **options: object) -> Callable[[Bench], float]:
    def run(bench: Bench) -> float:
        with _engine.dispatcher(bench.server.dsn, **options):  # type: ignore[arg-type]
            return steps * _engine.drain(bench.conn, machine, count).rate

    return run


def mixed(machine: str) -> Callable[[Bench], float]:
    """Three no-op steps of which some are in SQL, by all three in Python."""

    def run(bench: Bench) -> float:
        bench.conn.execute(_engine.IN_SQL)
        with _engine.dispatcher(bench.server.dsn):
            for each in ("bench_three", machine):  # plans and threads
                _engine.drain(bench.conn, each, 500)
            plain, other = [], []
            for _ in range(3):
                _server.clear(bench.conn)
                plain.append(_engine.drain(bench.conn, "bench_three", bench.scale).rate)
                _server.clear(bench.conn)
                other.append(_engine.drain(bench.conn, machine, bench.scale).rate)
        bench.notes.append(
            f"{machine}: {3 * statistics.median(other):,.0f} steps/s, in Python {3 * statistics.median(plain):,.0f}"
        )
        return statistics.median(other) / statistics.median(plain)

    return run


def defaults(bench: Bench) -> float:
    """No-op jobs of an engine with ten slots, by an engine with 100: medians of three turns."""
    rates: dict[int, list[float]] = {10: [], 100: []}
    for _ in range(3):
        for slots, measured in rates.items():
            _server.clear(bench.conn)
            with _engine.dispatcher(bench.server.dsn, slots) as process:
                _engine.drain(bench.conn, "bench_sync", bench.scale // 5)  # plans and threads
                before = processor_time(process.pid)
                measured.append(_engine.drain(bench.conn, "bench_sync", 2 * bench.scale).rate)
                spent = 1e6 * (processor_time(process.pid) - before) / (2 * bench.scale)
        bench.notes.append(f"{slots} slots: {measured[-1]:,.0f} jobs/s, {spent:.0f} us of the engine's processor each")
    return statistics.median(rates[10]) / statistics.median(rates[100])


def client_time(bench: Bench) -> float:
    """Microseconds of client CPU a step, threads and loop together."""
    with _engine.dispatcher(bench.server.dsn) as process:
        _engine.drain(bench.conn, "bench_five", bench.scale // 5)
        before = processor_time(process.pid)
        _engine.drain(bench.conn, "bench_five", bench.scale)
        return 1e6 * (processor_time(process.pid) - before) / (5 * bench.scale)


def fan_out(children: int) -> Callable[[Bench], float]:
    """From the insert of a parent to its end, by the time of as many independent jobs."""

    def run(bench: Bench) -> float:
        with _engine.dispatcher(bench.server.dsn):
            _engine.drain(bench.conn, "bench_sync", children)  # the first jobs pay for plans and threads
            alone, fanned = [], []
            for _ in range(3):
                bench.conn.execute("truncate gendurable.instance cascade")
                jobs = _engine.drain(bench.conn, "bench_sync", children)
                alone.append(jobs.insert + jobs.work)
                bench.conn.execute("select gd_insert('bench_fan', jsonb_build_object('childs', %s::int))", [children])
                _engine.finish(bench.conn)
                fanned.append(
                    bench.value(
                        "select extract(epoch from finished_at - inserted_at) from gendurable.instance "
                        "where fsm = 'bench_fan'"
                    )
                )
        return statistics.median(fanned) / statistics.median(alone)

    return run


def signals(bench: Bench) -> float:
    """Signals a second of 32 clients, to one of 10,000 instances each."""
    _sql.insert(bench.conn, _sql.instances(10_000, queue="elsewhere"))
    first = int(bench.value("select min(id) from gendurable.instance"))
    script = f"\\set id random({first}, {first + 9_999})\nselect gd_signal(:id, 'go');\n"
    return _server.pgbench(bench.server, script, 3)


def inserts(clients: int) -> Callable[[Bench], float]:
    return lambda bench: _server.inserts(bench.server, 3, clients)


def inserts_beside(bench: Bench) -> float:
    """32 clients that insert single rows while an engine works on another queue, by their rate without an engine."""
    alone = _server.inserts(bench.server, 3)
    _sql.insert(bench.conn, [row | {"fsm": "bench_sync"} for row in _sql.instances(20 * bench.scale)])
    with _engine.dispatcher(bench.server.dsn, 10), lock_waits(bench, "inserts beside a busy engine"):
        return _server.inserts(bench.server, 3) / alone


def inserts_beside_other_work(bench: Bench) -> float:
    """The same with two clients of pgbench in the place of the engine: what any other work costs them here."""
    alone = _server.inserts(bench.server, 3)
    with _server.background(bench.server, clients=2):
        return _server.inserts(bench.server, 3) / alone


def inserts_into_served(bench: Bench) -> float:
    """32 clients that insert single rows into the queue of an engine, by their rate into another queue."""
    with _engine.dispatcher(bench.server.dsn, 10):
        elsewhere = _server.inserts(bench.server, 3)
        with lock_waits(bench, "inserts into the queue of an engine"):
            return _server.inserts(bench.server, 3, queue="default") / elsewhere


def bulk(bench: Bench) -> float:
    return _sql.insert(bench.conn, _sql.instances(100_000))


def bulk_of_four(bench: Bench) -> float:
    """Rows a second of four connections that insert at the same time, by one: medians of three turns."""
    text = json.dumps(_sql.instances(10_000))

    def rate(connections: int) -> float:
        _server.clear(bench.conn)
        with contextlib.ExitStack() as stack:
            conns = [
                stack.enter_context(psycopg.connect(bench.server.dsn, autocommit=True)) for _ in range(connections)
            ]

            def insert(conn: psycopg.Connection) -> None:
                for _ in range(10):
                    conn.execute("select count(*) from gd_insert_many(%s)", [text])

            started = time.perf_counter()
            with ThreadPoolExecutor(connections) as threads:
                list(threads.map(insert, conns))
            return connections * 100_000 / (time.perf_counter() - started)

    rates = [(rate(1), rate(4)) for _ in range(3)]
    return statistics.median(four for _, four in rates) / statistics.median(one for one, _ in rates)


SHORT = [
    Workload("bulk insert of 100,000", "rows/s", ">= 5 U", bulk),
    Workload("bulk insert of four connections, by one", "x", ">= 1.6", bulk_of_four, False),
    Workload("single inserts, 1 client", "rows/s", "", inserts(1)),
    Workload("single inserts, 16 clients", "rows/s", "", inserts(16)),
    Workload("single inserts, 32 clients", "rows/s", "", inserts(32)),
    Workload("signals, 32 clients", "/s", "", signals),
    Workload("SQL alone: five steps, 100-byte state", "steps/s", ">= 2.2 U", five_steps()),
    Workload("SQL alone: five steps, 2 kB state", "steps/s", ">= 1.2 U", five_steps(2000)),
    Workload("SQL alone: five steps, 100 kB state", "steps/s", "", five_steps(100_000, fewer=20)),
    Workload("SQL alone: five steps, run-ahead", "steps/s", "", kept),
    Workload("SQL alone: 10,000 keys, by no keys", "x", ">= 0.4", keys_by_none(10_000), False),
    Workload("SQL alone: 1,000 keys, by no keys", "x", "", keys_by_none(1_000), False),
    *STEPS,
    Workload("WAL a step", "bytes", "<= 700", cost(wal), False),
    Workload("WAL a step, 10,000 keys", "bytes", "", cost(wal, partition_key=lambda n: f"k{n % 10_000}"), False),
    Workload("buffers a step", "", "", cost(buffers), False),
    Workload("server CPU a step", "us", "", cost(processor), False),
    Workload("history: CPU of a kept step with steps, by none", "x", "<= 1.3", _history.by_none("steps"), False),
    Workload("history: CPU of a kept step with states, by none", "x", "<= 1.8", _history.by_none("states"), False),
    Workload(
        "history: CPU of a kept step of 2 kB with states, by none", "x", "", _history.by_none("states", 2000), False
    ),
    Workload(
        "history: removing an instance of five steps with states, by none", "x", "", _history.removal("states"), False
    ),
    Workload("engine: 10,000 no-op jobs, sync", "jobs/s", ">= 1.8 U", end_to_end("bench_sync", 1)),
    Workload("engine: 10,000 no-op jobs, async", "jobs/s", ">= 1.8 U", end_to_end("bench_async", 1)),
    Workload("engine: five steps", "steps/s", "", end_to_end("bench_five", 5)),
    Workload("engine: five steps, run-ahead", "steps/s", ">= 2.2 U", end_to_end("bench_five", 5, run_ahead=True)),
    Workload("flows of 5 checkpoints, by 5 steps with run-ahead", "x", ">= 0.85", _flows.by_machine(5, 2_000), False),
    Workload("flows of 100 checkpoints, by 100 steps", "x", "", _flows.by_machine(100, 50), False),
    Workload("the last 100 of 1,000 checkpoints, by the first", "x", ">= 0.9", _flows.linear, False),
    Workload("a replay of 10,000 entries, by ten of 1,000", "x", "<= 1.1", _flows.replay, False),
    Workload("engine: Python, SQL, Python, by three steps in Python", "x", "", mixed("bench_mixed"), False),
    Workload("engine: three steps in SQL, by three in Python", "x", "", mixed("bench_sql"), False),
    *(
        Workload(f"transactional steps, {kind}, {count}", "steps/s", target, _transactional.steps(machine, processes))
        for count, processes, target in (("one process", 1, ">= 0.2 U"), ("four processes", 4, ">= 0.5 U"))
        for kind, machine in (("sync", "bench_transaction"), ("async", "bench_transaction_async"))
    ),
    Workload("engine: no-op jobs in 10 slots, by 100", "x", ">= 0.8", defaults, False),
    Workload("engine: client CPU a step", "us", "<= 40", client_time, False),
    Workload("metrics: client CPU of a no-op job, by without", "x", "<= 1.02", _metrics.cost("bench_sync", 1), False),
    Workload("metrics: client CPU of five steps, by without", "x", "<= 1.02", _metrics.cost("bench_five", 5), False),
    Workload("dashboard: of all CPU, ten browsers at a page", "%", "<= 2", _dashboard.cost(_dashboard.ONE), False),
    Workload("dashboard: of all CPU, ten browsers at ten pages", "%", "", _dashboard.cost(_dashboard.TEN), False),
    Workload("fan-out and join of 1,000, by 1,000 independent jobs", "x", "<= 1.5", fan_out(1_000), False),
    Workload("insert to start, in durable commits (p50)", "x", "<= 6", _latency.start(50), False),
    Workload("insert to start, in durable commits (p99)", "x", "", _latency.start(99), False),
    Workload("signal to resume, in durable commits (p50)", "x", "", _latency.resume, False),
    Workload("start of rows delayed by 2 s after their time, the latest of 10", "ms", "<= 50", _latency.late, False),
    Workload("insert to start without notifications, by the poll interval (max)", "x", "<= 1", _latency.polled, False),
    Workload("32 clients inserting beside a busy engine, by alone", "x", ">= 0.9", inserts_beside, False),
    Workload("the same beside 2 clients of pgbench, by alone", "x", "", inserts_beside_other_work, False),
    Workload("32 clients inserting into the engine's queue, by elsewhere", "x", "", inserts_into_served, False),
    Workload("unrelated work behind one hot key, by alone", "x", ">= 0.95", _beside.behind_hot_key, False),
    Workload("parking behind a hot key, by claiming", "x", "<= 1.5", _beside.park, False),
    Workload(
        "claim of 100 beside 2 x 1,000,000 finished and delayed rows",
        "x",
        "<= 1.2",
        _beside.ended_and_delayed(100, 100),
        False,
    ),
    Workload("claim of 100 beside 50,000 executing rows", "x", "<= 1.5", _beside.executing, False),
]
