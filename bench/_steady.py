"""Steady state: a backlog that is kept for twenty minutes, while what has ended is collected after one."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from typing import NamedTuple

import psycopg

from . import _engine
from ._measure import Bench, processor_time

RETENTION = 60
BACKLOG = 5000
BATCH = 1000


class Minute(NamedTuple):
    """What stands after a minute; the counts from the beginning."""

    seconds: float
    finished: int
    removed: int
    table: float
    indexes: float
    dead: int

    def tell(self, number: int, before: Minute) -> str:
        rate = (self.finished - before.finished) / (self.seconds - before.seconds)
        return (
            f"minute {number}: {rate:,.0f} jobs/s; finished {self.finished:,}, removed {self.removed:,}; "
            f"table {self.table:,.0f} MB, indexes {self.indexes:,.0f} MB, dead rows {self.dead:,}"
        )


class Feeder:
    """Keeps so many jobs waiting, from a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._over = threading.Event()
        self.inserted = 0
        self.between = threading.Lock()
        """Held while a batch is inserted and counted."""
        self._thread = threading.Thread(target=self._feed)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _feed(self) -> None:
        text = json.dumps([{"fsm": "bench_sync", "state": {"p": "x" * 80}}] * BATCH)
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            while not self._over.is_set():
                waiting = conn.execute(
                    "select count(*) from (select from gendurable.instance where queue = 'default' and priority = 0 "
                    "and woken = 1 and eligible_at is not null limit %s) w",
                    [BACKLOG],
                ).fetchone()
                if waiting is not None and waiting[0] < BACKLOG:
                    with self.between:
                        conn.execute("select count(*) from gd_insert_many(%s)", [text])
                        self.inserted += BATCH
                else:
                    time.sleep(0.05)


def look(bench: Bench, feeder: Feeder, began: float) -> Minute:
    query = b"""select count(*) filter (where finished_at is null), count(*),
        pg_relation_size('gendurable.instance') / 1e6, pg_indexes_size('gendurable.instance') / 1e6,
        (select n_dead_tup from pg_stat_all_tables where relid = 'gendurable.instance'::regclass)
        from gendurable.instance"""
    with feeder.between:
        inserted = feeder.inserted
        row = bench.conn.execute(query).fetchone()
    assert row is not None
    now = time.monotonic() - began
    return Minute(now, inserted - row[0], inserted - row[1], float(row[2]), float(row[3]), row[4])


def steady(bench: Bench) -> float:
    """One engine as it is by default, but for the retention: jobs a second of the last minute, by the second one."""
    minutes = max(7, 20 * bench.scale // 10_000)
    with _engine.dispatcher(bench.server.dsn, 10, retention=RETENTION) as engine:
        feeder = Feeder(bench.server.dsn)
        began = time.monotonic()
        seen = [Minute(0, 0, 0, 0, 0, 0)]
        try:
            for number in range(1, minutes + 1):
                time.sleep(max(0.0, began + 60 * number - time.monotonic()))
                seen.append(look(bench, feeder, began))
                told = seen[-1].tell(number, seen[-2])
                print(f"  {told}", file=sys.stderr, flush=True)
                bench.notes.append(f"steady state: {told}")
        finally:
            feeder.stop()
        spent = processor_time(engine.pid)
        _engine.finish(bench.conn)
        until = time.monotonic() + RETENTION + 120
        while bench.value("select count(*) from gendurable.instance") and time.monotonic() < until:
            time.sleep(1)
    left = bench.value("select count(*) from gendurable.instance")
    bench.notes.append(
        f"steady state: of {feeder.inserted:,} jobs {left:,.0f} are left after the retention; the engine spent "
        f"{spent:,.0f} s on processors"
    )
    for number in (3, 5):
        then = seen[number]
        bench.notes.append(
            f"steady state: by minute {number}: table {seen[-1].table / then.table:.2f}, "
            f"indexes {seen[-1].indexes / then.indexes:.2f}"
        )
    # over five minutes, since one collects by half minutes; what is removed ended a minute and a half before
    bench.notes.append(
        "steady state: removed in the last five minutes, by what finished in those a minute before: "
        f"{(seen[-1].removed - seen[-6].removed) / (seen[-2].finished - seen[-7].finished):.2f}"
    )
    rates = [(b.finished - a.finished) / (b.seconds - a.seconds) for a, b in itertools.pairwise(seen)]
    bench.curves["jobs/s"] = [(float(number), rate) for number, rate in enumerate(rates, 1)]
    return rates[-1] / rates[1]
