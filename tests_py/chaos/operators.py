"""Operators: they cancel, retry, reschedule, pause and resume queues, and move limits, while all goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

import gendurable_py as gd

from .machines import WIDE

if TYPE_CHECKING:
    from .clients import Client

PAUSE = 0.2
# For how long a queue stays paused, at most.
LONGEST = 0.5


class Tell(Protocol):
    def __call__(self, client: Client, what: str, id: int, answer: Any, **more: Any) -> None: ...


class Operators:
    def __init__(self, finish: threading.Event, tell: Tell) -> None:
        self._finish = finish
        self._tell = tell

    def _pick(self, client: Client, condition: str) -> tuple[int, str, dict[str, Any]] | None:
        where = f"{condition} and fsm like 'chaos.%'"
        query = f"select id, fsm, state from gd_instances where {where} order by random() limit 1".encode()
        row: tuple[int, str, dict[str, Any]] | None = client.call(lambda c: c.execute(query).fetchone())
        return row

    def _operate(self, client: Client, what: str, id: int, call: Callable[[Any], bool], **more: Any) -> None:
        def known(conn: psycopg.Connection[Any]) -> bool | str:
            try:
                return call(conn)
            except gd.UnknownInstance:
                return "unknown"

        answer = client.call(known)
        self._tell(client, what, id, answer, **more)

    def cancel(self, client: Client) -> None:
        """Anything that is alive: steps that run, children, parents that wait, rows in the lane of their key."""
        while not self._finish.wait(PAUSE):
            chosen = self._pick(client, "finished_at is null")
            if chosen is not None:
                self._cancel(client, chosen[0], client.random.random() < 0.7)

    def _cancel(self, client: Client, id: int, cascade: bool) -> None:
        self._operate(client, "cancel", id, lambda c: gd.cancel(c, id, "chaos", cascade=cascade))

    def repair(self, client: Client) -> None:
        """Retry what has failed or was cancelled, and move what waits."""
        while not self._finish.wait(PAUSE):
            # Not a waiter: the signals that it was sent ended with it.
            chosen = self._pick(client, "status in ('failed', 'cancelled') and fsm <> 'chaos.waiter'")
            if chosen is not None:
                self._retry(client, *chosen)
            late = "fsm = 'chaos.late'" if client.random.random() < 0.7 else "fsm <> 'chaos.late'"
            chosen = self._pick(client, f"status in ('runnable', 'awaiting_signal') and {late}")
            if chosen is not None:
                self._reschedule(client, chosen[0], chosen[1])

    def _retry(self, client: Client, id: int, fsm: str, state: dict[str, Any]) -> None:
        more: dict[str, Any] = {}
        if "fails" in state and client.random.random() < 0.5:
            more["state"] = {**state, "fails": False if fsm == "chaos.child" else 0}
        self._operate(client, "retry", id, lambda c: gd.retry(c, id, **more))

    def _reschedule(self, client: Client, id: int, fsm: str) -> None:
        when = datetime.now(UTC) + timedelta(seconds=client.random.uniform(0, 1 if fsm == "chaos.late" else 0.3))
        # Only of a late one nobody else has a say in when it starts.
        due = int(when.timestamp() * 1_000_000) if fsm == "chaos.late" else None
        self._operate(client, "reschedule", id, lambda c: gd.reschedule(c, id, when), due=due)

    def steer(self, client: Client) -> None:
        """Pause a queue and resume it, and let more or fewer execute in the wide keys."""
        while not self._finish.wait(PAUSE):
            self._set_limit(client, client.random.randint(1, 4))
            if client.random.random() < 0.3:
                self._pause(client, client.random.choice(("default", "keyed", "keyed", "strict")))

    def _set_limit(self, client: Client, limit: int) -> None:
        client.call(lambda c: gd.set_key_limit(c, WIDE, limit))
        self._tell(client, "limit", 0, None, limit=limit)

    def _pause(self, client: Client, queue: str) -> None:
        client.call(lambda c: gd.pause_queue(c, queue))
        self._tell(client, "pause", 0, None, queue=queue)
        self._finish.wait(client.random.uniform(0, LONGEST))
        client.call(lambda c: gd.resume_queue(c, queue))
        self._tell(client, "resume", 0, None, queue=queue)
