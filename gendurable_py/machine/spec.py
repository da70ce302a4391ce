"""What a machine declared: its name and version, its steps, how its state is written, and its retry rule.

`fsm` and `job` make one for each class when it is defined, `registry` keeps it, `encode` and the dispatcher read it. A
job differs from a machine of steps in what it overrides here, and nowhere else.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from .._contract import TERMINAL, Seconds
from ..errors import InvalidArgument
from .codec import StateCodec, dumps
from .limits import RateLimit
from .outcome import MachineLike, Outcome, StepLike
from .times import retention_seconds

Backoff = Callable[[int], Seconds]
"""From the attempt that failed (0 for the first) to the pause before the next."""

Retain = Mapping[str, Seconds]
"""How long an instance is kept after an end: ``done``, ``failed``, ``cancelled``. 0: it is removed as soon as it can
be; for ``done`` that is in the same commit."""

History = Literal["none", "steps", "states"]
"""What is kept of what happens to an instance: nothing, each outcome, or also the state that each step was given."""

Transactional = bool | Callable[[Callable[[Any], Any]], Any]
"""Whether a step runs in a transaction of the engine, or a hook that begins one: it is given ``commit``, and makes a
context manager (for an async step an async one) that yields what `Context.conn` is to be and, when the step has given
its outcome, calls ``commit(connection)`` last, with the psycopg connection, inside of its transaction."""

START = "start"
"""The first step where none is named: the server's own default, so that a machine can be inserted before it is
registered."""


class Declared(Protocol):
    """A class that declares a machine."""

    def handle(self, error: Exception, ctx: Any) -> Outcome | Awaitable[Outcome]: ...


def step_name(target: StepLike) -> str:
    """The name of a step given by name or by method."""
    if isinstance(target, str):
        return target
    name = getattr(target, "__gendurable_step__", None)
    if not isinstance(name, str):
        raise InvalidArgument(f"{target!r} is not a step", hint="name a step, or give a method marked with @step")
    return name


def read_retain(retain: object, cls: str) -> dict[str, int | None]:
    """As it is registered, in milliseconds. What is not named is reset: the class is all that it says."""
    if not isinstance(retain, Mapping) or not all(key in TERMINAL for key in retain):
        raise InvalidArgument(
            f"{cls}: retain is {retain!r}"[:200], hint='give the times of some ends: {"done": 0, "failed": 3600}'
        )
    return {
        status: round(retention_seconds(retain[status], f"{cls}: retain of {status}") * 1000)
        if status in retain
        else None
        for status in TERMINAL
    }


def read_history(history: object, cls: str) -> History:
    if history not in ("none", "steps", "states"):
        raise InvalidArgument(f"{cls}: history is {history!r}"[:200], hint="give none, steps or states")
    return history


def read_transactional(value: object, what: str) -> Transactional:
    if isinstance(value, bool) or (callable(value) and not isinstance(value, type)):
        return value
    raise InvalidArgument(
        f"{what} is {value!r}"[:200],
        hint="give True, or a function of commit that makes a context manager, such as one of gendurable_py.contrib",
    )


class Step:
    """One step as the executor needs it."""

    __slots__ = ("is_async", "name", "run", "timeout", "transactional")

    def __init__(
        self,
        name: str,
        run: Callable[[Any], object],
        is_async: bool,
        timeout: float | None = None,
        transactional: Transactional = False,
    ) -> None:
        self.name = name
        self.run = run
        self.is_async = is_async
        self.timeout = timeout
        self.transactional = transactional


class Spec:
    """What a machine declared, and ``head``: how the JSON of each insert begins.

    ``attributes``: attribute to name, of the steps that are methods; ``in_sql``: of those that are functions of the
    database. ``names``: all of them, each as JSON.
    """

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
        "history",
        "in_sql",
        "initial",
        "max_attempts",
        "name",
        "names",
        "queue",
        "queues",
        "rate_limits",
        "retain",
        "run_ahead",
        "schedules",
        "timeouts",
        "transactional",
        "version",
    )

    def __init__(
        self,
        cls: type[Any],
        name: str,
        version: int,
        attributes: Mapping[str, str],
        in_sql: Mapping[str, str],
        timeouts: Mapping[str, float],
        transactional: Mapping[str, Transactional],
        queues: Mapping[str, str],
    ) -> None:
        self.cls = cls
        self.name = name
        self.version = version
        self.attributes = attributes
        self.in_sql = in_sql
        self.names = {named: dumps(named) for named in (*attributes.values(), *in_sql.values())}
        options = cls._options
        self.queue: str = options.get("queue", "default")
        self.initial: str = options.get("initial", START)
        self.max_attempts: int | None = options.get("max_attempts")
        self.backoff: Backoff | None = options.get("backoff")
        self.run_ahead: bool | None = options.get("run_ahead")
        self.rate_limits: Mapping[str, RateLimit] = options.get("rate_limits", {})
        limits = {step: timeouts.get(attribute, options.get("timeout")) for attribute, step in attributes.items()}
        self.timeouts: dict[str, float] = {step: limit for step, limit in limits.items() if limit is not None}
        default: Transactional = options.get("transactional", False)
        self.transactional: dict[str, Transactional] = {
            step: transactional.get(attribute, default) for attribute, step in attributes.items()
        }
        self.queues: dict[str, str] = {attributes[attribute]: queue for attribute, queue in queues.items()}
        """Which steps have a queue of their own."""
        self.schedules: tuple[Any, ...] = ()  # of `schedule.Schedule`, by the decorators that follow
        self.retain: Mapping[str, int | None] | None = options.get("retain")
        self.history: History | None = options.get("history")
        self.head = dumps({"fsm": name, "version": version, "queue": self.queue, "step": self.initial})[:-1]
        self._codec: StateCodec[Any] | None = None
        self._instance: Declared | None = None
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
                for attribute, name in (*self.attributes.items(), *self.in_sql.items())
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
    def instance(self) -> Declared:
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
                    is_async = inspect.iscoroutinefunction(method)
                    made[name] = Step(
                        name, self.runner(method), is_async, self.timeouts.get(name), self.transactional[name]
                    )
                self._steps = made
        return self._steps

    @property
    def journals(self) -> bool:
        """Whether it is a flow: a claimed row needs its journal before it runs, and any step is where it may be."""
        return False

    def find_step(self, name: str) -> Step | None:
        return self.steps.get(name)

    def state_type(self) -> type[Any] | None:
        return getattr(self.cls, "State", None)

    def runner(self, method: Callable[..., object]) -> Callable[[Any], object]:
        """A bound step as a function of the context alone."""
        return method

    def options(self) -> dict[str, object]:
        """What it registers. What the class does not say stays as it is on the server, but for timeouts: one that is in
        the code no more must go there, too."""
        limits = {step: round(seconds * 1000) for step, seconds in self.timeouts.items()}
        said = {"max_attempts": self.max_attempts, "retain": self.retain, "history": self.history}
        return {
            **{key: value for key, value in said.items() if value is not None},
            "timeouts": limits or None,
            "steps": sorted(self.names),
        }

    def read_answer(self, returned: object) -> object:
        """What a step gave back that is no outcome: the one that it stands for, or itself if there is none."""
        return returned

    def read_error(self, error: BaseException) -> Outcome | None:
        """The outcome of an error that is no failure, and of which `handle` is not told; None: it is one."""
        return None


def spec_of(machine: MachineLike) -> Spec:
    """The declaration behind a machine class or a job."""
    spec = getattr(machine, "gendurable_spec", None)
    if not isinstance(spec, Spec) or (isinstance(machine, type) and spec.cls is not machine):
        raise InvalidArgument(f"{machine!r} is not a machine", hint="give an FSM class (not an abstract one) or a job")
    return spec


def collect_rate_limits(specs: Iterable[Spec]) -> dict[str, RateLimit]:
    """What these machines declare, as one.

    Raises:
        InvalidArgument: two of them say something else of one limit.
    """
    found: dict[str, tuple[RateLimit, Spec]] = {}
    for spec in specs:
        for name, limit in spec.rate_limits.items():
            other, first = found.setdefault(name, (limit, spec))
            if other.stored != limit.stored:
                raise InvalidArgument(
                    f"the rate limit {name!r} is {other} in {first.name} v{first.version}, "
                    f"and {limit} in {spec.name} v{spec.version}",
                    hint="define it once, and use that in both",
                )
    return {name: limit for name, (limit, _) in found.items()}


def check_step(spec: Spec, target: StepLike) -> str:
    """The name of a step of this machine, without building its instance."""
    name = target if isinstance(target, str) else spec.step_name(target)
    if name not in spec.names:
        raise InvalidArgument(f"{spec.name} has no step {name!r}", hint=f"its steps are {', '.join(spec.names)}")
    return name
