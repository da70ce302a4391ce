"""The dashboard as a server of its own in a thread, and what browsers do: load pages, find forms, send them."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import uvicorn
from support.cli import commit_for
from support.wait import wait_until

import gendurable_py as gd

Conn = psycopg.Connection[Any]


@contextlib.contextmanager
def serving(app: Any, **config: Any) -> Iterator[str]:
    """Serve an ASGI app at a port of its own: its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            **{"log_level": "warning", "access_log": False, "proxy_headers": False, "timeout_graceful_shutdown": 1}
            | config,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 30)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        if hasattr(app, "state") and hasattr(app.state, "end_streams"):
            app.state.end_streams()
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive(), "the server has not ended"


@contextlib.contextmanager
def browsing(app: Any, prefix: str = "", **config: Any) -> Iterator[Browser]:
    """A browser at a dashboard that is served."""
    with serving(app, **config) as address, Browser(address + prefix) as browser:
        yield browser


def learns() -> bool:
    """Whether this is a session of the dashboard that learns, beside its pages."""
    task = asyncio.current_task()
    return task is not None and task.get_name() == "gendurable dashboard learns"


class Browser:
    """What a browser without JavaScript does."""

    def __init__(self, address: str, **headers: str) -> None:
        self.address = address
        self.kept: list[Any] = []
        self.client = httpx.Client(base_url=address, timeout=60, headers={"Accept": "text/html", **headers})

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, status: int = 200, **more: Any) -> httpx.Response:
        found = self.client.get(path, **more)
        assert found.status_code == status, f"{path}: {found.status_code}\n{text_of(found)[:2000]}"
        return found

    def form(self, path: str) -> dict[str, str]:
        """The fields of the form of a page, as they are filled in."""
        return fields_of(self.get(path).text)

    def send(self, path: str, status: int = 303, **values: str) -> httpx.Response:
        """Load the page of an action, fill in its form, and send it."""
        found = self.client.post(path, data={**self.form(path), **values})
        assert found.status_code == status, f"{path}: {found.status_code}\n{text_of(found)[:2000]}"
        return found

    def lines(self, path: str) -> Iterator[str]:
        """The lines of a stream."""
        with self.client.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
            assert answer.status_code == 200, answer.status_code
            yield from answer.iter_lines()

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """The events of a stream, with their data."""
        name = ""
        for line in self.lines(path):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])


def fields_of(page: str) -> dict[str, str]:
    """The hidden and filled fields of the form that is sent by POST."""
    [form] = re.findall(r'<form class="act" method="post".*?</form>', page, re.DOTALL)
    found = {
        html.unescape(name): html.unescape(value)
        for name, value in re.findall(r'<input (?:type="hidden" |id="[^"]*" )?name="([^"]*)" value="([^"]*)"', form)
    }
    for name, value in re.findall(r'<textarea id="[^"]*" name="([^"]*)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL):
        found[html.unescape(name)] = html.unescape(value)
    return found


def text_of(answer: httpx.Response) -> str:
    """What can be read on a page."""
    return text_in(answer.text)


def text_in(page: str) -> str:
    without = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without)).split())


def failed(conn: Conn, **options: Any) -> int:
    """An order that has failed."""
    id = gd.insert(conn, "order", {"n": 1}, **options)
    commit_for(conn, id, "stop", reason="no card")
    assert id is not None
    return id


def status(conn: Conn, id: int | None) -> str:
    found = gd.get(conn, id or 0)
    assert found is not None
    return str(found["status"])
