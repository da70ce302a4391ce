"""Driving flows: their functions run in slices as callbacks of the engine's loop, their steps as tasks or in threads.

A work of a flow has a `Driven`. It goes round until there is something to commit, then the work has its outcome and
goes to the committer as any other; if its claim is kept, the same run goes on (`resume`). Slices are callbacks and
never parts of a task: a thread has one current task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from .._log import logger
from ..flow.entries import Entry
from ..flow.errors import say
from ..flow.loop import Around, look_around
from ..flow.moves import Move, decide
from ..flow.run import Run
from ..flow.waiting import StepCall
from ..machine.context import Draining
from ..telemetry.flow_events import Checkpoint, Replayed, Suspended
from ..telemetry.instrument import Emitter
from .answers import HANDLE, Fate
from .at_once import AtOnce
from .contexts import Contexts
from .work import Work, break_off


class Driven:
    """One flow that is claimed here: its run, which outlives the works that its commits give."""

    __slots__ = ("_flows", "active", "begun", "halted", "replays", "reserves", "run", "timer", "wanted", "work")

    def __init__(self, flows: Flows, work: Work, run: Run) -> None:
        self._flows = flows
        self.work = work
        self.run = run
        self.replays = run.count
        """How many entries it is to be given before it is where it was."""
        self.timer: asyncio.TimerHandle | None = None
        self.active = False
        """Whether it has a slot; else its outcome is on its way, or it waits for one."""
        self.begun = False
        """Whether it has had a slot."""
        self.reserves = False
        """Whether its slot waits for it, since steps of it run while an outcome is on its way."""
        self.halted = False
        """Whether it keeps its claim for the end of the steps that run: no others begin."""
        self.wanted = False
        """Whether it is in line to go on."""

    @property
    def busy(self) -> bool:
        """Whether steps of it run, or have ended and are not on their way to the journal."""
        return self.run.unsettled

    @property
    def step(self) -> str:
        """The step of its row, by the last of its outcomes that goes on."""
        return self.run.stands

    def close(self) -> None:
        """It is over here: its function is suspended, and async steps that still run are cancelled."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._flows.free(self)
        self._flows.shut(self.run)

    def lose(self) -> None:
        """Nothing of it will be committed."""
        self.close()
        if self.active:
            self._flows.leave(self, None)


class Flows:
    """Drives the flows of an engine. ``in_thread``: has a sync step run in a thread; ``run_step``: runs an
    async one. ``freed``: called when a slot that was reserved waits for nobody any more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        contexts: Contexts,
        in_thread: Callable[[StepCall], None],
        run_step: Callable[[StepCall], Coroutine[Any, Any, None]],
        moved: Callable[[Work], None],
        freed: Callable[[str], None],
        draining: Draining,
        emit: Emitter,
    ) -> None:
        self._loop = loop
        self._contexts = contexts
        self._own = contexts.fresh()
        self._at_once = AtOnce(loop, self._own)
        self._in_thread = in_thread
        self._run_step = run_step
        self._moved = moved
        self._freed = freed
        self._told = draining
        self._emit = emit
        self._tasks: dict[asyncio.Task[None], StepCall] = {}
        self._active: dict[Driven, None] = {}
        self._due: list[Driven] = []
        self._begun: list[StepCall] = []
        """Async steps that begin after the slices of this round."""
        self._ended: list[StepCall] = []
        self._shut: list[Run] = []
        self._woken = False
        self.slicing: Work | None = None
        """Whose function runs at this moment."""

    def prepare(self, work: Work, journal: Sequence[Entry], seed: str) -> None:
        """Give a work its run. Nothing of the function runs yet."""
        context = self._contexts.fresh()
        work.stage = HANDLE  # what the server refuses is no matter for `handle`: it ends the instance
        work.flow = Driven(self, work, work.spec.begin(work.row, journal, seed, context))  # type: ignore[attr-defined]

    def start(self, work: Work) -> None:
        """It has a slot."""
        driven = work.flow
        assert isinstance(driven, Driven)
        work.started, work.ended = time.perf_counter(), 0.0
        driven.active = driven.begun = True
        self._active[driven] = None
        if not (self._told.told or driven.halted or driven.replays) and (calls := driven.run.start_only()):
            self._start_calls(driven, calls)  # going round would come to no more than that
            self._wake()
        else:
            self._want(driven)

    def leave(self, driven: Driven, outcome: bytes | None) -> None:
        """It gives up its slot: with an outcome, or without."""
        driven.active = False
        del self._active[driven]
        if driven.timer is not None:
            driven.timer.cancel()
            driven.timer = None
        work = driven.work
        work.outcome = outcome
        work.ended = time.perf_counter()
        self._moved(work)

    def free(self, driven: Driven) -> None:
        """It needs no slot any more that is reserved."""
        if driven.reserves:
            driven.reserves = False
            self._freed(driven.work.queue)

    def working(self, task: asyncio.Task[Any] | None) -> Work | None:
        call = None if task is None else self._tasks.get(task)
        return self.slicing if call is None else call.owner.work

    def shut(self, run: Run) -> None:
        """Suspend it, as soon as there is a slice for that."""
        if not run.closed:
            run.shut()
            self._shut.append(run)
            self._wake()

    # Going round

    def _want(self, driven: Driven) -> None:
        if not driven.wanted:
            driven.wanted = True
            self._due.append(driven)
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._go_round, context=self._own)

    def _go_round(self) -> None:
        self._woken = False
        ended, self._ended = self._ended, []
        for call in ended:
            driven = call.owner
            try:
                self._end(driven, call)
            except BaseException as error:  # noqa: BLE001 - an error brings code of its own, and it is about this flow
                self._break_off(driven, error)
            if driven.active and not driven.wanted:  # its turn is in this round
                driven.wanted = True
                self._due.append(driven)
        due, self._due = self._due, []
        around = look_around()
        for driven in due:
            driven.wanted = False
            if not driven.active:
                continue
            if driven.run.closed:
                # It was lost while it waited for a slot, or had to be broken off.
                self.leave(driven, driven.work.outcome)
                continue
            self.slicing = driven.work
            try:
                self._drive(driven, around)
            except BaseException as error:  # noqa: BLE001 - a defect, and it is about this flow alone
                self._break_off(driven, error)
            finally:
                self.slicing = None
        begun, self._begun = self._begun, []
        for call in begun:
            # After all slices, one like the other: code that has just run runs faster.
            self.slicing = call.owner.work
            try:
                self._begin(call)
            except BaseException as error:  # noqa: BLE001 - as above
                self._break_off(call.owner, error)
            finally:
                self.slicing = None
        shut, self._shut = self._shut, []
        for run in shut:
            try:
                run.clear_away()
            except BaseException:  # noqa: BLE001 - it is over
                logger.exception("what a flow has left behind cannot be ended: %s %s", run.row.fsm, run.row.id)

    def _break_off(self, driven: Driven, error: BaseException) -> None:
        driven.close()
        if driven.active:
            break_off(driven.work, error)
            self.leave(driven, driven.work.outcome)

    def _drive(self, driven: Driven, around: Around) -> None:
        run = driven.run
        if not run.advance(around):
            if self._told.told and driven.replays:
                self._leave_unchanged(driven)  # another one begins the replay that would not end here
            else:
                self._want(driven)  # a long replay: others have their turn meanwhile
            return
        if driven.replays:
            if self._emit.heard:
                row, seconds = run.row, time.perf_counter() - driven.work.started
                self._emit(Replayed(driven.replays, seconds, row.id, row.fsm))
            driven.replays = 0
        told = self._told.told
        # A halted one asks once more: what halted it may be over.
        move = decide(run, keep=not told or run.goes_on)
        if move is not None:
            self._send(driven, move)
            return
        if told or driven.halted:
            if not run.running:
                self._leave_unchanged(driven)
                return
        else:
            self._start_calls(driven, run.start_calls())
        if driven.timer is not None:
            driven.timer.cancel()
            driven.timer = None
        nearest = run.nearest() if run.timed else None
        if nearest is not None and nearest.deadline is not None and not run.sent:
            left = max(0.0, nearest.deadline - time.time())
            driven.timer = self._loop.call_later(min(left, 86_400), self._want, driven, context=self._own)

    def _start_calls(self, driven: Driven, calls: list[StepCall]) -> None:
        for call in calls:
            call.owner = driven
            if call.step.about.is_async:
                self._begun.append(call)
            else:
                self._in_thread(call)

    def _leave_unchanged(self, driven: Driven) -> None:
        """Nothing is ready: it is given back."""
        if driven.halted:
            driven.work.fate = Fate.HALTED
        driven.close()
        self.leave(driven, None)

    def _end(self, driven: Driven, call: StepCall) -> None:
        """A step has ended."""
        run = driven.run
        if call.fate is not None:
            driven.close()
            driven.work.fate = call.fate
            if driven.active:
                self.leave(driven, None)
            return
        failed = call.error
        run.step_ended(call)
        if self._emit.heard and not run.closed:
            row, step = run.row, call.step
            error = None if failed is None else say(failed)
            kind = "retry" if step.deadline is not None else "step"
            seconds = call.ended - call.started
            self._emit(Checkpoint(seconds, step.attempts, row.id, row.fsm, kind, step.name, error))

    def _send(self, driven: Driven, move: Move) -> None:
        driven.work.keep = move.keep
        if not move.keep:
            if move.parked is not None and self._emit.heard:
                self._emit(Suspended(driven.run.row.id, driven.run.row.fsm, move.parked))
            driven.close()
        self.leave(driven, move.outcome)

    def resume(self, work: Work) -> None:
        """Its claim was kept. It has a slot next."""
        driven = work.flow
        assert isinstance(driven, Driven)
        run = driven.run
        taken = run.hand_out is not None and run.taken
        run.committed(work.row)
        if taken and run.hand_out is None and self._emit.heard:
            self._emit(Checkpoint(0.0, 0, work.row.id, work.row.fsm, taken, run.checkpoint or "", None))

    # Steps

    def _begin(self, call: StepCall) -> None:
        """Begin an async step. One that waits for nothing has ended then."""
        if call._cancelled:
            self.call_ended(call)  # nobody waits for it any more
            return
        if self._told.told:
            self.withdraw(call)
            return
        loop, context, coro = self._loop, call.step.context, self._run_step(call)
        if loop.get_task_factory() is None:
            task = self._at_once.begin(coro, context)
        else:
            task = context.run(loop.create_task, coro)
        if task is None:
            self.call_ended(call)
            return
        call.task = task
        self._tasks[task] = call
        task.add_done_callback(self._task_done, context=self._own)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        call.task = None
        if task.cancelled() and self._told.told and not call.owner.run.closed:
            call.owner.run.not_begun(call)  # broken off at the end: it begins another time
            if call.owner.active:
                self._want(call.owner)
            return
        self.call_ended(call)

    def call_ended(self, call: StepCall) -> None:
        """On the loop: a step has ended, in its task or its thread."""
        self._ended.append(call)
        self._wake()

    def withdraw(self, call: StepCall) -> None:
        """It was not begun, in no thread and no task, and will not be."""
        driven = call.owner
        driven.run.not_begun(call)
        if driven.active:
            self._want(driven)

    # The end

    def cancel(self) -> list[asyncio.Task[None]]:
        """End the async steps: what is ready is committed, and the rest given back."""
        for driven in list(self._active):
            self._want(driven)
        for task, call in list(self._tasks.items()):
            call._cancelled = True
            task.cancel()
        return list(self._tasks)

    async def hurry(self) -> None:
        """All have had their chance: go round once more."""
        for driven in list(self._active):
            self._want(driven)
        await asyncio.sleep(0)
