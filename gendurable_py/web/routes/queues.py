"""The queues, and one of them."""

from __future__ import annotations

from ... import calls
from ...calls import viewing
from ..look import Look, Page
from ..query import needed, only
from ..refusals import Missing

_ROWS = 50
# Of a long queue the newest are looked at.
_LOOK = 2000


async def queues(look: Look) -> Page:
    """Every queue: what is due, delayed, executing and parked, who serves it."""
    only(look.params, ("did",))
    return Page("queues.html", "Queues", {"queues": await viewing.queues(look.conn), "did": look.params.get("did")})


async def queue(look: Look) -> Page:
    """One queue: its numbers, what is set, who serves it, and what has not ended there."""
    only(look.params, ("name", "did"))
    name = needed(look.params, "name")
    found = await viewing.queue(look.conn, name)
    if not found:
        raise Missing(f"There is no queue {name[:200]!r}: nothing is or was in it, and nobody serves it.")
    workers = [
        row for row in await viewing.workers(look.conn) if isinstance(row["queues"], dict) and name in row["queues"]
    ]
    executing = await calls.list(look.conn, {"queue": name, "status": "executing"}, None, _ROWS)
    waiting = await calls.list(
        look.conn, {"queue": name, "status": ["runnable", "awaiting_signal"]}, None, _ROWS, _LOOK
    )
    limits = [row for row in await viewing.rate_limits(look.conn) if row["queue"] == name]
    return Page(
        "queue.html",
        f"Queue {name}",
        {
            "queue": found[0],
            "name": name,
            "workers": workers,
            "executing": executing.instances,
            "partly": executing.next is not None and len(executing.instances) < _ROWS,
            "only_newest": waiting.next is not None,
            # what starts first stands first
            "waiting": sorted(waiting.instances, key=lambda row: (row.priority, str(row.eligible_at or "~"), row.id)),
            "limits": limits,
            "errors": {
                row.id: look.shown.text(row.fsm, row.last_error) for row in executing.instances + waiting.instances
            },
            "did": look.params.get("did"),
        },
    )
