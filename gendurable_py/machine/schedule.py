"""Schedules in code: what `scheduled` declared of a machine, and the options of a schedule as JSON.

An engine announces what its machines declared, see `dispatch.schedules`; `calls.scheduling` takes the same options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from ..errors import InvalidArgument
from .codec import check_name, dumps
from .outcome import UNSET, MachineLike, StepLike
from .spec import Spec, check_step, spec_of, step_name

M = TypeVar("M")


class ScheduleOptions(TypedDict, total=False):
    """What can be said of the instances that a schedule inserts, and of ticks that were missed or come too soon."""

    catch_up: Literal["one", "none", "all"]
    overlap: Literal["allow", "skip", "queue"]
    step: StepLike
    version: int
    queue: str
    priority: int
    partition_key: str
    unique_key: str
    unique_scope: Sequence[str]
    rate_limit: str
    weight: float
    max_attempts: int
    meta: Mapping[str, object]
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule of a machine; its ``name`` is that of the machine unless it has one."""

    name: str
    cron: str
    timezone: str
    state: object
    options: ScheduleOptions

    def encode(self, spec: Spec) -> bytes:
        """As an object of `gd_announce_schedules`."""
        head = {"name": self.name, "cron": self.cron, "timezone": self.timezone, "fsm": spec.name}
        options = encode_options(cast("MachineLike", spec.cls), self.state, self.options)
        return dumps(head)[:-1] + b',"options":' + options + b"}"


def scheduled(
    cron: str,
    state: object = UNSET,
    *,
    timezone: str = "UTC",
    name: str | None = None,
    **options: Unpack[ScheduleOptions],
) -> Callable[[M], M]:
    """Run a job or a machine at each tick of a cron expression, with this state; outermost of its decorators.

    An engine that has the machine among its ``machines`` schedules it at start, unless there is a schedule of this
    name: what an operator changed or paused stays so, and the engine warns where the two differ.

    Args:
        name: of the schedule; default: the machine's. Several schedules of one machine need names.
        timezone: whose clock the expression is about: a name such as ``Europe/Berlin``.
        options: those of `gendurable_py.schedule`.
    """
    check_name(cron, "the cron expression")
    check_name(timezone, "the time zone")
    if name is not None:
        check_name(name, "the name of a schedule")
    _check_options(options)

    def mark(machine: M) -> M:
        spec = spec_of(cast("MachineLike", machine))  # refuses what is none
        made = Schedule(name or spec.name, cron, timezone, state, options)
        if any(other.name == made.name for other in spec.schedules):
            raise InvalidArgument(
                f"{spec.name} has two schedules named {made.name!r}",
                hint="several schedules of a machine need names: name=",
            )
        spec.schedules = (*spec.schedules, made)
        return machine

    return mark


def encode_schedules(specs: Iterable[Spec]) -> bytes:
    """All schedules of these machines, for `gd_announce_schedules`.

    Raises:
        InvalidArgument: two have the same name, or a state does not fit its machine.
    """
    owners: dict[str, Spec] = {}
    texts = []
    for spec in specs:
        for made in spec.schedules:
            if owners.setdefault(made.name, spec) is not spec:
                raise InvalidArgument(
                    f"{owners[made.name]!r} and {spec!r} have a schedule named {made.name!r}",
                    hint="a schedule belongs to one version of one machine: take it from the others, or give it a name",
                )
            texts.append(made.encode(spec))
    return b"[" + b",".join(texts) + b"]"


_PLAIN = (
    "catch_up",
    "overlap",
    "version",
    "queue",
    "priority",
    "partition_key",
    "unique_key",
    "rate_limit",
    "weight",
    "max_attempts",
)


def _check_options(options: Mapping[str, object]) -> None:
    unknown = set(options) - set(ScheduleOptions.__annotations__)
    if unknown:
        raise InvalidArgument(
            f"a schedule has no option {min(unknown)!r}", hint=f"there are {', '.join(ScheduleOptions.__annotations__)}"
        )


def encode_options(machine: MachineLike | str, state: object, options: Mapping[str, Any]) -> bytes:
    """The options of `gd_schedule`. What is not said is left to the server: a later version of the machine changes no
    schedule."""
    _check_options(options)
    made: dict[str, object] = {key: options[key] for key in _PLAIN if options.get(key) is not None}
    step = options.get("step")
    if isinstance(machine, str):
        if step is not None:
            made["step"] = step_name(step)
        text = b"{}" if state is UNSET else dumps(state)
    else:
        spec = spec_of(machine)
        if step is not None:
            made["step"] = check_step(spec, step)
        text = spec.codec.encode({} if state is UNSET else state)
    if options.get("unique_scope") is not None:
        made["unique_scope"] = list(options["unique_scope"])
    for name in ("meta", "attributes"):
        if options.get(name) is not None:
            made[name] = dict(options[name])
    # without {} as the state: it is the server's default
    if text == b"{}":
        return dumps(made)
    return b'{"state":' + text + (b"," + dumps(made)[1:] if made else b"}")
