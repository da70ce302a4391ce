"""Running steps: async ones as tasks on the loop, sync ones on threads that a plain queue feeds.

A sync step costs no future and no wake-up of its own: the thread puts what it finished on a list, and the loop is woken
once for all that gather until it looks (a future for each step cost 99 us of CPU a step, this a tenth of it).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from . import _telemetry
from ._encode import encode_outcome, encode_stop
from .context import ClaimRow, Context
from .errors import InvalidArgument
from .fsm import Spec, Step
from .outcome import Cancel, Outcome, Stop, describe

logger = logging.getLogger("gendurable")

RUN, HANDLE, STOP = range(3)
"""What produced the outcome of a work: the step, `handle` after an error, or the last resort."""


class Work:
    """One claimed row on its way through this process."""

    __slots__ = (
        "busy",
        "ctx",
        "ended",
        "error",
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
        self.busy = 0
        self.uncertain = False
        self.started = 0.0
        self.ended = 0.0


def perform(work: Work, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Run a sync step (or what follows its rejection) in this thread, and keep its outcome on the work."""
    instrument = _telemetry.current
    if instrument is None:
        _perform(work, loop)
    else:
        with instrument.step(work):
            _perform(work, loop)


def _perform(work: Work, loop: asyncio.AbstractEventLoop | None) -> None:
    work.started = time.perf_counter()
    try:
        if work.rejection is not None:
            work.outcome = _here(recover(work, work.rejection), loop)
        else:
            work.outcome = encode_outcome(work.ctx, work.spec, work.step.run(work.ctx), work.keep)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is the step's outcome
        work.outcome = _here(recover(work, error), loop)
    work.ended = time.perf_counter()


async def perform_async(work: Work) -> None:
    """The same for an async step; a cancellation that is not the step's own passes through."""
    instrument = _telemetry.current
    if instrument is None:
        await _perform_async(work)
    else:
        with instrument.step(work):
            await _perform_async(work)


async def _perform_async(work: Work) -> None:
    work.started = time.perf_counter()
    try:
        if work.rejection is not None:
            raise work.rejection
        made: Any = work.step.run(work.ctx)
        work.outcome = encode_outcome(work.ctx, work.spec, await made, work.keep)
    except BaseException as error:
        if _is_cancelled(error):
            raise
        recovered = recover(work, error)
        work.outcome = recovered if isinstance(recovered, bytes) else await recovered
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
        return encode_stop(work.ctx, error)
    work.stage = HANDLE
    work.ctx._taken = None  # an error uses up nothing
    try:
        if work.spec.is_job and isinstance(error, Cancel):
            return encode_outcome(work.ctx, work.spec, Stop(str(error) or "cancelled"), False)
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
    return encode_outcome(work.ctx, work.spec, outcome, False)


def _failed(work: Work, failure: BaseException) -> bytes:
    work.stage = STOP
    logger.error("handle of %s %s failed", work.row.fsm, work.row.id, exc_info=failure)
    return encode_stop(work.ctx, failure)


def _broken(work: Work, error: BaseException) -> None:
    """Neither the step nor `handle` gave an outcome, and what they raised came this far."""
    logger.critical("the executor failed on %s %s", work.row.fsm, work.row.id, exc_info=error)
    work.outcome = encode_stop(work.ctx, error)


_TICK = 0.002


class Threads:
    """Daemon threads fed by one queue, started only when the ones there are cannot keep up.

    No-op steps never need more than one or two threads, and many waiting threads make each hand-over dearer; blocking
    steps need as many as there are. So while work waits, a look every 2 ms doubles the threads if the process is idle
    or all of them sit on the same step as before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, finished: Callable[[Work], None]) -> None:
        self._loop = loop
        self._limit = limit
        self._finished = finished
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._current: list[Work | None] = []
        self._seen: list[int] = []
        self._ticking = False
        self._clocks = (0.0, 0.0)

    def put(self, work: Work) -> None:
        self._queue.put(work)
        if not self._ticking:
            self._ticking = True
            if not self._threads:
                self._start()
            self._clocks = (time.process_time(), time.perf_counter())
            self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        waiting = self._queue.qsize()
        if not waiting:
            self._ticking = False
            return
        count = len(self._threads)
        cpu, clock = time.process_time(), time.perf_counter()
        idle = cpu - self._clocks[0] < 0.7 * (clock - self._clocks[1])
        # Told apart by their addresses: the works themselves would be kept until the next look.
        current = list(map(id, self._current))
        stuck = all(a == b for a, b in zip(current, self._seen, strict=False))
        self._clocks, self._seen = (cpu, clock), current
        # A thread that is between two steps will take what waits: only if all are in one is another needed.
        if all(self._current) and (idle or stuck):
            for _ in range(min(count, waiting, self._limit - count)):
                self._start()
        self._loop.call_later(_TICK, self._tick)

    def _start(self) -> None:
        slot = len(self._threads)
        self._current.append(None)
        thread = threading.Thread(target=self._main, args=(slot,), name=f"gendurable-{slot}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _main(self, slot: int) -> None:
        current, get, loop, finished = self._current, self._queue.get, self._loop, self._finished
        while (work := get()) is not None:
            current[slot] = work
            if not work.ctx._cancelled:
                try:
                    perform(work, loop)
                except BaseException as error:  # noqa: BLE001 - without its thread the slot would be lost for ever
                    _broken(work, error)
            current[slot] = None
            finished(work)
            del work

    def withdraw(self) -> list[Work]:
        """Take back what no thread has started."""
        taken: list[Work] = []
        while True:
            try:
                work = self._queue.get_nowait()
            except Empty:
                return taken
            if work is not None:
                taken.append(work)

    def close(self) -> None:
        """Let every thread end after its step; those that sit in a step for ever are daemons."""
        for _ in self._threads:
            self._queue.put(None)

    async def join(self, deadline: float) -> int:
        """Wait until they have ended; answers how many have not."""
        while (  # noqa: ASYNC110 - a thread's end sets no event
            alive := sum(thread.is_alive() for thread in self._threads)
        ) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return alive


class Executor:
    """Starts works within the limits of their queues, and gives back on the loop what has ended."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Mapping[str, int],
        finished: Callable[[list[Work]], None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._on_finished = finished
        self._threads = Threads(loop, max(1, sum(limits.values())), self._finish)
        self._finished: deque[Work] = deque()
        self._woken = False
        self._running = dict.fromkeys(limits, 0)
        self._backlog: dict[str, deque[Work]] = {queue: deque() for queue in limits}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    def load(self, queue: str) -> int:
        """Works of a queue that have not ended: running, or waiting here for a slot."""
        return self._running[queue] + len(self._backlog[queue])

    @property
    def running(self) -> int:
        return sum(self._running.values())

    @property
    def draining(self) -> bool:
        return self._draining

    def submit(self, work: Work) -> None:
        if self._running[work.queue] < self._limits[work.queue] or self._draining:
            self._start(work)
        else:
            self._backlog[work.queue].append(work)

    def _start(self, work: Work) -> None:
        self._running[work.queue] += 1
        if not work.step.is_async:
            self._threads.put(work)
            return
        work.task = task = self._loop.create_task(perform_async(work))
        self._tasks.add(task)
        # Not a "finally" in the coroutine: one that is cancelled before its first step never runs.
        task.add_done_callback(functools.partial(self._task_done, work))

    def _task_done(self, work: Work, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        work.task = None
        if task.cancelled():
            work.outcome = None
        elif (error := task.exception()) is not None:
            _broken(work, error)
        self._finished.append(work)
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._collect)

    def _finish(self, work: Work) -> None:
        """Called in a thread. The flag is read after the append: whoever clears it looks at the list afterwards."""
        self._finished.append(work)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the engine did not wait for this step
                self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        self._woken = False
        finished, done = self._finished, []
        while finished:
            work = finished.popleft()
            self._running[work.queue] -= 1
            done.append(work)
            backlog = self._backlog[work.queue]
            if backlog and not self._draining:
                self._start(backlog.popleft())
        if done:
            self._on_finished(done)

    def lose(self, work: Work) -> None:
        """The claim is lost: tell the step, and end it if it is a task."""
        work.ctx._cancelled = True
        if work.task is not None:
            work.task.cancel()

    def withdraw(self) -> list[Work]:
        """Start nothing more; answers what had not been started."""
        self._draining = True
        taken = [work for backlog in self._backlog.values() for work in backlog]
        for backlog in self._backlog.values():
            backlog.clear()
        for work in self._threads.withdraw():
            self._running[work.queue] -= 1
            taken.append(work)
        return taken

    async def cancel_tasks(self) -> list[asyncio.Task[None]]:
        """End the async steps that still run; those that will not be cancelled within a second are answered."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
            await asyncio.sleep(0)
        self._collect()
        left = [task for task in tasks if not task.done()]
        if left:
            logger.warning("%d steps do not end when cancelled; what they hold is left to its lease", len(left))
        return left

    async def close(self, deadline: float) -> int:
        """End the threads; answers how many sit in a step beyond the deadline."""
        self._threads.close()
        return await self._threads.join(deadline)
