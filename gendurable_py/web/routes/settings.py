"""What holds for many: schedules, limits, workers, pauses; what was done by hand; what the doctor says."""

from __future__ import annotations

from ... import calls
from ...calls import ByHand, viewing
from ..look import Look, Page
from ..query import asked_by, count_of, instance_of, needed, only
from ..refusals import Missing
from ..shown import Twig, grown
from ..words import moment

_PAGE = 100
_PAUSES = 500
_LOOK = 10_000
# By which a row of the limits is known.
_ROW = ("name", "bucket", "queue")
_LEVELS = {"problem": 0, "warning": 1, "ok": 2}


async def schedules(look: Look) -> Page:
    """The schedules by name: when each ticked last and ticks next."""
    only(look.params, ("after", "did", "id"))
    after = look.params.get("after", "")
    rows = await viewing.schedules(look.conn, after, _PAGE + 1)
    return Page(
        "schedules.html",
        "Schedules",
        {
            "rows": [(row, look.shown.text(row["fsm"], _text(row["last_error"]))) for row in rows[:_PAGE]],
            "after": after,
            "next": {"after": rows[_PAGE - 1]["name"]} if len(rows) > _PAGE else None,
            "did": look.params.get("did"),
            "made": look.params.get("id"),
        },
    )


async def limits(look: Look) -> Page:
    """Rate limits with their buckets, and the limits of queues: how full they are, who waits."""
    only(look.params, (*_ROW, "after_queue", "did"))
    place = tuple(look.params.get(name, "") for name in _ROW)
    rows = await viewing.rate_limits(look.conn, place, _PAGE + 1)
    last = rows[_PAGE - 1] if len(rows) > _PAGE else None
    after = look.params.get("after_queue", "")
    queues = await viewing.list_queues(look.conn, {"limited": True}, after, _PAGE + 1)
    return Page(
        "limits.html",
        "Limits",
        {
            "rows": rows[:_PAGE],
            "after": any(place),
            "next": None if last is None else {name: last[name] or "" for name in _ROW},
            "queues": queues[:_PAGE],
            "after_queue": after,
            "next_queue": {"after_queue": queues[_PAGE - 1]["queue"]} if len(queues) > _PAGE else None,
            "did": look.params.get("did"),
        },
    )


async def bucket(look: Look) -> Page:
    """Who waits for tokens of a rate limit."""
    only(look.params, ("name",))
    name = needed(look.params, "name")
    page = await calls.list(look.conn, {"rate_limit": name, "status": ["runnable", "awaiting_signal"]}, None, 100)
    rows = await viewing.buckets(look.conn, name, _PAGE)
    if not (page.instances or rows):
        raise Missing(f"Nothing has the rate limit {name[:200]!r}.")
    return Page(
        "bucket.html",
        f"Rate limit {name}",
        {
            "name": name,
            "rows": page.instances,
            "buckets": rows,
            "errors": {row.id: look.shown.text(row.fsm, row.last_error) for row in page.instances},
        },
    )


async def workers(look: Look) -> Page:
    """The workers that live, by name: what each serves, knows and executes."""
    only(look.params, ("after", "did"))
    after = look.params.get("after", "")
    rows = await viewing.workers(look.conn, after, _PAGE + 1)
    return Page(
        "workers.html",
        "Workers",
        {
            "workers": rows[:_PAGE],
            "after": after,
            "next": {"after": rows[_PAGE - 1]["worker"]} if len(rows) > _PAGE else None,
            "did": look.params.get("did"),
        },
    )


async def worker(look: Look) -> Page:
    """One worker, and what it executes now."""
    only(look.params, ("name", "did"))
    name = needed(look.params, "name")
    found = await viewing.worker(look.conn, name)
    page = await calls.list(look.conn, {"worker": name, "status": "executing"}, None, 100, _LOOK)
    if not (found or page.instances):
        raise Missing(f"No worker that lives has the name {name[:200]!r}.")
    return Page(
        "worker.html",
        f"Worker {name}",
        {
            "name": name,
            "worker": found[0] if found else None,
            "rows": page.instances,
            "errors": {row.id: look.shown.text(row.fsm, row.last_error) for row in page.instances},
            "did": look.params.get("did"),
        },
    )


async def pauses(look: Look) -> Page:
    """What is paused or held, by whom and since when."""
    only(look.params, ("did",))
    return Page(
        "pauses.html",
        "Stopped",
        {"pauses": await viewing.pauses(look.conn, _PAUSES + 1), "most": _PAUSES, "did": look.params.get("did")},
    )


async def doctor(look: Look) -> Page:
    """What is wrong with the installation, its database or its work."""
    only(look.params, ())
    found = sorted(await calls.doctor(look.conn), key=lambda one: _LEVELS.get(one.level, 0))
    return Page(
        "doctor.html",
        "Doctor",
        {
            "findings": [(one, look.shown.tree("detail", "", one.detail) if one.detail else None) for one in found],
            "version": await calls.version(look.conn),
        },
    )


async def audit(look: Look) -> Page:
    """Who did what by hand, newest first."""
    only(look.params, ("id", "call", "actor", "since", "after", "limit"))
    wanted: dict[str, object] = {name: look.params[name] for name in ("call", "actor") if look.params.get(name)}
    if look.params.get("id"):
        wanted["id"] = instance_of(look.params["id"])
    if look.params.get("since"):
        wanted["after"] = moment(look.params["since"]).isoformat()
    after = instance_of(look.params["after"]) if look.params.get("after") else None
    page = await calls.audit(look.conn, wanted, after, count_of(look.params, "limit", 50, 500))
    return Page(
        "audit.html",
        "By hand",
        {
            "rows": [_told(look, row) for row in page.calls],
            "next": page.next,
            "asked": {name: look.params.get(name, "") for name in ("id", "call", "actor", "since")},
        },
    )


def _told(look: Look, row: ByHand) -> tuple[ByHand, Twig | None, dict[str, str] | None]:
    """A call, its arguments, and what a list is asked for that has what it was about."""
    if not row.what:
        return row, None, None
    what = look.shown.value("detail", "", row.what)
    asked = asked_by(what.get("filter")) if isinstance(what, dict) else None
    if asked and isinstance(what, dict):
        what = {name: value for name, value in what.items() if name != "filter"}
    return row, grown(what) if what else None, asked


def _text(value: object) -> str | None:
    return None if value is None else str(value)
