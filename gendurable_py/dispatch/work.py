"""One claimed row on its way through this process."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from ..machine.context import ClaimRow, Context
from ..machine.fsm import Spec, Step

RUN, HANDLE, STOP = range(3)
"""What produced the outcome of a work: the step, `handle` after an error, or the last resort."""


class Work:
    """One claimed row on its way through this process."""

    __slots__ = (
        "busy",
        "ctx",
        "ended",
        "error",
        "handed_over",
        "keep",
        "outcome",
        "queue",
        "rejection",
        "row",
        "since",
        "spec",
        "stage",
        "started",
        "step",
        "task",
        "uncertain",
        "worker",
    )

    def __init__(self, row: ClaimRow, spec: Spec, step: Step, worker: str, since: float, keep: bool) -> None:
        self.row = row
        self.spec = spec
        self.step = step
        self.worker = worker
        self.queue = row.queue
        self.ctx: Context[Any] = Context(row, spec.codec)
        self.since = since  # when it was claimed as a due row: run-ahead does not go on for ever
        self.keep = keep
        self.stage = RUN
        self.outcome: bytes | None = None
        self.error: BaseException | None = None
        self.rejection: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.handed_over: set[Future[Any]] | None = None
        self.busy = 0
        self.uncertain = False
        self.started = 0.0
        self.ended = 0.0


def about(work: Work) -> dict[str, object]:
    """What an event says of the work that it is about."""
    return {"id": work.row.id, "fsm": work.row.fsm, "step": work.row.step}
