"""Steps that are functions of the database: which function runs which step, and running them."""

from __future__ import annotations

from typing import cast

from pydantic import JsonValue

from .._contract import Seconds
from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import dumps, loads
from ..machine.times import seconds
from .rows import Claims, Ran, Rehearsed, pairs


def _options(**options: object) -> str:
    return dumps({name: value for name, value in options.items() if value is not None}).decode()


@call
def define_step(
    fsm: str,
    step: str,
    handler: str | None = None,
    *,
    version: int | None = None,
    queue: str | None = None,
    chain: bool | None = None,
    alone: bool | None = None,
    ensure: bool | None = None,
) -> Statement[None]:
    """Say which function of the database runs a step: ``"app.debit(jsonb)"``. None: the step is in another language.

    ``queue``: where it always runs. ``ensure``: only where nothing is said of the step yet.

    Raises:
        StepRefused: the step or the function is somebody else's.
    """
    return Statement(
        "select gd_define_step(%s, %s, %s::regprocedure, %s::jsonb)",
        (fsm, step, handler, _options(version=version, queue=queue, chain=chain, alone=alone, ensure=ensure)),
        nothing,
    )


@call
def drop_step(fsm: str, step: str, version: int | None = None) -> Statement[bool]:
    """Remove a definition: that for this version, None: that for all. Answers whether there was one."""
    return Statement("select gd_drop_step(%s, %s, %s)", (fsm, step, version), one_value)


def _result(rows: Rows) -> dict[str, JsonValue]:
    # CALL answers jsonb, as psycopg or the connection's own adapter reads it
    value = rows[0][0]
    return cast("dict[str, JsonValue]", loads(value) if isinstance(value, str) else value)


@call
def run(
    queue: str = "default",
    limit: int = 1000,
    for_: Seconds = 0,
    *,
    batch: int | None = None,
    budget_ms: int | None = None,
    lease_ms: int | None = None,
    lock_ms: int | None = None,
    chain: int | None = None,
) -> Statement[dict[str, JsonValue]]:
    """Run due steps of a queue that are functions of the database; answers how many were claimed, and how they ended.

    It commits: the connection must be in autocommit mode, and not inside a transaction (2D000).
    """
    options = _options(batch=batch, budget_ms=budget_ms, lease_ms=lease_ms, lock_ms=lock_ms, chain=chain)
    return Statement(
        "call gd_run(%s, %s, make_interval(secs => %s), %s::jsonb)",
        (queue, limit, seconds(for_, "the time"), options),
        _result,
    )


@call
def run_claims(
    worker: str, claims: Claims, *, budget_ms: int | None = None, lock_ms: int | None = None, chain: int | None = None
) -> Statement[list[Ran]]:
    """Run the steps of claims (pairs of id and claim_no) in the transaction of this connection, each answered for
    itself: ok, error, stale, busy, left (call again) or no_handler."""
    return Statement(
        "select ord, id, claim_no, result, detail::text from gd_run_claims(%s, %s::jsonb, %s::jsonb)",
        (worker, pairs(claims), _options(budget_ms=budget_ms, lock_ms=lock_ms, chain=chain)),
        lambda rows: [Ran(row[0], row[1], row[2], row[3], loads(row[4])) for row in rows],
    )


def _rehearsed(rows: Rows) -> list[Rehearsed]:
    return [Rehearsed._make((*row[:5], loads(row[5]), loads(row[6]))) for row in rows]


@call
def rehearse(queue: str = "default", id: int | None = None, limit: int = 100) -> Statement[list[Rehearsed]]:
    """Run what `run` would run in a queue now, or one instance until it parks, and undo all of it: what each step came
    to. Functions of the database; for steps in Python there is `testing.rehearse`."""
    return Statement(
        "select ord, id, fsm, step, result, after::text, writes::text from gd_rehearse(%s, %s::bigint, %s)",
        (queue, id, limit),
        _rehearsed,
    )
