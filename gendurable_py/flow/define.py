"""`flow`: a plain async function as a machine whose steps are wherever it waits.

What makes a flow differ from other machines stands in `FlowSpec`.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from .._contract import DEFAULT_ATTEMPTS
from ..errors import InvalidArgument
from ..machine.claim import ClaimRow
from ..machine.fsm import FSM
from ..machine.job import list_parameters, read_annotation
from ..machine.limits import RateLimitLike
from ..machine.spec import START, History, Retain, Spec, Step
from .context import FlowContext, begin
from .entries import Entry
from .run import Run

P = ParamSpec("P")
R = TypeVar("R")


class FlowSpec(Spec):
    """What a flow declared."""

    __slots__ = ("_takes_args",)

    _takes_args: bool

    @property
    def retries(self) -> bool:
        return True

    @property
    def journals(self) -> bool:
        return True

    @property
    def function(self) -> Callable[..., Coroutine[Any, Any, Any]]:
        return cast("Callable[..., Coroutine[Any, Any, Any]]", self.cls._function)

    def find_step(self, name: str) -> Step | None:
        """The step of a row is where the flow is: whatever its name, the function begins at its top."""
        return self.steps[self.initial]

    def state_type(self) -> type[Any] | None:
        """The annotation of the second parameter."""
        names = list(list_parameters(inspect.unwrap(self.function)))
        kind = read_annotation(inspect.unwrap(self.function), names[1]) if len(names) > 1 else None
        if kind is None or kind in (dict, object, Any, Mapping) or kind == dict[str, Any]:
            return None
        return cast("type[Any]", kind)

    def options(self) -> dict[str, object]:
        """No steps: their names are known when they are reached."""
        said = super().options()
        del said["steps"]
        return said

    def begin(self, row: ClaimRow, journal: Sequence[Entry], seed: str, context: contextvars.Context) -> Run:
        """A run of the function, from its top."""
        try:
            args = self._takes_args
        except AttributeError:
            args = self._takes_args = len(list_parameters(inspect.unwrap(self.function))) > 1
        return Run(row, journal, seed, lambda run: begin(run, self, self.function, args), context)


class Flow(FSM, abstract=True):
    """The class that `flow` makes of a function."""

    _spec_type: ClassVar[type[Spec]] = FlowSpec

    @classmethod
    def _declared(cls) -> dict[str, str]:
        return {"perform": START}


class FlowFunction(Generic[P, R]):
    """A function that `flow` made a machine. Called by another flow, with its context, it is a part of that."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], machine: type[Flow]) -> None:
        self._function = function
        self.machine = machine
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flow {self.gendurable_spec.name}>"

    @property
    def gendurable_spec(self) -> Spec:
        return self.machine.gendurable_spec


Function = Callable[Concatenate[FlowContext, P], Coroutine[Any, Any, R]]


@overload
def flow(function: Function[P, R], /) -> FlowFunction[Concatenate[FlowContext, P], R]: ...
@overload
def flow(
    *,
    name: str | None = None,
    version: int = 1,
    queue: str | None = None,
    max_attempts: int = DEFAULT_ATTEMPTS,
    rate_limits: Mapping[str, RateLimitLike] | None = None,
    retain: Retain | None = None,
    history: History | None = None,
) -> Callable[[Function[P, R]], FlowFunction[Concatenate[FlowContext, P], R]]: ...
def flow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: int = 1,
    queue: str | None = None,
    max_attempts: int = DEFAULT_ATTEMPTS,
    rate_limits: Mapping[str, RateLimitLike] | None = None,
    retain: Retain | None = None,
    history: History | None = None,
) -> object:
    """An async function as a durable flow: ``async def checkout(ctx: FlowContext, order: Order) -> Receipt``.

    It takes ``(ctx)`` or ``(ctx, args)``; the annotation of ``args`` types the arguments. What it returns is the
    result; what it raises ends it as failed, and `Cancel` with its text as the reason. ``max_attempts``: how often a
    run of the function may crash, or be unlike its journal, before the same happens (steps have their own, see
    `FlowContext.using`). The default name is ``package.module:function``. ``rate_limits``, ``retain`` and ``history``
    are as of `FSM`; a history of states is refused, since the arguments are all of its state.

    Raises:
        InvalidArgument: it is no async function, takes something else, or an option is not valid.
    """

    def make(function: Callable[..., Any]) -> FlowFunction[..., Any]:
        _check(function, history)
        machine = type(
            function.__qualname__,
            (Flow,),
            {
                "__module__": function.__module__,
                "__qualname__": function.__qualname__,
                "__doc__": function.__doc__,
                "perform": staticmethod(function),
                "_function": staticmethod(function),
            },
            name=name,
            queue=queue,
            version=version,
            max_attempts=max_attempts,
            rate_limits=rate_limits,
            retain=retain,
            history=history,
        )
        return FlowFunction(function, cast("type[Flow]", machine))

    return make if function is None else make(function)


def _check(function: Callable[..., Any], history: History | None) -> None:
    if not inspect.isroutine(function) or not inspect.iscoroutinefunction(function):
        raise InvalidArgument(f"a {type(function).__name__} cannot be a flow", hint="decorate an async def")
    taken = list(list_parameters(inspect.unwrap(function)).values())
    if not 1 <= len(taken) <= 2 or any(
        one.kind not in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in taken
    ):
        raise InvalidArgument(f"{function.__qualname__} is no flow", hint="it takes (ctx) or (ctx, args)")
    if history == "states":
        raise InvalidArgument(
            f"{function.__qualname__}: history is 'states'", hint="give steps: the journal has what a flow came to"
        )
