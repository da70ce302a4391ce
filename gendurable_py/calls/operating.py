"""Operating: what people and maintenance do to instances, queues, keys and roles, at any stage of a life.

Each is one transaction of the server. `maintain` is what must happen now and then, whoever calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import cast

from pydantic import JsonValue

from .._contract import RETENTION, Seconds
from .._statement import Statement, by_id, call, nothing, one_value
from ..machine.codec import dumps, loads
from ..machine.outcome import UNSET, MachineLike, StepLike, Unset
from ..machine.spec import spec_of, step_name
from ..machine.times import aware, retention_seconds
from .rows import Matched


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
    text = None if state is UNSET else dumps(state).decode()
    return Statement("select gd_retry(%s, %s, %s::jsonb)", (id, first, text), one_value)


@call
def reschedule(id: int, eligible_at: datetime) -> Statement[bool]:
    """Move the time of a runnable instance, or the deadline of an await; False: not possible now."""
    return Statement("select gd_reschedule(%s, %s)", (id, aware(eligible_at)), one_value)


@call
def match(
    filter: Mapping[str, object] | None = None, after: int = 0, limit: int = 1000, look: int = 20_000
) -> Statement[Matched]:
    """The ids of instances that fit a filter, up to ``limit`` of them, from behind ``after`` on.

    A call looks at ``look`` instances at most: as long as ``next`` is not None, pass it as ``after`` to go on. For
    `cancel_many` and its like, and before them, to see what they would concern.
    """
    text = None if filter is None else dumps(filter).decode()
    return Statement(
        "select ids, next from gd_match(%s::jsonb, %s, %s, %s)",
        (text, after, limit, look),
        lambda rows: Matched(rows[0][0], rows[0][1]),
    )


@call
def cancel_many(ids: Iterable[int], reason: str | None = None) -> Statement[dict[int, str]]:
    """`cancel` for many in one transaction, waiting for nobody; 500 to 1,000 are best, 10,000 the most.

    For each id: done; no (it had ended, or cannot be written); busy (locked elsewhere: send it again); none.
    """
    return Statement("select id, result from gd_cancel_many(%s::bigint[], %s)", (list(ids), reason), by_id)


@call
def retry_many(ids: Iterable[int]) -> Statement[dict[int, str]]:
    """`retry` for many, where they ended and with their own state; answers as `cancel_many`."""
    return Statement("select id, result from gd_retry_many(%s::bigint[])", (list(ids),), by_id)


@call
def reschedule_many(ids: Iterable[int], eligible_at: datetime) -> Statement[dict[int, str]]:
    """`reschedule` for many, all to one time; answers as `cancel_many`."""
    return Statement(
        "select id, result from gd_reschedule_many(%s::bigint[], %s)", (list(ids), aware(eligible_at)), by_id
    )


@call
def set_queue(
    queue: str,
    *,
    limit: int | Unset | None = UNSET,
    concurrency: int | Unset | None = UNSET,
    paused: bool | Unset | None = UNSET,
) -> Statement[None]:
    """How many instances of a queue execute at once, and whether it is paused. What is left out stays as it was.

    ``limit`` is over all workers (0: none, None: any number); ``concurrency`` is that of each worker (None: as many as
    it was started with); ``paused=True`` is `pause_queue`, False and None are `resume_queue`.
    """
    named = {"limit": limit, "concurrency": concurrency, "paused": paused}
    options = {key: value for key, value in named.items() if value is not UNSET}
    return Statement("select gd_set_queue(%s, %s::jsonb)", (queue, dumps(options).decode()), nothing)


@call
def hold_all(reason: str) -> Statement[None]:
    """Hand out nothing more, in any queue, until `release_hold`; what is executing goes on."""
    return Statement("select gd_hold_all(%s)", (reason,), nothing)


@call
def release_hold() -> Statement[bool]:
    """End what `hold_all` began; False: nothing was held."""
    return Statement("select gd_release_hold()", (), one_value)


@call
def pause_queue(queue: str) -> Statement[None]:
    """Claim nothing more from a queue; what is executing goes on."""
    return Statement("select gd_pause_queue(%s)", (queue,), nothing)


@call
def resume_queue(queue: str) -> Statement[None]:
    return Statement("select gd_resume_queue(%s)", (queue,), nothing)


@call
def pause(id: int) -> Statement[bool]:
    """Do not run an instance until `resume`; a step that executes is finished. False: it has ended, or is paused.

    Raises:
        UnknownInstance: there is no such instance. So does `resume`.
    """
    return Statement("select gd_pause(%s)", (id,), one_value)


@call
def resume(id: int) -> Statement[bool]:
    """End what `pause` began; False: it is not paused."""
    return Statement("select gd_resume(%s)", (id,), one_value)


@call
def pause_machine(
    machine: MachineLike | str, version: int | None = None, step: StepLike | None = None
) -> Statement[bool]:
    """Do not run a machine, a version of it or a step, whatever the queue; False: the very same is paused already.

    All its versions are paused unless ``version`` says which, also where the machine is given as a class.
    """
    return Statement("select gd_pause_machine(%s, %s, %s)", _place(machine, version, step), one_value)


@call
def resume_machine(
    machine: MachineLike | str, version: int | None = None, step: StepLike | None = None
) -> Statement[bool]:
    """End what `pause_machine` began with the same arguments; False: the very same is not paused."""
    return Statement("select gd_resume_machine(%s, %s, %s)", _place(machine, version, step), one_value)


def _place(
    machine: MachineLike | str, version: int | None, step: StepLike | None
) -> tuple[str, int | None, str | None]:
    fsm = machine if isinstance(machine, str) else spec_of(machine).name
    return fsm, version, None if step is None else step_name(step)


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
