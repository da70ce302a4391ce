"""How an engine is doing, and what it runs: a snapshot for its own program, without asking the server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from .options import Options
from .work import Held, InSql, Runner, Work

State = Literal["stopped", "starting", "running", "draining", "drained", "stopping"]


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that runs now. ``kind``: ``task``, ``thread`` or ``sql``; of the last, which run in batches, ``since`` and
    ``seconds`` are None."""

    id: int
    fsm: str
    version: int
    step: str
    queue: str
    attempt: int
    kind: Literal["task", "thread", "sql"]
    since: datetime | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """A queue of an engine: how many steps run at once, now and by its options; how many do; whether it is paused."""

    concurrency: int
    own: int
    running: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine is doing.

    ``live`` false: its process should be started anew (it has failed, or its event loop stood still for a lease). A
    database that is away is no reason for that. ``ready`` false: it does not do its work now, for the ``reasons``.
    ``claimed_ago``, ``committed_ago``, ``renewed_ago``, ``greeted_ago``: seconds since the server answered such a call;
    None: not yet. Where nothing is due a claim is as old as the engine sleeps, and a commit of any age.
    ``held``: whether everything is held (`hold_all`).
    """

    live: bool
    ready: bool
    state: State
    worker: str | None
    reasons: tuple[str, ...]
    running: int
    claims: int
    held: bool
    claimed_ago: float | None
    committed_ago: float | None
    renewed_ago: float | None
    greeted_ago: float | None
    queues: Mapping[str, QueueHealth]


ABSENT = Health(False, False, "stopped", None, ("it does not run",), 0, 0, False, None, None, None, None, {})
"""Of an engine that does not run."""


def list_running(held: Held) -> tuple[RunningStep, ...]:
    """The steps that run, the oldest first."""
    now, clock = datetime.now(UTC), time.perf_counter()
    found: list[RunningStep] = []
    for work in held.all():
        row = work.row
        about = (row.id, row.fsm, row.version, row.step, row.queue, row.attempt)
        if isinstance(work, InSql):
            if work.running:
                found.append(RunningStep(*about, "sql", None, None))
        elif isinstance(work, Work):
            started, ended = work.started, work.ended
            if started and ended < started:
                seconds = max(0.0, clock - started)
                kind: Literal["task", "thread"] = "task" if work.step.is_async else "thread"
                found.append(RunningStep(*about, kind, now - timedelta(seconds=seconds), seconds))
    return tuple(sorted(found, key=lambda step: -(step.seconds or 0.0)))


class Steered(Protocol):
    """What the engine was told (see `steering`)."""

    holds: bool
    paused: frozenset[str]

    @property
    def state(self) -> Literal["running", "draining", "drained"]: ...


class Greeting(Protocol):
    """Who says hello (see `hello`)."""

    greeted_at: float | None


class Beating(Protocol):
    """Who renews leases (see `heartbeat`)."""

    beat_at: float | None


class Connection(Protocol):
    """A connection of the engine (see `link`)."""

    name: str
    failing_since: float | None
    answered_at: float | None
    error: str | None


class Pulse:
    """What is looked at of one database."""

    def __init__(
        self,
        options: Options,
        held: Held,
        slots: Runner,
        steering: Steered,
        hello: Greeting,
        beats: Beating,
        *,
        claims: Connection,
        commits: Connection,
        beating: Connection,
    ) -> None:
        self._options = options
        self._held = held
        self._slots = slots
        self._steering = steering
        self._hello = hello
        self._beats = beats
        self._claims = claims
        self._commits = commits
        self._beating = beating

    def feel(self, state: State, blocked: float, failure: BaseException | None) -> Health:
        """``blocked``: for how many seconds the loop has stood still. ``failure``: what ended the engine's own work."""
        now = time.monotonic()
        steps = list_running(self._held)
        if state == "running":
            state = self._steering.state
        reasons = [] if state == "running" else [_SAID[state]]
        if failure is not None:
            reasons.append(f"a task of the engine has failed: {failure!r}")
        if blocked:
            reasons.append(f"the event loop has stood still for {blocked:.1f} s")
        reasons += self._troubles(now)
        return Health(
            live=failure is None and blocked < self._options.lease_ttl.total_seconds(),
            ready=not reasons,
            state=state,
            worker=self._held.name,
            reasons=tuple(reasons),
            running=len(steps),
            claims=len(self._held),
            held=self._steering.holds,
            claimed_ago=_ago(now, self._claims.answered_at),
            committed_ago=_ago(now, self._commits.answered_at),
            renewed_ago=_ago(now, self._beats.beat_at),
            greeted_ago=_ago(now, self._hello.greeted_at),
            queues=self._queues(steps),
        )

    def _troubles(self, now: float) -> list[str]:
        found = [
            f"the connection for {link.name} has failed for {now - since:.1f} s: {link.error}"
            for link in (self._claims, self._commits, self._beating)
            if (since := link.failing_since) is not None
        ]
        beat_at, lease = self._beats.beat_at, self._options.lease_ttl.total_seconds()
        # A heartbeat that is late by a whole one is on its way to a lost lease.
        late = max(2 * self._options.heartbeat_interval, lease / 2)
        if beat_at is not None and len(self._held) and now - beat_at > late:
            found.append(f"leases were not renewed for {now - beat_at:.1f} s")
        if self._held.failing:
            found.append(f"{self._held.blocked} outcomes cannot be committed: the server has a fault")
        return found

    def _queues(self, steps: Iterable[RunningStep]) -> dict[str, QueueHealth]:
        counts = dict.fromkeys(self._options.queues, 0)
        for step in steps:
            counts[step.queue] = counts.get(step.queue, 0) + 1
        return {
            queue: QueueHealth(self._slots.limits[queue], own, counts[queue], queue in self._steering.paused)
            for queue, own in self._options.queues.items()
        }


_SAID = {
    "stopped": "it does not run",
    "starting": "it starts",
    "draining": "it was told to drain",
    "drained": "it was told to drain, and has nothing left",
    "stopping": "it stops",
}


def _ago(now: float, at: float | None) -> float | None:
    return None if at is None else max(0.0, now - at)
