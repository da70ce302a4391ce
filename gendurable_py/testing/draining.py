"""`drain`: everything that is due is run here and now, by the real SQL."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable

from .._statement import Pause, Script, script
from ..calls import dispatching, inserting, limiting, rehearsing, working
from ..calls.rows import Ran
from ..dispatch.defined import Definitions
from ..errors import InvalidArgument
from ..machine.claim import ClaimRow
from ..machine.outcome import MachineLike
from ..machine.spec import collect_rate_limits, spec_of
from .flows import Boundaries
from .rounds import LEASE, make_work, run_round

_ROUND = 100


@script
def drain(
    machines: Iterable[MachineLike] = (),
    *,
    queues: Iterable[str] | None = None,
    advance: bool = False,
    run_ahead: bool = False,
    limit: int = 10_000,
) -> Script[int]:
    """Run everything that is due, until nothing is; answers how many steps that took.

    Of a flow the function runs from its top after every checkpoint, one step at a time. Of a transactional step
    ``ctx.conn`` is this connection, in a savepoint where it is in a transaction. Steps in SQL
    run on it by `run_claims`.

    Args:
        machines: registered first, with the rate limits that they declare; any imported machine can be run.
        queues: only these; None: all in which something waits.
        advance: let time pass, too: when nothing is due, what is due next (delayed, in back-off, or awaiting with a
            deadline) is made due, until nothing is left but instances that wait for a signal for ever, or for tokens of
            a rate limit: set a wide one in the test.
        limit: steps after which it gives up.

    Raises:
        InvalidArgument: a row is due whose machine or step is not known in this process, or which is in SQL and cannot
            be run by this role, or a transactional step that cannot use this connection: a sync one an
            ``AsyncConnection``, or an async one a ``Connection``.
        RuntimeError: ``limit`` steps were not enough.
    """
    return (yield from drain_with(machines, queues, advance, run_ahead, limit, Boundaries()))


def drain_with(
    machines: Iterable[MachineLike],
    queues: Iterable[str] | None,
    advance: bool,
    run_ahead: bool,
    limit: int,
    boundaries: Boundaries,
) -> Script[int]:
    """`drain` with a kill at one of these."""
    worker = f"drain:{secrets.token_hex(4)}"
    yield from register(list(machines))
    served = None if queues is None else list(queues)
    home: str | None = yield dispatching.home_of_steps.statement()
    defined = Definitions([] if home is None else (yield dispatching.defined_steps.statement(home)))
    count = 0
    while True:
        names = (yield rehearsing.queues_in_use.statement()) if served is None else served
        looked = yield rehearsing.forget_floor.statement()
        rows: list[ClaimRow] = yield dispatching.claim_rows.statement(worker, dict.fromkeys(names, _ROUND), LEASE)
        problems: list[InvalidArgument] = []
        due = rows
        while due:
            count += len(due)
            if count > limit:
                raise RuntimeError(f"still not drained after {limit} steps")
            in_sql = {row.id: row for row in due if defined.find(row.fsm, row.version, row.step) is not None}
            if home is not None:
                yield from _run_in_sql(in_sql.values(), home, worker, problems)
            others = [row for row in due if row.id not in in_sql]
            works = [work for row in others if (work := make_work(row, worker, run_ahead, problems))]
            due = yield from run_round(works, worker, problems, boundaries)
        if problems:
            yield working.release.statement(worker, None)  # they are not held by a worker that is gone
            raise problems[0]
        if rows:
            continue
        if not advance or (yield rehearsing.bring_forward.statement(names, looked)) is None:
            return count


def register(machines: list[MachineLike]) -> Script[None]:
    """As an engine does at its start."""
    for machine in machines:
        yield inserting.register.statement(machine)
    for name, declared in collect_rate_limits(map(spec_of, machines)).items():
        yield limiting.ensure_rate_limit.statement(name, *declared.stored)


def _run_in_sql(rows: Iterable[ClaimRow], home: str, worker: str, problems: list[InvalidArgument]) -> Script[None]:
    """Run these by their functions, until each is settled: one by one, since an error counts only alone."""
    todo = deque(rows)
    while todo:
        row = todo.popleft()
        answers: list[Ran]
        answers = yield dispatching.run_claims_text.statement(home, worker, [(row.id, row.claim_no)], None)
        for answer in answers:
            if answer.result in ("left", "busy"):
                todo.append(row)
                yield Pause(0.01)
            elif answer.result == "no_handler":
                why = answer.detail.get("problem") if isinstance(answer.detail, dict) else answer.detail
                problems.append(InvalidArgument(f"step {row.step!r} of {row.fsm} cannot be run in SQL here: {why}"))
