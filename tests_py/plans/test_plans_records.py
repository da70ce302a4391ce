"""Errors and history cost pages by what is asked for and by the batch, whatever is kept; nobody waits for who looks."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from support.plans import sessions, shared_buffers, steady_buffers

Conn = psycopg.Connection[Any]

# Measured: 4 for an error, 5 for an entry, and what the index needs; the tables have thousands of pages.
LOOKS = {
    "select * from gd_errors(%s)": 40,
    "select * from gd_history(%s, 50000, 100)": 40,
    "select * from gd_history(%s, 0, 1)": 20,
    "select gd_get(%s)": 60,
}


def full(conn: Conn, first: int) -> None:
    """10,000 instances with 20 errors and 20 entries each, and one with a history of 100,000."""
    conn.execute(
        "insert into gendurable.error select %s + g %% 10000, 1 + g / 10000, now(), 0, 'error', 's', 'w', 'e', "
        "repeat('x', 300) from generate_series(0, 199999) g",
        (first,),
    )
    conn.execute(
        "insert into gendurable.history select %s + g %% 10000, 1 + g / 10000, now(), 0, 0, 'next', 's', 's', 'w', "
        "'{}' from generate_series(0, 199999) g",
        (first,),
    )
    conn.execute(
        "insert into gendurable.history select %s, g, now(), 0, 0, 'next', 's', 's', 'w', '{}' "
        "from generate_series(21, 100000) g",
        (first,),
    )


def outcomes(conn: Conn, kind: str, limit: int = 100) -> str:
    claims = conn.execute("select id, claim_no from gd_claim('w', 'default', %s)", (limit,)).fetchall()
    assert len(claims) == limit
    keys = {"next": {"step": "s"}, "error": {"error": "e", "delay_ms": 0, "traceback": "t"}}[kind]
    return json.dumps([{"id": id, "claim_no": no, "kind": kind, **keys} for id, no in claims])


@pytest.mark.parametrize("kind", ["next", "error"])
def test_a_commit_that_keeps_something_touches_pages_by_the_batch(conn: Conn, kind: str) -> None:
    conn.execute("""select gd_register('m', 1, 'start', 'default', '{"history": "states", "max_attempts": 1000}')""")
    conn.execute("select gd_insert_many(%s)", (json.dumps([{"fsm": "m"}] * 1000),))
    for _ in range(8):  # plans are kept that were made while the tables were nearly empty
        conn.execute("select count(*) from gd_commit('w', %s)", (outcomes(conn, kind),))
    small = shared_buffers(conn, "select * from gd_commit('w', %s)", outcomes(conn, kind))
    full(conn, 1_000_000)
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.error, gendurable.history")
        for session in sessions(conn):
            session.execute("select count(*) from gd_commit('w', %s)", (outcomes(session, kind),))
            used = shared_buffers(session, "select * from gd_commit('w', %s)", outcomes(session, kind))
            assert used <= 2 * small, (analyzed, session is conn)


@pytest.mark.parametrize("query", LOOKS)
def test_who_looks_touches_pages_by_what_is_asked_for(conn: Conn, query: str) -> None:
    row = conn.execute("select gd_insert('m')").fetchone()
    assert row is not None
    for _ in range(8):
        conn.execute(query.encode(), row).fetchall()
    full(conn, row[0])
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.error, gendurable.history")
        conn.execute(query.encode(), row).fetchall()  # the catalog is looked at anew
        assert steady_buffers(conn, query, row[0]) <= LOOKS[query]


def test_who_looks_waits_for_nobody_and_nobody_for_him(conn: Conn, db: Any) -> None:
    row = conn.execute("""select gd_insert('m', p_max_attempts => 1000)""").fetchone()
    assert row is not None
    conn.execute("""select gd_register('m', 1, 'start', 'default', '{"history": "steps"}')""")
    conn.execute("select * from gd_commit('w', %s)", (outcomes(conn, "error", 1),))
    with db.connect(autocommit=False) as other, db.connect(autocommit=False, options="-c lock_timeout=50ms") as looking:
        other.execute("select * from gd_commit('w', %s)", (outcomes(other, "error", 1),))
        seen = [len(looking.execute(query.encode(), row).fetchall()) for query in LOOKS]
        assert seen == [1, 0, 1, 1]  # what is not committed is not seen
        other.commit()
        # who looks is still at it, and holds up nobody
        conn.execute("set lock_timeout = '50ms'")
        conn.execute("select * from gd_commit('w', %s)", (outcomes(conn, "error", 1),))
        conn.execute("select gd_cancel(%s)", row)
        assert conn.execute("select gd_gc('0')").fetchone() == (1,)
