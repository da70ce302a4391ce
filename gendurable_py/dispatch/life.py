"""Whether an engine is to run: told from any thread and any signal handler, looked at on its loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from ..machine.context import Draining


class Life:
    """From a start to the end of it, and then again.

    A stop counts while the engine starts, runs and drains. It also counts before the first start, and from the moment
    that `expect` announces one: who stops an engine that is about to start means that start. What comes after the end
    means a run that is over, and is nothing.
    """

    def __init__(self) -> None:
        # A signal handler may come between any two instructions of its own thread, this lock held or not.
        self._lock = threading.RLock()
        self._expected = True
        self._stops = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining = Draining()
        self.stopping: asyncio.Event
        self.hurry: asyncio.Event

    def expect(self) -> None:
        """A start is about to be made."""
        with self._lock:
            self._refuse_if_running()
            self._expected = True

    def begin(self) -> None:
        """Start, on the loop that runs here."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._refuse_if_running()
            self.loop = loop
            self._expected = False
            self.stopping, self.hurry = asyncio.Event(), asyncio.Event()
            self.draining = Draining()
            if self._stops:
                self.tell()

    def _refuse_if_running(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            raise RuntimeError("this engine is running already")

    def stop(self) -> None:
        with self._lock:
            loop = self.loop
            if loop is None and not self._expected:
                return
            self._stops += 1
            self.draining.told = True
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs any more
                loop.call_soon_threadsafe(self.tell)

    def tell(self) -> None:
        """On the loop: it is to stop, and at once if that was said more than once."""
        self.draining.told = True
        self.stopping.set()
        if self._stops > 1:
            self.hurry.set()

    def fail(self) -> None:
        """On the loop: it can only stop."""
        self.draining.told = True
        self.stopping.set()
        self.hurry.set()

    def end(self) -> None:
        with self._lock:
            self.loop = None
            self._stops = 0
