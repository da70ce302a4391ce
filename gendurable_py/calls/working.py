"""The SQL contract in Python: one call per function. What the engine asks beyond it stands in
`_calls`, how its connections are set in `_session` and `_pooled`, installing in `install`.

The connection comes first: ``insert(conn, …)`` on a sync `psycopg.Connection`, ``await insert(aconn, …)`` on an
`psycopg.AsyncConnection`. Every call joins the transaction of its connection. A caller's mistake raises an error of
`gendurable_py.errors`; a lost race is an answer. Durations are seconds or a `datetime.timedelta`. The functions are
found through the connection's ``search_path``, in the schema where the extension was created.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import LiteralString, cast

from pydantic import JsonValue

from ..telemetry import instrument
from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import Seconds, dumps, loads, retention_seconds, seconds
from ..machine.encode import Insertable, aware, checked_step, encode_inserts
from .rows import Claim, Claims, Committed, Inserted, Result, Sleep
from ..errors import InvalidArgument
from ..machine.fsm import spec_of, step_name
from ..machine.outcome import UNSET, ChildResult, MachineLike, Signal, StepLike


def when(epoch: Decimal) -> datetime:
    """A time of the server; those that Python has no year for are its first and its last."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(epoch * 1_000_000))
    except OverflowError:
        return (datetime.max if epoch > 0 else datetime.min).replace(tzinfo=UTC)


LEASE = timedelta(seconds=60)
RETENTION = timedelta(days=7)


def _json(value: object) -> str:
    return dumps(value).decode()


def _pairs(claims: Claims) -> str:
    return "[" + ",".join(f"[{id},{claim_no}]" for id, claim_no in claims) + "]"


# Putting work in


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
) -> Statement[int | None]:
    """Insert one instance: its id, or None if another holds the unique key.

    With a machine class or a job the state and the step are checked before any SQL; a name is for a machine that lives
    elsewhere.
    """
    if isinstance(machine, str):
        fsm, text = machine, b"{}" if state is UNSET else dumps(state)
        first = None if step is None else step_name(step)
    else:
        spec = spec_of(machine)
        fsm, text = spec.name, spec.codec.encode({} if state is UNSET else state)
        first = spec.initial if step is None else checked_step(spec, step)
        version = spec.version if version is None else version
        queue = spec.queue if queue is None else queue
    meta = instrument.traced(meta, instrument.carrier())
    return Statement(
        "select gd_insert(%s, %s::jsonb, %s, %s, %s, %s, %s, %s, %s::text[], %s, "
        "make_interval(secs => %s), %s, %s, %s, %s::jsonb)",
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
            None if meta is None else _json(meta),
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
        (machine, version or 1, initial_step or "start", queue or "default", _json(options or {})),
        nothing,
    )


@call
def find(unique_key: str) -> Statement[int | None]:
    """The instance that holds the key now, or None."""
    return Statement("select gd_find(%s)", (unique_key,), one_value)


# Working


CLAIMED: LiteralString = (
    "id, claim_no, fsm, fsm_version, step, state::text, attempt, queue, partition_key, unique_key, parent_id, "
    "awaits, timed_out, signals::text, childs::text, meta::text"
)


def _claims(rows: Rows) -> list[Claim]:
    return [Claim._make((*row[:5], loads(row[5]), *row[6:13], *map(loads, row[13:]))) for row in rows]


@call
def claim(worker: str, queue: str = "default", limit: int = 1, lease: Seconds = LEASE) -> Statement[list[Claim]]:
    """Claim due rows of one queue. Empty: nothing is due, or the queue is paused."""
    return Statement(
        f"select {CLAIMED} from gd_claim(%s, %s, %s, make_interval(secs => %s))",
        (worker, queue, limit, seconds(lease, "the lease")),
        _claims,
    )


@call
def claim_many(worker: str, queues: Mapping[str, int], lease: Seconds = LEASE) -> Statement[list[Claim]]:
    """Claim from several queues in one round trip, from each at most so many."""
    return Statement(
        f"select {CLAIMED} from gd_claim_many(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, _json(queues), seconds(lease, "the lease")),
        _claims,
    )


@call
def commit(worker: str, outcomes: Sequence[Mapping[str, object]], lease: Seconds = LEASE) -> Statement[list[Committed]]:
    """Commit outcomes (objects of the SQL contract) in one transaction, each answered for itself."""
    return Statement(
        "select ord, id, claim_no, result, detail::text from gd_commit(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, _json(outcomes), seconds(lease, "the lease")),
        lambda rows: [Committed(row[0], row[1], row[2], row[3], loads(row[4])) for row in rows],
    )


@call
def commit_one(worker: str, outcome: Mapping[str, object]) -> Statement[None]:
    """Commit one outcome inside the caller's own transaction, together with the business writes of the step.

    Raises:
        ClaimLost: the claim is not this one any more.
        InvalidArgument: the outcome is refused.
    """
    return Statement("select gd_commit_one(%s, %s::jsonb)", (worker, _json(outcome)), nothing)


@call
def heartbeat(worker: str, claims: Claims, lease: Seconds = LEASE) -> Statement[list[tuple[int, int]]]:
    """Renew the leases of these claims (pairs of id and claim_no); answers those that are lost."""
    return Statement(
        "select id, claim_no from gd_heartbeat(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, _pairs(claims), seconds(lease, "the lease")),
        lambda rows: [(row[0], row[1]) for row in rows],
    )


@call
def release(worker: str, claims: Claims | None, delay: Seconds = 0) -> Statement[int]:
    """Give claims back, due after the delay, no attempt burnt; None: all that this worker holds. Answers how many."""
    pairs = None if claims is None else _pairs(claims)
    return Statement(
        "select gd_release(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, pairs, seconds(delay, "the delay")),
        one_value,
    )


@call
def reap(limit: int = 1000) -> Statement[int]:
    """Make rows with expired leases runnable now; answers how many."""
    return Statement("select gd_reap(%s)", (limit,), one_value)


def _sleep(rows: Rows) -> Sleep:
    due, due_in, horizon = rows[0]
    return Sleep(None, None, horizon) if due is None else Sleep(when(due), float(due_in), horizon)


@call
def sleep(worker: str, queues: Iterable[str]) -> Statement[Sleep]:
    """Announce, on the connection that listens, that this worker sleeps on these queues."""
    return Statement(
        # Times as numbers: how a session writes them is its own setting, and not all are years that Python has.
        "select extract(epoch from next_due), extract(epoch from next_due - clock_timestamp()), "
        "horizon::text "
        "from gd_sleep(%s, %s::text[])",
        (worker, list(queues)),
        _sleep,
    )


@call
def wake(worker: str) -> Statement[None]:
    """Take the announcement of `sleep` back: nobody needs to notify this worker."""
    return Statement("select gd_wake(%s)", (worker,), nothing)


# Talking to an instance


@call
def childs(id: int, after: int = 0, limit: int = 1000) -> Statement[list[ChildResult]]:
    """The children of an instance by id, a page at a time: pass the last id as ``after``."""
    return Statement(
        "select id, fsm, status, state::text, result::text, last_error from gd_childs(%s, %s, %s)",
        (id, after, limit),
        lambda rows: [ChildResult(row[0], row[1], row[2], loads(row[3]), loads(row[4]), row[5]) for row in rows],
    )


@call
def signals(id: int, after: int = 0, limit: int = 1000) -> Statement[list[Signal]]:
    """The inbox of an instance by id, a page at a time: pass the last id as ``after``. Looking uses nothing up."""
    return Statement(
        "select id, name, payload::text, extract(epoch from inserted_at) from gd_signals(%s, %s, %s) order by id",
        (id, after, limit),
        lambda rows: [Signal(row[0], row[1], loads(row[2]), when(row[3])) for row in rows],
    )


@call
def signal(target: int | str, name: str, payload: object = None, *, dedup_key: str | None = None) -> Statement[str]:
    """Send a signal to an instance, by id or by unique key: ``delivered``, ``duplicate`` or ``no_target``."""
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise InvalidArgument(
            f"a {type(target).__name__} is no instance", hint="give its id, a number, or its unique key, a text"
        )
    text = _json(payload)
    if isinstance(target, str):
        return Statement("select gd_signal(%s::text, %s, %s::jsonb, %s)", (target, name, text, dedup_key), one_value)
    return Statement("select gd_signal(%s::bigint, %s, %s::jsonb, %s)", (target, name, text, dedup_key), one_value)


@call
def result(id: int) -> Statement[Result | None]:
    """How an instance stands; None: there is no such instance."""
    return Statement("select status, result::text, last_error from gd_result(%s)", (id,), _result)


def _result(rows: Rows) -> Result | None:
    return Result(rows[0][0], loads(rows[0][1]), rows[0][2]) if rows else None


@call
def watch(id: int) -> Statement[str | None]:
    """The status now (None: no such instance); when it ends, its id is sent on the channel ``gendurable_done``."""
    return Statement("select gd_watch(%s)", (id,), one_value)


# Operating


@call
def cancel(id: int, reason: str | None = None, *, cascade: bool = False) -> Statement[bool]:
    """End an instance as ``cancelled``; False: it has ended already. The outcome of a running step becomes stale.

    Raises:
        UnknownInstance: there is no such instance. So do `retry` and `reschedule`.
    """
    return Statement("select gd_cancel(%s, %s, %s)", (id, reason, cascade), one_value)


@call
def retry(id: int, step: StepLike | None = None, state: object = UNSET) -> Statement[bool]:
    """Run a failed or cancelled instance again, from its last step or the one given; False: not possible now."""
    first = None if step is None else step_name(step)
    text = None if state is UNSET else _json(state)
    return Statement("select gd_retry(%s, %s, %s::jsonb)", (id, first, text), one_value)


@call
def reschedule(id: int, eligible_at: datetime) -> Statement[bool]:
    """Move the time of a runnable instance, or the deadline of an await; False: not possible now."""
    return Statement("select gd_reschedule(%s, %s)", (id, aware(eligible_at)), one_value)


@call
def pause_queue(queue: str) -> Statement[None]:
    """Claim nothing more from a queue; what is executing goes on."""
    return Statement("select gd_pause_queue(%s)", (queue,), nothing)


@call
def resume_queue(queue: str) -> Statement[None]:
    return Statement("select gd_resume_queue(%s)", (queue,), nothing)


@call
def set_key_limit(prefix: str, limit: int | None) -> Statement[None]:
    """How many instances of a partition key ``prefix`` or ``prefix:…`` execute at once; None: one again."""
    return Statement("select gd_set_key_limit(%s, %s)", (prefix, limit), nothing)


@call
def gc(retention: Seconds = RETENTION, limit: int = 2000) -> Statement[int]:
    """Remove instances that ended longer ago than the retention; answers how many."""
    return Statement("select gd_gc(make_interval(secs => %s), %s)", (retention_seconds(retention), limit), one_value)


@call
def maintain(retention: Seconds = RETENTION) -> Statement[dict[str, JsonValue]]:
    """Everything that must happen now and then, in one call; answers what was done."""
    return Statement(
        "select gd_maintain(make_interval(secs => %s))::text",
        (retention_seconds(retention),),
        lambda rows: _object(rows[0][0]),
    )


def _object(text: str) -> dict[str, JsonValue]:
    return cast("dict[str, JsonValue]", loads(text))


@call
def grant(role: str, profile: str) -> Statement[None]:
    """Give a role the rights of a profile: client, worker, operator or reader."""
    return Statement("select gd_grant(quote_ident(%s)::regrole, %s)", (role, profile), nothing)


@call
def version() -> Statement[str]:
    """The version of the extension in this database."""
    return Statement("select gd_version()", (), one_value)
