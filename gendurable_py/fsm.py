"""Machines: `FSM` with its steps, `job` and `Job`, and the registry that finds them by name and version."""

from __future__ import annotations

import importlib
import inspect
import threading
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ._codec import Seconds, StateCodec, dumps
from .context import Context
from .errors import InvalidArgument
from .outcome import Cancel, MachineLike, Outcome, Retry, StepLike, Stop

__all__ = ["FSM", "Backoff", "Job", "JobFunction", "Spec", "job", "spec_of", "step"]

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., object])
P = ParamSpec("P")
R = TypeVar("R")

Backoff = Callable[[int], Seconds]
"""From the attempt that failed (0 for the first) to the pause before the next."""

JOB_STEP = "start"
"""The one step of a job: the server's own default, so that a job can be inserted before it is registered."""


@overload
def step(function: F, /) -> F: ...
@overload
def step(name: str, /) -> Callable[[F], F]: ...
def step(target: F | str, /) -> F | Callable[[F], F]:
    """Make a method a step: bare (the method's name is the step's) or with a name of its own."""
    if isinstance(target, str):
        name = target

        def mark(function: F) -> F:
            return _mark(function, name)

        return mark
    return _mark(target, target.__name__)


def _mark(function: F, name: str) -> F:
    if not name:
        raise InvalidArgument("a step has an empty name", hint="give it one, or write @step without arguments")
    function.__gendurable_step__ = name  # type: ignore[attr-defined]
    return function


def step_name(target: StepLike) -> str:
    """The name of a step given by name or by method."""
    if isinstance(target, str):
        return target
    name = getattr(target, "__gendurable_step__", None)
    if not isinstance(name, str):
        raise InvalidArgument(f"{target!r} is not a step", hint="name a step, or give a method marked with @step")
    return name


class Step:
    """One step as the executor needs it."""

    __slots__ = ("is_async", "json", "name", "run")

    def __init__(self, name: str, run: Callable[[Context[Any]], object], is_async: bool) -> None:
        self.name = name
        self.json = dumps(name)
        self.run = run
        self.is_async = is_async


class Spec:
    """What a machine declared, and ``head``: how the JSON of each insert begins."""

    __slots__ = (
        "_codec",
        "_instance",
        "_lock",
        "_steps",
        "attributes",
        "backoff",
        "cls",
        "head",
        "initial",
        "is_job",
        "max_attempts",
        "name",
        "queue",
        "run_ahead",
        "version",
    )

    def __init__(self, cls: type[FSM], name: str, version: int, attributes: Mapping[str, str], is_job: bool) -> None:
        self.cls = cls
        self.name = name
        self.version = version
        self.attributes = attributes
        self.is_job = is_job
        options = cls._options
        self.queue: str = options.get("queue", "default")
        self.initial: str = options.get("initial", JOB_STEP)
        self.max_attempts: int | None = options.get("max_attempts")
        self.backoff: Backoff | None = options.get("backoff")
        self.run_ahead: bool | None = options.get("run_ahead")
        self.head = dumps({"fsm": name, "version": version, "queue": self.queue, "step": self.initial})[:-1]
        self._codec: StateCodec[Any] | None = None
        self._instance: FSM | None = None
        self._steps: dict[str, Step] | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<machine {self.name} v{self.version}>"

    @property
    def codec(self) -> StateCodec[Any]:
        """Built at first use, when the names in the annotations are known."""
        if self._codec is None:
            self._codec = StateCodec(_job_args(self.cls) if self.is_job else getattr(self.cls, "State", None))
        return self._codec

    @property
    def retries(self) -> bool:
        return self.is_job or self.max_attempts is not None or self.backoff is not None

    @property
    def instance(self) -> FSM:
        with self._lock:
            if self._instance is None:
                self._instance = self.cls()
            return self._instance

    @property
    def steps(self) -> dict[str, Step]:
        """The steps, bound to the one instance of the class in this process."""
        if self._steps is None:
            with self._lock:
                instance = self.instance
                made = {}
                for attribute, name in self.attributes.items():
                    method = getattr(instance, attribute)
                    run = _job_step(method) if self.is_job else method
                    made[name] = Step(name, run, inspect.iscoroutinefunction(method))
                self._steps = made
        return self._steps

    def options(self) -> dict[str, object]:
        return {} if self.max_attempts is None else {"max_attempts": self.max_attempts}


class FSM:
    """A machine: a class whose methods marked with `step` are its steps.

    Options of the class statement: ``name`` (default ``package.module:Class``), ``version`` (1), ``queue``
    (``default``), ``initial`` (``start``), ``max_attempts`` and ``backoff`` (the retry rule of the default `handle`),
    ``run_ahead``, ``abstract``. All but name, version and abstract are inherited.

    A class attribute ``State`` types the state: a pydantic model, a dataclass or a TypedDict; without it it is a dict.
    """

    gendurable_spec: ClassVar[Spec]
    _options: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        queue: str | None = None,
        initial: str | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        run_ahead: bool | None = None,
        abstract: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if max_attempts is not None and max_attempts < 1:
            raise InvalidArgument(f"{cls.__qualname__}: max_attempts is {max_attempts}", hint="give 1 or more")
        given = {
            "queue": queue,
            "initial": initial,
            "max_attempts": max_attempts,
            "backoff": backoff,
            "run_ahead": run_ahead,
        }
        cls._options = {**cls._options, **{key: value for key, value in given.items() if value is not None}}
        if abstract:
            return
        attributes = _steps_of(cls)
        is_job = _is_job(cls, attributes)
        spec = Spec(cls, name or _default_name(cls), version, attributes, is_job)
        if spec.initial not in attributes.values():
            raise InvalidArgument(
                f"{cls.__qualname__} has no step {spec.initial!r}", hint="name the first step with initial="
            )
        cls.gendurable_spec = spec
        _register(spec)

    def handle(self, error: Exception, ctx: Context[Any]) -> Outcome | Awaitable[Outcome]:
        """Called with what a step raised, or with why its outcome was refused; gives another outcome.

        By default the instance is stopped, or tried again by the class's retry rule if it has one. What this raises
        ends the instance as failed.
        """
        spec = self.gendurable_spec
        if isinstance(error, Cancel):
            return Stop(str(error) or "cancelled")
        if spec.retries:
            return Retry(error, delay=None if spec.backoff is None else spec.backoff(ctx.attempt))
        return Stop(error)


class Job(FSM, abstract=True):
    """A machine of one step: ``def perform(self, args, ctx)``, or ``(self, args)``; what it returns is the result."""


def _steps_of(cls: type[FSM]) -> dict[str, str]:
    """Attribute to step name, in order of definition. An override of a step is that step, marked again or not."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            name = getattr(value, "__gendurable_step__", None)
            if isinstance(name, str):
                found[attribute] = name
    names = list(found.values())
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f"{cls.__qualname__} has two steps named {name!r}")
    return found


def _is_job(cls: type[FSM], attributes: dict[str, str]) -> bool:
    perform = callable(getattr(cls, "perform", None))
    if perform and attributes:
        raise InvalidArgument(
            f"{cls.__qualname__} has both steps and perform", hint="a job has perform, a machine has steps"
        )
    if perform and issubclass(cls, Job):
        attributes["perform"] = cls._options.get("initial", JOB_STEP)
        return True
    if not attributes:
        hint = "derive it from Job" if perform else "mark a method with @step, or pass abstract=True"
        raise InvalidArgument(f"{cls.__qualname__} has no step", hint=hint)
    return False


def _default_name(cls: type[FSM]) -> str:
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise InvalidArgument(
            f"{cls.__qualname__} of {cls.__module__} cannot be found by its default name",
            hint="give it one that another process knows: name=",
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def _takes_context(function: Callable[..., object]) -> bool:
    """Whether a bound ``perform`` or a job's function takes (args, ctx) or args alone."""
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    return len(positional) > 1 or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in positional)


def _job_step(perform: Callable[..., object]) -> Callable[[Context[Any]], object]:
    if _takes_context(perform):
        return lambda ctx: perform(ctx.state, ctx)
    return lambda ctx: perform(ctx.state)


def _job_args(cls: type[FSM]) -> type[Any] | None:
    """The type of a job's arguments: its ``State``, else the annotation of ``perform``'s first parameter."""
    if hasattr(cls, "State"):
        return cast("type[Any]", cls.State)
    function = getattr(cls, "_function", None) or cls.perform  # type: ignore[attr-defined]
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    hints = typing.get_type_hints(function, include_extras=True)
    kind = hints.get(parameters[0]) if parameters else None
    if kind is None or kind in (dict, object, Any, Mapping) or kind == dict[str, Any]:
        return None
    return cast("type[Any]", kind)


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
    max_attempts: int = 20,
    backoff: Backoff | None = None,
) -> Callable[[Callable[Concatenate[A, P], R]], JobFunction[Concatenate[A, P], R]]: ...
def job(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    version: int = 1,
    max_attempts: int = 20,
    backoff: Backoff | None = None,
) -> object:
    """A function as a machine of one step with retries.

    It takes ``(args, ctx)`` or ``(args)``; its annotation of ``args`` types the arguments. What it returns is the
    result; what it raises is tried again after a back-off, ``max_attempts`` times in all; `Cancel` ends it at once.
    """

    def make(function: Callable[..., object]) -> JobFunction[..., object]:
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
        )
        return JobFunction(function, cast("type[Job]", made))

    return make if function is None else make(function)


_registry: dict[tuple[str, int], Spec] = {}


def _register(spec: Spec) -> None:
    known = _registry.get((spec.name, spec.version), spec)
    there, here = (f"{each.cls.__module__}.{each.cls.__qualname__}" for each in (known, spec))
    if there != here:
        raise InvalidArgument(
            f"two machines are named {spec.name!r} in version {spec.version}: {there} and {here}",
            hint="give one of them another name= or version=",
        )
    _registry[spec.name, spec.version] = spec


def spec_of(machine: MachineLike) -> Spec:
    """The declaration behind a machine class or a job."""
    spec = getattr(machine, "gendurable_spec", None)
    if not isinstance(spec, Spec):
        raise InvalidArgument(f"{machine!r} is not a machine", hint="give an FSM class (not an abstract one) or a job")
    return spec


def lookup(name: str, version: int) -> Spec | None:
    """The machine of this name and version, if it was imported."""
    return _registry.get((name, version))


def autoload(name: str, allowed: Iterable[str]) -> bool:
    """Import the module of a default name (``package.module:Class``), if it lies below an allowed package.

    The name comes from the database, so nothing outside the list is ever imported.
    """
    module, separator, _ = name.partition(":")
    if not separator or not all(part.isidentifier() for part in module.split(".")):
        return False
    if not any(module == package or module.startswith(f"{package}.") for package in allowed):
        return False
    importlib.import_module(module)
    return True
