"""What known workers cost: a hello is a write of one row in place, and a look reads by what is asked for."""

from __future__ import annotations

import json
import secrets
from typing import Any

import psycopg
from support.plans import shared_buffers, steady_buffers

import gendurable_py as gd
from gendurable_py.calls import viewing

Conn = psycopg.Connection[Any]

ABOUT = {
    "host": "h",
    "pid": 1,
    "queues": {f"q{n}": 5 for n in range(10)},
    "machines": [[secrets.token_hex(16), 1, [secrets.token_hex(16) for m in range(3)]] for n in range(60)],
    "listens": True,
}


def written(conn: Conn) -> tuple[int, int, int]:
    """What this transaction has updated, how much of it in place, and what it has put aside as too large."""
    [row] = conn.execute(
        "select pg_stat_get_xact_tuples_updated(c.oid), pg_stat_get_xact_tuples_hot_updated(c.oid), "
        "pg_stat_get_xact_tuples_inserted(c.reltoastrelid) "
        "from pg_class c where c.oid = 'gendurable.worker'::regclass"
    )
    return row


def hello(conn: Conn, worker: str = "w", **more: object) -> None:
    conn.execute("select gd_hello(%s, %s::jsonb)", (worker, json.dumps({**ABOUT, **more})))


def test_a_hello_is_a_hot_update_and_writes_what_is_large_once(conn: Conn) -> None:
    for n in range(300):
        hello(conn, f"w{n}")
    # the first of these is still in a page without room
    for n in range(3):
        hello(conn, "w7", running=n)
    with conn.transaction():
        before = written(conn)
        for n in range(20):
            hello(conn, "w7", running=n)
        updated, hot, toasted = (after - then for after, then in zip(written(conn), before, strict=True))
    # a page has room for so many versions of a row within one transaction
    assert (updated, toasted) == (20, 0) and hot >= 15


def test_looks_at_workers_touch_pages_by_what_is_asked_for(conn: Conn) -> None:
    for n in range(200):
        hello(conn, f"w{n}")
    few = [json.dumps([{"fsm": "m", "queue": f"q{n}"} for n in range(3)])]
    conn.execute("select count(*) from gd_insert_many(%s)", few)
    conn.execute("vacuum analyze gendurable.instance, gendurable.worker")
    for query, most in (
        ("select gd_hello('w7', '{}')", 100),
        ("select gd_drain_worker('w7#3')", 100),
        ("select * from gd_stats(60)", 10),
        ("select gendurable._tell_of_cancels('{1,2,3}', now())", 100),
    ):
        shared_buffers(conn, query)  # what the session has to learn of the catalog
        assert steady_buffers(conn, query) <= most, query
    small = shared_buffers(conn, "select worker, executing, state from gd_workers")
    conn.execute(
        "insert into gendurable.instance (fsm, fsm_version, step, queue, status, eligible_at, state, meta) "
        "select 'm', 1, 's', 'q' || g % 3, 'runnable', now() - interval '1 h', '{}', '{}' "
        "from generate_series(1, 60000) g"
    )
    conn.execute(
        "insert into gendurable.minute_count select now() - g / 35 * interval '1 min', 'm', 's', 'done', 1, 1 "
        "from generate_series(1, 50000) g"
    )
    conn.execute("vacuum analyze gendurable.instance, gendurable.minute_count")
    # 1,000 rows of each queue and priority, and no more of 20,000
    assert shared_buffers(conn, "select worker, executing, state from gd_workers") < small + 3 * 1000
    [(pages,)] = conn.execute("select pg_relation_size('gendurable.minute_count') / 8192")
    assert shared_buffers(conn, "select * from gd_stats(10)") < pages / 2
    assert shared_buffers(conn, "select * from gd_transitions('m', 10)") < pages / 2
    # the newest 20,000 counts of 50,000, and whose they are is seen among these
    assert shared_buffers(conn, "select * from gd_transitions('none', 1440)") < pages * 0.9


def test_whether_a_host_works_is_asked_without_the_claims(conn: Conn) -> None:
    for n in range(50):
        hello(conn, f"w{n}", host=f"h{n}")
    conn.execute("select count(*) from gd_insert_many(%s)", [json.dumps([{"fsm": "m"}] * 2000)])
    assert len(gd.claim(conn, "w7", "default", 2000)) == 2000
    asked = viewing.works_on.statement("h7")
    assert isinstance(asked.sql, str)
    before = shared_buffers(conn, "select * from gd_workers")
    assert shared_buffers(conn, asked.sql, *asked.params) < before / 4
    assert viewing.works_on(conn, "h7") is True
    assert viewing.works_on(conn, "elsewhere") is False
