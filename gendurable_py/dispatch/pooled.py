"""Behind a proxy that pools transactions: how it is noticed, and how a call is made without a session.

Nothing may stay behind on a connection of the proxy: what a call needs it sets in its own transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import pq, sql
from psycopg.rows import tuple_row

from .._statement import Statement, call, nothing, one_value
from ..errors import translate
from .dial import Dialer

R = TypeVar("R")

Settings = Sequence[tuple[str, str]]

_ROUNDS = 4
_PATIENCE = 5.0
_TRIES = 4


@dataclass(slots=True)
class Shared:
    """What the connections of one engine know of the way to their server."""

    pooled: bool = False


@call
def set_locally(made: Settings) -> Statement[None]:
    """Set it until the end of the transaction."""
    return Statement(
        "select pg_catalog.set_config(name, value, true) "
        "from rows from (pg_catalog.unnest(%s::pg_catalog.text[]), pg_catalog.unnest(%s::pg_catalog.text[])) "
        "w (name, value)",
        ([name for name, _ in made], [value for _, value in made]),
        nothing,
    )


@call
def backend() -> Statement[int]:
    """The server process that answers."""
    return Statement("select pg_catalog.pg_backend_pid()", (), one_value)


async def is_shared(conn: psycopg.AsyncConnection[Any], pid: int, dialer: Dialer) -> bool:
    """Whether the proxy before this connection hands its server process to others between two transactions.

    A second connection looks: where sessions are pooled it never gets the process that this one has, and this one
    never another. Nothing is set or held meanwhile, so nothing can stay behind.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            witness = await dialer.open()
            try:
                for _ in range(_ROUNDS):
                    if await backend(witness) == pid or await backend(conn) != pid:
                        return True
            finally:
                with contextlib.suppress(psycopg.Error, OSError):
                    await witness.close()
    except TimeoutError:
        pass  # there is no server process for a second one, although ours is idle: it is held for us
    return False


async def transaction(
    conn: psycopg.AsyncConnection[Any], made: Settings, statement: Statement[R], again: bool = True
) -> R:
    """One statement in a transaction of its own, under settings that end with it, in one round trip.

    ``again``: it is sent again if it was cancelled.
    """
    for _ in range(_TRIES if again else 0):
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            return await _transaction(conn, made, statement)
    # A timeout of the role, before it was switched off; or somebody who cancels and means it.
    return await _transaction(conn, made, statement)


async def _transaction(conn: psycopg.AsyncConnection[Any], made: Settings, statement: Statement[R]) -> R:
    """All of it as one simple query, its values written into the text.

    Not as a pipeline: there a client asks the server to flush once more after the end of the transaction. The proxy
    takes that for the beginning of the next one, which nobody ever ends, and its server connection is lost to all.
    """
    local = set_locally.statement(made)
    steps = [
        "begin isolation level read committed, read write, not deferrable",
        *(["set local transaction_timeout to 0"] if conn.info.server_version >= 170000 else []),
        "set local statement_timeout to 0",
        local.sql,
        statement.sql,
        "commit",
    ]
    text = sql.SQL("; ").join(sql.SQL(each) if isinstance(each, str) else each for each in steps)
    answers: list[list[tuple[Any, ...]]] = []
    cursor = psycopg.AsyncClientCursor(conn, row_factory=tuple_row)
    try:
        await cursor.execute(text, [*local.params, *statement.params])
        more: bool | None = True
        while more:
            answers.append([] if cursor.description is None else await cursor.fetchall())
            more = cursor.nextset()
        if cursor.statusmessage != "COMMIT":
            raise psycopg.InternalError(f"the transaction ended with {cursor.statusmessage}")
        return statement.read(answers[-2])
    except psycopg.Error as error:
        if not conn.closed and conn.info.transaction_status != pq.TransactionStatus.IDLE:
            with contextlib.suppress(psycopg.Error):
                await conn.rollback()
        ours = translate(error)
        if ours is error:
            raise
        raise ours from error
    except BaseException:
        # Broken off in the middle: the proxy takes back what is rolled back by the end of the connection.
        await conn.close()
        raise
