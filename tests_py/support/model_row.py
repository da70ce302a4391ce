"""One instance, as the reference model has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TERMINAL = ("done", "failed", "cancelled")

Span = tuple[int, int]


def nearest(*spans: Span | None) -> Span | None:
    known = [span for span in spans if span is not None]
    return (min(span[0] for span in known), min(span[1] for span in known)) if known else None


@dataclass
class Row:
    id: int
    step: str
    state: dict[str, Any]
    queue: str
    priority: int
    key: str | None
    unique_key: str | None
    scope: list[str] | None
    max_attempts: int | None
    at: Span | None  # due, or its place in its key; of an await the deadline
    home: str | None = None  # its own queue, while it stands in that of its step
    parent: int | None = None
    rests: Span | None = None  # given back for a while: it keeps its place in its key, and is due then
    barrier: int | None = None
    status: str = "runnable"
    held: str | None = None
    attempt: int = 0
    crashes: int = 0
    claim_no: int = 0
    worker: str | None = None
    lease: Span | None = None
    awaits: list[str] | None = None
    deadline: Span | None = None
    shown: set[int] = field(default_factory=set)
    inbox: dict[int, tuple[str, Any]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    pending: int | None = None
    result: Any = None
    error: str | None = None
    finished: Span | None = None
    expires: Span | None = None
    timeout: Span | None = None
    rate_limit: str | None = None
    weight: float = 1
    paused: bool = False
    journal: list[tuple[str, Any]] = field(default_factory=list)  # kinds, with the name or the failed one of each

    def over(self, now: Span) -> bool | None:
        """Whether its deadline or the timeout of its claim has passed; None: that cannot be known."""
        end = nearest(self.expires, self.timeout)
        if end is None or end[0] > now[1]:
            return False
        return True if end[1] <= now[0] else None

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @property
    def waits(self) -> bool:
        """Whether it wants a worker, once its time has come."""
        return self.status in ("runnable", "awaiting_signal")

    def in_scope(self, status: str) -> bool:
        if self.unique_key is None:
            return False
        return status not in TERMINAL if self.scope is None else status in self.scope

    def unseen(self) -> bool:
        """Whether a signal has come that answers its await."""
        return self.awaits is not None and any(
            name in self.awaits and number not in self.shown for number, (name, _) in self.inbox.items()
        )
