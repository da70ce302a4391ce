"""What a flow has: its checkpoints, and what it may know without asking the world."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import random
import uuid
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Concatenate, Never, NoReturn, ParamSpec, TypeVar, cast, overload

from pydantic import JsonValue

from .._contract import Seconds
from ..errors import InvalidArgument
from ..machine.codec import check_name, loads
from ..machine.encode import encode_inserts
from ..machine.outcome import UNSET, Child, ChildResult, MachineLike, Signal
from ..machine.spec import Spec
from ..machine.times import aware, seconds
from . import seeds
from .errors import ChildFailed, FlowError
from .restart import Restart
from .rules import Rule, read_rule
from .saga import Saga
from .state import RunState
from .values import look_at
from .waiting import Waiting

P = ParamSpec("P")
R = TypeVar("R")

_DRAWN = "chance is drawn (do it before, and give it to the step)"

_ONCE = Rule()

_current: contextvars.ContextVar[FlowContext] = contextvars.ContextVar("gendurable_flow")


def current() -> FlowContext:
    """The context of the flow that runs here, for libraries that are called by one.

    Raises:
        FlowError: none does.
    """
    found = _current.get(None)
    if found is None:
        raise FlowError("no flow runs here")
    return found


class FlowContext:
    """A flow as its function sees it. What is awaited here is a checkpoint: it is committed before the function goes
    on, and after a crash it is not done again.

    Names are texts of 1 to 2,000 bytes; one that is used again counts up."""

    __slots__ = ("_rule", "_run", "_spec")

    def __init__(self, run: RunState, spec: Spec, rule: Rule) -> None:
        self._run = run
        self._spec = spec
        self._rule = rule

    def __repr__(self) -> str:
        return f"<FlowContext {self.fsm} {self.id}>"

    # Checkpoints. No Any in what overloads give back: mypy would forget the types of a gather of different ones.

    @overload
    def step(
        self, name: str, function: Callable[P, Coroutine[object, Never, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, None, R]: ...
    @overload
    def step(
        self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, None, R]: ...
    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function once, if nothing crashes, and record what it gives back: ``def`` in a thread, ``async def``
        on the engine's loop.

        What comes back is the stored JSON, read by the function's return annotation (any type that
        pydantic reads; none: plain JSON).

        Raises:
            StepFailed: it raised, and its attempts are used up (see `using`).
            FlowError: it is no function, its annotation cannot be used, or this is not the flow's own code.
        """
        run = self._here()
        about = look_at(function)
        if self._rule.timeout is not None and not about.is_async:
            raise FlowError(f"step {name!r} has a timeout and is a sync function, which nobody can end")
        one = run.ask_step(_checked(name), function, about, args, kwargs, self._rule)
        try:  # as `_wait` does, without a coroutine more in each checkpoint
            return await one.future
        except asyncio.CancelledError:
            run.drop(one)
            raise

    async def _wait(self, one: Waiting) -> Any:
        try:
            return await one.future
        except asyncio.CancelledError:
            self._run.drop(one)
            raise

    @overload
    def transaction(
        self,
        name: str,
        function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[object, None, R]: ...
    @overload
    def transaction(
        self, name: str, function: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, None, R]: ...
    async def transaction(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """A step that is given a connection to this database before its arguments (`psycopg.Connection`, of an async
        function an `psycopg.AsyncConnection`): what it writes there and its checkpoint are one commit, or neither is.

        It runs while no other step of this flow does, and gives the flow's claim back with its commit. It neither
        commits nor rolls back itself. What conflicts with another session (serialization failures, deadlocks, locks)
        runs again in place. Raises as `step`.
        """
        run = self._here()
        about = look_at(function)
        if self._rule.timeout is not None:
            raise FlowError(f"step {name!r} is transactional and has a timeout: let statement_timeout do that")
        return await self._wait(run.ask_step(_checked(name), function, about, args, kwargs, self._rule, True))

    def using(
        self,
        *,
        max_attempts: int = 1,
        delay: Seconds = 1,
        factor: float = 2,
        max_delay: Seconds = 300,
        timeout: Seconds | None = None,
        never: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> FlowContext:
        """The same context with a retry rule for its steps: ``max_attempts`` runs at most, with pauses of ``delay``
        seconds, times ``factor`` each time, up to ``max_delay``. ``timeout``: of each run, for async functions.
        ``never``: classes of errors that are not tried again; `Cancel` never is.

        Raises:
            InvalidArgument: one of them is out of range.
        """
        rule = read_rule(
            max_attempts=max_attempts, delay=delay, factor=factor, max_delay=max_delay, timeout=timeout, never=never
        )
        return FlowContext(self._run, self._spec, rule)

    async def sleep(self, delay: Seconds, *, name: str = "sleep") -> None:
        """Let time pass: no memory, no slot and no connection is held meanwhile. ``delay`` in seconds."""
        run = self._here()
        await self._sleep(run, run.clock + seconds(delay, "the delay"), name)

    async def sleep_until(self, when: datetime, *, name: str = "sleep") -> None:
        """The same until a time, an aware datetime."""
        run = self._here()
        await self._sleep(run, aware(when).timestamp(), name)

    async def _sleep(self, run: RunState, until: float, name: str) -> None:
        await self._wait(run.ask_sleep(_checked(name), until))

    @overload
    def signal(self, name: str) -> Coroutine[object, None, Signal]: ...
    @overload
    def signal(self, name: str, *, timeout: None) -> Coroutine[object, None, Signal]: ...
    @overload
    def signal(self, name: str, *, timeout: Seconds) -> Coroutine[object, None, Signal | None]: ...
    @overload
    def signal(self, name: str, *, timeout: Seconds | None) -> Coroutine[object, None, Signal | None]: ...
    async def signal(self, name: str, *, timeout: Seconds | None = None) -> Signal | None:  # noqa: ASYNC109
        """The oldest signal of this name, which is used up; None: none came within ``timeout`` seconds."""
        run = self._here()
        until = None if timeout is None else run.clock + seconds(timeout, "the timeout")
        return cast("Signal | None", await self._wait(run.ask_signal(_checked(name), until)))

    async def childs(self, children: Iterable[Child | MachineLike], *, name: str = "childs") -> list[ChildResult]:
        """Insert children and wait until all have ended: their results, in the order given. What is awaited together is
        one barrier, and nothing beside it may have a deadline.

        Raises:
            InvalidArgument: one is no child, cannot be encoded, or has a ``unique_key``.
        """
        return list((await self._childs(children, name))[1])

    async def child(self, machine: MachineLike | str, state: object = UNSET, **options: Any) -> JsonValue:
        """Insert a child and wait for its result; ``options`` as of `Child`.

        Raises:
            ChildFailed: it failed or was cancelled.
            InvalidArgument: as of `childs`.
        """
        seq, [result] = await self._childs([Child(machine, state, **options)], "child")
        if result.status == "done":
            return result.result
        failed = ChildFailed(result.status, result.last_error or "")
        failed._seq = seq
        raise failed

    async def _childs(self, children: Iterable[Child | MachineLike], name: str) -> tuple[int, tuple[ChildResult, ...]]:
        run = self._here()
        news = list(children)
        for new in news:
            if isinstance(new, Child) and new.unique_key is not None:
                raise InvalidArgument(
                    "a child of a flow with a unique_key: where that is taken there would be no child",
                    hint="insert it in a step, and have it send a signal",
                )
        if not news:
            return 0, ()
        one = run.ask_childs(_checked(name), encode_inserts(news), len(news))
        return cast("tuple[int, tuple[ChildResult, ...]]", await self._wait(one))

    # Without a checkpoint, and the same after a crash

    def now(self) -> datetime:
        """The time of the last checkpoint, in UTC; before the first, that of the flow's beginning."""
        run = self._run
        if not run.count and not run.suspended:
            run.pressing = True  # no step may begin with it before it is committed
        return datetime.fromtimestamp(run.clock, UTC)

    @property
    def random(self) -> random.Random:
        """Chance that comes out the same after a crash. This and the next two are for the flow's own code: what a step
        draws would be left out by a replay, and all that comes after it would be another.

        Raises:
            FlowError: a step asks, or a thread.
        """
        run = self._here(_DRAWN)
        if run.chance is None:
            run.chance = random.Random(f"{run.seed} random")
        return run.chance

    def uuid(self) -> uuid.UUID:
        """A UUID (version 4) that is the same after a crash; each call another."""
        return uuid.UUID(bytes=self._draw("uuid", ""), version=4)

    def idempotency_key(self, name: str) -> str:
        """A key to give to a service that recognises what it has done before: 32 hexadecimal digits, stable from the
        first line on; each call with one name another."""
        return self._draw("key", _checked(name)).hex()

    def _draw(self, kind: str, name: str) -> bytes:
        run = self._here(_DRAWN)
        text = f"{run.seed} {kind} {run.number(kind, name)} {name}"
        return hashlib.sha256(text.encode()).digest()[:16]

    def patched(self, name: str) -> bool:
        """For a change of the code under flows that run: True for one that comes to this place first with the new code,
        False for one that has been beyond it. What was said first is said again."""
        return self._here().ask_patch(_checked(name))

    def saga(self) -> Saga:
        """``async with ctx.saga() as saga:`` and after each step ``saga.undo(name, function, *args)``: if the block
        raises, these run as steps, the last first."""
        return Saga(self)

    def restart(self, args: object) -> NoReturn:
        """Begin anew with these arguments and an empty journal: same id, key and inbox. For flows without an end.

        Raises:
            InvalidArgument: they do not fit the function.
        """
        run = self._here()
        raise Restart(self._spec.codec.encode(args), self._spec.initial, seeds.following(run.seed))

    # What it is

    @property
    def replaying(self) -> bool:
        """Whether the function has not come to where it was before: for what should be told once, such as a log."""
        return self._run.replaying

    @property
    def suspended(self) -> bool:
        """Whether it is parked now, and this is a ``finally`` or an ``except CancelledError``: nothing that is done
        here counts, and it goes on another time from its last checkpoint."""
        return self._run.suspended

    @property
    def id(self) -> int:
        return self._run.row.id

    @property
    def fsm(self) -> str:
        return self._run.row.fsm

    @property
    def version(self) -> int:
        return self._run.row.version

    @property
    def attempt(self) -> int:
        """0 where no run of the function has failed or crashed since its last checkpoint."""
        return self._run.row.attempt

    @property
    def queue(self) -> str:
        return self._run.row.queue

    @property
    def partition_key(self) -> str | None:
        return self._run.row.partition_key

    @property
    def unique_key(self) -> str | None:
        return self._run.row.unique_key

    @property
    def parent_id(self) -> int | None:
        return self._run.row.parent_id

    @property
    def meta(self) -> Mapping[str, JsonValue]:
        return cast("dict[str, JsonValue]", loads(self._run.meta))

    def _here(self, asks: str = "a checkpoint is asked for") -> RunState:
        """The run, if it is its function that asks. What is suspended waits for ever, wherever it ends: it may go on
        whatever is raised."""
        run = self._run
        if _get_running_loop() is not run.loop and not run.suspended:
            raise FlowError(f"{asks} outside of the flow's own code: not in a step, a thread or another loop")
        return run


def _checked(name: str) -> str:
    return _check(name) if type(name) is str else _check.__wrapped__(name)


@functools.lru_cache(maxsize=4096)
def _check(name: str) -> str:
    try:
        check_name(name, "the name of a checkpoint")
    except InvalidArgument as error:
        raise FlowError(str(error)) from None
    if name.startswith("("):
        raise FlowError(f"a checkpoint named {name!r}: names in parentheses are those of parked flows")
    return name


def begin(run: RunState, spec: Spec, function: Callable[..., Coroutine[Any, Any, Any]], args: bool) -> Any:
    """The function of a flow as a coroutine, in the variables of this context."""
    ctx = FlowContext(run, spec, _ONCE)
    _current.set(ctx)
    return function(ctx, spec.codec.decode(run.row.state)) if args else function(ctx)
