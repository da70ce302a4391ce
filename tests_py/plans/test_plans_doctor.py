"""What the doctor reads does not grow with the tables."""

from __future__ import annotations

from typing import Any

import psycopg
from support.plans import fresh, shared_buffers

Conn = psycopg.Connection[Any]

# Each of five looks reads 200 rows at the head of each range; measured: 5,600 more than with empty tables.
MOST_MORE = 8000


def rows(conn: Conn, count: int, columns: str, values: str) -> None:
    conn.execute(
        f"insert into gendurable.instance (fsm, step, {columns}) select 'm', 's', {values} "
        f"from generate_series(1, {count}) g".encode()
    )


def test_the_doctor_touches_as_many_pages_with_many_rows(conn: Conn) -> None:
    look = "select * from gd_doctor()"
    for _ in range(3):
        conn.execute(look)
    few = shared_buffers(conn, look)
    past = "now() - interval '2 hours' + g * interval '1 ms'"
    rows(conn, 150000, "queue, eligible_at", f"'q', {past}")
    rows(conn, 100000, "queue, eligible_at, partition_key, lane_at", f"'k', now() + '1 day', 'k' || g % 20, {past}")
    rows(conn, 300000, "queue, status, finished_at", f"'q', 'done', {past}")
    rows(
        conn,
        300,
        "queue, status, eligible_at, lane_at, partition_key, slot_no, worker, claim_no, lease_expires_at",
        f"'x', 'executing', {past}, {past}, 'x' || g, 0, 'w', 1, {past}",
    )
    size = conn.execute("select pg_relation_size('gendurable.instance') / 8192").fetchone()
    assert size is not None and size[0] > 2 * MOST_MORE
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze")
        said = {row[0]: row[1] for row in conn.execute(look)}
        assert said["queues"] == said["keys"] == said["stuck"] == "problem"
        assert shared_buffers(conn, look) < few + MOST_MORE
        with fresh(conn) as other:
            other.execute(look)
            assert shared_buffers(other, look) < few + MOST_MORE
