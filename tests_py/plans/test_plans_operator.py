"""What the command line reads touches pages by what it is to look at, with many full queues, losses and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.plans import sessions, steady_buffers
from support.server import Server

Conn = psycopg.Connection[Any]

# 40 queues with 3,600 rows each and ten lines of 200 before a rate limit, and 60,000 that have ended, one a second.
ROWS = """
insert into gendurable.instance (fsm, step, queue, status, finished_at, keep_until, failed_at)
select 'm', 's', 'q', case when g % 10 = 0 then 'failed' else 'done' end::gendurable.status, n.at,
    case when g % 7 = 0 then n.at + interval '9 years' end, case when g % 10 = 0 then n.at end
from generate_series(1, 60000) g
cross join lateral (select timestamptz '2026-01-01' + g * interval '1 second' as at) n;
insert into gendurable.instance (fsm, step, queue, status, eligible_at, awaits)
select 'm', 's', 'q' || g % 40, case when g % 3 = 2 then 'awaiting_signal' else 'runnable' end::gendurable.status,
    case g % 3 when 0 then now() - g * interval '1 ms' when 1 then now() + g * interval '1 day' end, '{x}'
from generate_series(1, 144000) g;
insert into gendurable.instance (fsm, step, queue, status, rate_limit, bucket_at)
select 'm', 's', 'q' || g % 40, 'runnable', 'limit ' || g % 400, now() from generate_series(1, 80000) g;
insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker)
select g, 1, timestamptz '2026-01-01' + g * interval '1 second', 0,
    case when g % 2 = 0 then 'crash' else 'error' end, 's', 'w'
from generate_series(1, 60000) g;
"""
# Pages. Of 40 queues each count ends at 750, and a look for workers at 500; each due row stands on a page of its
# own. Without an end it would be 48,000 for both.
MOST: dict[str, int] = {
    "select * from gd_queues": 36000,
    "select * from gd_workers": 24000,
    "select * from gd_crashes(p_look => 200)": 1800,
    "select * from gd_crashes(timestamptz '2026-01-01 16:39:00', 200)": 500,
    """select * from gd_list('{"finished_after": "2026-01-01T16:39:00Z"}', null, 100, 200)""": 700,
    """select * from gd_count('{"finished_before": "2026-01-01T00:01:00Z"}', 1000, 200)""": 700,
    """select * from gd_list('{"finished_after": "2026-01-01T08:00:00Z", "finished_before": "2026-01-01T08:01:00Z",
        "fsm": "m", "status": ["done", "failed"]}', null, 200, 200)""": 700,
}


@pytest.fixture(scope="module")
def full(server: Server) -> Iterator[Conn]:
    database = Database(server)
    conn = database.connect()
    for _ in range(7):
        for query in MOST:
            conn.execute(query.encode())
    conn.execute("set timezone = 'UTC'")
    conn.execute(ROWS.encode())
    yield conn
    database.close()


@pytest.mark.parametrize("query", MOST)
def test_a_look_is_bounded(full: Conn, query: str) -> None:
    used = []
    for how in ("vacuum", "vacuum analyze"):
        full.execute(f"{how} gendurable.instance, gendurable.error".encode())
        for session in sessions(full):
            session.execute(query.encode()).fetchall()
            used.append(steady_buffers(session, query))
    print(query, used)
    assert max(used) <= MOST[query]


def test_what_ended_in_a_time_is_found_among_all(full: Conn) -> None:
    asked = '{"finished_after": "2026-01-01T08:00:00Z", "finished_before": "2026-01-01T08:01:00Z"}'
    counted = full.execute("select count, exact from gd_count(%s, 1000, 200)", (asked,)).fetchone()
    assert counted == (60, True)


def test_counts_of_queues_share_what_there_is(full: Conn) -> None:
    rows = full.execute("select due, delayed, parked, limited, counted_to from gd_queues where queue <> 'q'").fetchall()
    assert set(rows) == {(750, 750, 750, 750, 750)}
    alone = full.execute("select due, counted_to from gd_queues where queue = 'q1'").fetchone()
    assert alone == (750, 750)
