"""What both languages say the same of: `gendurable_py._contract` is compared with the server."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from gendurable_py import _contract

Conn = psycopg.Connection[Any]

# What has its one home on the server in a function: its name, and what Python says.
NUMBERS = {
    "_terminal_statuses": list(_contract.TERMINAL),
    "_trace_keys": list(_contract.TRACE_KEYS),
    "_default_attempts": _contract.DEFAULT_ATTEMPTS,
    "_bad_outcome_classes": list(_contract.BAD_OUTCOME),
}


def test_the_terminal_statuses_are_the_last_of_all(conn: Conn) -> None:
    row = conn.execute("select enum_range('done'::gendurable.status, null)::text[]").fetchone()
    assert row == (list(_contract.TERMINAL),)


@pytest.mark.parametrize("name", NUMBERS)
def test_both_languages_say_the_same(conn: Conn, name: str) -> None:
    found = conn.execute(f"select to_jsonb(gendurable.{name}())").fetchone()  # type: ignore[arg-type]
    assert found is not None
    wanted = NUMBERS[name]
    assert (sorted(found[0]) == sorted(wanted)) if isinstance(wanted, list) else (found[0] == wanted)


@pytest.mark.parametrize("name", ["LEASE", "RETENTION"])
def test_defaults_are_those_of_the_functions(conn: Conn, name: str) -> None:
    function, argument = {"LEASE": ("gd_claim", 4), "RETENTION": ("gd_gc", 1)}[name]
    row = conn.execute("select pg_get_function_arg_default(%s::regproc, %s)", (function, argument)).fetchone()
    assert row is not None
    value = conn.execute("select (" + row[0] + ")::interval = %s", (getattr(_contract, name),)).fetchone()
    assert value == (True,)
