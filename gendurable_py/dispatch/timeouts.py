"""Timeouts of steps: what is to be done when the time of one is up, and when it is running out before the step began.

The server counts from the claim, and takes a claim away that is not settled by then. Here the clock runs from when the
claim came, and rings a little earlier: the error that is committed must not come too late. What still runs is told, its
task is cancelled, and whatever it makes of that is dropped.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from .._log import logger
from ..machine.last_resort import encode_error
from ..machine.tracebacks import describe_stack
from ..telemetry.events import Emit, StepTimedOut
from .answers import HANDLE
from .work import Held, Holding, Runner, Work

_MARGIN = 1.0
_MARGIN_PART = 0.1
_MOST_FRAMES = 60


class Timeouts:
    """Watches the works of one database whose steps have a timeout."""

    def __init__(
        self,
        executor: Runner,
        held: Held,
        emit: Emit,
        *,
        settle: Callable[[list[Work]], None],
        give_back: Callable[[Iterable[Holding]], None],
    ) -> None:
        self._executor = executor
        self._held = held
        self._emit = emit
        self._settle = settle
        self._give_back = give_back

    def watch(self, work: Work, timeout: float) -> None:
        """Before it is submitted."""
        work.turn = threading.Lock()
        self._ring(work, timeout, timeout / 2, self._look)

    def leave(self, work: Work) -> None:
        """It has ended, or is of no use any more."""
        if work.timer is not None:
            work.timer.cancel()
        work.timer = work.turn = None

    def stop(self) -> None:
        for work in self._held.all():
            if isinstance(work, Work):
                self.leave(work)

    def _ring(self, work: Work, timeout: float, after: float, call: Callable[[Work, float], None]) -> None:
        left = work.since + after - time.monotonic()
        work.timer = asyncio.get_running_loop().call_later(max(0.0, left), call, work, timeout)

    def _look(self, work: Work, timeout: float) -> None:
        """Half of the time has passed: what has not begun is left to somebody who has a free slot."""
        work.timer = None
        if self._executor.take_back(work):
            self._give_back([work])
        else:
            self._ring(work, timeout, timeout - min(_MARGIN, timeout * _MARGIN_PART), self._end)

    def _end(self, work: Work, timeout: float) -> None:
        work.timer = None
        row = work.row
        if work.outcome is not None or work.fate is not None or self._held.get(row.id, row.claim_no) is not work:
            return
        logger.warning(
            "step %s of %s %s is not over after %g s: it counts as an error%s",
            row.step,
            row.fsm,
            row.id,
            timeout,
            "" if work.step.is_async else ", and its thread keeps its slot until it ends",
        )
        verdict = Work(row, work.spec, work.step, work.worker, work.since, False)
        verdict.stage = HANDLE
        message = f"timed out after {timeout:g} s in step '{row.step}'"
        verdict.outcome = encode_error(row, message, describe_stack(_list_frames(work.task)))
        self._held.add(verdict)
        work.lose()
        self._settle([verdict])
        self._emit(StepTimedOut(timeout, row.attempt, row.id, row.fsm, row.step))


def _list_frames(task: asyncio.Task[None] | None) -> list[tuple[FrameType, int]]:
    """Where an async step stands, from the outermost call on: what each coroutine awaits."""
    frames: list[tuple[FrameType, int]] = []
    awaited: Any = None if task is None else task.get_coro()
    while inspect.iscoroutine(awaited) and len(frames) < _MOST_FRAMES:
        if awaited.cr_frame is not None:
            frames.append((awaited.cr_frame, awaited.cr_frame.f_lineno))
        awaited = awaited.cr_await
    return frames
