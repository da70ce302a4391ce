"""Reading the views: queues, workers, limits, schedules, holds and steps, each row by the names of its columns.

A view may gain columns, so a row is a mapping and not a type of its own. Times are texts in ISO 8601. `glance` and
`happened` are for pages, which have no room for what is large; `says_who`, `says_which`, `within` and `abilities` for
tools that act for others, look for a bounded time, and offer only what may be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString, cast

from pydantic import JsonValue

from .._statement import Rows, Script, Statement, call, nothing, script
from ..machine.codec import dumps, loads
from .looking import history
from .rows import Entry, when

Row = dict[str, JsonValue]


def _view(name: LiteralString, order: LiteralString) -> Statement[list[Row]]:
    return Statement(f"select row_to_json(x)::text from {name} x order by {order}", (), _rows)


def _rows(rows: Rows) -> list[Row]:
    return [cast("Row", loads(row[0])) for row in rows]


@call
def queues() -> Statement[list[Row]]:
    """Every queue: what is due, delayed, executing and parked, since when, and whether it is paused."""
    return _view("gd_queues", "x.queue")


@call
def queue(name: str) -> Statement[list[Row]]:
    """One queue, as `queues` has it; empty: there is none of that name."""
    return Statement("select row_to_json(x)::text from gd_queues x where x.queue = %s", (name,), _rows)


@call
def workers() -> Statement[list[Row]]:
    """Every worker that is known or holds claims."""
    return _view("gd_workers", "x.worker")


@call
def rate_limits() -> Statement[list[Row]]:
    """Every rate limit with its buckets, as far as something has started out of them or waits for them."""
    return _view("gd_rate_limits", "x.name, x.bucket, x.queue")


@call
def schedules() -> Statement[list[Row]]:
    return _view("gd_schedules", "x.name")


@call
def holds() -> Statement[list[Row]]:
    """What `hold_all` has said; empty: nothing is held."""
    return _view("gd_holds", "x.held_at")


@call
def pauses() -> Statement[list[Row]]:
    """What is paused: queues, machines, versions, steps and instances."""
    return _view("gd_pauses", "x.kind, x.queue, x.fsm, x.version, x.step, x.id")


@call
def steps() -> Statement[list[Row]]:
    """The steps that `define_step` has defined."""
    return _view("gd_steps", "x.fsm, x.step, x.version")


@call
def glance(id: int, most: int = 20_000) -> Statement[Row | None]:
    """`looking.get` with state, result and meta as texts of JSON, ``most`` characters of each.

    ``cut`` has the whole length of those that are longer. None: there is no such instance (any more).
    """
    return Statement(
        "select (d - '{state,result,meta}'::text[])::text, left(s, %s), length(s), left(r, %s), length(r), "
        "left(m, %s), length(m) from gd_get(%s) d "
        "cross join lateral (select (d -> 'state')::text, (d -> 'result')::text, (d -> 'meta')::text offset 0) "
        "t (s, r, m)",
        (most, most, most, id),
        lambda rows: _glance(rows, most),
    )


def _glance(rows: Rows, most: int) -> Row | None:
    if not rows or rows[0][0] is None:
        return None
    row = cast("Row", loads(rows[0][0]))
    texts = dict(zip(("state", "result", "meta"), rows[0][1::2], strict=True))
    lengths = dict(zip(texts, rows[0][2::2], strict=True))
    return {**row, **texts, "cut": {name: length for name, length in lengths.items() if length and length > most}}


@call
def happened(id: int, after: int = 0, limit: int = 100, most: int = 2_000) -> Statement[list[Row]]:
    """`looking.history` without states, and with ``most`` characters of each detail."""
    return Statement(
        "select json_build_object('no', no, 'at', at, 'kind', kind, 'step', step, 'next_step', next_step, "
        "'attempt', attempt, 'worker', worker, 'seconds', seconds, 'detail', left(detail::text, %s))::text "
        "from gd_history(%s, %s, %s)",
        (most, id, after, limit),
        _rows,
    )


@script
def latest(id: int, most: int) -> Script[list[Entry]]:
    """The last entries of a history, which is read from its beginning and may be as long as it likes."""
    page: list[Entry] = yield history.statement(id, 0, most + 1)
    if len(page) <= most:
        return page
    # There is an entry behind ``low`` and none behind ``high``.
    low, high = page[-2].no, page[-1].no
    while (yield happened.statement(id, high, 1, 0)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (yield happened.statement(id, middle, 1, 0)) else (low, middle)
    last: list[Entry] = yield history.statement(id, max(high - most, 0), most)
    return last


@call
def clock() -> Statement[datetime]:
    """What time it is by the server's clock: the one by which it tells when something ended."""
    return Statement("select extract(epoch from clock_timestamp())", (), lambda rows: when(rows[0][0]))


@call
def says_who(actor: str) -> Statement[None]:
    """For whom this transaction acts: `audit` and the histories have it as ``actor``."""
    return Statement("select set_config('gendurable.actor', %s, true)", (actor,), nothing)


@call
def says_which(filter: Mapping[str, JsonValue]) -> Statement[None]:
    """By which filter this transaction has found what it acts on: `audit` has it in ``what``."""
    return Statement("select set_config('gendurable.filter', %s, true)", (dumps(filter).decode(),), nothing)


@call
def within(seconds: float, only_reads: bool) -> Statement[None]:
    """How long a statement of this transaction may take, and whether the transaction only reads."""
    return Statement(
        "select pg_catalog.set_config('statement_timeout', %s, true), "
        "case when %s then pg_catalog.set_config('transaction_read_only', 'on', true) end",
        (f"{max(1, round(seconds * 1000))}ms", only_reads),
        nothing,
    )


@call
def abilities() -> Statement[frozenset[str]]:
    """The names of the functions that the role of the session may call."""
    return Statement(
        "select distinct p.proname::text from pg_catalog.pg_proc p where p.proname like 'gd\\_%%' "
        "and pg_catalog.pg_function_is_visible(p.oid) and pg_catalog.has_function_privilege(p.oid, 'execute')",
        (),
        lambda rows: frozenset(row[0] for row in rows),
    )
