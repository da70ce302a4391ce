"""Journals of flows as their workers have written them, for dispatchers: see `looking.journal` for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString, cast

from .._statement import Rows, Script, Statement, call, one_value
from ..errors import InvalidArgument
from ..machine.codec import loads

Entries = list[dict[str, Any]]

MOST_BYTES = 1_000_000
"""Of a journal that is read together with others, and of a page of a larger one."""


@call
def journals(ids: Sequence[int], size: int = MOST_BYTES) -> Statement[dict[int, Entries | InvalidArgument | None]]:
    """Of each flow its journal as it was written; None where it has more than ``size`` bytes, or the answer 16 MB (see
    `journal_entries`); or why Python cannot read it.

    Raises:
        InvalidArgument: ``size`` is out of range.
    """
    return Statement(
        "select id, entries::text from gd_journals(%s, %s)",
        (list(ids), size),
        lambda rows: {row[0]: _read(row[1]) for row in rows},
    )


def _read(text: str | None) -> Entries | InvalidArgument | None:
    if text is None:
        return None
    if text == "[]":  # most have just begun
        return []
    try:
        return cast("Entries", loads(text))
    except InvalidArgument as error:
        return error


@call
def journal_entries(id: int, after: int = 0, size: int = MOST_BYTES) -> Statement[tuple[Entries, int | None]]:
    """Of one flow the entries behind ``after``, some ``size`` bytes of them, and behind which to go on; None: these
    were the last.

    Raises:
        InvalidArgument: ``size`` is out of range, or Python cannot read them.
    """
    return Statement("select entries::text, next from gd_journal_entries(%s, %s, %s)", (id, after, size), _read_page)


def _read_page(rows: Rows) -> tuple[Entries, int | None]:
    [(text, following)] = rows
    return cast("Entries", loads(text)), following


@call
def may_ask_identity() -> Statement[bool]:
    """Whether this role may ask which cluster it is."""
    return Statement(
        "select coalesce(pg_catalog.has_function_privilege("
        "pg_catalog.to_regprocedure('pg_catalog.pg_control_system()')::oid, 'execute'), false)",
        (),
        one_value,
    )


@call
def database_identity(may_ask: bool) -> Statement[str]:
    """What no other database has: that of its cluster, and its own number there.

    Not everybody may ask for the first (`may_ask_identity`). What stands in its place is the time since which the
    cluster counts, which is another one after a crash of the server.
    """
    system: LiteralString = "select system_identifier::text as of from pg_catalog.pg_control_system()"
    counted: LiteralString = (
        "select coalesce(extract(epoch from stats_reset)::text, 'unknown') as of from pg_catalog.pg_stat_bgwriter"
    )
    return Statement(
        "select c.of || '.' || d.oid::text from (" + (system if may_ask else counted) + ") c, "
        "pg_catalog.pg_database d where d.datname = pg_catalog.current_database()",
        (),
        one_value,
    )


def read_identity() -> Script[str]:
    """Both in turn."""
    may_ask: bool = yield may_ask_identity.statement()
    identity: str = yield database_identity.statement(may_ask)
    return identity


def read_pages(id: int) -> Script[Entries]:
    """The whole of a journal, by its pages."""
    entries: Entries = []
    after: int | None = 0
    while after is not None:
        page, after = yield journal_entries.statement(id, after)
        entries += page
    return entries
