"""The rows that calls answer, and the defaults that several of them have."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from ..machine.claim import ClaimRow

Claims = Iterable[tuple[int, int]]
"""Pairs of id and claim_no."""


def pairs(claims: Claims) -> str:
    """As the JSON that gd_heartbeat, gd_release and gd_run_claims take."""
    return "[" + ",".join(f"[{id},{claim_no}]" for id, claim_no in claims) + "]"


StepsIn = Literal["sql", "other"]
"""Which rows a claim takes: those whose step this role can run in SQL, or all others."""


class Inserted(NamedTuple):
    """``ord``: the 0-based place in the input. ``created`` false: the unique key is held, and ``id`` holds it."""

    ord: int
    id: int
    created: bool


class Result(NamedTuple):
    """How an instance stands: ``status`` is one of the terminal ones, or it has not ended yet."""

    status: str
    result: JsonValue
    last_error: str | None


class Told(NamedTuple):
    """What a worker is told when it says hello.

    ``noted`` false: somebody has its row locked. ``clash``: another process uses its name. ``counted``: the last
    report of ended steps that was counted. ``drain``: claim nothing more. ``held``: everything is held. ``queues``: of
    its queues those of which something is set, with ``concurrency`` (None: its own) and ``paused``.
    """

    noted: bool
    clash: bool
    counted: int | None
    drain: bool
    held: bool
    queues: dict[str, dict[str, int | bool | None]]


class Counts(NamedTuple):
    """``ended``: how many steps ended in a minute with an outcome; ``seconds``: that they took together."""

    minute: datetime
    fsm: str
    step: str
    outcome: str
    ended: int
    seconds: float

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Counts:
        return cls(when(row[0]), *row[1:])


class Claim(NamedTuple):
    """A claimed row, to be worked on by hand: commit an outcome for (``id``, ``claim_no``)."""

    id: int
    claim_no: int
    fsm: str
    fsm_version: int
    step: str
    state: JsonValue
    attempt: int
    queue: str
    partition_key: str | None
    unique_key: str | None
    parent_id: int | None
    awaits: list[str] | None
    timed_out: bool
    signals: JsonValue
    childs: JsonValue
    meta: JsonValue
    attributes: JsonValue


class Committed(NamedTuple):
    """The answer for one outcome: ``result`` is ok, stale, busy or rejected."""

    ord: int
    id: int | None
    claim_no: int | None
    result: str
    detail: JsonValue


class Ran(NamedTuple):
    """The answer for one claim whose step was to be run by its function: ``result`` is ok, error, stale, busy, left or
    no_handler."""

    ord: int
    id: int
    claim_no: int
    result: str
    detail: JsonValue


class Rehearsed(NamedTuple):
    """A step that was run and undone. ``result``: ok, error, stale, busy, no_handler, or waits (nothing was run).

    ``after``: how the instance stood behind it, with ``insert``, ``signal`` and ``childs`` of its outcome; or why not.
    ``writes``: rows ``inserted``, ``updated`` and ``deleted`` by table; None where it raised or was not run.
    """

    ord: int
    id: int | None
    fsm: str | None
    step: str | None
    result: str
    after: dict[str, JsonValue]
    writes: dict[str, dict[str, int]] | None


class Defined(NamedTuple):
    """A definition of a step. ``in_sql`` false: it says that the step is in another language. ``problem``: why this
    role cannot run its function here."""

    fsm: str
    step: str
    version: int | None
    in_sql: bool
    problem: str | None


class Instance(NamedTuple):
    """How an instance stands, with what it waits for."""

    id: int
    fsm: str
    status: str
    step: str
    attempt: int
    state: JsonValue
    awaits: list[str] | None
    result: JsonValue
    last_error: str | None


class Matched(NamedTuple):
    """A page of ids. ``next``: where the next one begins; None: that was all."""

    ids: list[int]
    next: int | None


class Listed(NamedTuple):
    """An instance in a list: the columns of gd_instances without state, result and meta."""

    id: int
    fsm: str
    fsm_version: int
    step: str
    status: str
    queue: str
    priority: int
    eligible_at: datetime | None
    attempt: int
    crashes: int
    worker: str | None
    lease_expires_at: datetime | None
    awaits: list[str] | None
    partition_key: str | None
    unique_key: str | None
    rate_limit: str | None
    parent_id: int | None
    children_pending: int
    last_error: str | None
    attributes: JsonValue
    inserted_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    paused_at: datetime | None


class Page(NamedTuple):
    """A page of a list. ``next``: where the next one begins; None: that was all."""

    instances: list[Listed]
    next: JsonValue


class ByHand(NamedTuple):
    """A call of an operator. ``what``: its arguments, in short."""

    no: int
    at: datetime
    call: str
    session_role: str
    set_role: str | None
    actor: str | None
    application: str | None
    id: int | None
    what: JsonValue
    affected: int


class Audit(NamedTuple):
    """A page of what was done by hand. ``next``: where the next one begins; None: that was all."""

    calls: list[ByHand]
    next: int | None


class Counted(NamedTuple):
    """``exact`` False: there may be more."""

    instances: int
    exact: bool


class Node(NamedTuple):
    """An instance in a tree, ``depth`` levels below the one that was asked for."""

    id: int
    parent_id: int | None
    depth: int
    fsm: str
    step: str
    status: str
    last_error: str | None
    inserted_at: datetime
    finished_at: datetime | None


class Kept(NamedTuple):
    """An error of an instance: ``kind`` is error, replay, stop, timeout, crash, expired, unfit or cancel. Of a cancel
    ``worker`` is who did it."""

    at: datetime
    step: str
    attempt: int
    kind: str
    worker: str | None
    error: str | None
    traceback: str | None


class Entry(NamedTuple):
    """An entry in the history of an instance. ``seconds``: since its claim; ``state``: what the step was given, where
    the machine keeps states."""

    no: int
    at: datetime
    kind: str
    step: str
    next_step: str | None
    attempt: int
    worker: str | None
    seconds: float | None
    state: JsonValue
    detail: JsonValue


class JournalEntry(NamedTuple):
    """What a flow has come through. ``kind``: step, retry, sleep, signal and so on; ``name`` and ``n``: which
    checkpoint, and the how manieth of that name; ``at``: by the clock of its worker; ``value``: of a step, the payload
    of a signal, the results of children; ``error``: what a step has failed with."""

    seq: int
    kind: str
    name: str | None
    n: int | None
    at: datetime | None
    value: JsonValue
    error: str | None


class Finding(NamedTuple):
    """What a check of the doctor says. ``level``: ok, warning or problem. ``hint``: what to do; None: nothing."""

    check: str
    level: str
    message: str
    hint: str | None
    detail: JsonValue


class Cause(NamedTuple):
    """Why an instance does not run: ``message`` is for people, ids and names stand in ``detail``."""

    cause: str
    since: datetime | None
    until: datetime | None
    message: str
    detail: dict[str, JsonValue]


class Standing(NamedTuple):
    """An instance in the line of its key; ``standing`` as gd_line says it, ``place`` None where it has none."""

    place: int | None
    id: int
    standing: str
    fsm: str
    step: str
    status: str
    queue: str
    priority: int
    since: datetime
    worker: str | None
    lease_expires_at: datetime | None


class Failure(NamedTuple):
    """Failures that say the same; ``exact`` False: there may be more than were looked at."""

    fsm: str
    step: str
    message: str
    instances: int
    first_at: datetime
    last_at: datetime
    last_id: int
    exact: bool


class Crashed(NamedTuple):
    """An instance in whose steps workers were lost: ``crashes`` in a row now, ``lost`` of those that were looked at;
    ``exact`` False: there may be more than were looked at."""

    id: int
    fsm: str
    step: str
    status: str
    queue: str
    crashes: int
    lost: int
    first_at: datetime
    last_at: datetime
    worker: str | None
    exact: bool


class Sleep(NamedTuple):
    """``due_in``: seconds from now, on the server's clock, until the next row is due; None: none is known."""

    next_due: datetime | None
    due_in: float | None
    horizon: str


class Announced(NamedTuple):
    """A schedule as it stands in the database.

    ``result``: made, same, differs (from what was announced), gone (it was announced once), or busy (call again).
    """

    name: str
    result: str
    cron: str
    timezone: str
    fsm: str
    options: JsonValue
    seen_at: datetime | None


class Answer(NamedTuple):
    """The answer for one outcome, as the dispatcher needs it. ``kept``: the next claim of the same instance; of a flow
    its ``claim_no``, where nothing else is new. ``halted``: it is kept only for the steps of a flow that run."""

    ord: int
    result: str
    sqlstate: str | None
    message: str | None
    kept: ClaimRow | int | None
    halted: bool = False


def when(epoch: Decimal) -> datetime:
    """A time of the server; those that Python has no year for are its first and its last."""
    try:
        # By whole numbers: arithmetic with decimals is rounded to what the caller's context says.
        seconds, parts = epoch.as_integer_ratio()
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=seconds * 1_000_000 // parts)
    except OverflowError:
        return (datetime.max if epoch > 0 else datetime.min).replace(tzinfo=UTC)
