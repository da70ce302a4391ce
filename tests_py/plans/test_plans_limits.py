"""gd_rate_limits goes with how many buckets there are, and not with buckets times limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

Conn = psycopg.Connection[Any]
LIMITS, BUCKETS = 200, 400


def scans(node: dict[str, Any]) -> Iterator[float]:
    """Rows that each scan of buckets or limits has looked at."""
    if node.get("Relation Name") in ("bucket", "bucket_closed", "rate_limit"):
        yield (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    for below in node.get("Plans", []):
        yield from scans(below)


def test_each_bucket_is_looked_at_once(conn: Conn) -> None:
    conn.execute("select gd_set_rate_limit('l' || g, 1, '1 hour') from generate_series(1, %s::int) g", (LIMITS,))
    conn.execute("select gd_set_rate_limit('l1:a', 1, '1 hour')")
    conn.execute(
        "insert into gendurable.bucket select 'l' || g %% %s || ':' || case when g %% 2 = 0 then 'a:' else '' end || g,"
        " 1, now() + interval '1 hour', '{}' from generate_series(1, %s::int) g",
        (LIMITS, BUCKETS),
    )
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.bucket, gendurable.rate_limit")
        [[plan]] = conn.execute("explain (analyze, format json) select * from gd_rate_limits").fetchall()
        read = sum(scans(plan[0]["Plan"]))
        print(analyzed, read)
        assert read <= 10 * (LIMITS + BUCKETS)
