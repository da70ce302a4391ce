"""Requests to apps under test: what their functions do behind an insert, and what is to become of it."""

from __future__ import annotations

from typing import Any

import psycopg
from fastapi import HTTPException
from fastapi.responses import JSONResponse

# What the client is told, and how many instances there are then.
ENDS = {
    "ok": (200, 1),
    "savepoint": (200, 1),
    "answers an error": (409, 1),  # no exception: what the function returns is its answer
    "refused": (409, 0),
    "broken": (500, 0),
    "caught": (500, 0),
    "commits": (500, 0),
}


def count(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select count(*) from gd_instances").fetchone()
    assert row is not None
    return int(row[0])


def act(how: str) -> Any:
    """What the functions of the apps do behind their insert."""
    if how == "refused":
        raise HTTPException(409, "no")
    if how == "broken":
        raise ZeroDivisionError
    if how == "answers an error":
        return JSONResponse({"no": "but kept"}, status_code=409)
    return {"ok": True}


async def ask(app: Any, path: str, seen: Any = None) -> int:
    """A request without a client: `seen` is called when the response begins."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if seen is not None:
                seen()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "client": None,
        "server": ("test", 80),
    }
    await app(scope, receive, send)
    return status
