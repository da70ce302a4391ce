"""What the engine and the testing kit ask the server beyond, or in another shape than, the contract in `calls`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from psycopg import sql

from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import dumps, loads
from .rows import Answer, Instance
from .working import CLAIMED
from ..machine.context import ClaimRow

# The engine


@call
def claim_rows(worker: str, queues: Mapping[str, int], lease: timedelta) -> Statement[list[ClaimRow]]:
    """`claim_many` for the executor: what a step may never look at is not decoded."""
    return Statement(
        f"select {CLAIMED} from gd_claim_many(%s, %s::jsonb, make_interval(secs => %s))",
        (worker, dumps(queues).decode(), lease.total_seconds()),
        lambda rows: list(map(ClaimRow._make, rows)),
    )


@call
def commit_text(worker: str, outcomes: str, lease: timedelta) -> Statement[list[Answer]]:
    """`commit` for outcomes that are encoded already; answers only what is not simply ok.

    The server takes the next claim of a kept one apart: its JSON is text for us, which holds what we could not parse.
    """
    return Statement(
        "select c.ord, c.result, c.detail ->> 'sqlstate', c.detail ->> 'message', k.* "
        "from gd_commit(%s, %s::jsonb, make_interval(secs => %s)) c "
        "left join lateral jsonb_to_record(c.detail) as k (id int8, claim_no int8, "
        "fsm text, fsm_version int4, step text, state text, attempt int4, queue text, partition_key text, "
        "unique_key text, parent_id int8, awaits text[], timed_out bool, signals text, childs text, meta text) "
        "on c.result = 'ok' where c.result <> 'ok' or c.detail is not null",
        (worker, outcomes, lease.total_seconds()),
        lambda rows: list(map(_answer, rows)),
    )


def _answer(row: tuple[Any, ...]) -> Answer:
    return Answer(row[0], row[1], row[2], row[3], None if row[4] is None else ClaimRow._make(row[4:]))


@call
def unreadable(outcomes: str) -> Statement[None]:
    """Raises what the server raises on reading this document, and does nothing else."""
    return Statement("select %s::jsonb is null", (outcomes,), nothing)


_DUE_IN = (
    "case when next_due is not null then "
    "least(extract(epoch from next_due) - extract(epoch from clock_timestamp()), 1e9)::float8 end"
)


@call
def sleep(worker: str, queues: Iterable[str]) -> Statement[tuple[float | None, str, int]]:
    """`calls.sleep` for the dispatcher: due in how many seconds, the horizon, and the process that answered.

    The time itself is not asked for: it may lie beyond what Python can hold.
    """
    return Statement(
        f"select {_DUE_IN}, horizon::text, pg_backend_pid() from gd_sleep(%s, %s::text[])",
        (worker, list(queues)),
        lambda rows: (rows[0][0], rows[0][1], rows[0][2]),
    )


@call
def settled(horizon: str, worker: str, queues: Iterable[str]) -> Statement[tuple[bool, float | None, int]]:
    """Whether every transaction that was in progress at the horizon has ended: none of them can have missed us.

    If so, due in how many seconds, counting what they have left for later. And the process that answered.
    """
    return Statement(
        f"select s.settled, {_DUE_IN}, pg_backend_pid() "
        "from (select pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8 as settled) s "
        "left join lateral (select * from gd_sleep(%s, %s::text[]) where s.settled) d on true",
        (horizon, worker, list(queues)),
        lambda rows: (rows[0][0], rows[0][1], rows[0][2]),
    )


@call
def listen() -> Statement[None]:
    """Receive the wake-ups: the channel is public, the payload is the queue."""
    return Statement("listen gendurable", (), nothing)


# The testing kit


@call
def instance(id: int) -> Statement[Instance | None]:
    """One row of `gd_instances`, as far as tests ask for it; None: there is no such instance."""
    return Statement(
        "select id, fsm, status, step, attempt, state::text, awaits, result::text, last_error "
        "from gd_instances where id = %s",
        (id,),
        _instance,
    )


def _instance(rows: Rows) -> Instance | None:
    for row in rows:
        return Instance._make((*row[:5], loads(row[5]), row[6], loads(row[7]), row[8]))
    return None


@call
def queues_in_use() -> Statement[list[str]]:
    """The queues of all instances that have not ended."""
    return Statement(
        "select distinct queue from gd_instances where status not in ('done', 'failed', 'cancelled')",
        (),
        lambda rows: [row[0] for row in rows],
    )


@call
def bring_forward(queues: Iterable[str]) -> Statement[int | None]:
    """Make due what is due next, of the instances whose time or deadline has not come; None: there is none."""
    return Statement(
        "select id from (select id from gd_instances where queue = any(%s::text[]) "
        "and status in ('runnable', 'awaiting_signal') and eligible_at > clock_timestamp() "
        "order by eligible_at, id limit 1) later where gd_reschedule(id, clock_timestamp())",
        (list(queues),),
        one_value,
    )


@call
def forget_floor() -> Statement[None]:
    """Let the next claim of this session look at everything: it may not see at once what lies below its last one."""
    return Statement("select set_config('gendurable.floor', '', false)", (), nothing)


@call
def create_database(name: str) -> Statement[None]:
    """A database with the extension, from the template that has it."""
    query = sql.SQL("create database {} template postgres").format(sql.Identifier(name))
    return Statement(query, (), nothing)


@call
def drop_database(name: str) -> Statement[None]:
    return Statement(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)), (), nothing)
