"""Machines: `FSM` with its steps, and `Spec`, what a machine declared."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar, overload

from . import registry
from .codec import Seconds, StateCodec, checked_name, dumps
from .context import Context
from ..errors import InvalidArgument
from .outcome import Cancel, MachineLike, Outcome, Retry, StepLike, Stop

__all__ = ["FSM", "Backoff", "Spec", "Step", "spec_of", "step", "step_name"]

F = TypeVar("F", bound=Callable[..., object])

Backoff = Callable[[int], Seconds]
"""From the attempt that failed (0 for the first) to the pause before the next."""

START = "start"
"""The first step where none is named: the server's own default, so that a machine can be inserted before it is
registered."""


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
    return _mark(target, getattr(target, "__name__", ""))


def _mark(function: F, name: str) -> F:
    checked_name(name, "the name of a step")
    if not callable(function) and not isinstance(function, (staticmethod, classmethod)):
        raise InvalidArgument(f"a {type(function).__name__} cannot be a step", hint="mark a method with @step")
    if hasattr(function, "gendurable_spec"):
        raise InvalidArgument(f"{function!r} is a machine, not a step", hint="insert it, or make it a child")
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

    is_job: ClassVar[bool] = False
    """A job: one step, whose answer is the result unless it is an outcome."""

    __slots__ = (
        "_codec",
        "_instance",
        "_lock",
        "_references",
        "_steps",
        "attributes",
        "backoff",
        "cls",
        "head",
        "initial",
        "max_attempts",
        "name",
        "queue",
        "run_ahead",
        "version",
    )

    def __init__(self, cls: type[FSM], name: str, version: int, attributes: Mapping[str, str]) -> None:
        self.cls = cls
        self.name = name
        self.version = version
        self.attributes = attributes
        options = cls._options
        self.queue: str = options.get("queue", "default")
        self.initial: str = options.get("initial", START)
        self.max_attempts: int | None = options.get("max_attempts")
        self.backoff: Backoff | None = options.get("backoff")
        self.run_ahead: bool | None = options.get("run_ahead")
        self.head = dumps({"fsm": name, "version": version, "queue": self.queue, "step": self.initial})[:-1]
        self._codec: StateCodec[Any] | None = None
        self._instance: FSM | None = None
        self._steps: dict[str, Step] | None = None
        self._references: dict[object, str] | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<machine {self.name} v{self.version}>"

    @property
    def codec(self) -> StateCodec[Any]:
        """Built at first use, when the names in the annotations are known."""
        if self._codec is None:
            try:
                self._codec = StateCodec(self.state_type())
            except InvalidArgument as error:
                raise InvalidArgument(f"{self.name}: {error}") from error.__cause__
            except Exception as error:
                raise InvalidArgument(
                    f"{self.name}: the type of its state cannot be used: {error}",
                    hint="State and a job's annotation are a pydantic model, a dataclass or a TypedDict whose names "
                    "are known at run time, and not only under TYPE_CHECKING",
                ) from error
        return self._codec

    def step_name(self, target: Callable[..., object]) -> str:
        """The name of a step given by method, of this class or of one that it derives from: an override is meant."""
        if self._references is None:
            self._references = {
                getattr(vars(base)[attribute], "__func__", vars(base)[attribute]): name
                for base in reversed(self.cls.__mro__)
                for attribute, name in self.attributes.items()
                if attribute in vars(base)
            }
        try:
            name = self._references.get(getattr(target, "__func__", target))
        except TypeError:  # it is not even hashable
            name = None
        if name is None:
            step_name(target)
            raise InvalidArgument(f"{target!r} is a step of another machine than {self.name}")
        return name

    def check(self) -> None:
        """Refuse a state that would lose something, if its type can be looked at yet: its names may come later."""
        try:
            _ = self.codec
        except InvalidArgument as error:
            cause = error.__cause__
            if not isinstance(cause, NameError) and getattr(cause, "code", None) != "class-not-fully-defined":
                raise

    @property
    def retries(self) -> bool:
        return self.max_attempts is not None or self.backoff is not None

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
                    made[name] = Step(name, self.runner(method), inspect.iscoroutinefunction(method))
                self._steps = made
        return self._steps

    def state_type(self) -> type[Any] | None:
        return getattr(self.cls, "State", None)

    def runner(self, method: Callable[..., object]) -> Callable[[Context[Any]], object]:
        """A bound step as a function of the context alone."""
        return method

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
    _spec_type: ClassVar[type[Spec]] = Spec

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
        _check_options(cls.__qualname__, name, version, queue, initial, max_attempts, backoff)
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
        spec = cls._spec_type(cls, name or _default_name(cls), version, cls._declared())
        if spec.initial not in spec.attributes.values():
            raise InvalidArgument(
                f"{cls.__qualname__} has no step {spec.initial!r}", hint="name the first step with initial="
            )
        for attribute in spec.attributes:
            _check_step(cls, attribute)
        cls.gendurable_spec = spec
        spec.check()
        registry.register(spec)

    @classmethod
    def _declared(cls) -> dict[str, str]:
        """The steps: attribute to name."""
        attributes = steps_of(cls)
        perform = callable(getattr(cls, "perform", None))
        if perform and attributes:
            raise both(cls)
        if not attributes:
            hint = "derive it from Job" if perform else "mark a method with @step, or pass abstract=True"
            raise InvalidArgument(f"{cls.__qualname__} has no step", hint=hint)
        return attributes

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


def _check_options(
    cls: str,
    name: object,
    version: object,
    queue: object,
    initial: object,
    max_attempts: object,
    backoff: object,
) -> None:
    for what, value in (("name", name), ("queue", queue), ("initial", initial)):
        if value is not None:
            checked_name(value, f"{cls}: {what}")
    for what, number in (("version", version), ("max_attempts", max_attempts)):
        if number is None and what == "max_attempts":
            continue
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 2**31 - 1:
            raise InvalidArgument(f"{cls}: {what} is {number!r}", hint="give a whole number, 1 or more")
    if backoff is not None and not callable(backoff):
        raise InvalidArgument(f"{cls}: backoff is a {type(backoff).__name__}", hint="give a function of the attempt")


def _check_step(cls: type[FSM], attribute: str) -> None:
    function = inspect.unwrap(getattr(cls, attribute))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidArgument(
            f"{cls.__qualname__}.{attribute} is a generator", hint="a step returns its outcome, and yields nothing"
        )


def steps_of(cls: type[FSM]) -> dict[str, str]:
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


def both(cls: type[FSM]) -> InvalidArgument:
    return InvalidArgument(
        f"{cls.__qualname__} has both steps and perform", hint="a job has perform, a machine has steps"
    )


def _default_name(cls: type[FSM]) -> str:
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise InvalidArgument(
            f"{cls.__qualname__} of {cls.__module__} cannot be found by its default name",
            hint="give it one that another process knows: name=",
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def spec_of(machine: MachineLike) -> Spec:
    """The declaration behind a machine class or a job."""
    spec = getattr(machine, "gendurable_spec", None)
    if not isinstance(spec, Spec) or (isinstance(machine, type) and spec.cls is not machine):
        raise InvalidArgument(f"{machine!r} is not a machine", hint="give an FSM class (not an abstract one) or a job")
    return spec
