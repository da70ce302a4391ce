"""What goes on beside the work: services, each a task of its own that runs from `start` to `stop`.

Heartbeats, the watch over the loop, maintenance and the tasks that feed and commit are such services. One that ends by
itself is a defect, and whoever started it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Failed = Callable[[asyncio.Task[Any], BaseException], None]


_AGAIN = 2.0
"""Seconds until a service that has not ended is told once more."""


class Service:
    """Derived classes `run` for ever; what they set up besides, they do around `start` and `stop`."""

    name: str

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._stopped = False

    async def run(self) -> None:
        raise NotImplementedError

    def start(self, failed: Failed) -> None:
        """Run on this loop. ``failed`` is told of an end that is not a stop."""

        def ended(task: asyncio.Task[Any]) -> None:
            if self._stopped:
                return
            if task.cancelled():
                failed(task, RuntimeError("it was cancelled, and not by the engine"))
            elif (error := task.exception()) is not None:
                failed(task, error)

        self.task = asyncio.get_running_loop().create_task(self.run(), name=f"gendurable {self.name}")
        self.task.add_done_callback(ended)

    def end(self) -> None:
        """Let it end, however far it is."""
        self._stopped = True
        if self.task is not None:
            self.task.cancel()

    async def stop(self) -> None:
        """End it, and wait until it has ended. It need not have been started."""
        self.end()
        if self.task is None:
            return
        # A driver that is cancelled while its connection breaks may raise that error alone (psycopg 3.2 does), and the
        # service goes on, as after any other.
        while not (await asyncio.wait([self.task], timeout=_AGAIN))[0]:
            self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Loop(Service):
    """A service that is one coroutine of somebody else."""

    def __init__(self, name: str, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self.name = name
        self._body = body

    async def run(self) -> None:
        await self._body()


class Services:
    """The services of one owner, which start in order and stop together."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._started: list[Service] = []

    def start(self, service: Service) -> None:
        self._started.append(service)
        service.start(self._failed)

    async def stop(self) -> None:
        await asyncio.gather(*(service.stop() for service in self._started))
