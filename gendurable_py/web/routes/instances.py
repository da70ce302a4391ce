"""Lists of instances: a filter that is a URL, pages by a cursor; failures by what they say; a search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ... import calls
from ...calls import Listed
from ..look import Look, Page
from ..query import FILTERS, STATUSES, count_of, cursor_of, filter_of, instance_of, only, query
from ..words import Unreadable, duration

_ROWS = 50
# A page looks at a few first, which mostly is enough, and at more where it is not.
_LOOKS = (1000, 20_000)
# Failures that are grouped.
_FAILURES = 2500
_MACHINES = 500


async def instances(look: Look) -> Page:
    """Instances that fit the filter of the URL, newest first."""
    only(look.params, (*FILTERS, "after", "limit", "did"))
    wanted = filter_of(look.params)
    limit = count_of(look.params, "limit", _ROWS, 500)
    cursor = cursor_of(look.params.get("after"))
    found: list[Listed] = []
    for most in _LOOKS:
        page = await calls.list(look.conn, wanted, cursor, limit - len(found), most)
        found += page.instances
        cursor = page.next
        if cursor is None or len(found) >= limit:
            break
    asked = {name: look.params[name] for name in FILTERS if look.params.get(name)}
    return Page(
        "instances.html",
        # what a bookmark is named by
        "Instances"
        + "".join(f"{', ' if place else ': '}{name} {text}" for place, (name, text) in enumerate(asked.items())),
        {
            "rows": found,
            "errors": {row.id: look.shown.text(row.fsm, row.last_error) for row in found},
            "asked": asked,
            "filters": FILTERS,
            "statuses": STATUSES,
            "next": cursor,
            "after": look.params.get("after"),
            "full": len(found) >= limit,
            "did": look.params.get("did"),
        },
    )


async def failures(look: Look) -> Page:
    """What has failed, grouped by what it says."""
    only(look.params, ("fsm", "since"))
    since = look.params.get("since") or "1d"
    try:
        start = datetime.now(UTC) - timedelta(seconds=duration(since))
    except OverflowError:
        raise Unreadable("since is too long ago") from None
    fsm = look.params.get("fsm") or None
    rows = await calls.failures(look.conn, fsm, start, _FAILURES)
    return Page(
        "failures.html",
        "Failures",
        {
            "rows": [(row, look.shown.text(row.fsm, row.message)) for row in rows],
            "since": since,
            "fsm": fsm,
            "machines": sorted(
                {one.fsm for one in await calls.machines(look.conn, limit=_MACHINES)} | {fsm or ""} - {""}
            ),
            "exact": all(row.exact for row in rows),
        },
    )


async def line(look: Look) -> Page:
    """The line of a partition key."""
    only(look.params, ("key", "did"))
    key = look.params.get("key", "")
    rows = await calls.line(look.conn, key, 100) if key else []
    return Page("line.html", f"Line of {key}", {"key": key, "rows": rows, "did": look.params.get("did")})


async def found_by(look: Look) -> str | None:
    """Where the search box leads: the path and query of an instance or of a list; None: it was empty."""
    only(look.params, ("q",))
    text = look.params.get("q", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 19:
        return f"/instances/{instance_of(text)}"
    held = await calls.find(look.conn, text)
    if held is not None:
        return f"/instances/{held}"
    for name in ("unique_key", "partition_key", "fsm"):
        page = await calls.list(look.conn, {name: text}, None, 1)
        if page.instances:
            return "/instances" + query(**{name: text})
    return "/instances" + query(status="failed", error=text)
