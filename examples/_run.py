"""What the examples share: a way to play one, and the connection of their own tables."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from gendurable_py import Engine
from gendurable_py.outcome import MachineLike

Conn = psycopg.AsyncConnection[Any]


def connect() -> psycopg.Connection[Any]:
    """For a step's own writes: one transaction, committed where the `with` block ends. A real service has a pool."""
    return psycopg.connect(os.environ["EXAMPLES_DSN"])


async def play(
    dsn: str,
    machines: Sequence[MachineLike],
    queues: Mapping[str, int],
    scene: Callable[[Conn], Awaitable[object]],
    schema: LiteralString | bytes,
) -> object:
    """Create the example's tables, start an engine with its machines, and let the scene act on a connection.

    Without machines there is no engine: all is SQL.
    """
    os.environ["EXAMPLES_DSN"] = dsn
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        if schema:
            await conn.execute(schema)
        if not machines:
            return await scene(conn)
        async with Engine(dsn, machines=machines, queues=queues):
            return await scene(conn)
