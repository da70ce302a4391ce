"""Reading the views: queues, workers, limits, schedules, holds and steps, each row by the names of its columns.

A view may gain columns, so a row is a mapping and not a type of its own. Times are texts in ISO 8601. What takes a
limit or a size is for pages, which have no room for what is many or large; `says_who`, `says_which`, `within` and
`abilities` for tools that act for others, look for a bounded time, and offer only what may be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import LiteralString, cast

from pydantic import JsonValue

from .._statement import Rows, Script, Statement, call, nothing, one_value, script
from ..machine.codec import dumps, loads
from .looking import history
from .rows import Entry, when

Row = dict[str, JsonValue]


def _view(name: LiteralString, order: LiteralString) -> Statement[list[Row]]:
    return Statement(f"select row_to_json(x)::text from {name} x order by {order}", (), _rows)


def _page(name: LiteralString, key: LiteralString, after: str, limit: int | None) -> Statement[list[Row]]:
    """A page of a view by a name. What is not on it is not made into JSON."""
    return Statement(
        f"select row_to_json(x)::text from (select * from {name} v where v.{key} > %s order by v.{key} limit %s) x "
        f"order by x.{key}",
        (after, limit),
        _rows,
    )


def _rows(rows: Rows) -> list[Row]:
    return [cast("Row", loads(row[0])) for row in rows]


@call
def queues() -> Statement[list[Row]]:
    """Every queue: what is due, delayed, executing and parked, since when, and whether it is paused."""
    return _view("gd_queues", "x.queue")


@call
def list_queues(
    filter: Mapping[str, object] | None = None, after: str = "", limit: int = 100, look: int = 10_000
) -> Statement[list[Row]]:
    """A page of queues by name, each as `queues` has it; counted are ``look`` instances of each kind in all of them."""
    return Statement(
        "select row_to_json(x)::text from gd_list_queues(%s::jsonb, %s, %s, %s) x",
        (dumps(filter or {}).decode(), after, limit, look),
        _rows,
    )


@call
def queue(name: str) -> Statement[list[Row]]:
    """One queue, as `queues` has it; empty: there is none of that name."""
    return list_queues.statement({"queue": name}, limit=1)


@call
def workers(after: str = "", limit: int | None = None) -> Statement[list[Row]]:
    """Every worker that is known or holds claims; a page of them by name."""
    return _page("gd_workers", "worker", after, limit)


@call
def works_on(host: str) -> Statement[bool]:
    """Whether a worker of this host says hello. It reads what these say, and no claims."""
    return Statement("select exists (select from gd_workers x where x.host = %s)", (host,), one_value)


@call
def worker(name: str) -> Statement[list[Row]]:
    """One worker, as `workers` has it; empty: there is none of that name."""
    return Statement("select row_to_json(x)::text from gd_workers x where x.worker = %s", (name,), _rows)


@call
def serving(queue: str, limit: int) -> Statement[list[Row]]:
    """The workers that serve a queue."""
    return Statement(
        "select row_to_json(x)::text from (select * from gd_workers v where jsonb_exists(v.queues, %s) "
        "order by v.worker limit %s) x order by x.worker",
        (queue, limit),
        _rows,
    )


@call
def knowing(machine: str, limit: int) -> Statement[list[Row]]:
    """The workers that know a machine."""
    return Statement(
        "select row_to_json(x)::text from (select * from gd_workers v "
        "where v.machines @> jsonb_build_array(jsonb_build_array(%s::text)) order by v.worker limit %s) x "
        "order by x.worker",
        (machine, limit),
        _rows,
    )


@call
def rate_limits(after: Sequence[str] = ("", "", ""), limit: int | None = None) -> Statement[list[Row]]:
    """Every rate limit with its buckets, as far as something has started out of them or waits for them.

    A page of them: ``after`` has the name, the bucket and the queue of the row before, empty where it has none.
    """
    return Statement(
        "select row_to_json(x)::text from gd_rate_limits x "
        "where (x.name, coalesce(x.bucket, ''), coalesce(x.queue, '')) > (%s, %s, %s) "
        "order by x.name, coalesce(x.bucket, ''), coalesce(x.queue, '') limit %s",
        (*after, limit),
        _rows,
    )


@call
def buckets(name: str, limit: int = 100) -> Statement[list[Row]]:
    """The rows of `rate_limits` of one limit or one bucket."""
    return Statement(
        "select row_to_json(x)::text from gd_rate_limits x where %s in (x.bucket, x.name) "
        "order by x.name, x.bucket, x.queue limit %s",
        (name, limit),
        _rows,
    )


@call
def lines(queue: str, limit: int) -> Statement[list[Row]]:
    """The rows of `rate_limits` that have a line in a queue."""
    return Statement(
        "select row_to_json(x)::text from gd_rate_limits x where x.queue = %s order by x.name, x.bucket limit %s",
        (queue, limit),
        _rows,
    )


@call
def schedules(after: str = "", limit: int | None = None) -> Statement[list[Row]]:
    """Every schedule; a page of them by name."""
    return _page("gd_schedules", "name", after, limit)


@call
def holds() -> Statement[list[Row]]:
    """What `hold_all` has said; empty: nothing is held."""
    return _view("gd_holds", "x.held_at")


@call
def pauses(limit: int | None = None) -> Statement[list[Row]]:
    """What is paused: queues, machines, versions, steps and instances."""
    return Statement(
        "select row_to_json(x)::text from gd_pauses x order by x.kind, x.queue, x.fsm, x.version, x.step, x.id "
        "limit %s",
        (limit,),
        _rows,
    )


@call
def stops(machine: str | None, limit: int) -> Statement[list[Row]]:
    """What is paused but for instances; of one machine alone, if it is given."""
    return Statement(
        "select row_to_json(x)::text from gd_pauses x where x.kind <> 'instance' and coalesce(x.fsm = %s, %s) "
        "order by x.kind, x.queue, x.fsm, x.version, x.step limit %s",
        (machine, machine is None, limit),
        _rows,
    )


@call
def steps() -> Statement[list[Row]]:
    """The steps that `define_step` has defined."""
    return _view("gd_steps", "x.fsm, x.step, x.version")


@call
def glance(id: int, most: int = 20_000) -> Statement[Row | None]:
    """`looking.get` with state, result and meta as texts of JSON, and ``most`` characters of these and ``last_error``.

    ``cut`` has the whole length of those that are longer. None: there is no such instance (any more).
    """
    return Statement(
        "select (d - '{state,result,meta,last_error}'::text[])::text, left(s, %s), length(s), left(r, %s), length(r), "
        "left(m, %s), length(m), left(e, %s), length(e) from gd_get(%s) d "
        "cross join lateral (select (d -> 'state')::text, (d -> 'result')::text, (d -> 'meta')::text, "
        "d ->> 'last_error' offset 0) t (s, r, m, e)",
        (most, most, most, most, id),
        lambda rows: _glance(rows, most),
    )


def _glance(rows: Rows, most: int) -> Row | None:
    if not rows or rows[0][0] is None:
        return None
    row = cast("Row", loads(rows[0][0]))
    texts = dict(zip(("state", "result", "meta", "last_error"), rows[0][1::2], strict=True))
    lengths = dict(zip(texts, rows[0][2::2], strict=True))
    return {**row, **texts, "cut": {name: length for name, length in lengths.items() if length and length > most}}


@call
def whole(id: int, most: int) -> Statement[tuple[int, str | None] | None]:
    """`looking.get` as the text of its JSON, with its length, and only where that is ``most`` characters at most."""
    return Statement(
        "select length(t), case when length(t) <= %s then t end from (select gd_get(%s)::text offset 0) d (t)",
        (most, id),
        lambda rows: None if rows[0][0] is None else (rows[0][0], rows[0][1]),
    )


@call
def inbox(id: int, limit: int, most: int) -> Statement[list[Row]]:
    """The first signals of an inbox; ``payload`` is a text of JSON, ``most`` characters of it.

    ``size``: the bytes of the payload as it is stored. One that is larger than ``most`` is not read: its text is null.
    """
    return Statement(
        "select json_build_object('id', id, 'name', name, 'inserted_at', inserted_at, 'size', pg_column_size(payload), "
        "'payload', case when pg_column_size(payload) <= %s then left(payload::text, %s) end)::text "
        "from gd_signals(%s, 0, %s)",
        (most, most, id, limit),
        _rows,
    )


@call
def happened(
    id: int, after: int = 0, limit: int = 100, most: int = 2_000, states: int | None = None
) -> Statement[list[Row]]:
    """`looking.history` with ``most`` characters of each detail, and ``states`` of each state, as texts of JSON.

    ``size``: the bytes of the state as it is stored, null: none was kept. One that is larger than ``states`` is not
    read, unless it is the only one that was asked for: its text is null.
    """
    return Statement(
        "select json_build_object('no', no, 'at', at, 'kind', kind, 'step', step, 'next_step', next_step, "
        "'attempt', attempt, 'worker', worker, 'seconds', seconds, 'detail', left(detail::text, %s), "
        "'size', pg_column_size(state), 'state', case when pg_column_size(state) <= %s then left(state::text, %s) end)"
        "::text from gd_history(%s, %s, %s)",
        (most, None if states is None else 2**31 - 1 if limit == 1 else states, states, id, after, limit),
        _rows,
    )


@script
def latest(id: int, most: int) -> Script[list[Entry]]:
    """The last entries of a history, which is read from its beginning and may be as long as it likes."""
    page: list[Entry] = yield history.statement(id, 0, most + 1)
    if len(page) <= most:
        return page
    last = yield from _last(id, page[-1].no)
    found: list[Entry] = yield history.statement(id, max(last - most, 0), most)
    return found


@script
def lately(id: int, most: int) -> Script[list[Row]]:
    """The last entries of a history as `happened` has them, without their states."""
    page: list[Row] = yield happened.statement(id, 0, most + 1)
    if len(page) <= most:
        return page
    last = yield from _last(id, int(str(page[-1]["no"])))
    found: list[Row] = yield happened.statement(id, max(last - most, 0), most)
    return found


def _last(id: int, high: int) -> Script[int]:
    """The number of the last entry of a history that has one with the number ``high``."""
    # There is an entry behind ``low`` and none behind ``high``.
    low = high - 1
    while (yield happened.statement(id, high, 1, 0)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (yield happened.statement(id, middle, 1, 0)) else (low, middle)
    return high


@call
def transitions(ids: Sequence[int], most: int) -> Statement[list[tuple[str, str | None, str, int]]]:
    """What instances did by their histories: step, next step, kind and how often, of ``most`` entries of each."""
    return Statement(
        "select h.step, h.next_step, h.kind, count(*) from unnest(%s::bigint[]) u (id) "
        "cross join lateral gd_history(u.id, 0, %s) h group by h.step, h.next_step, h.kind order by 4 desc limit 1000",
        (list(ids), most),
        lambda rows: [(row[0], row[1], row[2], row[3]) for row in rows],
    )


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
