"""`rehearse`: what is due is run, told, and undone."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import LiteralString

from pydantic import JsonValue

from .._statement import Script, Statement, nothing, script
from ..calls import dispatching, rehearsing, stepping
from ..calls.rows import Rehearsed
from ..errors import InvalidArgument
from ..machine.claim import ClaimRow
from ..machine.outcome import MachineLike
from .draining import register
from .rounds import LEASE, is_inside, make_work, run_round


@script
def rehearse(
    machines: Iterable[MachineLike] = (),
    *,
    queues: Iterable[str] | None = None,
    advance: bool = False,
    limit: int = 100,
) -> Script[list[Rehearsed]]:
    """Run what is due, one step after the other, up to ``limit`` steps, and undo all of it: what each step came to.
    Steps in Python and in SQL. What they do elsewhere than on this connection is not undone.

    The arguments are those of `drain`. A row whose machine or step is not known here is answered with "no_handler".
    """
    served = None if queues is None else list(queues)
    inside = yield from is_inside()
    begin: LiteralString = "savepoint gendurable_rehearse" if inside else "begin isolation level read committed"
    yield Statement(begin, (), nothing)
    try:
        yield from register(list(machines))
        told: list[Rehearsed] = []
        while len(told) < limit:
            names = (yield rehearsing.queues_in_use.statement()) if served is None else served
            looked = yield rehearsing.forget_floor.statement()
            one = yield from _rehearse_one(names, len(told))
            if one is not None:
                told.append(one)
            elif not advance or (yield rehearsing.bring_forward.statement(names, looked)) is None:
                break
        return told
    finally:
        if inside:
            yield Statement("rollback to savepoint gendurable_rehearse", (), nothing)
            yield Statement("release savepoint gendurable_rehearse", (), nothing)
        else:
            yield Statement("rollback", (), nothing)


def _rehearse_one(names: list[str], ord: int) -> Script[Rehearsed | None]:
    """Run the step of the next row that is due in one of these queues; None: there is none."""
    worker = f"gd_rehearse:{secrets.token_hex(4)}"
    rows: list[ClaimRow] = []
    for name in names:
        rows = rows or (yield dispatching.claim_rows.statement(worker, {name: 1}, LEASE))
    if not rows:
        return None
    [row] = rows
    before = yield rehearsing.written.statement()
    outcome: bytes | None = None
    [ran] = yield stepping.run_claims.statement(worker, [(row.id, row.claim_no)], chain=1)
    result: str = ran.result
    detail: dict[str, JsonValue] = ran.detail or {}
    raised = result == "error" and "sqlstate" in detail
    if rehearsing.is_elsewhere(ran):
        problems: list[InvalidArgument] = []
        work = make_work(row, worker, False, problems)
        if work is not None:
            yield from run_round([work], worker, problems)
            outcome, raised = work.outcome, work.error is not None
        detail = {"problem": str(problems[0])} if problems else {}
        result = "no_handler" if problems else "error" if raised else "ok"
    elif result in ("ok", "error"):
        outcome = yield rehearsing.sent.statement()
    if result not in ("ok", "error"):
        return Rehearsed(ord, row.id, row.fsm, row.step, result, detail, None)
    after = yield rehearsing.shown.statement(row.id)
    after |= rehearsing.read_outcome(outcome) | detail
    counts = yield rehearsing.written.statement()
    if after["status"] == "executing" or after.get("kind") == "error":
        result = "stale" if after["status"] == "executing" else "error"
    writes = None if raised else rehearsing.compare(before, counts)
    return Rehearsed(ord, row.id, row.fsm, row.step, result, after, writes)
