"""Live parts: a page's path, asked for as an event stream, sends its parts again as they change.

However many browsers watch a page, the database is asked once an interval. A stream ends after some minutes, so that
the browser asks for it again, and whether it still may.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import TypeAlias

from .look import Page
from .refusals import Refusal, refusal_of

_LASTS = 300.0
_MOST_STREAMS = 64
_MOST_KEPT = 200
Make: TypeAlias = "Callable[[], Awaitable[Page]]"


class Streams:
    """The streams of one dashboard, and the looks that they share."""

    def __init__(self, refresh: float) -> None:
        self._refresh = refresh
        self._looks: dict[Hashable, tuple[float, asyncio.Task[Page]]] = {}
        self._running = 0
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End all streams, and let none begin: who serves them is to stop."""
        self._ending.set()

    @property
    def full(self) -> bool:
        return self._running >= _MOST_STREAMS

    async def events(self, key: Hashable, make: Make, render: Callable[[Page], dict[str, str]]) -> AsyncIterator[str]:
        """The text of a stream. What it sends first is all parts, as they are now."""
        self._running += 1
        try:
            yield "retry: 2000\n\n"
            sent: dict[str, str] = {}
            away: Refusal | None = None
            ends = time.monotonic() + _LASTS
            while time.monotonic() < ends and not self._ending.is_set():
                try:
                    parts = render(await self._look(key, make))
                except Exception as error:
                    found = refusal_of(error)
                    if found is None:
                        raise
                    if found != away:
                        away = found
                        yield _event("away", {"title": found.title, "message": found.message, "again": found.again})
                    if not found.again:
                        return
                else:
                    if away is not None:
                        away = None
                        yield _event("back", {})
                    changed = {name: html for name, html in parts.items() if sent.get(name) != html}
                    sent = parts
                    # Something goes out each time: whoever has gone is noticed by it.
                    yield _event("parts", changed) if changed else ": same\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), self._refresh)
        finally:
            self._running -= 1

    async def _look(self, key: Hashable, make: Make) -> Page:
        now = time.monotonic()
        at, task = self._looks.get(key, (0.0, None))
        if task is None or now - at >= 0.9 * self._refresh or task.get_loop() is not asyncio.get_running_loop():
            if len(self._looks) >= _MOST_KEPT:
                self._looks = {one: look for one, look in self._looks.items() if now - look[0] < 2 * self._refresh}
            task = asyncio.ensure_future(make())
            task.add_done_callback(_heard)
            self._looks[key] = (now, task)
        return await asyncio.shield(task)


def _heard(task: asyncio.Task[Page]) -> None:
    """Whoever waited may have gone: what it raised is nobody's any more."""
    if not task.cancelled():
        task.exception()


def _event(name: str, data: dict[str, object] | dict[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
