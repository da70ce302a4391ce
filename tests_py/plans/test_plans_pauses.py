"""Pauses cost pages by what a call does, however much is paused, waits or has ended."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.plans import sessions, shared_buffers, steady_buffers

Conn = psycopg.Connection[Any]

ROWS = """
insert into gendurable.instance (
    fsm, step, queue, eligible_at, status, finished_at, failed_at, aside_at, aside_step, paused_at)
select 'm' || g %% 20, 's' || g %% 3, 'q' || g %% 5, case when g %% 3 = 1 then now() - interval '1 hour' end,
    case when g %% 3 = 0 then 'failed' else 'runnable' end::gendurable.status,
    case when g %% 3 = 0 then now() end, case when g %% 3 = 0 then now() end,
    case when g %% 3 = 2 then now() end, 's' || g %% 3, case when g %% 3000 = 20 then now() end
from generate_series(1, %s) g
"""
ASIDE = "select id from gendurable.instance where fsm = 'm1' and paused_at is null and aside_at is not null limit 1"

# Each twice: in an empty database, and beside 60,000 rows of which a third are aside.
CALLS = {
    "select gd_pause_machine('m1', %s)": 60,
    "select gd_resume_machine('m1', %s)": 500 * 25,
    "select count(*) from gd_claim('w', 'nothing', 10) where %s > 0": 500 * 25,
    "select * from gd_pauses where id = %s": 200,
    "select gd_set_queue('q9', jsonb_build_object('concurrency', %s::int))": 60,
}


@pytest.mark.parametrize("query", CALLS)
def test_a_call_touches_pages_by_what_it_does(conn: Conn, query: str) -> None:
    for machine in range(20):
        conn.execute("select gd_pause_machine(%s)", (f"m{machine}",))
    for _ in range(6):  # plans are kept that were made while the tables were empty
        conn.execute("select gd_pause_machine('m1', 1)")
        shared_buffers(conn, query, 1)
    conn.execute(ROWS, (60_000,))
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance")
        conn.execute("select gd_resume_machine('m1'), gd_resume_machine('m1', 1)")
        for session in sessions(conn):
            session.execute("select gd_pause_machine('m1', 1)")
            shared_buffers(session, query, 1)
            assert steady_buffers(session, query, 1) < CALLS[query], (query, analyzed)
        conn.execute("select gd_pause_machine('m1')")


def test_one_instance_costs_as_much_as_one(conn: Conn) -> None:
    conn.execute(ROWS, (60_000,))
    conn.execute("select gd_pause_machine('m1')")
    conn.execute("analyze gendurable.instance")
    [id] = conn.execute(ASIDE).fetchone() or [0]
    for _ in range(7):
        for call in ("pause", "resume"):
            pages = shared_buffers(conn, f"select gd_{call}(%s)", id)
    assert pages < 200


def test_a_claim_sets_aside_by_the_hundreds(conn: Conn) -> None:
    conn.execute(ROWS, (60_000,))
    conn.execute("select gd_pause_machine(fsm) from (select distinct fsm from gendurable.instance) m")
    count = "select count(*) from gendurable.instance where aside_at is not null"
    for _ in range(5):
        [before] = conn.execute(count).fetchone() or [0]
        pages = shared_buffers(conn, "select count(*) from gd_claim('w', 'q1', %s)", 10)
        conn.execute("select count(*) from gd_claim('w', 'q1', 10)")
        [after] = conn.execute(count).fetchone() or [0]
        assert 300 < after - before < 1000
        assert pages < 30 * (after - before)
