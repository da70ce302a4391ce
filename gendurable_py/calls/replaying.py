"""What a dispatcher asks the server of the journals of flows: whole, as their workers have written them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from .._statement import Rows, Script, Statement, call, one_value
from ..errors import InvalidArgument
from ..machine.codec import loads

Entries = list[dict[str, Any]]

MOST_BYTES = 1_000_000
"""Of a journal that is read together with others, and of a page of a larger one."""


@call
def journals(ids: Sequence[int]) -> Statement[dict[int, Entries | InvalidArgument | None]]:
    """Of each flow its journal, None where that is too large to come with others (see `journal_page`), or why it cannot
    be read here."""
    return Statement(
        "select id, entries::text from gd_journals(%s, %s)",
        (list(ids), MOST_BYTES),
        lambda rows: {row[0]: None if row[1] is None else _read(row[1]) for row in rows},
    )


def _read(text: str) -> Entries | InvalidArgument:
    try:
        return cast("Entries", loads(text))
    except InvalidArgument as error:
        return error


@call
def journal_page(id: int, after: int) -> Statement[tuple[Entries, int | None]]:
    """Entries behind this one, and behind which to go on; None: these were the last."""
    return Statement(
        "select entries::text, next from gd_journal_entries(%s, %s, %s)", (id, after, MOST_BYTES), _read_page
    )


def _read_page(rows: Rows) -> tuple[Entries, int | None]:
    [(text, following)] = rows
    return cast("Entries", loads(text)), following


@call
def database_identity() -> Statement[str]:
    """What no other database has: that of its cluster, and its own number there."""
    return Statement(
        "select c.system_identifier::text || '.' || d.oid::text from pg_catalog.pg_control_system() c, "
        "pg_catalog.pg_database d where d.datname = pg_catalog.current_database()",
        (),
        one_value,
    )


def read_pages(id: int) -> Script[Entries]:
    """The whole of a journal, by its pages."""
    entries: Entries = []
    after: int | None = 0
    while after is not None:
        page, after = yield journal_page.statement(id, after)
        entries += page
    return entries
