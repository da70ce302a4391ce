"""Claims that want steps in SQL, or all others."""

from __future__ import annotations

from typing import Any

import psycopg

import gendurable_py as gd


def test_claims_of_steps_in_sql_or_of_all_others(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        """create function public.f(jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$"""
    )
    gd.define_step(conn, "m", "in_sql", "public.f(jsonb)")
    ids = {step: gd.insert(conn, "m", {}, step=step) for step in ("in_sql", "python")}
    assert [row.id for row in gd.claim(conn, "w", limit=9, steps="other")] == [ids["python"]]
    assert gd.claim_many(conn, "w", {"default": 9}, steps="other") == []
    [row] = gd.claim_many(conn, "w", {"default": 9}, steps="sql")
    assert row.id == ids["in_sql"]
    gd.release(conn, "w", [(row.id, row.claim_no)])
    assert [again.id for again in gd.claim(conn, "w", steps="sql")] == [row.id]
