"""Looking at instances: who holds a key, how one stands, and the children that it has. Nothing is changed.

`waiting` looks until an instance has ended.
"""

from __future__ import annotations

from .._statement import Rows, Statement, call, one_value
from ..machine.codec import loads
from ..machine.outcome import ChildResult
from .rows import Result


@call
def find(unique_key: str) -> Statement[int | None]:
    """The instance that holds the key now, or None."""
    return Statement("select gd_find(%s)", (unique_key,), one_value)


@call
def childs(id: int, after: int = 0, limit: int = 1000) -> Statement[list[ChildResult]]:
    """The children of an instance by id, a page at a time: pass the last id as ``after``."""
    return Statement(
        "select id, fsm, status, state::text, result::text, last_error from gd_childs(%s, %s, %s)",
        (id, after, limit),
        lambda rows: [ChildResult(row[0], row[1], row[2], loads(row[3]), loads(row[4]), row[5]) for row in rows],
    )


@call
def result(id: int) -> Statement[Result | None]:
    """How an instance stands; None: there is no such instance."""
    return Statement("select status, result::text, last_error from gd_result(%s)", (id,), _result)


def _result(rows: Rows) -> Result | None:
    return Result(rows[0][0], loads(rows[0][1]), rows[0][2]) if rows else None


@call
def watch(id: int) -> Statement[str | None]:
    """The status now (None: no such instance); when it ends, its id is sent on the channel ``gendurable_done``."""
    return Statement("select gd_watch(%s)", (id,), one_value)
