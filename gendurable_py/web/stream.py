"""Live parts: a page's path, asked for as an event stream, sends its parts again as they change.

However many browsers watch a page, the database is asked once an interval. A stream ends after some minutes, so that
the browser asks for it again, and whether it still may; and sooner if its reader does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import TypeAlias

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from .look import Page
from .refusals import Refusal, refusal_of

logger = logging.getLogger("gendurable.web")
_LASTS = 300.0
# What a reader may take for one message; it holds a place among the streams meanwhile.
_READS = 20.0
_MOST_STREAMS = 64
# A page that took 0.1 s is looked at again after 5 s, of two pages each after 10: however long looks take, and however
# many pages are watched, they are a fiftieth of one session, but for what the longest pause leaves.
_SHARE = 50
_LONGEST = 50.0
# How long ago something was says itself again in the browser.
_TIME = re.compile(r"(<time [^>]*>)[^<]*")
Make: TypeAlias = "Callable[[], Awaitable[Page]]"


class Seat:
    """One of the places of streams."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None


class _Looked:
    """A look that streams share: when it was begun, and when the next one may be."""

    def __init__(self, make: Make, refresh: float, watched: Counter[Hashable]) -> None:
        self._began = time.monotonic()
        self._refresh = refresh
        self._watched = watched
        self.loop = asyncio.get_running_loop()
        self.rendered: dict[Hashable, dict[str, str]] = {}
        self.task = asyncio.ensure_future(make())
        self.task.add_done_callback(self._ended)
        self.pause = refresh

    def _ended(self, task: asyncio.Task[Page]) -> None:
        pages = max(1, len(self._watched))
        self.pause = min(max(self._refresh, _SHARE * pages * (time.monotonic() - self._began)), _LONGEST)
        if not task.cancelled():
            task.exception()  # whoever waited may have gone: what it raised is nobody's any more

    @property
    def is_old(self) -> bool:
        return self.task.done() and time.monotonic() - self._began >= 0.9 * self.pause


class Streams:
    """The streams of one dashboard, and the looks that they share."""

    def __init__(self, refresh: float) -> None:
        self._refresh = refresh
        self._looks: dict[Hashable, _Looked] = {}
        self._running = 0
        self._watched: Counter[Hashable] = Counter()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End all streams, and let none begin: who serves them is to stop."""
        self._ending.set()

    def sit(self) -> Seat | None:
        """A place for one stream, to be given back; None: all are taken."""
        if self._running >= _MOST_STREAMS:
            return None
        self._running += 1
        return Seat(self._leave)

    def _leave(self) -> None:
        self._running -= 1

    async def events(
        self, key: Hashable, make: Make, render: Callable[[Page], dict[str, str]], seen_by: Hashable = None
    ) -> AsyncIterator[str]:
        """The text of a stream. What it sends first is all parts, as they are now.

        ``seen_by``: who sees the same parts of a page, so that they are rendered once for all of them.
        """
        self._watched[key] += 1
        try:
            yield "retry: 2000\n\n"
            sent: dict[str, str] = {}
            away: Refusal | None = None
            ends = time.monotonic() + _LASTS
            while time.monotonic() < ends and not self._ending.is_set():
                look = self._look(key, make)
                try:
                    page = await asyncio.shield(look.task)
                    parts = look.rendered.get(seen_by) or look.rendered.setdefault(seen_by, render(page))
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
                    now = {name: _TIME.sub(r"\1", html) for name, html in parts.items()}
                    changed = {name: html for name, html in parts.items() if sent.get(name) != now[name]}
                    sent = now
                    # Something goes out each time: whoever has gone is noticed by it.
                    yield _event("parts", changed) if changed else ": same\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), look.pause)
            # so that a browser knows an end that was planned from a server that is gone
            yield _event("ends", {})
        finally:
            self._watched[key] -= 1
            self._watched += Counter()  # those that nobody watches go

    def _look(self, key: Hashable, make: Make) -> _Looked:
        known = self._looks.get(key)
        if known is None or known.is_old or known.loop is not asyncio.get_running_loop():
            # an old one is of no use, and a page may be large
            self._looks = {one: look for one, look in self._looks.items() if not look.is_old}
            known = self._looks[key] = _Looked(make, self._refresh, self._watched)
        return known


class Events(StreamingResponse):
    """A stream as an answer, which is given up where its reader takes too long for what it is sent."""

    def __init__(self, events: AsyncIterator[str], seat: Seat, reads: float = _READS) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._events = events
        self._seat = seat
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._seat.leave()  # also where it never began to send

    async def stream_response(self, send: Send) -> None:
        """Send what there is. The iterator is closed at once, however that ends."""
        try:
            async with asyncio.timeout(self._reads) as limit:

                async def within(message: Message) -> None:
                    limit.reschedule(asyncio.get_running_loop().time() + self._reads)
                    await send(message)
                    limit.reschedule(None)

                await super().stream_response(within)
        except TimeoutError:
            # The server closes the connection of an answer that was not completed.
            logger.info("a browser that watches a page does not read")
        finally:
            with contextlib.suppress(RuntimeError):  # it runs: whoever cancels it closes it
                await self._events.aclose()  # type: ignore[attr-defined]


def _event(name: str, data: dict[str, object] | dict[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
