"""One run of a flow, from its claim until it parks or ends.

Nothing here touches a connection or the engine's loop. Whoever drives it (`dispatch.flowing`, the testing kit) calls
`advance` until it is at rest, runs the calls that `start_calls` answers and tells `step_ended`, and commits the move
that `moves.decide` makes.

A step begins only when all that it may depend on is committed. What it gave goes to the function at once, which has no
effects of its own; so the journal has everything in the order in which the function met it.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ..machine.claim import ClaimRow
from ..machine.context import read_signals
from . import entries
from .entries import Entry
from .errors import FlowError, StepFailed, list_kinds, say
from .loop import Around
from .replay import give
from .state import MOST_ENTRIES, RunState
from .waiting import StepCall, StepWait

_SLICE = 2_000
_SLICE_SECONDS = 0.02
"""After so long a replay lets others have their turn: what a function does between two entries may take its time."""
_MOST_CALLBACKS = 2_000_000
_LAST_CALLBACKS = 20_000

_DECIDED = "gendurable_py.machine.outcome.Cancel"


class Run(RunState):
    """``make``: begins the function, as a coroutine. ``context``: the variables that it begins with."""

    __slots__ = ("_callbacks",)

    def __init__(
        self,
        row: ClaimRow,
        journal: Sequence[Entry],
        seed: str,
        make: Callable[[RunState], Coroutine[Any, Any, Any]],
        context: contextvars.Context,
    ) -> None:
        super().__init__(row, journal, seed)
        self._callbacks = 0
        if journal and journal[0].get("k") == "start":
            self.began_at = self.clock = float(journal[0]["at"])
            self.seed = str(journal[0]["seed"])
            self.position = 1
        else:
            self.fresh.append(entries.start(self.clock, seed))
        try:
            coro = context.run(make, self)
        except Exception as error:  # noqa: BLE001 - what is stored does not fit the function, for example
            self.problem = error
        else:
            self.main = self.loop.create_task(coro, name="flow", context=context)

    def advance(self, around: Around | None = None) -> bool:
        """Run until the function waits and has all that its journal has; False: there is more, call it again.
        ``around``: what `loop.look_around` says, if that is known."""
        left, until = _SLICE, 0.0
        while not self.closed and self.problem is None and self.main is not None:
            if self.loop.ready:
                before, left = left, self.loop.run(left, around)
                self._callbacks += before - left
            if not left:
                if self._callbacks > _MOST_CALLBACKS:
                    self.fatal = FlowError("the function does not come to rest: it never waits for a checkpoint")
                    return True
                return False
            if self.position == len(self.journal):
                call = self.late.pop(0) if self.late and self.hand_out is None else None
                if call is None:
                    break
                self.step_ended(call)
                continue
            try:
                self._give_next()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an entry, the function cannot go on
                self.problem = error
                break
            left = max(1, left - 10)
            if self.position < len(self.journal):
                until = until or time.perf_counter() + _SLICE_SECONDS
                if time.perf_counter() > until:
                    return False
        self.journal, self.position, self._callbacks = (), 0, 0
        return True

    def _give_next(self) -> None:
        """The next entry, and those that came along with it."""
        while True:
            give(self, self.journal[self.position])
            self.position += 1
            if self.position == len(self.journal) or not self.journal[self.position].get("along"):
                break

    def settle_down(self) -> None:
        """`advance` to the end of it."""
        while not self.advance():
            pass

    def start_calls(self, most: int = MOST_ENTRIES) -> list[StepCall]:
        """The steps that may begin now, since everything before them is committed; at most so many run at once."""
        if not self.asked or self.pressing or self.closed or self.ended:
            return []
        if self.problem is not None or self.fatal is not None:
            return []
        return self._call(self._choose(most - len(self.running)))

    def start_only(self) -> list[StepCall]:
        """`start_calls`, where nothing else can come next: it is at rest, and all that it has come to is committed."""
        if self.pressing or self.closed or self.transacting or self.sent or self.late or not self.asked:
            return []
        if self.loop.ready or self.position < len(self.journal) or not self.undisturbed:
            return []
        return self._call(self._choose(MOST_ENTRIES - len(self.running)))

    def _call(self, steps: list[StepWait]) -> list[StepCall]:
        begun: list[StepCall] = []
        running, queue = self.running, self.row.queue
        for step in steps:
            del self.asked[step]
            if step.deadline is not None:
                self.time(step, None)
            step.call = call = StepCall(step, queue)
            running.add(call)
            begun.append(call)
        return begun

    def _choose(self, most: int) -> list[StepWait]:
        """Of the steps that are asked for, so many: one that is transactional runs alone."""
        if self.transacting or most < 1:
            return []
        asked = [step for step in self.asked if not step.transactional][:most]
        if not asked and not self.running:
            asked = list(self.asked)[:1]
            self.transacting = True
        return asked

    def step_ended(self, call: StepCall) -> None:
        """A call has its value or its error; `advance` comes next."""
        self.running.discard(call)
        self.transacting = self.transacting and not call.step.transactional
        step = call.step
        if self.closed or step.call is not call:
            call.error = None
            return
        if self.hand_out is not None or self.loop.ready:
            # What is on its way comes first in the journal, and what has come is to be met before this: a replay hands
            # out one by one, too, and two at once would go another way in a race.
            self.late.append(call)
            return
        step.call = None
        at, name, n = self.now(), entries.name_of(step.name), step.key[2]
        # Its frames have the call, and what waits for it the frames of the function: in a circle nothing is freed.
        error, call.error = call.error, None
        if error is None and call.text is None:
            error = asyncio.CancelledError("the step was cancelled, and not by the engine")
        step.attempts += 1
        self.pressing = True
        if error is None:
            assert call.text is not None
            self.fresh.append(entries.step(name, n, at, call.text))
            self.set_clock(at)
            try:
                self.settle(step, step.about.again(call.value, call.text))
            except Exception as unread:  # noqa: BLE001 - validators are code of others
                self.problem = unread
            return
        # Not the error itself: its frames would be kept as long as the flow.
        kinds, message = list_kinds(error), say(error)
        rule = step.rule
        if step.attempts < rule.max_attempts and not isinstance(error, rule.never) and _DECIDED not in kinds:
            until = at + rule.pause(step.attempts)
            self.fresh.append(entries.retry(name, n, at, step.attempts, until, message))
            self.set_clock(at)
            self.time(step, until)
            self.checkpoint = step.name
            return
        failed = StepFailed(step.name, kinds, message, step.attempts)
        self.fresh.append(entries.failure(name, n, at, kinds, message, step.attempts))
        failed._seq = self.count + len(self.fresh)
        self.set_clock(at)
        self.settle(step, error=failed)

    def not_begun(self, call: StepCall) -> None:
        """A call that was taken back before it began, or broken off from outside: it is to begin another time."""
        self.running.discard(call)
        self.transacting = False
        if not self.closed and call.step.call is call:
            call.step.call = None
            self.asked[call.step] = None

    def committed(self, row: ClaimRow) -> None:
        """What was sent is committed, and the claim is kept: ``row`` is the next one. `advance` comes next."""
        self.row = row
        if self.inbox or row.signals != "[]":
            self.inbox = list(read_signals(row.signals or "[]"))
        fresh, sent = self.fresh, self.sent
        del fresh[:sent]
        self.count += sent
        self.sent = 0
        if self.hand_out is not None and not self.fresh:
            hand_out, self.hand_out = self.hand_out, None
            hand_out()
        self.pressing = bool(fresh)

    def close(self) -> None:
        """Suspend it: the function is cancelled and cannot make a checkpoint any more, and it is gone with its memory.
        It may be called more than once."""
        self.shut()
        self.clear_away()

    def shut(self) -> None:
        """The beginning of `close`, from anywhere: nothing comes to it any more. `clear_away` follows, as a slice."""
        if not self.closed:
            self.closed = self.suspended = True
            for call in list(self.running):
                call.cancel()

    def clear_away(self) -> None:
        self.loop.cancel_all()
        if self.loop.ready:
            self.loop.run(_LAST_CALLBACKS)
        self.main = self.hand_out = self.problem = self.fatal = None
        self.waiting.clear()
        self.asked.clear()
        self.timed.clear()
        self.late.clear()
        self._timers.clear()
        self.fresh.clear()
        self.inbox.clear()
        self.running = set()
        self.journal = ()
        self.loop.end()
