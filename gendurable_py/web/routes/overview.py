"""The first page: what ends, what fails, what waits, who works; and whether anything is stopped."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from ... import calls
from ...calls import Counts, viewing
from ..charts import Bar
from ..look import Look, Page
from ..query import only

_MINUTES = 60
# Of the latest that failed: enough to say what fails now.
_FAILURES = 500
# Of the queues the first by name, and of what stands in them so much: the page is looked at again and again.
_QUEUES, _LOOK = 200, 6000
_WORKERS, _STOPS = 50, 20
_GOOD = ("done", "next", "await", "schedule_childs", "ok")


async def overview(look: Look) -> Page:
    """Throughput, failures, queues and workers of the last hour."""
    only(look.params, ("did",))
    conn = look.conn
    now = datetime.now(UTC)
    counts = await calls.stats(conn, _MINUTES)
    queues = await viewing.list_queues(conn, {}, "", _QUEUES, _LOOK)
    workers = await viewing.workers(conn, "", _WORKERS + 1)
    failures = await calls.failures(conn, None, now - timedelta(hours=1), _FAILURES, 8)
    return Page(
        "overview.html",
        "Overview",
        {
            "chart": throughput(counts, now),
            "outcomes": Counter({kind: sum(c.ended for c in counts if part(c.outcome) == kind) for kind in PARTS}),
            "queues": sorted(queues, key=_urgency)[:12],
            "queues_in_all": len(queues),
            "more_queues": len(queues) >= _QUEUES,
            "due": sum(int(str(row["due"])) for row in queues),
            "due_cut": any(_is_cut(row) for row in queues) or len(queues) >= _QUEUES,
            "oldest": min((str(row["oldest_due_at"]) for row in queues if row["oldest_due_at"]), default=None),
            "executing": sum(int(str(row["executing"])) for row in queues),
            "slots": sum(int(str(row["slots"])) for row in queues),
            "workers": workers[:_WORKERS],
            "more_workers": len(workers) > _WORKERS,
            "failures": [(failure, look.shown.text(failure.fsm, failure.message)) for failure in failures],
            "pauses": await viewing.stops(conn, None, _STOPS),
            "did": look.params.get("did"),
        },
    )


PARTS = ("good", "retried", "bad")


def part(outcome: str) -> str:
    """Which part of a bar an outcome belongs to."""
    if outcome in _GOOD:
        return "good"
    return "retried" if outcome in ("replay", "none") else "bad"


def throughput(counts: list[Counts], now: datetime, minutes: int = _MINUTES) -> list[Bar]:
    """Steps that ended, minute by minute, the oldest first; minutes without any, too."""
    ended: dict[datetime, Counter[str]] = defaultdict(Counter)
    for count in counts:
        ended[count.minute][part(count.outcome)] += count.ended
    last = now.replace(second=0, microsecond=0)
    return [
        Bar(f"{minute:%H:%M} UTC", tuple((kind, float(ended[minute][kind])) for kind in PARTS))
        for minute in (last - timedelta(minutes=back) for back in range(minutes - 1, -1, -1))
    ]


def _is_cut(row: viewing.Row) -> bool:
    """There may be more that are due than were counted."""
    return int(str(row["due"])) + int(str(row["executing"])) >= int(str(row["counted_to"]))


def _urgency(row: viewing.Row) -> tuple[bool, str, str]:
    """What has been due for longest stands first."""
    oldest = row["oldest_due_at"]
    return (oldest is None, str(oldest or ""), str(row["queue"]))
