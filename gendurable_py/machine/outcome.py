"""What a step gives back, and the values it meets: the outcomes, `Child`, `Insert`, `Send`, `Signal`, `ChildResult`.

A field left out means "unchanged" (`UNSET`), which is not the same as None: ``partition_key=None`` releases the key.
Delays and timeouts are seconds or a `datetime.timedelta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from pydantic import JsonValue

from .._contract import Seconds
from .describe import describe


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET

StepLike = str | Callable[..., object]


class MachineLike(Protocol):
    """A machine class or a job: anything that `gendurable_py.FSM` or `gendurable_py.job` made."""

    @property
    def gendurable_spec(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal of the inbox.

    ``cut``: the payload was too large to be handed out with the claim, and is None here; `gendurable_py.signals` has
    it.
    """

    id: int
    name: str
    payload: JsonValue
    inserted_at: datetime
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ChildResult:
    """A child that has ended: ``result`` if it is ``done``, ``last_error`` if it ``failed`` or was ``cancelled``.

    ``cut``: state and result were too large to be handed out with the claim, and are None here;
    `gendurable_py.childs` has them.
    """

    id: int
    fsm: str
    status: str
    state: JsonValue
    result: JsonValue
    last_error: str | None
    cut: bool = False


class Cancel(Exception):
    """Raised by a job: it ends as ``failed`` with this reason, and is not tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The base of the outcomes.

    ``consume`` names the signals that are used up when the outcome commits (signals or their ids). Left out: those
    that `Context.signal` gave out; if it gave none, what was awaited, for an outcome that progresses.

    ``attributes`` are merged into those by which the instance is searched: a key with None is taken away.
    """

    consume: Iterable[Signal | int] | None = field(default=None, kw_only=True)
    attributes: Mapping[str, object] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Sending(Outcome):
    """The base of the outcomes with an outbox: what happens in the commit of the outcome, or not at all.

    ``insert``: new instances, no children: `Insert` objects, bare machines, or mappings with the keys of the SQL
    contract. Where a unique key is taken, nothing is created. ``signal``: `Send` objects, delivered in their order;
    what goes to an instance that has ended, or that there is not, is dropped.
    """

    insert: Iterable[Insert | MachineLike | Mapping[str, object]] = field(default=(), kw_only=True)
    signal: Iterable[Send] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Next(Sending):
    """Go to ``step``, now or after ``delay``; the attempts start again at 0.

    ``rate_limit`` is what this start needs tokens of, and only this one. ``close``: nothing of it starts for so long.
    """

    step: StepLike
    state: object = UNSET
    delay: Seconds = field(default=0, kw_only=True)
    partition_key: str | Unset | None = field(default=UNSET, kw_only=True)
    priority: int | Unset = field(default=UNSET, kw_only=True)
    queue: str | Unset = field(default=UNSET, kw_only=True)
    rate_limit: str | Unset | None = field(default=UNSET, kw_only=True)
    weight: float | Unset = field(default=UNSET, kw_only=True)
    close: Seconds | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Replay(Sending):
    """The same step again after ``delay``, with ``attempt + 1``. It uses up no signal.

    ``close``: nothing that has the rate limit of this instance starts for so long, wherever it runs: what to do about
    "429 Too Many Requests, Retry-After".
    """

    state: object = UNSET
    delay: Seconds = 0
    close: Seconds | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Await(Sending):
    """Park until one of the names is in the inbox, or until ``timeout``; then run ``step`` (default: this step)."""

    names: str | Sequence[str]
    state: object = UNSET
    step: StepLike | None = field(default=None, kw_only=True)
    timeout: Seconds | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class ScheduleChilds(Sending):
    """Insert the children and park; ``step`` runs once all that were created have ended."""

    step: StepLike
    childs: Iterable[Child | MachineLike]
    state: object = UNSET


@dataclass(frozen=True, slots=True)
class Done(Sending):
    """The end: ``result`` is any JSON."""

    result: object = None


@dataclass(frozen=True, slots=True)
class Stop(Sending):
    """The end as ``failed``: the reason, or the exception that was it, becomes ``last_error``."""

    reason: str | BaseException

    def text(self) -> str:
        return describe(self.reason)


@dataclass(frozen=True, slots=True)
class Retry(Outcome):
    """An error, try again: the same step after a back-off until the attempts are used up, then ``failed``.

    What raising does in a job, and in a machine with a retry rule, as an outcome: any step or job may return it. The
    reason becomes ``last_error``. The attempts are the instance's ``max_attempts``, else the machine's, else 20.
    ``delay`` stands in place of the back-off (1 s, doubled with each attempt up to 5 minutes). It uses up no signal.
    ``close`` is that of `Replay`.
    """

    reason: str | BaseException
    delay: Seconds | None = None
    close: Seconds | None = field(default=None, kw_only=True)

    def text(self) -> str:
        return describe(self.reason)


@dataclass(frozen=True, slots=True)
class New:
    """An instance to insert. ``machine`` is a machine class, a job, or the name of a machine that lives elsewhere."""

    machine: MachineLike | str
    state: object = UNSET
    step: StepLike | None = field(default=None, kw_only=True)
    version: int | None = field(default=None, kw_only=True)
    queue: str | None = field(default=None, kw_only=True)
    priority: int | None = field(default=None, kw_only=True)
    partition_key: str | None = field(default=None, kw_only=True)
    unique_key: str | None = field(default=None, kw_only=True)
    unique_scope: Sequence[str] | None = field(default=None, kw_only=True)
    eligible_at: datetime | None = field(default=None, kw_only=True)
    delay: Seconds | None = field(default=None, kw_only=True)
    rate_limit: str | None = field(default=None, kw_only=True)
    weight: float | None = field(default=None, kw_only=True)
    max_attempts: int | None = field(default=None, kw_only=True)
    meta: Mapping[str, object] | None = field(default=None, kw_only=True)
    attributes: Mapping[str, object] | None = field(default=None, kw_only=True)
    expires_at: datetime | None = field(default=None, kw_only=True)
    expires: Seconds | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Child(New):
    """A child of `ScheduleChilds`, or an element of `insert_many`."""


@dataclass(frozen=True, slots=True)
class Insert(New):
    """An instance of its own that an outcome inserts: no child, nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Send:
    """A signal that an outcome sends: ``target`` is the id of an instance, or a unique key.

    As with `gendurable_py.signal`, one of two with the same ``dedup_key`` is delivered.
    """

    target: int | str
    name: str
    payload: object = None
    dedup_key: str | None = field(default=None, kw_only=True)
