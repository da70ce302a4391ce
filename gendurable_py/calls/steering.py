"""Steering by hand: what an operator changes of instances, and who has done what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from .._statement import Rows, Statement, by_id, call, one_value
from ..machine.codec import dumps, loads
from ..machine.outcome import UNSET, StepLike
from ..machine.spec import step_name
from .rows import Audit, ByHand


@call
def edit(
    id: int,
    step: StepLike | None = None,
    state: object = UNSET,
    *,
    queue: str | None = None,
    priority: int | None = None,
    meta: Mapping[str, JsonValue] | None = None,
) -> Statement[bool]:
    """Change an instance that does not execute; False: it does. What is left out stays as it is.

    It goes on waiting for what it waits for, and what has ended stays so: see `reschedule` and `retry`.

    Raises:
        UnknownInstance: there is no such instance. So does `delete`.
    """
    return Statement(
        "select gd_edit(%s, %s, %s::jsonb, %s, %s, %s::jsonb)",
        (
            id,
            None if step is None else step_name(step),
            None if state is UNSET else dumps(state).decode(),
            queue,
            priority,
            None if meta is None else dumps(meta).decode(),
        ),
        one_value,
    )


@call
def delete(id: int) -> Statement[bool]:
    """Remove an instance that has ended; False: it has not, or its parent has not."""
    return Statement("select gd_delete(%s)", (id,), one_value)


@call
def delete_many(ids: Iterable[int]) -> Statement[dict[int, str]]:
    """`delete` for many in one transaction, waiting for nobody; answers as `cancel_many`."""
    return Statement("select id, result from gd_delete_many(%s::bigint[])", (list(ids),), by_id)


@call
def signal_many(
    ids: Iterable[int], name: str, payload: object = None, *, dedup_key: str | None = None
) -> Statement[dict[int, str]]:
    """The same signal to many in one transaction, waiting for nobody; answers as `cancel_many`.

    no: it has ended, or has had this ``dedup_key`` before.
    """
    return Statement(
        "select id, result from gd_signal_many(%s::bigint[], %s, %s::jsonb, %s)",
        (list(ids), name, dumps(payload).decode(), dedup_key),
        by_id,
    )


@call
def audit(
    filter: Mapping[str, object] | None = None, after: int | None = None, limit: int = 100, look: int = 20000
) -> Statement[Audit]:
    """Who did what by hand, newest first: pass ``next`` of a page as ``after`` of the next one."""

    def read(rows: Rows) -> Audit:
        found = [ByHand._make((*row[:8], loads(row[8]), row[9])) for row in rows if row[2] is not None]
        goes_on = bool(rows) and (len(found) == limit or len(found) < len(rows))
        return Audit(found, rows[-1][0] if goes_on else None)

    return Statement(
        "select no, at, call, session_role, set_role, actor, application, id, what::text, count "
        "from gd_audit(%s::jsonb, %s, %s, %s)",
        (dumps({} if filter is None else filter).decode(), after, limit, look),
        read,
    )
