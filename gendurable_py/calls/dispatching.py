"""What the dispatcher asks the server beyond, or in another shape than, the contract in `calls`.

For each step something is saved here: JSON that nobody looks at stays text, and an outcome that is simply ok has no
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection, Connection, pq, sql

from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.claim import CLAIMED, ClaimRow
from ..machine.codec import dumps, loads
from .rows import Announced, Answer, Claims, Defined, Ran, StepsIn, pairs


def _rows(rows: Rows) -> list[ClaimRow]:
    return list(map(ClaimRow._make, rows))


@call
def claim_rows(
    worker: str,
    queues: Mapping[str, int],
    lease: timedelta,
    steps: StepsIn | None = None,
    ahead: Mapping[str, int] | None = None,
) -> Statement[list[ClaimRow]]:
    """`claim_many` for the executor: what a step may never look at is not decoded. ``ahead``: plain rows besides."""
    arguments = (worker, dumps(queues).decode(), lease.total_seconds())
    if steps is None and not ahead:
        query: LiteralString = f"select {CLAIMED} from gd_claim_many(%s, %s::jsonb, make_interval(secs => %s))"
        return Statement(query, arguments, _rows)
    return Statement(
        f"select {CLAIMED} from gd_claim_many(%s, %s::jsonb, make_interval(secs => %s), %s::jsonb)",
        (*arguments, dumps({"steps": steps, "ahead": ahead or None}).decode()),
        _rows,
    )


# In the order of `ClaimRow`. What is kept awaits nothing.
_KEPT: LiteralString = (
    "(c.detail ->> 'id')::int8, (c.detail ->> 'claim_no')::int8, c.detail ->> 'fsm', "
    "(c.detail ->> 'fsm_version')::int4, c.detail ->> 'step', c.detail ->> 'state', "
    "(c.detail ->> 'attempt')::int4, c.detail ->> 'queue', c.detail ->> 'partition_key', "
    "c.detail ->> 'unique_key', (c.detail ->> 'parent_id')::int8, null::text[], "
    "(c.detail ->> 'timed_out')::bool, c.detail ->> 'signals', c.detail ->> 'childs', c.detail ->> 'meta', "
    "c.detail ->> 'attributes'"
)


_COMMITTED: LiteralString = "select * from gd_commit(%s, %s::jsonb, make_interval(secs => %s))"
_ANSWER: LiteralString = (
    f"select c.ord, c.result, c.detail ->> 'sqlstate', c.detail ->> 'message', {_KEPT}, (c.detail ->> 'halted')::bool"
)
_NO_ANSWER: LiteralString = (
    "select null::int4, 'ok', null::text, null::text, null::int8, null::int8, null::text, null::int4, null::text, "
    "null::text, null::int4, null::text, null::text, null::text, null::int8, null::text[], null::bool, null::text, "
    "null::text, null::text, null::text, null::bool"
)


@call
def commit_text(worker: str, outcomes: str, lease: timedelta, brief: bool = False) -> Statement[list[Answer]]:
    """`commit` for outcomes that are encoded already; answers only what is not simply ok.

    The server takes the next claim of a kept one apart: its JSON is text for us, which holds what we could not parse.
    Key by key, which is a fifth cheaper there than a record. ``brief``: some outcomes ask for a brief answer, the
    number of the next claim; then those that have one number, as most of a batch have, come as one row.
    """
    query: LiteralString = f"{_ANSWER} from ({_COMMITTED}) c where c.result <> 'ok' or c.detail is not null"
    if brief:
        query = (
            f"with c as ({_COMMITTED}) {_ANSWER}, null::int8, null::text from c "
            "where (c.result <> 'ok' or c.detail is not null) and jsonb_typeof(c.detail) is distinct from 'number' "
            f"union all {_NO_ANSWER}, c.detail::int8, string_agg(c.ord::text, ',') from c "
            "where jsonb_typeof(c.detail) = 'number' group by c.detail"
        )
    return Statement(query, (worker, outcomes, lease.total_seconds()), _answers)


def _answers(rows: Rows) -> list[Answer]:
    answers: list[Answer] = []
    for row in rows:
        if row[0] is None:
            answers += [Answer(int(ord), "ok", None, None, row[22]) for ord in row[23].split(",")]
            continue
        kept = None
        if row[1] == "ok":
            assert row[4] is not None, "nobody asked for a brief answer"
            kept = ClaimRow._make(row[4:21])
        answers.append(Answer(row[0], row[1], row[2], row[3], kept, row[21] is True))
    return answers


@call
def home() -> Statement[str]:
    """The schema of the public functions, wherever it is on the search_path of this connection, if at all."""
    return Statement(
        "select n.nspname from pg_catalog.pg_proc p "
        "join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) p.pronamespace "
        "join pg_catalog.pg_namespace o on o.nspname operator(pg_catalog.=) 'gendurable' "
        "and o.nspowner operator(pg_catalog.=) p.proowner "
        "where p.proname operator(pg_catalog.=) 'gd_commit_one' order by p.oid limit 1",
        (),
        one_value,
    )


@call
def commit_one_text(schema: str, worker: str, outcome: str) -> Statement[None]:
    """`working.commit_one` by its full name, of an outcome that is encoded already."""
    function = sql.Identifier(schema, "gd_commit_one")
    return Statement(sql.SQL("select {}(%s, %s::pg_catalog.jsonb)").format(function), (worker, outcome), nothing)


def commit_one_literal(conn: Connection[Any] | AsyncConnection[Any], schema: str, worker: str, outcome: str) -> bytes:
    """The text of `commit_one_text` for this connection, its values written into it."""
    encoding = conn.info.encoding
    if encoding == "ascii":  # none at all, of which the driver makes this
        encoding = "utf-8"
    escape = pq.Escaping(conn.pgconn)
    return b"select %b.gd_commit_one(%b, %b::pg_catalog.jsonb)" % (
        escape.escape_identifier(schema.encode(encoding)),
        escape.escape_literal(worker.encode(encoding)),
        escape.escape_literal(outcome.encode(encoding)),
    )


@call
def home_of_steps() -> Statement[str | None]:
    """The schema of the functions that run steps in SQL; None: there are none, or this role may not use them."""
    return Statement(
        "select n.nspname from pg_catalog.pg_proc p "
        "join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) p.pronamespace "
        "join pg_catalog.pg_namespace o on o.nspname operator(pg_catalog.=) 'gendurable' "
        "and o.nspowner operator(pg_catalog.=) p.proowner "
        "join pg_catalog.pg_class v on v.relnamespace operator(pg_catalog.=) n.oid "
        "and v.relname operator(pg_catalog.=) 'gd_steps' and v.relowner operator(pg_catalog.=) p.proowner "
        "where p.proname operator(pg_catalog.=) 'gd_run_claims' "
        "and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_schema_privilege(o.oid, 'usage') "
        "and pg_catalog.has_function_privilege(p.oid, 'execute') "
        "and pg_catalog.has_table_privilege(v.oid, 'select') order by p.oid limit 1",
        (),
        one_value,
    )


@call
def defined_steps(schema: str) -> Statement[list[Defined]]:
    """All definitions of steps, with what is wrong with them for this role."""
    return Statement(
        sql.SQL("select fsm, step, version, handler is not null, problem from {}").format(
            sql.Identifier(schema, "gd_steps")
        ),
        (),
        lambda rows: list(map(Defined._make, rows)),
    )


@call
def run_claims_text(schema: str, worker: str, claims: Claims, lock_ms: int | None) -> Statement[list[Ran]]:
    """`stepping.run_claims` by its full name, in sessions whose search_path is not ours."""
    query = sql.SQL(
        "select ord, id, claim_no, result, detail::pg_catalog.text "
        "from {}(%s, %s::pg_catalog.jsonb, %s::pg_catalog.jsonb)"
    )
    return Statement(
        query.format(sql.Identifier(schema, "gd_run_claims")),
        (worker, pairs(claims), dumps({} if lock_ms is None else {"lock_ms": lock_ms}).decode()),
        lambda rows: [Ran(row[0], row[1], row[2], row[3], loads(row[4])) for row in rows],
    )


@call
def commit_apart(schema: str, worker: str, outcome: str) -> Statement[str]:
    """`working.commit` by its full name, of one outcome that is encoded already: its result."""
    return Statement(
        sql.SQL("select result from {}(%s, %s::pg_catalog.jsonb)").format(sql.Identifier(schema, "gd_commit")),
        (worker, f"[{outcome}]"),
        one_value,
    )


@call
def unreadable(outcomes: str) -> Statement[None]:
    """Raises what the server raises on reading this document, and does nothing else."""
    return Statement("select %s::jsonb is null", (outcomes,), nothing)


_DUE_IN = (
    "case when next_due is not null then "
    "least(extract(epoch from next_due) - extract(epoch from clock_timestamp()), 1e9)::float8 end"
)


@call
def sleep(worker: str, queues: Iterable[str]) -> Statement[tuple[float | None, str | None, int]]:
    """`calls.sleep` for the dispatcher: due in how many seconds, the horizon, and the process that answered.

    The time itself is not asked for: it may lie beyond what Python can hold. The horizon is None if every transaction
    before it has ended already, as mostly: the snapshot is older than the sleep, so what it does not see running had
    ended before that.
    """
    return Statement(
        f"select {_DUE_IN}, "
        "case when pg_snapshot_xmin(pg_current_snapshot()) < horizon then horizon::text end, pg_backend_pid() "
        "from gd_sleep(%s, %s::text[])",
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


def announcement(schedules: bytes, machines: Sequence[str]) -> Statement[list[Announced]]:
    """What `machine.schedule` has encoded, said for machines of these names."""
    return Statement(
        "select name, result, cron, timezone, fsm, options::text, seen_at "
        "from gd_announce_schedules(%s::jsonb, %s::text[])",
        (schedules.decode(), list(machines)),
        lambda rows: [_announced(*row) for row in rows],
    )


@call
def step_queues(machines: Sequence[str]) -> Statement[dict[tuple[str, str, int | None], str | None]]:
    """What is said of the steps of these machines: machine, step and version (None: all others) to its queue."""
    return Statement(
        "select fsm, step, version, queue from gd_steps where fsm = any(%s::text[])",
        (list(machines),),
        lambda rows: {(row[0], row[1], row[2]): row[3] for row in rows},
    )


@call
def announce(schedules: bytes, machines: Sequence[str]) -> Statement[list[Announced]]:
    """`scheduling.announce_schedules`, of what was encoded once."""
    return announcement(schedules, machines)


def _announced(
    name: str, result: str, cron: str, timezone: str, fsm: str, options: str, seen_at: datetime | None
) -> Announced:
    return Announced(name, result, cron, timezone, fsm, loads(options), seen_at)
