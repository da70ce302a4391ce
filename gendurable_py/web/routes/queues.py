"""The queues, and one of them."""

from __future__ import annotations

from ... import calls
from ...calls import viewing
from ..look import Look, Page
from ..query import needed, only
from ..refusals import Missing

_PAGE = 100
_ROWS = 50
_LINES = 20
# Of a long queue the newest are looked at.
_LOOK = 2000


async def queues(look: Look) -> Page:
    """The queues by name: what is due, delayed, executing and parked, who serves it."""
    only(look.params, ("after", "did"))
    after = look.params.get("after", "")
    rows = await viewing.list_queues(look.conn, {}, after, _PAGE + 1)
    return Page(
        "queues.html",
        "Queues",
        {
            "queues": rows[:_PAGE],
            "after": after,
            "next": {"after": rows[_PAGE - 1]["queue"]} if len(rows) > _PAGE else None,
            "did": look.params.get("did"),
        },
    )


async def queue(look: Look) -> Page:
    """One queue: its numbers, what is set, who serves it, and what has not ended there."""
    only(look.params, ("name", "did"))
    name = needed(look.params, "name")
    found = await viewing.queue(look.conn, name)
    if not found:
        raise Missing(f"There is no queue {name[:200]!r}: nothing is or was in it, and nobody serves it.")
    workers = await viewing.serving(look.conn, name, _ROWS + 1)
    executing = await calls.list(look.conn, {"queue": name, "status": "executing"}, None, _ROWS, _LOOK)
    waiting = await calls.list(
        look.conn, {"queue": name, "status": ["runnable", "awaiting_signal"]}, None, _ROWS, _LOOK
    )
    limits = await viewing.lines(look.conn, name, _LINES + 1)
    return Page(
        "queue.html",
        f"Queue {name}",
        {
            "queue": found[0],
            "name": name,
            "workers": workers[:_ROWS],
            "more_workers": len(workers) > _ROWS,
            "executing": executing.instances,
            "partly": executing.next is not None and len(executing.instances) < _ROWS,
            "only_newest": waiting.next is not None,
            # what starts first stands first
            "waiting": sorted(waiting.instances, key=lambda row: (row.priority, str(row.eligible_at or "~"), row.id)),
            "limits": limits[:_LINES],
            "more_limits": len(limits) > _LINES,
            "errors": {
                row.id: look.shown.text(row.fsm, row.last_error) for row in executing.instances + waiting.instances
            },
            "did": look.params.get("did"),
        },
    )
