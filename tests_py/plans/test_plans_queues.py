"""Queues by the page: what a look reads goes with what is asked for, and not with how many queues there are."""

from __future__ import annotations

from typing import Any

import psycopg
from support.plans import sessions, shared_buffers

Conn = psycopg.Connection[Any]

LOOKS = (
    """select * from gd_list_queues('{"queue": "q00500"}')""",
    "select * from gd_list_queues(p_limit => 20)",
    "select * from gd_list_queues(p_after => 'q00500', p_limit => 20)",
    """select * from gd_list_queues('{"limited": true}', p_limit => 20)""",
)


def fill(conn: Conn, start: int, end: int) -> None:
    """Queues with 60 rows each, and settings."""
    conn.execute(
        "insert into gendurable.queue_name select 'q' || lpad(g::text, 5, '0')"
        " from generate_series(%(start)s::int, %(end)s::int) g",
        {"start": start, "end": end},
    )
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, awaits, eligible_at)"
        " select 'm', 's', 'q' || lpad(g::text, 5, '0'),"
        " case when n %% 2 = 0 then 'awaiting_signal' else 'runnable' end::gendurable.status,"
        " case when n %% 2 = 0 then '{x}'::text[] end, case when n %% 2 = 1 then now() end"
        " from generate_series(%(start)s::int, %(end)s::int) g, generate_series(1, 60) n",
        {"start": start, "end": end},
    )
    conn.execute(
        "insert into gendurable.queue_setting (queue, max_executing) select 'q' || lpad(g::text, 5, '0'), 5"
        " from generate_series(%(start)s::int, %(end)s::int) g",
        {"start": start, "end": end},
    )


def looked(conn: Conn) -> dict[str, int]:
    found: dict[str, int] = {}
    for session in sessions(conn):
        for query in LOOKS:
            rows = len(session.execute(query.encode()).fetchall())  # the catalog is looked at once
            assert rows == (1 if "00500" in query and "after" not in query else 20), query
            found[query] = max(found.get(query, 0), shared_buffers(session, query))
    return found


def test_thousands_of_queues_make_a_page_no_dearer(conn: Conn) -> None:
    for _ in range(7):  # the plans are kept
        for query in LOOKS:
            conn.execute(query.encode())
    fill(conn, 480, 540)
    few = looked(conn)
    fill(conn, 1, 479)
    fill(conn, 541, 4000)
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance, gendurable.queue_name, gendurable.queue_setting")
        many = looked(conn)
        print(analyzed, few, many)
        for query in LOOKS:
            # indexes that are a level deeper
            assert many[query] <= 2 * few[query] + 100, query
