"""What gd_machines looks at is bounded, however many instances are open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from support.plans import fresh

Conn = psycopg.Connection[Any]


def scans(node: dict[str, Any]) -> Iterator[float]:
    """Rows that each scan of instances or of their indexes has read."""
    if "instance" in (node.get("Relation Name"), str(node.get("Index Name")).split("_")[0]):
        yield node["Actual Rows"] * node["Actual Loops"]
    for below in node.get("Plans", []):
        yield from scans(below)


def test_it_reads_a_bounded_number_of_rows(conn: Conn) -> None:
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, partition_key, lane_at, eligible_at)"
        " select 'm' || g % 3, 'start', 'q' || g % 2, 'k', now(), case when g % 2 = 0 then now() end"
        " from generate_series(1, 60000) g"
    )
    conn.execute("update gendurable.instance set queue = 'q' || id % 4")
    conn.commit()
    with fresh(conn) as other:
        other.execute("vacuum analyze gendurable.instance")
        [[plan]] = other.execute("explain (analyze, format json) select * from gd_machines").fetchall()
        read = list(scans(plan[0]["Plan"]))
        assert len(read) >= 6 and max(read) <= 5_000, read
        rows = other.execute("select fsm, runnable, exact from gd_machines order by fsm").fetchall()
    assert [(fsm, exact) for fsm, _, exact in rows] == [(f"m{n}", False) for n in range(3)]
    assert sum(runnable for _, runnable, _ in rows) == 10_000
