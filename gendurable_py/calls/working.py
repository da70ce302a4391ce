"""Working by hand: claim, commit, renew, give back, and sleep while there is nothing to do.

A claim is (``id``, ``claim_no``): whoever answers for another number is stale, and nothing is written. The engine asks
for the same functions in the shapes of `dispatching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from .._contract import LEASE, Seconds
from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.claim import CLAIMED
from ..machine.codec import dumps, loads
from ..machine.times import seconds
from .rows import Claim, Claims, Committed, Sleep, StepsIn, pairs, when


def _json(value: object) -> str:
    return dumps(value).decode()


def _claims(rows: Rows) -> list[Claim]:
    return [Claim._make((*row[:5], loads(row[5]), *row[6:13], *map(loads, row[13:]))) for row in rows]


def _steps(steps: StepsIn | None) -> str:
    return _json({} if steps is None else {"steps": steps})


@call
def claim(
    worker: str, queue: str = "default", limit: int = 1, lease: Seconds = LEASE, *, steps: StepsIn | None = None
) -> Statement[list[Claim]]:
    """Claim due rows of one queue. Empty: nothing is due, or the queue is paused.

    ``steps``: ``"sql"``, only those whose step this role can run by its function, or ``"other"``, only all others.
    """
    return Statement(
        f"select {CLAIMED} from gd_claim(%s, %s, %s, make_interval(secs => %s), %s::jsonb)",
        (worker, queue, limit, seconds(lease, "the lease"), _steps(steps)),
        _claims,
    )


@call
def claim_many(
    worker: str, queues: Mapping[str, int], lease: Seconds = LEASE, *, steps: StepsIn | None = None
) -> Statement[list[Claim]]:
    """Claim from several queues in one round trip, from each at most so many. ``steps`` as of `claim`."""
    return Statement(
        f"select {CLAIMED} from gd_claim_many(%s, %s::jsonb, make_interval(secs => %s), %s::jsonb)",
        (worker, _json(queues), seconds(lease, "the lease"), _steps(steps)),
        _claims,
    )


@call
def commit(worker: str, outcomes: Sequence[Mapping[str, object]], lease: Seconds = LEASE) -> Statement[list[Committed]]:
    """Commit outcomes (objects of the SQL contract) in one transaction, each answered for itself."""
    return Statement(
        "select ord, id, claim_no, result, detail::text from gd_commit(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, _json(outcomes), seconds(lease, "the lease")),
        lambda rows: [Committed(row[0], row[1], row[2], row[3], loads(row[4])) for row in rows],
    )


@call
def commit_one(worker: str, outcome: Mapping[str, object]) -> Statement[Claim | None]:
    """Commit one outcome inside the caller's own transaction, together with the business writes of the step.

    Answers None, but for ``"keep": true``: the next claim, unless that was given back. Behind an outcome with a journal
    only what is new of it is there (``id``, ``claim_no``, ``step``, ``attempt``, ``signals``, ``attributes``).

    Raises:
        ClaimLost: the claim is not this one any more.
        InvalidArgument: the outcome is refused.
    """
    return Statement("select gd_commit_one(%s, %s::jsonb)::text", (worker, _json(outcome)), _kept)


def _kept(rows: Rows) -> Claim | None:
    found = cast("dict[str, Any] | None", loads(rows[0][0] or "null"))
    # What a worker has already is left out where its outcome had a journal.
    return None if found is None else Claim._make(found.get(key) for key in Claim._fields)


@call
def heartbeat(worker: str, claims: Claims, lease: Seconds = LEASE) -> Statement[list[tuple[int, int]]]:
    """Renew the leases of these claims (pairs of id and claim_no); answers those that are lost."""
    return Statement(
        "select id, claim_no from gd_heartbeat(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, pairs(claims), seconds(lease, "the lease")),
        lambda rows: [(row[0], row[1]) for row in rows],
    )


@call
def release(worker: str, claims: Claims | None, delay: Seconds = 0, crashed: bool = False) -> Statement[int]:
    """Give claims back, due after the delay, no attempt burnt; None: all that this worker holds. Answers how many.

    ``crashed``: what became of their steps is not known; they count as those of a worker that was lost.
    """
    return Statement(
        "select gd_release(%s, %s::jsonb, make_interval(secs => %s), %s)",
        (worker, None if claims is None else pairs(claims), seconds(delay, "the delay"), crashed),
        one_value,
    )


@call
def reap(limit: int = 1000) -> Statement[int]:
    """Make rows with expired leases runnable now; answers how many."""
    return Statement("select gd_reap(%s)", (limit,), one_value)


def _sleep(rows: Rows) -> Sleep:
    due, due_in, horizon = rows[0]
    return Sleep(None, None, horizon) if due is None else Sleep(when(due), float(due_in), horizon)


@call
def sleep(worker: str, queues: Iterable[str]) -> Statement[Sleep]:
    """Announce, on the connection that listens, that this worker sleeps on these queues."""
    return Statement(
        # Times as numbers: how a session writes them is its own setting, and not all are years that Python has.
        "select extract(epoch from next_due), extract(epoch from next_due - clock_timestamp()), "
        "horizon::text "
        "from gd_sleep(%s, %s::text[])",
        (worker, list(queues)),
        _sleep,
    )


@call
def wake(worker: str) -> Statement[None]:
    """Take the announcement of `sleep` back: nobody needs to notify this worker."""
    return Statement("select gd_wake(%s)", (worker,), nothing)
