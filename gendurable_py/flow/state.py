"""What one run of a flow knows: where its journal is, what the function waits for, and what is not committed yet.

The function asks for something (`ask_step` and the others, by way of `context`), and something is settled. Who settles:
`replay` from the journal, `taking` from what came from outside, `run` from steps that end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..machine.claim import ClaimRow
from ..machine.context import read_signals
from ..machine.outcome import Signal
from . import entries
from .entries import Entry
from .loop import FlowLoop, Timer
from .rules import Rule
from .values import StepFunction
from .waiting import ChildsWait, Key, SignalWait, SleepWait, StepCall, StepWait, TimerWait, Waiting

MOST_ENTRIES = 10_000
MOST_BYTES = 8 << 20
"""Of entries in one outcome; what is more goes next."""


def _now() -> float:
    """Epoch seconds, in whole microseconds: as they stand in a journal."""
    return time.time_ns() // 1000 / 1e6


PARKED = frozenset({"(sleep)", "(signal)", "(childs)", "(retry)"})
"""The steps of a row that is parked. No checkpoint has a name in parentheses."""


class RunState:
    """``journal``: the entries so far. ``seed``: of a flow that has none yet."""

    __slots__ = (
        "_numbers",
        "_orders",
        "_timers",
        "asked",
        "began_at",
        "chance",
        "checkpoint",
        "clock",
        "closed",
        "count",
        "fatal",
        "fresh",
        "hand_out",
        "inbox",
        "journal",
        "late",
        "loop",
        "main",
        "meta",
        "patches",
        "position",
        "pressing",
        "problem",
        "row",
        "running",
        "seed",
        "sent",
        "stands",
        "suspended",
        "taken",
        "timed",
        "told",
        "transacting",
        "used",
        "waiting",
    )

    def __init__(self, row: ClaimRow, journal: Sequence[Entry], seed: str) -> None:
        self.row = row
        self.loop = FlowLoop(self._timed, self._forget)
        self.main: asyncio.Task[Any] | None = None
        self.problem: BaseException | None = None
        """Why it cannot go on now: its instance is tried again."""
        self.fatal: BaseException | None = None
        """Why it never will."""
        self.closed = self.suspended = False
        # the journal
        self.journal = journal
        self.position = 0
        """How many of its entries the function has met."""
        self.count = len(journal)
        """Entries that are committed."""
        self.fresh: list[bytes] = []
        """Entries that are not, beginning with those that are on their way: ``sent``."""
        self.sent = 0
        self.pressing = False
        """Whether one of them is more than a mark: nothing may begin before it is committed."""
        self.hand_out: Callable[[], None] | None = None
        """What goes to the function when they are committed."""
        self.used = 0
        """The id of the signal that is used up then."""
        self.taken: str = ""
        """Its kind, as that of its entry."""
        self.checkpoint: str | None = None
        """The name of the last one."""
        self.stands = row.step
        """Where the row stands when what is on its way is committed."""
        self.patches: dict[str, bool] = {}
        for entry in journal:
            if entry.get("k") == "patch":
                self.patches[str(entry["name"])] = bool(entry["on"])
        self.seed = seed
        self.chance: random.Random | None = None
        self.meta = row.meta
        """As it was claimed: a kept claim comes without."""
        self.began_at = self.clock = _now()
        # what came with the claim
        self.inbox: list[Signal] = list(read_signals(row.signals or "[]"))
        self.told = row.step if row.step in PARKED and (row.step != "(signal)" or row.timed_out) else ""
        """What the claim itself says: that children have ended, or that the next deadline has passed."""
        # what the function waits for
        self.waiting: dict[Key, Waiting] = {}
        self.asked: dict[StepWait, None] = {}
        """Steps that are to begin."""
        self.timed: dict[Waiting, None] = {}
        """What has a deadline."""
        self.running: set[StepCall] = set()
        self.late: list[StepCall] = []
        """What has ended, and the function is to meet something else before it."""
        self.transacting = False
        """Whether a transactional step runs, which commits by itself."""
        self._timers: dict[Timer, TimerWait] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._orders = 0

    def set_clock(self, at: float) -> None:
        if at > self.clock:
            self.clock = at
            self.loop.clock = at - self.began_at

    def now(self) -> float:
        """The time of an entry that is made now, in epoch seconds: it never goes back."""
        now = _now()
        return now if now > self.clock else self.clock

    @property
    def unsettled(self) -> bool:
        """Whether steps run, or have come to something that is neither committed nor on its way."""
        return bool(self.running or self.late or len(self.fresh) > self.sent)

    @property
    def overflows(self) -> bool:
        """Whether there is more to commit than one outcome carries."""
        return len(self.fresh) > 1 and sum(map(len, self.fresh)) > MOST_BYTES

    @property
    def goes_on(self) -> bool:
        """Whether the next outcome cannot have all that its steps come to."""
        return bool(self.running or self.late or self.overflows)

    def name_checkpoint(self, one: Waiting) -> str:
        """The step of a row that has come through this."""
        return "timer" if one.kind == "timer" else one.key[1]

    def settle(self, one: Waiting, value: Any = None, error: BaseException | None = None) -> None:
        """The function gets it, when its loop runs."""
        self.drop(one)
        self.checkpoint = self.name_checkpoint(one)
        if isinstance(one, TimerWait):
            self.loop.ring(one.timer)
        elif not one.future.done():
            if error is None:
                one.future.set_result(value)
            else:
                one.future.set_exception(error)

    def nearest(self) -> Waiting | None:
        """What has its deadline first."""
        return min(self.timed, key=lambda one: (one.deadline, one.order), default=None) if self.timed else None

    def time(self, one: Waiting, deadline: float | None) -> None:
        """It has another deadline, or none any more."""
        one.deadline = deadline
        if deadline is None:
            self.timed.pop(one, None)
        else:
            self.timed[one] = None

    @property
    def undisturbed(self) -> bool:
        """Whether nothing can have come from outside, and the function goes on."""
        if self.timed or self.inbox or self.told or self.hand_out is not None:
            return False
        if self.problem is not None or self.fatal is not None or self.main is None:
            return False
        return not self.main.done()

    @property
    def replaying(self) -> bool:
        """Whether the journal has more that the function has not met yet."""
        journal = self.journal
        return any(journal[at].get("k") not in entries.MARKS for at in range(self.position, len(journal)))

    @property
    def ended(self) -> bool:
        """Whether the function has."""
        return self.main is None or self.main.done()

    # What the function asks for: see `context`

    def number(self, kind: str, name: str) -> int:
        """How often it asked for this before."""
        self._numbers[kind, name] = n = self._numbers.get((kind, name), -1) + 1
        return n

    def _enter(self, kind: str, name: str) -> tuple[Key, int, asyncio.Future[Any]]:
        self._orders = order = self._orders + 1
        numbers, of = self._numbers, (kind, name)
        numbers[of] = n = numbers.get(of, -1) + 1
        return (kind, name, n), order, asyncio.Future(loop=self.loop)

    def _wait(self, one: Waiting) -> None:
        if not self.suspended:  # else it waits for ever: nothing more is recorded
            self.waiting[one.key] = one
            if one.deadline is not None:
                self.timed[one] = None

    def ask_step(
        self,
        name: str,
        function: Callable[..., Any],
        about: StepFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rule: Rule,
        transactional: bool = False,
    ) -> StepWait:
        one = StepWait(*self._enter("step", name), function, about, args, kwargs, rule, transactional)
        if not self.suspended:
            self.waiting[one.key] = one
            self.asked[one] = None
        return one

    def ask_sleep(self, name: str, until: float) -> SleepWait:
        one = SleepWait(*self._enter("sleep", name), until)
        self._wait(one)
        return one

    def ask_signal(self, name: str, until: float | None) -> SignalWait:
        one = SignalWait(*self._enter("signal", name), until)
        self._wait(one)
        return one

    def ask_childs(self, name: str, inserts: bytes, count: int) -> ChildsWait:
        one = ChildsWait(*self._enter("childs", name), inserts, count)
        self._wait(one)
        return one

    def ask_patch(self, name: str) -> bool:
        """What was said first is said again."""
        if name not in self.patches:
            self.patches[name] = on = not self.replaying
            if on and not self.suspended:
                self.fresh.append(entries.patch(name))
        return self.patches[name]

    def _timed(self, timer: Timer) -> None:
        name = f"{timer.delay:.5f}"
        key, order, future = self._enter("timer", name)
        self._timers[timer] = one = TimerWait(key, order, future, timer, self.began_at + timer.when())
        self._wait(one)

    def _forget(self, timer: Timer) -> None:
        one = self._timers.get(timer)
        if one is not None:
            self.drop(one)

    def drop(self, one: Waiting) -> None:
        """The function does not wait for it any more."""
        self.waiting.pop(one.key, None)
        if one.deadline is not None:
            self.timed.pop(one, None)
        if isinstance(one, StepWait):
            self.asked.pop(one, None)
            if one.call is not None:
                one.call.cancel()
                one.call = None  # whatever it still comes to is recorded nowhere
        elif isinstance(one, TimerWait):
            self._timers.pop(one.timer, None)
