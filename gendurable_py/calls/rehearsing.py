"""What the testing kit asks the server beyond the contract: it lets time pass, and makes its databases."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from .._contract import TERMINAL
from .._statement import Rows, Statement, call, nothing, one_value
from ..machine.codec import loads
from .rows import Instance


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
        "select distinct queue from gd_instances where status::text <> all(%s::text[])",
        (list(TERMINAL),),
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
