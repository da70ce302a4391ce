"""What looks reads what is asked for, however much there is: pages counted where plain plans would read it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.looking import FILTERS
from support.plans import sessions, steady_buffers
from support.server import Server

Conn = psycopg.Connection[Any]

# 300,000 ended, 50,000 due in each of two queues and 50,000 parked, a line of 30,000 in a key and one before a rate
# limit,
# 30,000 signals in an inbox, 30,000 children, a tree 10 deep, 30,000 failures of one second, 100 priorities.
ROWS = """
insert into gendurable.instance (fsm, step, queue, status, finished_at)
select 'm', 's', 'a', 'done', now() - interval '1 day' + g * interval '1 ms' from generate_series(1, 300000) g;
insert into gendurable.instance (fsm, step, queue, eligible_at)
select 'm', 's', 'q' || g % 2, now() - interval '1 hour' + g * interval '1 ms' from generate_series(1, 100000) g;
insert into gendurable.instance (fsm, step, queue, status, awaits)
select 'm', 's', 'q' || g % 2, 'awaiting_signal', '{go}' from generate_series(1, 50000) g;
insert into gendurable.instance (fsm, step, queue, priority, eligible_at)
select 'm', 's', 'urgent', g % 100, now() - interval '1 hour' + g * interval '1 ms' from generate_series(1, 2000) g;
insert into gendurable.instance (id, fsm, step, queue, partition_key, lane_at, eligible_at)
select 1000000 + g, 'm', 's', 'keyed', 'long', now() - interval '1 hour' + g * interval '1 ms',
    case when g = 1 then now() - interval '1 hour' end
from generate_series(1, 30000) g;
insert into gendurable.instance (id, fsm, step, queue, rate_limit, bucket_at)
select 1100000 + g, 'm', 's', 'limited', 'l', now() - interval '1 hour' + g * interval '1 ms'
from generate_series(1, 30000) g;
insert into gendurable.instance (id, fsm, step, queue, status, awaits)
values (1200000, 'm', 's', 'i', 'awaiting_signal', '{go}');
insert into gendurable.signal (instance_id, name, payload) select 1200000, 'other', '1' from generate_series(1, 30000);
insert into gendurable.instance (id, fsm, step, queue, status, children_pending, claim_no)
values (1300000, 'm', 's', 'p', 'awaiting_children', 30000, 1);
insert into gendurable.instance (fsm, step, queue, parent_id, barrier_no, status, finished_at, eligible_at)
select 'm', 's', 'c', 1300000, 1, case when g < 20000 then 'done' else 'runnable' end::gendurable.status,
    case when g < 20000 then now() end, case when g >= 20000 then now() end
from generate_series(1, 30000) g;
insert into gendurable.instance (id, fsm, step, queue, parent_id, barrier_no, status, children_pending, claim_no)
select 1400000 + g, 'm', 's', 't', case when g > 1 then 1400000 + (g + 1) / 3 end, 1, 'awaiting_children', 3, 1
from generate_series(1, 29524) g;
insert into gendurable.instance (id, fsm, step, queue, status, finished_at, failed_at, last_error, unique_key,
partition_key)
select 1500000 + g, 'burst', 's', 'b', 'failed', now(), date_trunc('second', now()), 'order ' || g || ' has failed',
'u', 'past'
from generate_series(1, 30000) g;
insert into gendurable.error select 1500001, g, now(), 0, 'error', 's', 'w', 'e', 't' from generate_series(1, 20) g;
insert into gendurable.history select 1500001, g, now(), 0, 0, 'next', 's', 's', 'w', '{}'
from generate_series(1, 30000) g;
select gd_set_rate_limit('l', 1, '1 hour', 1);
"""

WHO = {
    "waits in a key": 1015000,
    "last of a key": 1030000,
    "before a limit": 1130000,
    "has an inbox": 1200000,
    "has children": 1300000,
    "root of a tree": 1400001,
    "leaf of a tree": 1429524,
    "failed": 1515000,
    "has a history": 1500001,
}

# Pages of one look at one instance. The most is read by a count of 10,000 children, each looked up: 4 pages.
ONE = {
    "select gd_get(%s)": 500,
    "select * from gd_why(%s)": 1500,
    "select * from gd_errors(%s)": 100,
    "select * from gd_history(%s, 20000, 100)": 100,
    "select * from gd_signals(%s)": 400,
    "select * from gd_childs(%s)": 400,
    "select * from gd_result(%s)": 100,
    "select * from gd_tree(%s)": 60000,
}

# Pages of a list: 20,000 rows are looked at. Those that an index has found first are looked up by their ids, 4 pages
# each.
FOUND_FIRST = {"status", "unique_key", "parent_id", "ids", "failed"}

MANY = {
    "select * from gd_line('long')": 1500,
    "select * from gd_line('past')": 100,
    "select * from gd_failures()": 2000,
    "select * from gd_failures('burst')": 2000,
    "select * from gd_instances order by id desc limit 100": 100,
    "select * from gd_instances where id = 1500001": 50,
    "select * from gd_queues": 9000,
    "select * from gd_queues where queue = 'q0'": 2500,
    "select * from gd_list_queues()": 9000,
    """select * from gd_list_queues('{"queue": "q0"}')""": 2500,
    "select * from gd_list_queues('{}', 'keyed', 2)": 4000,
    "select * from gd_workers": 9000,
}


@pytest.fixture(scope="module")
def large(server: Server) -> Iterator[Conn]:
    database = Database(server)
    conn = database.connect()
    # plans are kept that were made while the tables were empty
    for _ in range(7):
        for query in (*ONE, *MANY):
            conn.execute(query.encode(), (1,) if "%s" in query else None)
    conn.execute(ROWS.encode())
    size = conn.execute("select pg_relation_size('gendurable.instance') / 8192").fetchone()
    assert size is not None and size[0] > 15000  # a look at all of it would be seen
    yield conn
    database.close()


def looked(conn: Conn, query: str, *params: object) -> list[int]:
    """Pages that it touches before the tables were analyzed and after, with kept plans and with new ones."""
    used = []
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance, gendurable.signal, gendurable.history")
        for session in sessions(conn):
            session.execute(query.encode(), params or None).fetchall()  # the catalog is looked at once
            used.append(steady_buffers(session, query, *params))
    return used


@pytest.mark.parametrize("who", WHO)
def test_a_look_at_one_instance(large: Conn, who: str) -> None:
    used = {query: max(looked(large, query, WHO[who])) for query in ONE}
    print(who, used)
    assert {query: pages for query, pages in used.items() if pages > ONE[query]} == {}


@pytest.mark.parametrize("query", MANY)
def test_a_look_at_many(large: Conn, query: str) -> None:
    used = looked(large, query)
    print(query, used)
    assert max(used) <= MANY[query]


@pytest.mark.parametrize("key", [*FILTERS, "ids", "failed", "none"])
def test_a_list_whatever_is_asked_for(large: Conn, key: str) -> None:
    given: dict[str, Any] = {
        **{name: {name: value} for name, value in FILTERS.items()},
        "parent_id": {"parent_id": 1300000, "status": "failed"},
        "partition_key": {"partition_key": "long", "step": "nobody"},
        "unique_key": {"unique_key": "u", "step": "nobody"},
        "ids": {"id": list(range(1, 10001))},
        "failed": {"status": "failed", "fsm": "burst", "error": "nobody"},
        "none": {},
    }
    for call in ("gd_list(%s)", "gd_count(%s)", "gd_match(%s)"):
        used = looked(large, f"select * from {call}", json.dumps(given[key]))
        print(key, call, used)
        assert max(used) <= (90000 if key in FOUND_FIRST else 5000), call
