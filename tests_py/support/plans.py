"""What a statement reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

Conn = psycopg.Connection[Any]


def shared_buffers(conn: Conn, query: str, *params: object) -> int:
    """Pages that a statement touches, with all that its functions touch. It is rolled back."""
    with conn.transaction(force_rollback=True):
        row = conn.execute(f"explain (analyze, buffers, format json) {query}", params).fetchone()
    assert row is not None
    plan = row[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def steady_buffers(conn: Conn, query: str, *params: object) -> int:
    """The same of a session that has run it before: the least of two, since whoever writes statistics or the catalog
    meanwhile, as the server does by itself, makes it plan once more and read of the catalog again."""
    return min(shared_buffers(conn, query, *params) for _ in range(2))


def fresh(conn: Conn) -> Conn:
    """A new session of the same database: without kept plans, with nothing of the catalog looked at."""
    return psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True)


def sessions(conn: Conn) -> Iterator[Conn]:
    """The session itself with its kept plans, then a new one."""
    yield conn
    with fresh(conn) as new:
        yield new
