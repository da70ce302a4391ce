"""Machines: classes whose methods are steps. They are checked, and made known, when they are defined.

What one declared stands in its `Spec`; how its steps are run, in `dispatch.perform`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, NoReturn, TypeVar, overload

from .._contract import Seconds
from ..errors import InvalidArgument
from .codec import check_name
from .context import Context
from .limits import RateLimit, RateLimitLike, read_rate_limits
from .outcome import Cancel, Outcome, Retry, Stop
from .registry import register
from .spec import Backoff, History, Retain, Spec, Transactional, read_history, read_retain, read_transactional
from .times import timeout as read_timeout

F = TypeVar("F", bound=Callable[..., object])


@overload
def step(function: F, /) -> F: ...
@overload
def step(
    name: str | None = None,
    /,
    *,
    timeout: Seconds | None = None,
    transactional: Transactional | None = None,
    queue: str | None = None,
) -> Callable[[F], F]: ...
def step(
    target: F | str | None = None,
    /,
    *,
    timeout: Seconds | None = None,
    transactional: Transactional | None = None,
    queue: str | None = None,
) -> F | Callable[[F], F]:
    """Make a method a step: bare (the method's name is the step's) or with a name of its own.

    ``timeout``: how long a run of it may take, from its claim on. Then it is cancelled or told, its claim ends, and it
    counts as an error.
    ``transactional``: what it writes by `Context.conn` is committed together with its outcome, or not at all.
    ``queue``: where it always runs, whatever the queue of the instance, which goes back to that behind it.
    """
    if target is not None and not isinstance(target, str):
        return _mark(target, getattr(target, "__name__", ""), None, None, None)
    name = target

    def mark(function: F) -> F:
        own = getattr(function, "__name__", "") if name is None else name
        return _mark(function, own, timeout, transactional, queue)

    return mark


def _mark(function: F, name: str, timeout: Seconds | None, transactional: Transactional | None, queue: str | None) -> F:
    check_name(name, "the name of a step")
    if not callable(function) and not isinstance(function, (staticmethod, classmethod)):
        raise InvalidArgument(f"a {type(function).__name__} cannot be a step", hint="mark a method with @step")
    if hasattr(function, "gendurable_spec"):
        raise InvalidArgument(f"{function!r} is a machine, not a step", hint="insert it, or make it a child")
    function.__gendurable_step__ = name  # type: ignore[attr-defined]
    if timeout is not None:
        seconds = read_timeout(timeout, f"the timeout of step {name!r}")
        function.__gendurable_timeout__ = seconds  # type: ignore[attr-defined]
    if transactional is not None:
        how = read_transactional(transactional, f"transactional of step {name!r}")
        function.__gendurable_transactional__ = how  # type: ignore[attr-defined]
    if queue is not None:
        check_name(queue, f"the queue of step {name!r}")
        function.__gendurable_queue__ = queue  # type: ignore[attr-defined]
    return function


class SqlStep:
    """A step that is a function of the database, as `sql_step` makes it."""

    __gendurable_step__: str

    def __init__(self, name: str | None) -> None:
        if name is not None:
            check_name(name, "the name of a step")
            self.__gendurable_step__ = name

    def __set_name__(self, owner: type, name: str) -> None:
        if not hasattr(self, "__gendurable_step__"):
            self.__gendurable_step__ = name

    def __repr__(self) -> str:
        return f"<step {getattr(self, '__gendurable_step__', None)!r} in SQL>"

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise InvalidArgument(
            f"{self!r} cannot be called: it is a function of the database",
            hint="name it in an outcome: Next(self.audit); whoever runs steps in SQL calls it",
        )


def sql_step(name: str | None = None) -> SqlStep:
    """A step that is a function of the database: ``audit = sql_step()`` in a machine, and `define_step` names the
    function. In Python it is a name to go on to, ``Next(self.audit)``, and nothing else."""
    return SqlStep(name)


class FSM:
    """A machine: a class whose methods marked with `step` are its steps.

    Options of the class statement: ``name`` (default ``package.module:Class``), ``version`` (1), ``queue``
    (``default``), ``initial`` (``start``), ``max_attempts`` and ``backoff`` (the retry rule of the default `handle`),
    ``timeout`` and ``transactional`` (of each step that does not say it itself), ``run_ahead``, ``rate_limits`` (limits
    that an engine registers at start if they are not there), ``retain`` (how long it is kept after each end, ``{"done":
    0, "failed": timedelta(days=30)}``; what is not named, for the engine's ``retention``), ``history`` (what
    `gendurable_py.history` keeps of it: ``none``, ``steps``, ``states``), ``abstract``. All but name, version and
    abstract are inherited.

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
        timeout: Seconds | None = None,
        transactional: Transactional | None = None,
        run_ahead: bool | None = None,
        rate_limits: Mapping[str, RateLimitLike] | None = None,
        retain: Retain | None = None,
        history: History | None = None,
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
            "timeout": None if timeout is None else read_timeout(timeout, f"{cls.__qualname__}: timeout"),
            "transactional": None
            if transactional is None
            else read_transactional(transactional, f"{cls.__qualname__}: transactional"),
            "run_ahead": run_ahead,
            "rate_limits": None if rate_limits is None else _read_rate_limits(rate_limits, cls.__qualname__),
            "retain": None if retain is None else read_retain(retain, cls.__qualname__),
            "history": None if history is None else read_history(history, cls.__qualname__),
        }
        cls._options = {**cls._options, **{key: value for key, value in given.items() if value is not None}}
        if abstract:
            return
        declared = cls._declared()
        in_sql = {
            attribute: named
            for attribute, named in declared.items()
            if isinstance(inspect.getattr_static(cls, attribute), SqlStep)
        }
        spec = cls._spec_type(
            cls,
            name or _make_default_name(cls),
            version,
            {attribute: named for attribute, named in declared.items() if attribute not in in_sql},
            in_sql,
            _collect(cls, "__gendurable_timeout__"),
            _collect(cls, "__gendurable_transactional__"),
            _collect(cls, "__gendurable_queue__"),
        )
        if spec.initial not in spec.names:
            raise InvalidArgument(
                f"{cls.__qualname__} has no step {spec.initial!r}", hint="name the first step with initial="
            )
        for attribute in spec.attributes:
            _check_step(cls, attribute)
        cls.gendurable_spec = spec
        spec.check()
        register(spec)

    @classmethod
    def _declared(cls) -> dict[str, str]:
        """The steps: attribute to name."""
        attributes = collect_steps(cls)
        perform = callable(getattr(cls, "perform", None))
        if perform and attributes:
            raise explain_both(cls)
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
            check_name(value, f"{cls}: {what}")
    for what, number in (("version", version), ("max_attempts", max_attempts)):
        if number is None and what == "max_attempts":
            continue
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 2**31 - 1:
            raise InvalidArgument(f"{cls}: {what} is {number!r}", hint="give a whole number, 1 or more")
    if backoff is not None and not callable(backoff):
        raise InvalidArgument(f"{cls}: backoff is a {type(backoff).__name__}", hint="give a function of the attempt")


def _read_rate_limits(limits: object, cls: str) -> dict[str, RateLimit]:
    found = read_rate_limits(limits, cls)
    for name in found:
        check_name(name, f"{cls}: the name of a rate limit")
    return found


def _check_step(cls: type[FSM], attribute: str) -> None:
    function = inspect.unwrap(getattr(cls, attribute))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidArgument(
            f"{cls.__qualname__}.{attribute} is a generator", hint="a step returns its outcome, and yields nothing"
        )


def collect_steps(cls: type[FSM]) -> dict[str, str]:
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


def _collect(cls: type[FSM], option: str) -> dict[str, Any]:
    """Attribute to what a step says itself of an option. An override inherits it, unless it says something else."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            said = getattr(value, option, None)
            if said is not None and hasattr(value, "__gendurable_step__"):
                found[attribute] = said
    return found


def explain_both(cls: type[FSM]) -> InvalidArgument:
    return InvalidArgument(
        f"{cls.__qualname__} has both steps and perform", hint="a job has perform, a machine has steps"
    )


def _make_default_name(cls: type[FSM]) -> str:
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise InvalidArgument(
            f"{cls.__qualname__} of {cls.__module__} cannot be found by its default name",
            hint="give it one that another process knows: name=",
        )
    return f"{cls.__module__}:{cls.__qualname__}"
