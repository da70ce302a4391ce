"""Plans that a session made while the table was tiny, and keeps when it is not any more.

PL/pgSQL keeps its plans until statistics change. Where the planner takes the table for a few rows it may walk a whole
index and look into the array of what is asked for, instead of the other way round: right for ten rows, and a hundred
times too slow for ten thousand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

Conn = psycopg.Connection[Any]
Claims = list[tuple[int, int]]

KEYS = {"plain": {}, "keyed": {"partition_key": "k"}}


def insert(conn: Conn, count: int, **options: Any) -> None:
    rows = [{"fsm": "m"} | {k: f"{v}{n}" for k, v in options.items()} for n in range(count)]
    conn.execute("select count(*) from gd_insert_many(%s)", [json.dumps(rows)])


def claim(conn: Conn, limit: int) -> Claims:
    return conn.execute("select id, claim_no from gd_claim('w', 'default', %s)", [limit]).fetchall()


def outcomes(claims: Claims, **outcome: Any) -> str:
    return json.dumps([{"id": id, "claim_no": no, **outcome} for id, no in claims])


def commit(conn: Conn, claims: Claims, **outcome: Any) -> None:
    query = "select distinct result from gd_commit('w', %s)"
    assert conn.execute(query, [outcomes(claims, **outcome)]).fetchall() == [("ok",)]


def keep(conn: Conn, claims: Claims) -> None:
    commit(conn, claims, kind="next", step="more", keep=True)


def stale(conn: Conn, claims: Claims) -> None:
    conn.execute("select count(*) from gd_commit('w', %s)", [outcomes([(id, 1) for id, _ in claims], kind="done")])


def heartbeat(conn: Conn, claims: Claims) -> None:
    assert conn.execute("select id from gd_heartbeat('w', %s)", [json.dumps(claims)]).fetchall() == []


def release(conn: Conn, claims: Claims) -> None:
    assert conn.execute("select gd_release('w', %s)", [json.dumps(claims)]).fetchone() == (len(claims),)


def fan_out(conn: Conn, claims: Claims) -> None:
    """Each gets a child, which is claimed and ends: two rows of work for each."""
    commit(conn, claims, kind="schedule_childs", step="join", childs=[{"fsm": "child"}])
    commit(conn, claim(conn, len(claims)), kind="done")


def run_steps(conn: Conn, claims: Claims) -> None:
    """By functions of the database: two steps in a chain."""
    conn.execute("""
        create or replace function public.go(ctx jsonb) returns jsonb language sql as $$
            select case ctx ->> 'step' when 'more' then '{"kind": "done"}'
                else '{"kind": "next", "step": "more"}' end::jsonb
        $$""")
    conn.execute("select gd_define_step('m', s, 'public.go(jsonb)') from unnest('{start,more}'::text[]) s")
    query = "select distinct result from gd_run_claims('w', %s, '{\"budget_ms\": 60000}')"
    assert conn.execute(query, [json.dumps(claims)]).fetchall() == [("ok",)]


OPERATIONS: dict[str, Callable[[Conn, Claims], None]] = {
    "nothing": lambda conn, claims: None,
    "next": lambda conn, claims: commit(conn, claims, kind="next", step="more"),
    "done": lambda conn, claims: commit(conn, claims, kind="done"),
    "error": lambda conn, claims: commit(conn, claims, kind="error", error="no"),
    "keep": keep,
    "stale": stale,
    "heartbeat": heartbeat,
    "release": release,
    "fan_out": fan_out,
    "run": run_steps,
}


def reads(conn: Conn) -> int:
    """Rows and index entries of the instances that this session has read so far."""
    conn.execute("select pg_stat_force_next_flush()")
    row = conn.execute(
        "select (select sum(idx_tup_read) from pg_stat_user_indexes where relid = c.oid)"
        " + (select seq_tup_read from pg_stat_user_tables where relid = c.oid)"
        " from pg_class c where c.oid = 'gendurable.instance'::regclass"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_was_planned_for_a_tiny_table_looks_rows_up_one_by_one(
    db: Any, conn: Conn, operation: str, kind: str
) -> None:
    run = OPERATIONS[operation]
    conn.execute("alter table gendurable.instance set (autovacuum_enabled = off)")
    insert(conn, 2, **KEYS[kind])
    commit(conn, claim(conn, 10), kind="done")
    conn.execute("analyze gendurable.instance")
    insert(conn, 1, **KEYS[kind])
    run(conn, claim(conn, 10))  # now it is planned, for two rows of which none executes

    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, finished_at) "
        "select 'm', 's', 'default', 'done', now() from generate_series(1, 10000)"
    )
    insert(conn, 100, **KEYS[kind])
    before = reads(conn)
    run(conn, claim(conn, 50))
    assert reads(conn) - before < 5000


def looked_up(conn: Conn) -> int:
    """Instances that were found by their ids so far."""
    conn.execute("select pg_stat_force_next_flush()")
    query = "select idx_tup_fetch from pg_stat_user_indexes where indexrelname = 'instance_pkey'"
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_rows_are_written_by_their_places_also_where_that_was_planned_for_a_tiny_table(conn: Conn) -> None:
    """An id leads past all dead versions of its row where somebody holds a snapshot: the fewer look-ups the better."""
    conn.execute("alter table gendurable.instance set (autovacuum_enabled = off)")
    insert(conn, 50)
    claims = claim(conn, 50)
    commit(conn, claims, kind="next", step="more")  # now it is planned
    before = looked_up(conn)
    claims = claim(conn, 50)
    assert looked_up(conn) == before
    commit(conn, claims, kind="next", step="more")
    assert looked_up(conn) == before + 50  # for their locks
