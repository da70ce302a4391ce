"""What an engine tells of flows, in the manner of `events`."""

from __future__ import annotations

from dataclasses import dataclass

from .events import Event


@dataclass(frozen=True, slots=True)
class Checkpoint(Event):
    """A flow has come to a checkpoint, which its next commit records.

    ``kind``: ``step``, ``retry`` (a step failed and is tried again), ``sleep``, ``timer``, ``signal`` or ``childs``.
    ``seconds``: how long a run of a step took, else 0. ``error``: of a step, its text.
    """

    name = "checkpoint"
    numbers = ("seconds", "attempts")

    seconds: float
    attempts: int
    id: int
    fsm: str
    kind: str
    checkpoint: str
    error: str | None


@dataclass(frozen=True, slots=True)
class Replayed(Event):
    """The function of a flow has run from its top to where it was."""

    name = "replay"
    numbers = ("entries", "seconds")

    entries: int
    seconds: float
    id: int
    fsm: str


@dataclass(frozen=True, slots=True)
class Suspended(Event):
    """A flow parks: nothing of it is held here any more. ``step``: what its row shows, such as ``(sleep)``."""

    name = "suspend"
    numbers = ("count",)

    id: int
    fsm: str
    step: str
    count: int = 1
