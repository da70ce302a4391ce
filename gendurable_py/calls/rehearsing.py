"""What the testing kit asks the server beyond the contract: it lets time pass, looks at what steps did, and makes its
databases."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from operator import sub
from typing import cast

from psycopg import sql
from pydantic import JsonValue

from .._contract import TERMINAL
from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import loads
from .rows import Instance, Ran


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
def shown(id: int) -> Statement[dict[str, JsonValue]]:
    """An instance as `gd_rehearse` shows it behind a step, without what belongs to the outcome."""
    return Statement(
        "select jsonb_build_object('status', status, 'step', step, 'state', state, 'queue', queue, 'attempt', attempt, "
        "'priority', nullif(priority, 0), 'partition_key', partition_key, 'eligible_at', eligible_at, "
        "'awaits', awaits, 'children_pending', nullif(children_pending, 0), 'result', result, "
        "'last_error', last_error)::text from gd_instances where id = %s",
        (id,),
        _shown,
    )


def _shown(rows: Rows) -> dict[str, JsonValue]:
    for row in rows:
        found = cast("dict[str, JsonValue]", loads(row[0]))
        return {key: value for key, value in found.items() if value is not None}
    return {"status": "done", "removed": True}


Counts = dict[str, list[int]]


@call
def written() -> Statement[Counts | None]:
    """How many rows this transaction has inserted, updated and deleted, by table; None: the server does not count."""
    return Statement(
        "select current_setting('track_counts'), case when schemaname like 'pg\\_temp\\_%%' then 'pg_temp' "
        "else quote_ident(schemaname) end || '.' || quote_ident(relname), n_tup_ins, n_tup_upd, n_tup_del "
        "from (select 1) one left join pg_stat_xact_user_tables "
        "on schemaname <> 'gendurable' and n_tup_ins + n_tup_upd + n_tup_del > 0",
        (),
        lambda rows: {row[1]: list(row[2:]) for row in rows if row[1]} if rows[0][0] == "on" else None,
    )


def compare(before: Counts | None, after: Counts | None) -> dict[str, dict[str, int]] | None:
    """What was written between two answers of `written`, as `gd_rehearse` tells it."""
    if before is None or after is None:
        return None
    names = ("inserted", "updated", "deleted")
    return {
        table: dict(zip(names, map(sub, counts, before.get(table, [0, 0, 0])), strict=True))
        for table, counts in after.items()
        if counts != before.get(table)
    }


@call
def sent() -> Statement[bytes | None]:
    """The outcome of the step in SQL that a worker called "gd_rehearse:..." has just run on this connection."""
    return Statement(
        "select (nullif(current_setting('gendurable.rehearsed', true), '')::jsonb -> 0)::text",
        (),
        lambda rows: None if rows[0][0] is None else str(rows[0][0]).encode(),
    )


def is_elsewhere(ran: Ran) -> bool:
    """Whether the database has no function for this step, as it says itself."""
    return (
        ran.result == "no_handler"
        and isinstance(ran.detail, dict)
        and ran.detail.get("problem") == "it is in another language"
    )


def read_outcome(outcome: bytes | None) -> dict[str, JsonValue]:
    """What `gd_rehearse` shows of an outcome."""
    found = loads(None if outcome is None else outcome.decode("utf-8", "replace"))
    kept = ("kind", "insert", "signal", "childs")
    return {key: found[key] for key in kept if key in found} if isinstance(found, dict) else {}


@call
def queues_in_use() -> Statement[list[str]]:
    """The queues of all instances that have not ended, by name."""
    return Statement(
        "select distinct queue from gd_instances where status::text <> all(%s::text[]) order by queue",
        (list(TERMINAL),),
        lambda rows: [row[0] for row in rows],
    )


@call
def bring_forward(queues: Iterable[str], looked: datetime) -> Statement[int | None]:
    """Make due what is due next, of the instances whose time or deadline had not come when it was looked; None: there
    is none. One whose time has come since is left as it is."""
    return Statement(
        "select id from (select id, eligible_at from gd_instances where queue = any(%s::text[]) "
        "and status in ('runnable', 'awaiting_signal') and eligible_at > %s "
        "order by eligible_at, id limit 1) later "
        "where eligible_at <= clock_timestamp() or gd_reschedule(id, clock_timestamp())",
        (list(queues), looked),
        one_value,
    )


@call
def forget_floor() -> Statement[datetime]:
    """Let the next claim of this session look at everything: it may not see at once what lies below its last one.
    Answers the server's time."""
    return Statement("select clock_timestamp() from set_config('gendurable.floor', '', false)", (), one_value)


@call
def create_database(name: str) -> Statement[None]:
    """A database with the extension, from the template that has it."""
    query = sql.SQL("create database {} template postgres").format(sql.Identifier(name))
    return Statement(query, (), nothing)


@call
def drop_database(name: str) -> Statement[None]:
    return Statement(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)), (), nothing)
