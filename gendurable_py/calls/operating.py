"""Operating: what people and maintenance do to instances, queues, keys and roles, at any stage of a life.

Each is one transaction of the server. `maintain` is what must happen now and then, whoever calls it.
"""

from __future__ import annotations

from datetime import datetime
from typing import cast

from pydantic import JsonValue

from .._contract import RETENTION, Seconds
from .._statement import Statement, call, nothing, one_value
from ..machine.codec import dumps, loads
from ..machine.outcome import UNSET, StepLike
from ..machine.spec import step_name
from ..machine.times import aware, retention_seconds


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
