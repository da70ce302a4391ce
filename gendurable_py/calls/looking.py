"""Looking at instances, one or many, for people and dashboards. Nothing is changed, and nothing is locked."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString, NamedTuple, cast

from pydantic import JsonValue

from .._statement import Rows, Statement, call
from ..machine.codec import dumps, loads
from .rows import (
    Cause,
    Counted,
    Crashed,
    Entry,
    Failure,
    Finding,
    JournalEntry,
    Kept,
    Listed,
    Node,
    Page,
    Standing,
)


class JournalShown(NamedTuple):
    """An entry of a journal for a page: as `JournalEntry`, but ``value`` is the beginning of a text of JSON, and
    ``size`` the bytes of all of it as it is stored. ``kind`` is None where it was too large to be read."""

    seq: int
    kind: str | None
    name: str | None
    n: int | None
    at: datetime | None
    value: str | None
    size: int
    error: str | None


def _near(time: LiteralString) -> LiteralString:
    """A time that clients choose: one that Python has no year for must not cost the answer all its rows."""
    return f"case when {time} > '9999-12-30 00:00+00' then '9999-12-30 00:00+00' else {time} end"


def _far(time: LiteralString) -> LiteralString:
    """The same of one that may also lie before the first year."""
    return f"case when {time} > '0001-01-02 00:00+00' then {_near(time)} end"


_COLUMNS = (
    f"id, fsm, fsm_version, step, status, queue, priority, {_near('eligible_at')}, attempt, crashes, worker, "
    "lease_expires_at, awaits, partition_key, unique_key, rate_limit, parent_id, children_pending, last_error, "
    f"attributes::text, inserted_at, updated_at, finished_at, {_near('expires_at')}, paused_at, cursor::text"
)


@call
def get(id: int) -> Statement[dict[str, JsonValue] | None]:
    """One instance with all that belongs to it, by the names of gd_get; None: there is no such instance (any more)."""
    return Statement("select gd_get(%s)::text", (id,), _object)


def _object(rows: Rows) -> dict[str, JsonValue] | None:
    return cast("dict[str, JsonValue] | None", loads(rows[0][0]))


@call
def tree(id: int, depth: int = 10, limit: int = 10000) -> Statement[builtins.list[Node]]:
    """An instance, its children, theirs, and so on, level by level: ``depth`` levels and ``limit`` rows at most."""
    return Statement(
        "select id, parent_id, depth, fsm, step, status, last_error, inserted_at, finished_at from gd_tree(%s, %s, %s)",
        (id, depth, limit),
        lambda rows: [Node(*row) for row in rows],
    )


@call
def list(
    filter: Mapping[str, object] | None = None, after: JsonValue = None, limit: int = 100, look: int = 20000
) -> Statement[Page]:
    """Which instances fit a filter, newest first: pass ``next`` of a page as ``after`` of the next one."""

    def read(rows: Rows) -> Page:
        found = [Listed._make((*row[:19], loads(row[19]), *row[20:25])) for row in rows if row[0] is not None]
        goes_on = len(found) == limit or len(found) < len(rows)
        return Page(found, loads(rows[-1][25]) if goes_on else None)

    return Statement(
        f"select {_COLUMNS} from gd_list(%s::jsonb, %s::jsonb, %s, %s)",
        (_text(filter), None if after is None else _text(after), limit, look),
        read,
    )


@call
def count(filter: Mapping[str, object] | None = None, most: int = 100000, look: int = 20000) -> Statement[Counted]:
    """How many instances fit a filter; ``exact`` False: there may be more than that."""
    return Statement(
        "select count, exact from gd_count(%s::jsonb, %s, %s)",
        (_text(filter), most, look),
        lambda rows: Counted(*rows[0]),
    )


@call
def errors(id: int, limit: int = 100) -> Statement[builtins.list[Kept]]:
    """The last errors of an instance, newest first, with their tracebacks."""
    return Statement(
        "select at, step, attempt, kind, worker, error, traceback from gd_errors(%s, %s)",
        (id, limit),
        lambda rows: [Kept(*row) for row in rows],
    )


@call
def why(id: int) -> Statement[builtins.list[Cause]]:
    """Why an instance does not run now, the decisive cause first; empty: there is no such instance (any more)."""
    return Statement(
        f"select cause, {_near('since')}, {_near('until')}, message, detail::text from gd_why(%s)",
        (id,),
        lambda rows: [Cause._make((*row[:4], loads(row[4]))) for row in rows],
    )


@call
def history(id: int, after: int = 0, limit: int = 1000) -> Statement[builtins.list[Entry]]:
    """What happened to an instance, oldest first, behind the entry ``after``, if its machine keeps a history."""

    def read(rows: Rows) -> builtins.list[Entry]:
        return [Entry(*row[:8], *(None if part is None else loads(part) for part in row[8:])) for row in rows]

    return Statement(
        "select no, at, kind, step, next_step, attempt, worker, seconds, state::text, detail::text "
        "from gd_history(%s, %s, %s)",
        (id, after, limit),
        read,
    )


@call
def journal(
    id: int, after: int = 0, limit: int = 1000, *, values: bool = True
) -> Statement[builtins.list[JournalEntry]]:
    """What a flow has come through, oldest first, behind the entry ``after``; -20: the last 20.

    A page ends behind ``limit`` entries or 16 MB: go on behind its last one until none comes. ``values`` False: without
    what steps and signals have given.
    """

    def read(rows: Rows) -> builtins.list[JournalEntry]:
        return [JournalEntry._make((*row[:5], None if row[5] is None else loads(row[5]), row[6])) for row in rows]

    return Statement(
        f"select seq, kind, name, n, {_far('at')}, value::text, error from gd_journal(%s, %s, %s, %s)",
        (id, after, limit, values),
        read,
    )


@call
def journal_page(
    id: int, before: int | None = None, limit: int = 30, size: int = 1000
) -> Statement[builtins.list[JournalShown]]:
    """The entries of a journal before the entry ``before``, the newest first, for pages: ``size`` characters of each
    value, and 8 MB of entries are read, none of more than 1 MB but the first; None: the newest."""
    return Statement(
        f"select seq, kind, name, n, {_far('at')}, value, size, error from gd_journal_page(%s, %s, %s, %s)",
        (id, before, limit, size),
        lambda rows: [JournalShown._make(row) for row in rows],
    )


@call
def line(key: str, limit: int = 100) -> Statement[builtins.list[Standing]]:
    """The line of a partition key: who holds its slots, then who waits, in the order in which they start."""
    return Statement(
        f"select place, id, standing, fsm, step, status, queue, priority, {_near('since')}, worker, lease_expires_at "
        "from gd_line(%s, %s)",
        (key, limit),
        lambda rows: [Standing(*row) for row in rows],
    )


@call
def doctor() -> Statement[builtins.list[Finding]]:
    """What is wrong with the installation, its database or its work: a row for each check, or several worse ones."""
    return Statement(
        'select "check", level, message, hint, detail::text from gd_doctor()',
        (),
        lambda rows: [Finding._make((*row[:4], loads(row[4]))) for row in rows],
    )


@call
def failures(
    machine: str | None = None, since: datetime | None = None, look: int = 10000, limit: int = 100
) -> Statement[builtins.list[Failure]]:
    """What has failed, grouped by machine, step and message without its numbers, the most frequent first."""
    return Statement(
        "select fsm, step, message, count, first_at, last_at, last_id, exact from gd_failures(%s, %s, %s, %s)",
        (machine, since, look, limit),
        lambda rows: [Failure(*row) for row in rows],
    )


@call
def crashes(since: datetime | None = None, look: int = 5000, limit: int = 100) -> Statement[builtins.list[Crashed]]:
    """What has lost its workers since then, the likely culprit first: with the most losses in a row, then in all."""
    return Statement(
        "select id, fsm, step, status, queue, crashes, lost, first_at, last_at, worker, exact "
        "from gd_crashes(%s, %s, %s)",
        (since, look, limit),
        lambda rows: [Crashed(*row) for row in rows],
    )


def _text(value: object) -> str:
    return dumps({} if value is None else value).decode()
