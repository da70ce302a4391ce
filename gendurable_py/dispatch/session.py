"""What the engine's connections set for themselves, whatever the role, the database, PGOPTIONS or a proxy says.

On a connection of its own it is set once. Behind a proxy that pools transactions there is no session: each call is a
transaction that sets it locally, and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from .._statement import Rows, Statement, call, nothing, one_value

_TIMEOUTS: tuple[LiteralString, ...] = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
)

# What our statements, or functions and functions of the server that they call, would do otherwise or not at all.
_WANTED = {
    "transaction_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "escape_string_warning": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "row_security": "on",
    "restrict_nonsystem_relation_kind": "",
    "session_replication_role": "origin",
    "exit_on_error": "off",
    "client_min_messages": "warning",
    "jit": "off",
    "debug_parallel_query": "off",
    "force_parallel_mode": "off",
}
# They belong to a library that may not be loaded yet: the server lists them only afterwards.
_OF_PLPGSQL = {
    "plpgsql.extra_errors": "none",
    "plpgsql.extra_warnings": "none",
    "plpgsql.print_strict_params": "off",
    "plpgsql.check_asserts": "on",
}

_FOUND: LiteralString = (
    "with api as ("
    "select n.nspname from pg_catalog.pg_proc p "
    "join pg_catalog.pg_namespace n on n.oid = p.pronamespace "
    "join pg_catalog.pg_namespace o on o.nspname = 'gendurable' and o.nspowner = p.proowner "
    "where p.proname = 'gd_claim_many' order by p.oid limit 1), "
    "made as ("
    # known to this server, and this role may set it
    "select s.name, w.value from unnest(%s::text[], %s::text[]) w (name, value) "
    "join pg_catalog.pg_settings s on s.name = w.name "
    "where s.context = 'user' or (s.context = 'superuser' and has_parameter_privilege(s.name, 'set')) "
    # how queries are planned is the server's matter, and no role's
    "union all select s.name, s.boot_val from pg_catalog.pg_settings s "
    "where s.category like 'Query Tuning%%' and s.context = 'user' and s.name <> 'jit' "
    "and s.source in ('database', 'user', 'database user', 'client', 'session') "
    "union all select w.name, w.value from unnest(%s::text[], %s::text[]) w (name, value) "
    # who switched it off in the server's own configuration meant all of it
    "union all select s.name, case when %s then 'on' else 'off' end from pg_catalog.pg_settings s "
    "where s.name = 'synchronous_commit' and (not %s or s.setting = 'off' and s.source not in ("
    "'configuration file', 'command line', 'default')) "
    "union all select 'search_path', quote_ident(nspname) || ', pg_temp' from api)"
)


def timeouts(server_version: int) -> tuple[LiteralString, ...]:
    """The settings that end what takes too long, on this server."""
    return ("transaction_timeout", *_TIMEOUTS) if server_version >= 170000 else _TIMEOUTS


def _parameters(durable: bool) -> tuple[object, ...]:
    lists = [list(names) for chosen in (_WANTED, _OF_PLPGSQL) for names in (chosen.keys(), chosen.values())]
    return (*lists, durable, durable)


@call
def without_timeouts(server_version: int) -> Statement[None]:
    """Before anything else: the timeouts off, and no function found but the server's."""
    # Each by itself: under a timeout of a millisecond one assignment gets through, a query may not.
    off: LiteralString = "; ".join(f"set {name} to 0" for name in timeouts(server_version))
    return Statement(f"{off}; set search_path to pg_catalog, pg_temp", (), nothing)


def without_timeouts_locally(server_version: int) -> Sequence[tuple[str, str]]:
    """The same, as settings by name."""
    return [*((name, "0") for name in timeouts(server_version)), ("search_path", "pg_catalog, pg_temp")]


@call
def settings(durable: bool) -> Statement[bool]:
    """Set all that the engine depends on for this session; answers whether the functions were found."""
    return Statement(
        f"{_FOUND} select bool_or(set_config(name, value, false) is not null and name = 'search_path') from made",
        _parameters(durable),
        one_value,
    )


@call
def as_the_role() -> Statement[None]:
    """All settings are the role's own, but for how a transaction begins, and that an idle session stays."""
    return Statement(
        "set default_transaction_isolation to 'read committed'; set default_transaction_read_only to off; "
        "set default_transaction_deferrable to off; set idle_session_timeout to 0",
        (),
        nothing,
    )


@call
def own_search_path() -> Statement[None]:
    """As it was for this role: what was not found elsewhere may be found there."""
    return Statement("reset search_path", (), nothing)


def _pairs(rows: Rows) -> Sequence[tuple[str, str]]:
    return [(row[0], row[1]) for row in rows]


@call
def wanted_settings(durable: bool) -> Statement[Sequence[tuple[str, str]]]:
    """What `settings` would set, without setting it."""
    return Statement(f"{_FOUND} select name, value from made", _parameters(durable), _pairs)


@call
def forget() -> Statement[None]:
    """Leave nothing of ours on a server connection that turned out to be shared."""
    return Statement("discard all", (), nothing)
