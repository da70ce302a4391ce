"""What an engine asks for telemetry: whose turn it is to look, and how much of what there is in the database.

Turns are as long as the interval between two looks, and numbered by the server's clock. Who has the lock of a turn
looks; nobody waits for it. The lock belongs to the session, so it goes with a node that dies; and since the next turn
is another lock, one that hangs keeps nobody off for longer than that.

A look may take longer than a turn, and be too dear to be made at each: so who looks, or rests after a slow look, says
to all others until when nobody is to look. That is a lock, too, whose number is that time: it holds while its session
lives and the time has not come, whatever the length of anybody's turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._statement import Rows, Statement, call, nothing, one_value

TURNS = 7310
RESTS = 7311
"""The classes of these locks. They stand behind those of the server (000_numbers.sql), which takes none of them."""


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
def keep_off(seconds: float) -> Statement[int]:
    """Tell all others not to look for so long; answers the number to take that back by."""
    return Statement(
        "select n.no, pg_catalog.pg_try_advisory_lock(%s, n.no) from (select (pg_catalog.ceil(extract("
        "epoch from pg_catalog.clock_timestamp())::float8 + %s::float8)::bigint %% 1000000)::int offset 0) n(no)",
        (RESTS, seconds),
        one_value,
    )


@call
def let_in(numbers: Sequence[int]) -> Statement[None]:
    """Take back what `keep_off` has told: these numbers of it."""
    return Statement(
        "select pg_catalog.pg_advisory_unlock(%s, n.no) from pg_catalog.unnest(%s::int[]) n(no)",
        (RESTS, list(numbers)),
        nothing,
    )


@call
def kept_off(interval: float) -> Statement[float]:
    """For how many seconds it is no use to try: another session has this turn, or has told not to look. 0: try."""
    return Statement(
        "select coalesce(max(case l.classid when %s::oid then t.long - (t.now - floor(t.now / t.long) * t.long) "
        "else l.ahead - (t.now - floor(t.now)) end), 0)::float8 "
        "from (select extract(epoch from pg_catalog.clock_timestamp())::float8 as now, %s::float8 as long offset 0) t, "
        "lateral (select k.classid, k.objid, (k.objid::bigint - floor(t.now)::bigint %% 1000000 + 1000000) %% 1000000 "
        "from pg_catalog.pg_locks k where k.locktype = 'advisory' and k.objsubid = 2 and k.granted "
        "and k.classid in (%s::oid, %s::oid) and k.pid <> pg_catalog.pg_backend_pid() "
        "and k.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())"
        ") l(classid, objid, ahead) where case l.classid "
        "when %s::oid then l.objid::bigint = floor(t.now / t.long)::bigint %% 1000000 "
        "else l.ahead between 1 and 100000 end",
        (TURNS, interval, TURNS, RESTS, TURNS),
        one_value,
    )


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
