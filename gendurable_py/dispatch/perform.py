"""One run of a step: what it returns, or what becomes of what it raises.

Whatever a step does, the work has an outcome or a fate afterwards, or its task was cancelled. An executor runs this;
the committer comes next. Steps in a transaction are run by `transaction`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from .._log import logger
from ..errors import InvalidArgument
from ..machine.describe import describe
from ..machine.encode import encode_outcome
from ..machine.last_resort import encode_stop, encode_traceback
from ..machine.outcome import Outcome, Retry, Stop
from ..machine.tracebacks import describe_traceback, was_raised
from ..telemetry import instrument as telemetry
from . import fork
from .answers import HANDLE, RUN, STOP
from .work import Work


def perform(work: Work, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Run a sync step (or what follows its rejection) in this thread, and keep its outcome on the work."""
    instrument = telemetry.current
    if instrument is None:
        _perform(work, loop)
    else:
        with instrument.step(work):
            _perform(work, loop)


def _perform(work: Work, loop: asyncio.AbstractEventLoop | None) -> None:
    work.started = time.perf_counter()
    born = fork.generation
    try:
        if work.rejection is not None:
            work.outcome = _here(recover(work, work.rejection), loop)
        elif work.transactions is not None:
            work.transactions.run(work)
        else:
            work.outcome = encode_outcome(work.ctx, work.spec, work.step.run(work.ctx), work.keep)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is the step's outcome
        if fork.generation != born:
            fork.leave(error)
        work.outcome = _here(recover(work, error), loop)
    if fork.generation != born:
        fork.leave(None)
    work.ended = time.perf_counter()


async def perform_async(work: Work) -> None:
    """The same for an async step; a cancellation that is not the step's own passes through."""
    instrument = telemetry.current
    if instrument is None:
        await _perform_async(work)
    else:
        with instrument.step(work):
            await _perform_async(work)


async def _perform_async(work: Work) -> None:
    work.started = time.perf_counter()
    born = fork.generation
    try:
        if work.rejection is not None:
            raise work.rejection
        if work.transactions is not None:
            await work.transactions.run_async(work)
        else:
            made: Any = work.step.run(work.ctx)
            work.outcome = encode_outcome(work.ctx, work.spec, await made, work.keep)
    except BaseException as error:
        if fork.generation != born:
            fork.leave(error)
        if _is_cancelled(error):
            raise
        recovered = recover(work, error)
        work.outcome = recovered if isinstance(recovered, bytes) else await recovered
    if fork.generation != born:
        fork.leave(None)
    work.ended = time.perf_counter()


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is the cancellation of the task that runs, and not one that the step raised itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _here(recovered: bytes | Coroutine[Any, Any, bytes], loop: asyncio.AbstractEventLoop | None) -> bytes:
    """The outcome of an async `handle`, from a thread."""
    if isinstance(recovered, bytes):
        return recovered
    if loop is None:
        return asyncio.run(recovered)
    return asyncio.run_coroutine_threadsafe(recovered, loop).result()


def recover(work: Work, error: BaseException) -> bytes | Coroutine[Any, Any, bytes]:
    """The outcome after an error: what `handle` says. What it raises, or a second error, stops the instance."""
    work.error = error
    work.keep = False
    if work.stage != RUN:
        work.stage = STOP
        return encode_stop(work.row, error)
    work.stage = HANDLE
    work.ctx._taken = None  # an error uses up nothing
    try:
        decided = work.spec.read_error(error)
        if decided is not None:
            return encode_outcome(work.ctx, work.spec, decided, False)
        logger.warning("step %s of %s %s failed", work.row.step, work.row.fsm, work.row.id, exc_info=error)
        if not isinstance(error, Exception):
            error = RuntimeError(f"the step raised {describe(error)}")
        outcome: object = work.spec.instance.handle(error, work.ctx)
        if inspect.iscoroutine(outcome):
            return _awaited(work, outcome)
        return _handled(work, outcome)
    except BaseException as failure:  # noqa: BLE001 - a handler may raise anything; SystemExit would end the thread
        return _failed(work, failure)


async def _awaited(work: Work, outcome: Coroutine[Any, Any, object]) -> bytes:
    try:
        return _handled(work, await outcome)
    except BaseException as failure:
        if _is_cancelled(failure):
            raise
        return _failed(work, failure)


def _handled(work: Work, outcome: object) -> bytes:
    if not isinstance(outcome, Outcome):
        raise InvalidArgument(f"handle of {work.row.fsm} returned {type(outcome).__name__}, which is no outcome")
    if isinstance(outcome, Stop) and outcome.consume is None:
        outcome = replace(outcome, consume=())  # it gives in to an error, and an error uses up nothing
    text = encode_outcome(work.ctx, work.spec, outcome, False)
    if isinstance(outcome, (Stop, Retry)) and not was_raised(outcome.reason):
        text = text[:-1] + encode_traceback(describe_traceback(work.error)) + b"}"
    return text


def _failed(work: Work, failure: BaseException) -> bytes:
    work.stage = STOP
    logger.error("handle of %s %s failed", work.row.fsm, work.row.id, exc_info=failure)
    return encode_stop(work.row, failure)
