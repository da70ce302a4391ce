"""Running steps: async ones as tasks on the loop, sync ones on threads that a plain queue feeds.

A sync step costs no future and no wake-up of its own: the thread puts what it finished on a list, and the loop is woken
once for all that gather until it looks (a future for each step cost 99 us of CPU a step, this a tenth of it).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from .._log import logger
from ..flow.waiting import StepCall
from ..machine.context import Draining
from ..telemetry.instrument import Emitter
from .contexts import Contexts
from .flow_steps import run_in_task, run_in_thread
from .flowing import Flows
from .offload import handed_over
from .perform import perform, perform_async
from .threads import Threads
from .work import Work, break_off


class Executor:
    """Starts works within the limits of their queues, and gives back on the loop what has ended."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Mapping[str, int],
        finished: Callable[[list[Work]], None],
        draining: Draining,
        emit: Emitter,
    ) -> None:
        self._loop = loop
        self._told = draining
        # Each run of a step has a context of its own, which begins as this one is now.
        self._contexts = Contexts()
        self._callbacks = self._contexts.fresh()
        self.limits = dict(limits)
        """How many of each queue run at once, as it is now."""
        self._on_finished = finished
        self._threads = Threads(loop, max(1, sum(limits.values())), _perform, self._finish, self._contexts)
        self._flows = Flows(
            loop, self._contexts, self._threads.put, run_in_task, self._moved, self._freed, draining, emit
        )
        self._finished: deque[Work | StepCall] = deque()
        self._woken = False
        self._running = dict.fromkeys(limits, 0)
        # Slots of flows whose steps run while an outcome is on its way.
        self._reserved = dict.fromkeys(limits, 0)
        self._backlog: dict[str, deque[Work]] = {queue: deque() for queue in limits}
        self._tasks: dict[asyncio.Task[Any], Work] = {}
        self._outliving: set[Work] = set()
        self._draining = False
        self._closed = False
        self._on_task_done = self._task_done

    def load(self, queue: str) -> int:
        """Works of a queue that have not ended: running, or waiting here for a slot."""
        return self._running[queue] + len(self._backlog[queue])

    @property
    def running(self) -> int:
        return sum(self._running.values())

    @property
    def draining(self) -> bool:
        return self._draining

    def prepare(self, work: Work, journal: Sequence[Mapping[str, Any]], seed: str) -> None:
        """Before the submit of a flow: what it has committed so far."""
        self._flows.prepare(work, journal, seed)

    def resume(self, work: Work) -> None:
        """A flow goes on whose claim was kept: as soon as there is a slot, where no steps of it run."""
        self._flows.resume(work)
        assert work.flow is not None
        if work.flow.reserves:
            work.flow.reserves = False
            self._reserved[work.queue] -= 1
            self._start(work)
        else:
            self.submit(work)

    def submit(self, work: Work) -> None:
        if self._has_room(work.queue) or self._draining:
            self._start(work)
        else:
            work.waits_since = time.monotonic()
            self._backlog[work.queue].append(work)

    def _has_room(self, queue: str) -> bool:
        # Where nothing more is to start, what was claimed still runs, one by one.
        return self._running[queue] + self._reserved[queue] < max(1, self.limits[queue])

    def set_limit(self, queue: str, limit: int) -> None:
        """Run so many of a queue at once from now on. What runs beyond that goes on to its end."""
        self.limits[queue] = limit
        self._threads.allow(sum(self.limits.values()))
        self._start_waiting(queue)

    def _start_waiting(self, queue: str) -> None:
        backlog = self._backlog[queue]
        while backlog and self._has_room(queue) and not self._draining:
            self._start(backlog.popleft())

    def _start(self, work: Work) -> None:
        work.ctx._draining = self._told
        if work.flow is not None:
            self._running[work.queue] += 1
            self._flows.start(work)
            return
        if not work.step.is_async:
            self._running[work.queue] += 1
            self._threads.put(work)
            return
        if work.turn is not None:
            work.turn.acquire(blocking=False)
        work.handed_over = calls = set[Future[Any]]()
        context = self._contexts.fresh()
        context.run(handed_over.set, calls)
        if self._loop.get_task_factory() is None:
            task = self._loop.create_task(perform_async(work), context=context)
        else:  # it may take no context
            task = context.run(self._loop.create_task, perform_async(work))
        self._running[work.queue] += 1
        work.task = task
        self._tasks[task] = work
        # Not a "finally" in the coroutine: one that is cancelled before its first step never runs.
        task.add_done_callback(self._on_task_done, context=self._callbacks)

    def working(self, task: asyncio.Task[Any] | None) -> Work | None:
        """What a task works on; without a task, whose slice of a flow runs."""
        return (None if task is None else self._tasks.get(task)) or self._flows.working(task)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        work = self._tasks.pop(task)
        work.task = None
        if task.cancelled():
            work.outcome = None
            if work.handed_over:
                # The task has ended, the step has not: it works on in a thread, with its claim and its slot.
                self._outliving.add(work)
                for call in list(work.handed_over):
                    call.add_done_callback(functools.partial(self._call_done, work))
                self._call_done(work)  # they may have ended meanwhile
                return
        elif (error := task.exception()) is not None:
            break_off(work, error)
        self._moved(work)

    def _moved(self, work: Work) -> None:
        """On the loop: it is ready for its commit."""
        self._finished.append(work)
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._collect, context=self._callbacks)

    def _freed(self, queue: str) -> None:
        self._reserved[queue] -= 1
        self._start_waiting(queue)

    def _call_done(self, work: Work, _: Future[Any] | None = None) -> None:
        """Called in any thread. The last of the calls is the end of the step, and one of those that come last tells."""
        if not work.handed_over:
            with contextlib.suppress(KeyError):
                self._outliving.remove(work)
                self._finish(work)

    def _finish(self, work: Work | StepCall) -> None:
        """Called in a thread. The flag is read after the append: whoever clears it looks at the list afterwards."""
        self._finished.append(work)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the engine did not wait for this step
                self._loop.call_soon_threadsafe(self._collect, context=self._callbacks)

    def _collect(self) -> None:
        self._woken = False
        if self._closed:
            return
        finished, done = self._finished, []
        while finished:
            work = finished.popleft()
            if isinstance(work, StepCall):
                self._flows.call_ended(work)
                continue
            self._running[work.queue] -= 1
            if work.flow is not None and work.keep and work.flow.busy:
                work.flow.reserves = True
                self._reserved[work.queue] += 1
            done.append(work)
            if self._backlog[work.queue]:
                self._start_waiting(work.queue)
        if done:
            self._on_finished(done)

    def waiting_since(self, queue: str) -> float | None:
        """Since when the first of those that wait for a first slot waits, which may have been claimed long before."""
        return next((work.waits_since for work in self._backlog[queue] if not _has_begun(work)), None)

    def take_waiting(self, queue: str) -> list[Work]:
        """Those that wait for a first slot: they will not be started here."""
        backlog = self._backlog[queue]
        taken = [work for work in backlog if not _has_begun(work)]
        self._backlog[queue] = deque(work for work in backlog if _has_begun(work))
        return _not_started(taken)

    def take_back(self, work: Work) -> bool:
        """Whether a timed step had not begun; then it will not."""
        if work.turn is None or not work.turn.acquire(blocking=False):
            return False
        with contextlib.suppress(ValueError):
            self._backlog[work.queue].remove(work)
        work.ctx._cancelled = True  # if it is on its way to a thread
        return True

    def withdraw(self) -> list[Work]:
        """Start nothing more; answers what had not been started."""
        self._draining = True
        taken = [work for backlog in self._backlog.values() for work in backlog]
        for backlog in self._backlog.values():
            backlog.clear()
        for one in self._threads.withdraw():
            if isinstance(one, StepCall):
                self._flows.withdraw(one)
            else:
                self._running[one.queue] -= 1
                taken.append(one)
        return _not_started(taken)

    async def cancel_tasks(self) -> list[asyncio.Task[None]]:
        """End the async steps that still run; those that will not be cancelled within a second are answered."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        tasks += self._flows.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
            await asyncio.sleep(0)
        # A thread that looks at `ctx.draining` may be about to end.
        for _ in range(20):
            if not self._outliving:
                break
            await asyncio.sleep(0.01)
        await self._flows.hurry()
        self._collect()
        left = [task for task in tasks if not task.done()]
        if left:
            logger.warning("%d steps do not end when cancelled; what they hold is left to its lease", len(left))
        return left

    async def close(self, deadline: float) -> int:
        """End the threads; answers how many sit in a step beyond the deadline."""
        self._threads.close()
        left = await self._threads.join(deadline)
        self._closed = True  # what comes now comes too late, and belongs to no other run of the engine
        return left + len(self._outliving)


def _has_begun(work: Work) -> bool:
    """Whether it is a flow that only goes on."""
    return work.flow is not None and work.flow.begun


def _not_started(works: list[Work]) -> list[Work]:
    """These will not be: of a flow nothing is kept."""
    for work in works:
        work.end_flow()
    return works


def _perform(work: Work | StepCall, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread."""
    if isinstance(work, StepCall):
        run_in_thread(work)
    else:
        perform(work, loop)
