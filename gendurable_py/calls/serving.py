"""Serving: workers say that they live and are told what was set for them; operators see and steer them.

The engine says `hello` and `bye` by itself. A worker that is written by hand says `hello` when it starts and at each
interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import dumps, loads
from .rows import Counts, Told, when


class Transition(NamedTuple):
    """How often a step of a machine has ended with an outcome, and where that led; ``seconds``: that these took
    together; ``since``: from when on they were counted."""

    step: str
    outcome: str
    next_step: str | None
    ended: int
    seconds: float
    since: datetime


@call
def hello(worker: str, about: Mapping[str, object] | None = None) -> Statement[Told]:
    """Say that a worker lives, and what it is; answers what it is told. ``about`` as in the SQL contract."""
    text = dumps({} if about is None else dict(about)).decode()
    return Statement("select gd_hello(%s, %s::jsonb)::text", (worker, text), _told)


def _told(rows: Rows) -> Told:
    found = cast("dict[str, Any]", loads(rows[0][0]))
    return Told(found["noted"], found["clash"], found["counted"], found["drain"], found["held"], found["queues"])


@call
def bye(worker: str) -> Statement[bool]:
    """Say that a worker has ended; False: it was not known, or somebody has locked its row."""
    return Statement("select gd_bye(%s)", (worker,), one_value)


@call
def drain_worker(worker: str) -> Statement[bool]:
    """Let a worker finish what it has and claim nothing more; False: there is no such worker."""
    return Statement("select gd_drain_worker(%s)", (worker,), one_value)


@call
def resume_worker(worker: str) -> Statement[bool]:
    """Take `drain_worker` back; False: it was not told to drain."""
    return Statement("select gd_resume_worker(%s)", (worker,), one_value)


@call
def stats(minutes: int = 60) -> Statement[list[Counts]]:
    """How many steps ended in the last minutes, by minute, machine, step and outcome; the newest first."""
    return Statement(
        # Times as numbers: how a session writes them is its own setting.
        "select extract(epoch from minute), fsm, step, outcome, count, seconds from gd_stats(%s)",
        (minutes,),
        lambda rows: [Counts.read(row) for row in rows],
    )


@call
def transitions(machine: str, minutes: int = 60) -> Statement[list[Transition]]:
    """How the steps of a machine ended in the last minutes, and which step they named next; the most frequent first."""
    return Statement(
        "select step, outcome, next_step, count, seconds, extract(epoch from since) from gd_transitions(%s, %s)",
        (machine, minutes),
        lambda rows: [Transition._make((*row[:5], when(row[5]))) for row in rows],
    )


@call
def listen_to_control() -> Statement[None]:
    """Receive the notices to workers: the channel is public, a payload says "cancel NAME", "hello NAME" or "hello"."""
    return Statement("listen gendurable_control", (), nothing)
