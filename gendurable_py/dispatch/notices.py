"""What the server tells an engine at once, over the channel ``gendurable_control``: that one of its claims is gone, or
that something was set which concerns it. A notice says that there is something, and never what: a heartbeat and a hello
find out, and would have found it later without the notice.
"""

from __future__ import annotations

from typing import Literal, cast

from psycopg import Notify

from .bell import Bell

Notice = Literal["cancel", "hello"]


class Notices(Bell):
    """The notices to one engine, or to all: however many come, they are looked at together."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker
        self._heard: set[Notice] = set()

    def hear(self, notify: Notify) -> None:
        if notify.channel != "gendurable_control":
            return
        what, _, worker = notify.payload.partition(" ")
        if worker in ("", self._worker) and what in ("cancel", "hello"):
            self._heard.add(cast("Notice", what))
            self._told = True

    def miss(self) -> None:
        """Nobody could tell for a while: there may be anything."""
        self._heard |= {"cancel", "hello"}
        self._told = True

    def take(self) -> set[Notice]:
        """What was heard since the last time."""
        heard, self._heard = self._heard, set()
        self._told = False
        return heard
