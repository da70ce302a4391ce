"""What an engine asks for telemetry: whose turn it is to look, and how much of what there is in the database.

Turns are as long as the interval between two looks, and numbered by the server's clock. Who has the lock of a turn
looks; nobody waits for it. The lock belongs to the session, so it goes with a node that dies; and since the next turn
is another lock, one that hangs keeps nobody off for longer than that.
"""

from __future__ import annotations

from typing import Any

from .._statement import Rows, Statement, call, nothing

TURNS = 7310
"""The class of these locks. It stands behind those of the server (000_numbers.sql), which takes none of them."""


@call
def take_turn(interval: float) -> Statement[tuple[bool, float]]:
    """Try to have this turn: whether it is had, and how many seconds of it are left.

    The session waits for no lock, and for no answer, longer than a turn.
    """
    return Statement(
        "select pg_catalog.pg_try_advisory_lock(%s, (pg_catalog.floor(t.now / t.long)::bigint %% 1000000)::int), "
        "t.long - (t.now - pg_catalog.floor(t.now / t.long) * t.long), "
        "pg_catalog.set_config('lock_timeout', '1s', false) "
        "from (select extract(epoch from pg_catalog.clock_timestamp())::float8 as now, %s::float8 as long offset 0) t",
        (TURNS, interval),
        lambda rows: (rows[0][0], rows[0][1]),
    )


@call
def end_turns() -> Statement[None]:
    """Give back all turns that this session has had."""
    return Statement("select pg_catalog.pg_advisory_unlock_all()", (), nothing)


@call
def depths() -> Statement[list[tuple[Any, ...]]]:
    """Every queue: its name, and the fields of `telemetry.looked.QueueDepth`."""
    return Statement(
        "select queue, due, delayed, executing, parked, limited, "
        "extract(epoch from statement_timestamp() - oldest_due_at)::float8, paused, workers, slots from gd_queues",
        (),
        _all,
    )


@call
def table_rows() -> Statement[list[tuple[Any, ...]]]:
    """Live and dead rows of the tables with the most dead ones, as the statistics have them: no table is read."""
    return Statement(
        "select s.name, s.live, s.dead from ("
        "select c.relname::text as name, pg_catalog.pg_stat_get_live_tuples(c.oid) as live, "
        "pg_catalog.pg_stat_get_dead_tuples(c.oid) as dead "
        "from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = 'gendurable' and c.relkind = 'r') s "
        "where s.live > 0 or s.dead > 0 order by s.dead desc, s.name limit 30",
        (),
        _all,
    )


def _all(rows: Rows) -> list[tuple[Any, ...]]:
    return rows
