"""Putting work in: instances, one or many, and the machines that they run.

The first stage of a life. What is refused here never reaches the server; the trace of the caller goes along in the
meta. Next: `working`, which claims what is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from .. import _trace
from .._contract import Seconds
from .._statement import Statement, call, nothing, one_value
from ..errors import InvalidArgument
from ..machine.codec import dumps
from ..machine.encode import Insertable, encode_inserts
from ..machine.outcome import UNSET, MachineLike, StepLike
from ..machine.spec import check_step, spec_of, step_name
from ..machine.times import aware, seconds
from .rows import Inserted

OnConflict = Literal["nothing", "id", "reschedule", "replace"]


@call
def insert(
    machine: MachineLike | str,
    state: object = UNSET,
    *,
    step: StepLike | None = None,
    version: int | None = None,
    queue: str | None = None,
    priority: int | None = None,
    partition_key: str | None = None,
    unique_key: str | None = None,
    unique_scope: Sequence[str] | None = None,
    eligible_at: datetime | None = None,
    delay: Seconds | None = None,
    rate_limit: str | None = None,
    weight: float | None = None,
    max_attempts: int | None = None,
    meta: Mapping[str, object] | None = None,
    expires_at: datetime | None = None,
    expires: Seconds | None = None,
    attributes: Mapping[str, object] | None = None,
    on_conflict: OnConflict = "nothing",
) -> Statement[int | None]:
    """Insert one instance: its id, or None if another holds the unique key.

    ``expires_at`` (or ``expires``, in seconds from now) is its deadline: past it the instance has failed.
    ``attributes`` are what it is searched by.

    ``on_conflict`` is what becomes of the holder of the unique key: ``id`` answers its id; ``reschedule`` moves its
    time, if no worker has ever had it; ``replace`` gives it the step, the version and the state, too. Both answer its
    id, or None where it has begun or somebody has it locked: then nothing has changed.

    With a machine class or a job the state and the step are checked before any SQL; a name is for a machine that lives
    elsewhere.
    """
    if isinstance(machine, str):
        fsm, text = machine, b"{}" if state is UNSET else dumps(state)
        first = None if step is None else step_name(step)
    else:
        spec = spec_of(machine)
        fsm, text = spec.name, spec.codec.encode({} if state is UNSET else state)
        first = spec.initial if step is None else check_step(spec, step)
        version = spec.version if version is None else version
        queue = spec.queue if queue is None else queue
    if expires_at is not None and expires is not None:
        raise InvalidArgument("expires_at and expires exclude each other", hint="give one of the two")
    meta = _trace.traced(meta, _trace.carrier())
    return Statement(
        "select gd_insert(%s, %s::jsonb, %s, %s, %s, %s, %s, %s, %s::text[], %s, "
        "make_interval(secs => %s), %s, %s, %s, %s::jsonb, "
        "coalesce(%s::timestamptz, clock_timestamp() + make_interval(secs => %s)), %s::jsonb, %s)",
        (
            fsm,
            text.decode(),
            first,
            version,
            queue,
            priority,
            partition_key,
            unique_key,
            None if unique_scope is None else list(unique_scope),
            None if eligible_at is None else aware(eligible_at),
            None if delay is None else seconds(delay, "the delay"),
            rate_limit,
            weight,
            max_attempts,
            None if meta is None else dumps(meta).decode(),
            None if expires_at is None else aware(expires_at),
            None if expires is None else seconds(expires, "expires"),
            None if attributes is None else dumps(attributes).decode(),
            on_conflict,
        ),
        one_value,
    )


@call
def insert_many(instances: Iterable[Insertable]) -> Statement[list[Inserted]]:
    """Insert many in one round trip: `Child` objects, bare machines, or mappings with the keys of the SQL contract."""
    document = encode_inserts(instances)
    return Statement(
        "select ord, id, created from gd_insert_many(%s::jsonb) order by ord",
        (document.decode(),),
        lambda rows: [Inserted(*row) for row in rows],
    )


@call
def register(
    machine: MachineLike | str,
    *,
    version: int | None = None,
    initial_step: str | None = None,
    queue: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Statement[None]:
    """Make a machine's defaults known to the server. An `Engine` does it at start for its machines."""
    if not isinstance(machine, str):
        spec = spec_of(machine)
        machine, version = spec.name, spec.version if version is None else version
        initial_step, queue = initial_step or spec.initial, queue or spec.queue
        options = spec.options() if options is None else options
    return Statement(
        "select gd_register(%s, %s, %s, %s, %s::jsonb)",
        (machine, version or 1, initial_step or "start", queue or "default", dumps(options or {}).decode()),
        nothing,
    )
