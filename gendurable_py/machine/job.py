"""Jobs: machines of one step with retries, as a function (`job`) or as a class (`Job`).

What makes a job differ from other machines stands in `JobSpec`: nobody else asks whether it is one.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from .._contract import DEFAULT_ATTEMPTS, Seconds
from ..errors import InvalidArgument
from .fsm import FSM, collect_steps, explain_both
from .limits import RateLimitLike
from .outcome import Cancel, Done, Outcome, Stop
from .spec import START, Backoff, History, Retain, Spec, Transactional

if sys.version_info >= (3, 14):
    import annotationlib

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

_RESULTS = frozenset((type(None), bool, int, float, str, dict, list, tuple))
"""What jobs mostly return, and what is surely no outcome and cannot be awaited: asking that takes longer."""


class JobSpec(Spec):
    """What a job declared."""

    __slots__ = ()

    @property
    def retries(self) -> bool:
        return True

    def state_type(self) -> type[Any] | None:
        """The type of a job's arguments: its ``State``, else the annotation of ``perform``'s first parameter."""
        cls = self.cls
        if hasattr(cls, "State"):
            return cast("type[Any]", cls.State)
        function = inspect.unwrap(getattr(cls, "_function", None) or cls.perform)
        first = next((name for name in list_parameters(function) if name != "self"), None)
        kind = None if first is None else read_annotation(function, first)
        if kind is None or kind in (dict, object, Any, Mapping) or kind == dict[str, Any]:
            return None
        return cast("type[Any]", kind)

    def runner(self, method: Callable[..., object]) -> Callable[[Any], object]:
        if _takes_context(method):
            return lambda ctx: method(ctx.state, ctx)
        return lambda ctx: method(ctx.state)

    def read_answer(self, returned: object) -> object:
        """What a job returns is its result, unless it is an outcome, or was meant to be one."""
        if type(returned) not in _RESULTS and (
            isinstance(returned, Outcome)
            or inspect.isawaitable(returned)
            or (isinstance(returned, type) and issubclass(returned, Outcome))
        ):
            return returned
        return Done(returned)

    def read_error(self, error: BaseException) -> Outcome | None:
        """A job that raises `Cancel` has decided: it ends, and uses up nothing."""
        return Stop(str(error) or "cancelled", consume=()) if isinstance(error, Cancel) else None


class Job(FSM, abstract=True):
    """A machine of one step: ``def perform(self, args, ctx)``, or ``(self, args)``; what it returns is the result."""

    _spec_type: ClassVar[type[Spec]] = JobSpec

    @classmethod
    def _declared(cls) -> dict[str, str]:
        if not callable(getattr(cls, "perform", None)):
            return super()._declared()
        if collect_steps(cls):
            raise explain_both(cls)
        return {"perform": cls._options.get("initial", START)}


class JobFunction(Generic[P, R]):
    """A function that `job` made a machine. Calling it calls the function, without any database."""

    def __init__(self, function: Callable[P, R], machine: type[Job]) -> None:
        self._function = function
        self.machine = machine
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<job {self.gendurable_spec.name}>"

    @property
    def gendurable_spec(self) -> Spec:
        return self.machine.gendurable_spec


@overload
def job(function: Callable[Concatenate[A, P], R], /) -> JobFunction[Concatenate[A, P], R]: ...
@overload
def job(
    *,
    name: str | None = None,
    queue: str | None = None,
    version: int = 1,
    max_attempts: int = DEFAULT_ATTEMPTS,
    backoff: Backoff | None = None,
    timeout: Seconds | None = None,
    transactional: Transactional | None = None,
    rate_limits: Mapping[str, RateLimitLike] | None = None,
    retain: Retain | None = None,
    history: History | None = None,
) -> Callable[[Callable[Concatenate[A, P], R]], JobFunction[Concatenate[A, P], R]]: ...
def job(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    version: int = 1,
    max_attempts: int = DEFAULT_ATTEMPTS,
    backoff: Backoff | None = None,
    timeout: Seconds | None = None,
    transactional: Transactional | None = None,
    rate_limits: Mapping[str, RateLimitLike] | None = None,
    retain: Retain | None = None,
    history: History | None = None,
) -> object:
    """A function as a machine of one step with retries.

    It takes ``(args, ctx)`` or ``(args)``; its annotation of ``args`` types the arguments. What it returns is the
    result; what it raises is tried again after a back-off, ``max_attempts`` times in all; `Cancel` ends it at once. A
    run that takes longer than ``timeout`` is cancelled or told, and counts as an error.
    ``rate_limits``, ``retain`` and ``history`` are as of `FSM`, ``transactional`` as of `step`.
    """

    def make(function: Callable[..., object]) -> JobFunction[..., object]:
        if not inspect.isroutine(function):
            raise InvalidArgument(
                f"a {type(function).__name__} cannot be a job", hint="decorate a function, or derive a class from Job"
            )
        made = type(
            function.__qualname__,
            (Job,),
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
            backoff=backoff,
            timeout=timeout,
            transactional=transactional,
            rate_limits=rate_limits,
            retain=retain,
            history=history,
        )
        return JobFunction(function, cast("type[Job]", made))

    return make if function is None else make(function)


def list_parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF).parameters
    return inspect.signature(function).parameters


def read_annotation(function: Callable[..., object], name: str) -> Any:
    """What annotates one parameter. The others may have names that only type checkers know."""
    if sys.version_info >= (3, 14):
        found = annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF).get(name)
    else:
        found = getattr(function, "__annotations__", {}).get(name)
    alone = types.SimpleNamespace(__annotations__={} if found is None else {name: found})
    return typing.get_type_hints(alone, getattr(function, "__globals__", {}), include_extras=True).get(name)


def _takes_context(function: Callable[..., object]) -> bool:
    """Whether a bound ``perform`` or a job's function takes (args, ctx) or args alone."""
    positional = [
        parameter
        for parameter in list_parameters(function).values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    return len(positional) > 1 or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in positional)
