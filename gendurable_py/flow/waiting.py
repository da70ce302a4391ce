"""What a function can wait for: each knows its name, its place in the journal, and when its time is up."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from ..errors import InvalidArgument
from .loop import Timer
from .rules import Rule
from .values import StepFunction

MOST_BYTES = 32 << 20
"""Of a value as JSON."""

Key = tuple[str, str, int]
"""Kind, name, and how often the function asked for that before."""


class Waiting:
    """The function waits for this: ``future`` gets what comes. ``deadline``: when its time is up, in epoch seconds."""

    __slots__ = ("deadline", "future", "key", "order")

    kind: ClassVar[str] = ""

    def __init__(self, key: Key, order: int, future: asyncio.Future[Any], deadline: float | None = None) -> None:
        self.key = key
        self.order = order
        self.future = future
        self.deadline = deadline

    @property
    def name(self) -> str:
        return self.key[1]


class StepWait(Waiting):
    """A step: its ``deadline`` is the end of the pause before its next attempt."""

    __slots__ = ("about", "args", "attempts", "call", "context", "function", "kwargs", "rule", "transactional")

    kind = "step"

    def __init__(
        self,
        key: Key,
        order: int,
        future: asyncio.Future[Any],
        function: Callable[..., Any],
        about: StepFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rule: Rule,
        transactional: bool,
    ) -> None:
        # As `Waiting` does, without the call: this is one of each checkpoint.
        self.key = key
        self.order = order
        self.future = future
        self.deadline = None
        self.transactional = transactional
        self.function = function
        self.about = about
        self.args = args
        self.kwargs = kwargs
        self.rule = rule
        self.context = contextvars.copy_context()
        self.attempts = 0
        self.call: StepCall | None = None


class SleepWait(Waiting):
    """A sleep."""

    __slots__ = ()

    kind = "sleep"


class SignalWait(Waiting):
    """A signal of its name, with or without a deadline."""

    __slots__ = ()

    kind = "signal"


class ChildsWait(Waiting):
    """Children that all have to end: their inserts as JSON, and how many they are."""

    __slots__ = ("count", "inserts")

    kind = "childs"

    def __init__(self, key: Key, order: int, future: asyncio.Future[Any], inserts: bytes, count: int) -> None:
        super().__init__(key, order, future)
        self.inserts = inserts
        self.count = count


class TimerWait(Waiting):
    """A timer of the loop, as asyncio's sleeps and timeouts have."""

    __slots__ = ("timer",)

    kind = "timer"

    def __init__(self, key: Key, order: int, future: asyncio.Future[Any], timer: Timer, deadline: float) -> None:
        super().__init__(key, order, future, deadline)
        self.timer = timer


class StepCall:
    """One run of a step, for whoever runs it: `run` in a thread, `run_async` on the engine's loop. Then it has its
    ``text``, the value as JSON, or its ``error``; neither, if it was cancelled from outside."""

    __slots__ = (
        "_cancelled",
        "ended",
        "error",
        "fate",
        "owner",
        "queue",
        "started",
        "step",
        "task",
        "text",
        "turn",
        "value",
    )

    def __init__(self, step: StepWait, queue: str) -> None:
        self.step = step
        self.queue = queue
        self._cancelled = False
        self.turn: threading.Lock | None = None
        self.owner: Any = None
        self.fate: Any = None  # of a transactional one: how its transaction ended
        self.text: str | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self.started = 0.0
        self.ended = 0.0

    @property
    def ctx(self) -> StepCall:
        """What it shows of itself to those who run it in a thread: whether it is still wanted."""
        return self

    @property
    def is_async(self) -> bool:
        return self.step.about.is_async

    def run(self) -> None:
        """In the variables of the flow."""
        self.step.context.run(self.run_here)

    def run_here(self) -> None:
        step = self.step
        try:
            self.keep(step.function(*step.args, **step.kwargs))
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its error
            self.error = error

    async def run_async(self) -> None:
        step = self.step
        try:
            if step.rule.timeout is None:
                value = await step.function(*step.args, **step.kwargs)
            else:
                async with asyncio.timeout(step.rule.timeout):
                    value = await step.function(*step.args, **step.kwargs)
            self.keep(value)
        except BaseException as error:
            if self.broken_off(error):
                raise
            self.error = error

    def broken_off(self, error: BaseException) -> bool:
        """Whether it was cancelled from outside."""
        return self._cancelled and isinstance(error, asyncio.CancelledError)

    def keep(self, value: Any) -> None:
        text = self.step.about.write(value)
        if len(text) > MOST_BYTES // 4 and (size := len(text.encode())) > MOST_BYTES:
            raise InvalidArgument(
                f"the value has {size:,} bytes, and that of a step may have {MOST_BYTES:,} at most",
                hint="store it elsewhere, and give back its address",
            )
        self.text, self.value = text, value

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
        if self.task is not None:
            self.task.cancel()
