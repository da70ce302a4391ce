"""Forks, documents and trees cost pages by what belongs to the instance, also where few parents have most rows."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.plans import fresh, shared_buffers, steady_buffers

Conn = psycopg.Connection[Any]

LEAF = 20_000
# Measured: 8, 11, 26, 80 and 121 pages. Along the primary key it would be 500 and more, and grow with the table.
LOOKS = {
    "select * from gd_tree(%s)": 40,
    "select gd_get(%s)": 60,
    "select gd_export(%s)": 80,
    "select gd_fork(%s)": 200,
    "select gd_import(gd_export(%s))": 300,
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("parents", [1, 3])
def test_it_costs_pages_by_what_belongs_to_one(conn: Conn, look: str, parents: int) -> None:
    conn.execute("alter table gendurable.instance set (autovacuum_enabled = off)")
    conn.execute(
        "insert into gendurable.instance (id, fsm, step, queue, eligible_at, parent_id, children_pending) "
        "select g, 'm', 's', 'q', now(), case when g > %(n)s then 1 + g %% %(n)s end, case when g <= %(n)s then 0 end "
        "from generate_series(1, 30000) g",
        {"n": parents},
    )
    conn.execute("select setval('gendurable.instance_id_seq', 30000)")
    conn.execute("analyze gendurable.instance")
    with fresh(conn) as new:
        shared_buffers(new, look, LEAF)
        assert steady_buffers(new, look, LEAF) <= LOOKS[look]
