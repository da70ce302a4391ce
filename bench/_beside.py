"""Claims and work beside rows that are none of their business: finished, delayed, executing, parked ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import psycopg

from . import _sql
from ._measure import Bench


def fill(conn: psycopg.Connection, kind: str, count: int) -> None:
    """Rows as they lie there: `done`, now or an hour ago (`old`), `delayed` by a day, `executing` under live leases of
    another worker, or `parked` until a signal comes."""
    columns = {
        "done": ("finished_at, status", "now(), 'done'"),
        "old": ("finished_at, status", "now() - interval '1 hour', 'done'"),
        "parked": ("status, awaits", "'awaiting_signal', '{go}'"),
        "delayed": ("eligible_at", "now() + interval '1 day'"),
        "executing": (
            "status, claim_no, worker, lease_expires_at, eligible_at",
            "'executing', 1, 'other', now() + interval '1 hour', now() - interval '1 hour'",
        ),
    }
    names, values = columns[kind]
    conn.execute(
        f"insert into gendurable.instance (fsm, step, queue, {names}) "
        f"select 'bench', 's1', 'default', {values} from generate_series(1, {count})"
    )


def claims(bench: Bench, what: str, **rows: int) -> float:
    """The median claim of 100 beside so many rows of each kind, by its time with none."""
    alone = statistics.median(_sql.claim_times(bench.conn, 100))
    for kind, count in rows.items():
        fill(bench.conn, kind, count)
    bench.conn.execute("analyze gendurable.instance")
    times = _sql.claim_times(bench.conn, 100)
    beside = statistics.median(times)
    bench.notes.append(
        f"claim of 100 beside {what}: {1e3 * alone:,.2f} ms alone, {1e3 * beside:,.2f} ms beside them, "
        f"the longest of {len(times)} {1e3 * max(times):,.1f} ms"
    )
    return beside / alone


def ended_and_delayed(done: int, delayed: int) -> Callable[[Bench], float]:
    """`done` and `delayed` in units of the scale."""
    return lambda bench: claims(
        bench, "finished and delayed rows", done=done * bench.scale, delayed=delayed * bench.scale
    )


def executing(bench: Bench) -> float:
    """Rows under live leases, which were due before all others."""
    return claims(bench, "executing rows", executing=5 * bench.scale)


def park(bench: Bench) -> float:
    """Seconds a row to park 20 x scale rows behind one key, by the seconds a row of an ordinary claim."""
    conn = bench.conn
    _sql.insert(conn, _sql.instances(bench.scale))
    call = _sql.Calls(conn)
    while call.claim():
        pass
    ordinary = call.seconds / bench.scale
    count = 20 * bench.scale
    return parked(conn, count) / count / ordinary


def parked(conn: psycopg.Connection, count: int) -> float:
    """Seconds of the claims that park so many rows behind one key."""
    _sql.insert(conn, _sql.instances(count, partition_key="hot"))
    call = _sql.Calls(conn)
    left = "select exists (select from gendurable.instance where eligible_at is not null and status = 'runnable')"
    while conn.execute(left).fetchone() == (True,):
        for _ in range(10):
            call.claim()
    return call.seconds


def behind_hot_key(bench: Bench) -> float:
    """Jobs a second beside 20 x scale rows parked behind one key, by their rate without."""
    conn = bench.conn

    def rate() -> float:
        _sql.insert(conn, _sql.instances(bench.scale))
        return _sql.loop(conn, _sql.through(1))

    before = statistics.median(rate() for _ in range(3))
    parked(conn, 20 * bench.scale)
    conn.execute("vacuum gendurable.instance")  # else autovacuum does it during the next lines
    return statistics.median(rate() for _ in range(3)) / before
