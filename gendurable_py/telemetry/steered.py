"""What an engine tells of being known and steered: events as those of `events`."""

from __future__ import annotations

from dataclasses import dataclass

from .events import Event


@dataclass(frozen=True, slots=True)
class Greeted(Event):
    """`gd_hello` was called.

    ``result``: ``noted``, ``busy`` (somebody has this worker's row locked) or ``refused`` (once: the role may not call
    it, with the ``error``; the engine goes on, and is not seen).
    """

    name = "hello"
    numbers = ("seconds",)

    seconds: float
    result: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Noticed(Event):
    """The server has told this engine something at once: ``cancel`` (a claim of it is gone: a heartbeat follows, and
    tells which as `Lost`) or ``hello`` (something was set: a hello follows)."""

    name = "notice"

    what: str


@dataclass(frozen=True, slots=True)
class Drained(Event):
    """This worker was told to claim no more, or again. ``claims``: what it still holds.

    ``state``: ``draining``, ``drained`` (nothing is left) or ``running`` (it claims again).
    """

    name = "drain"
    numbers = ("claims",)

    claims: int
    state: str


@dataclass(frozen=True, slots=True)
class QueueSet(Event):
    """An operator has set something of a queue that this engine serves.

    ``concurrency``: how many of its steps run here at once from now on; ``own``: how many it was started with;
    ``paused``: whether the queue is paused.
    """

    name = "queue"
    numbers = ("concurrency", "own")

    concurrency: int
    own: int
    queue: str
    paused: bool
