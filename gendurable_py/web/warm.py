"""What a session looks at before a page may use it.

The server reads a function, and plans what it asks, when a session calls it for the first time: of some pages that is
more than all else. So a new session sees every page once, with something of each kind that there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from starlette.datastructures import QueryParams

from .. import calls
from ..calls import viewing
from .look import Handler
from .query import STATUSES
from .source import Conn

Seen: TypeAlias = "tuple[Handler, QueryParams, dict[str, str]]"
# Instances that are looked at for one of each kind.
_LOOK = 1000
_ROWS = 50


async def to_be_seen(conn: Conn, pages: Mapping[str, Handler]) -> list[Seen]:
    """Each page, as it may be asked for here; what needs a thing that there is none of is left out."""
    names = {
        "/queue": [{"name": str(row["queue"])} for row in await viewing.list_queues(conn, {}, "", 1, 1)],
        "/worker": [{"name": str(row["worker"])} for row in await viewing.workers(conn, "", 1)],
        "/machine": [{"name": row.fsm} for row in await calls.machines(conn, limit=1)],
    }
    limits = [str(row["bucket"] or row["name"]) for row in await viewing.rate_limits(conn, limit=_ROWS)]
    names["/bucket"] = [{"name": name} for name in limits[:1]]
    ids, key = await _instances(conn, limits)
    names["/line"] = [{"key": key}] if key else []
    found: list[Seen] = []
    for path, handler in pages.items():
        if "{id}" in path:
            found += [(handler, QueryParams(), {"id": str(id)}) for id in ids]
        elif path in names:
            found += [(handler, QueryParams(params), {}) for params in names[path]]
        else:
            found.append((handler, QueryParams(), {}))
    return found


async def _instances(conn: Conn, limits: list[str]) -> tuple[list[int], str | None]:
    """One instance of each status, one with a key, one before a rate limit; and the key."""
    ids: dict[int, None] = {}
    for status in STATUSES:
        page = await calls.list(conn, {"status": status}, None, _ROWS, _LOOK)
        keyed = [row for row in page.instances if row.partition_key]
        for row in (*page.instances[:1], *keyed[:1]):
            ids[row.id] = None
    waiting = ["runnable", "awaiting_signal"]
    for name in limits[-1:]:
        page = await calls.list(conn, {"rate_limit": name, "status": waiting}, None, 1, _LOOK)
        ids.update(dict.fromkeys(row.id for row in page.instances))
    page = await calls.list(conn, {"status": waiting}, None, _ROWS, _LOOK)
    return list(ids), next((row.partition_key for row in page.instances if row.partition_key), None)
