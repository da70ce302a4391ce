"""What a statement reads."""

from __future__ import annotations

from typing import Any

import psycopg


def shared_buffers(conn: psycopg.Connection[Any], query: str, *params: object) -> int:
    """Pages that a statement touches, with all that its functions touch. It is rolled back."""
    with conn.transaction(force_rollback=True):
        row = conn.execute(f"explain (analyze, buffers, format json) {query}", params).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
