"""Lists, counts and matches touch pages by what a call looks at, for each key of a filter, whatever else is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.plans import steady_buffers

Conn = psycopg.Connection[Any]

LOOK = 200

# By an index that leads to few rows. Measured: up to 83; what is looked for among 200 takes 60 to 650.
FOUND: dict[str, dict[str, Any]] = {
    "id": {"id": [7, 30_000, -1]},
    "unique_key": {"unique_key": "u:7"},
    "parent_id": {"parent_id": 7},
    "status": {"status": "failed", "finished_before": "2001-01-01T00:00:00Z"},
    "fsm of failed": {"status": ["failed", "cancelled"], "fsm": "nobody"},
    "attributes": {"attributes": {"order": 7}},
    "attributes, of two the rare one": {"attributes": {"tenant": "acme", "order": 7}},
    "attributes, of two the other one": {"attributes": {"tenant": "acme", "zip": 7}},
    "attributes of failed": {"attributes": {"order": 7}, "status": "failed"},
    "attributes, none": {"attributes": {"order": -1}},
}
# Up to LOOK rows are looked at, and their number does not grow with the table.
WALKED: dict[str, dict[str, Any]] = {
    "fsm": {"fsm": "nobody"},
    "version": {"version": 9},
    "step": {"step": "nowhere"},
    "status": {"status": "done", "fsm": "nobody"},
    "status: runnable": {"status": "runnable", "step": "nowhere"},
    "failed": {"status": "failed", "step": "nowhere"},
    "failed of a machine": {"status": "failed", "step": "nowhere", "fsm": "m"},
    "queue": {"queue": "nowhere", "status": "done"},
    "partition_key": {"partition_key": "k:7", "step": "nowhere"},
    "partition_prefix": {"partition_prefix": "nobody"},
    "unique_prefix": {"unique_prefix": "nobody"},
    "rate_limit": {"rate_limit": "nobody"},
    "worker": {"worker": "nobody"},
    "error": {"error": "no such error"},
    "meta": {"meta": {"no": 1}},
    "attributes": {"attributes": {"tenant": "acme"}, "step": "nowhere"},
    "attributes, two common ones": {"attributes": {"tenant": "acme", "state": "open"}, "step": "nowhere"},
    "attributes, common, of failed": {"attributes": {"tenant": "acme"}, "status": "failed", "step": "nowhere"},
    "attributes, rare, of failed": {"attributes": {"tenant": "rare"}, "status": "failed"},
    "attributes, deep": {"attributes": {"a": {"b": 1}}},
    "inserted_before": {"inserted_before": "2000-01-01T00:00:00Z"},
    "inserted_after": {"inserted_after": "2100-01-01T00:00:00Z"},
    "finished_before": {"finished_before": "2000-01-01T00:00:00Z"},
    "finished_after": {"finished_after": "2100-01-01T00:00:00Z"},
    "due_before": {"due_before": "2000-01-01T00:00:00Z"},
    "stuck_for_ms": {"stuck_for_ms": 9e15},
}
CALLS = {
    "gd_list": f"select * from gd_list(%s, null, 100, {LOOK})",
    "gd_count": f"select * from gd_count(%s, 100000, {LOOK})",
    "gd_match": f"select * from gd_match(%s, 0, 1000, {LOOK})",
}
FILL = """
insert into gendurable.instance (
    fsm, step, queue, partition_key, unique_key, unique_held, parent_id, eligible_at, lane_at, status, finished_at,
    failed_at, attributes, last_error)
select 'm', 's', 'q', case when g % 2 = 0 then 'k:' || g % 20 end,
    case when g % 3 = 0 then 'u:' || g end, case when g % 3 = 0 and s.status < 'done' then 'u:' || g end,
    case when g % 5 = 0 then g / 50 end,
    case when s.status = 'runnable' then now() end, case when s.status = 'runnable' and g % 2 = 0 then now() end,
    s.status, case when s.status >= 'done' then now() - g * interval '1 ms' end,
    case when s.status > 'done' then now() - g * interval '1 ms' end,
    jsonb_build_object('tenant', case when g % 600 = 1 then 'rare' else 'acme' end, 'order', g, 'zip', g)
        || case when g % 2 = 0 then '{"state": "open"}'::jsonb else '{}' end, 'e'
from generate_series(1, 60000) g
cross join lateral (
    select (case when g % 4 = 0 then 'runnable' when g % 40 = 1 then 'failed' else 'done' end)::gendurable.status
        as status
) s;
insert into gendurable.attribute (instance_id, word)
select i.id, w from gendurable.instance i cross join lateral unnest(gendurable._attribute_words(i.attributes)) w;
"""


@pytest.fixture(scope="module")
def full(server: Any) -> Iterator[list[Conn]]:
    """Two sessions of a database with 60,000 instances: one whose plans were made when it was empty, and a new one."""
    database = Database(server)
    with database.connect() as early, database.connect() as late:
        for filter in [*FOUND.values(), *WALKED.values()]:
            for call in CALLS.values():
                for _ in range(2):
                    early.execute(call.encode(), (json.dumps(filter),)).fetchall()
        early.execute(FILL.encode())
        early.execute("vacuum analyze gendurable.instance")
        early.execute("vacuum analyze gendurable.attribute")
        yield [early, late]
    database.close()


@pytest.mark.parametrize("call", ["gd_list", "gd_count"])
@pytest.mark.parametrize("key", FOUND)
def test_what_an_index_leads_to_costs_little(full: list[Conn], call: str, key: str) -> None:
    for conn in full:
        conn.execute(CALLS[call].encode(), (json.dumps(FOUND[key]),)).fetchall()
        assert steady_buffers(conn, CALLS[call], json.dumps(FOUND[key])) <= 120


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("key", WALKED)
def test_no_filter_looks_at_more_than_it_may(full: list[Conn], call: str, key: str) -> None:
    for conn in full:
        conn.execute(CALLS[call].encode(), (json.dumps(WALKED[key]),)).fetchall()
        # some three pages a row where each is looked up by its id; the table has more than 3,000
        assert steady_buffers(conn, CALLS[call], json.dumps(WALKED[key])) <= 5 * LOOK


def test_a_common_attribute_is_found_page_by_page(full: list[Conn]) -> None:
    for conn in full:
        query = "select * from gd_list(%s, %s)"
        asked = json.dumps({"attributes": {"tenant": "acme"}})
        page = conn.execute(query, (asked, None)).fetchall()
        assert len(page) == 100 and page[0][0] > page[-1][0]
        # 20,000 entries of the index stand on some 200 pages
        assert steady_buffers(conn, query, asked, json.dumps(page[-1][-1])) <= 1500
