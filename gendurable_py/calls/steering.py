"""Steering by hand: what an operator changes of instances, and who has done what."""

from __future__ import annotations

from collections.abc import Mapping

from .._statement import Rows, Statement, call
from ..machine.codec import dumps, loads
from .rows import Audit, ByHand


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
