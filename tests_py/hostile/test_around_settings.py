"""Whatever settings a role brings along, an engine does its work: all that a role can have, set to what hurts."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support.engine import Events, asleep, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, Next, ScheduleChilds, _statement, job, step
from gendurable_py.dispatch import pooled

Conn = psycopg.Connection[Any]

HURTS: dict[str, dict[str, str]] = {
    "timeouts": {
        "statement_timeout": "1",
        "lock_timeout": "1",
        "idle_in_transaction_session_timeout": "1",
        "idle_session_timeout": "1",
        "transaction_timeout": "1",
    },
    "transactions": {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "default_transaction_deferrable": "on",
        "synchronous_commit": "off",
        "exit_on_error": "on",
    },
    "repeatable read": {"default_transaction_isolation": "repeatable read", "row_security": "off"},
    "formats": {
        "client_encoding": "LATIN1",
        "DateStyle": "SQL, DMY",
        "IntervalStyle": "iso_8601",
        "TimeZone": "Asia/Kathmandu",
        "extra_float_digits": "-15",
        "bytea_output": "escape",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        "lc_messages": "C",
        "timezone_abbreviations": "India",
        "xmlbinary": "hex",
        "xmloption": "document",
    },
    "other formats": {
        "client_encoding": "EUC_JP",
        "DateStyle": "German, YMD",
        "IntervalStyle": "sql_standard",
        "TimeZone": "America/St_Johns",
    },
    "compatibility": {
        "standard_conforming_strings": "off",
        "backslash_quote": "on",
        "escape_string_warning": "on",
        "array_nulls": "off",
        "transform_null_equals": "on",
        "quote_all_identifiers": "on",
        "lo_compat_privileges": "on",
        "restrict_nonsystem_relation_kind": "view, foreign-table",
        "session_replication_role": "replica",
        "check_function_bodies": "off",
        "synchronize_seqscans": "off",
        "client_min_messages": "debug5",
    },
    "plpgsql": {
        "plpgsql.extra_errors": "all",
        "plpgsql.extra_warnings": "all",
        "plpgsql.variable_conflict": "use_column",
        "plpgsql.print_strict_params": "on",
        "plpgsql.check_asserts": "off",
    },
    "planner": {
        "enable_seqscan": "off",
        "enable_indexscan": "off",
        "enable_indexonlyscan": "off",
        "enable_bitmapscan": "off",
        "enable_nestloop": "off",
        "enable_sort": "off",
        "enable_material": "off",
        "enable_memoize": "off",
        "enable_hashagg": "off",
        "plan_cache_mode": "force_custom_plan",
        "jit": "on",
        "jit_above_cost": "0",
        "jit_inline_above_cost": "0",
        "jit_optimize_above_cost": "0",
        "geqo_threshold": "2",
        "from_collapse_limit": "1",
        "join_collapse_limit": "1",
        "random_page_cost": "1e10",
        "cpu_index_tuple_cost": "1e10",
        "cpu_operator_cost": "1e10",
        "effective_cache_size": "1",
        "cursor_tuple_fraction": "0",
        "constraint_exclusion": "on",
        "recursive_worktable_factor": "1000000",
    },
    "parallel": {
        "debug_parallel_query": "regress",
        "force_parallel_mode": "regress",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "min_parallel_table_scan_size": "0",
        "min_parallel_index_scan_size": "0",
        "parallel_leader_participation": "off",
        "max_parallel_workers_per_gather": "8",
    },
    "memory": {
        "work_mem": "64kB",
        "hash_mem_multiplier": "1",
        "temp_buffers": "100",
        "maintenance_work_mem": "64kB",
        "logical_decoding_work_mem": "64kB",
        "commit_delay": "1000",
        "commit_siblings": "0",
        "wal_compression": "on",
        "backend_flush_after": "1",
        "stats_fetch_consistency": "snapshot",
        "track_activities": "off",
        "track_functions": "all",
        "gin_fuzzy_search_limit": "1",
        "application_name": "not what you think",
    },
    "search_path": {"search_path": "elsewhere, pg_catalog"},
}


@job(name="settings.flaky", max_attempts=3, backoff=lambda attempt: 0.01)
def flaky(args: dict[str, Any], ctx: Context[Any]) -> str:
    if ctx.attempt == 0:
        raise ValueError("once")
    return str(args["text"])


class Whole(FSM, name="settings.whole", run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("split", {"text": ctx.state["text"]})

    @step
    async def split(self, ctx: Context[Any]) -> ScheduleChilds:
        childs = [Child(flaky, ctx.state, partition_key="k", delay=n / 20) for n in range(3)]
        return ScheduleChilds("join", childs)

    @step
    def join(self, ctx: Context[Any]) -> Any:
        go = ctx.signal("go")
        if go is None and not ctx.timed_out:
            return Await("go", timeout=3600)
        return Done([*(child.result for child in ctx.childs), ctx.state["text"], go and go.payload])


def role_with(conn: Conn, settings: dict[str, str]) -> str:
    """A superuser, who may have them all, with those of the settings that this server knows."""
    role = f"settings_{os.getpid()}_{abs(hash(tuple(settings.items())))}"
    name = sql.Identifier(role)
    conn.execute(sql.SQL("create role {} superuser login").format(name))
    conn.execute("load 'plpgsql'")
    known = {row[0].lower() for row in conn.execute("select name from pg_settings")}
    for setting, value in settings.items():
        if setting.lower() in known:
            value_sql = sql.SQL("elsewhere, pg_catalog") if setting == "search_path" else sql.Literal(value)
            conn.execute(sql.SQL("alter role {} set {} to {}").format(name, sql.Identifier(setting), value_sql))
    return role


def works(dsn: str, conn: Conn, events: Events, **options: Any) -> None:
    """A bit of everything, to its end."""
    text = "Zo\u0142a \U0001f44b"
    with running(Engine(dsn, [Whole, flaky], on_event=events, **options)):
        far = gd.insert(conn, Whole, {"text": "later"}, delay=1e9)
        ids = [gd.insert(conn, Whole, {"text": text}) for _ in range(3)]
        for id in ids:
            wait_until(lambda id=id: field(conn, id, "status") == "awaiting_signal", 20)
            gd.signal(conn, id or 0, "go", text)
        assert {str(result.result) for result in ended(conn, *ids, timeout=20)} == {str([text] * 5)}
        if options.get("notify", True):
            wait_until(lambda: asleep(conn))
            # Told, not polled: the next poll would be an hour away.
            late = gd.insert(conn, flaky, {"text": text})
            assert ended(conn, late)[0].result == text
        assert field(conn, far, "status") == "runnable"
    assert events.count("stuck") == events.count("rejected") == 0


@pytest.mark.parametrize("notify", [True, False], ids=["session", "transactions"])
@pytest.mark.parametrize("group", HURTS)
def test_an_engine_works_under_any_setting_of_its_role(db: Any, conn: Conn, group: str, notify: bool) -> None:
    settings = HURTS[group]
    conn.execute("create schema elsewhere")
    conn.execute(
        "create function elsewhere.gd_claim_many(text, jsonb, interval) returns setof gendurable.claimed "
        "language plpgsql as $$ begin raise 'not this one'; end $$"
    )
    conn.execute("alter function elsewhere.gd_claim_many(text, jsonb, interval) owner to pg_monitor")
    role = role_with(conn, settings)
    dsn = make_conninfo(db.dsn, user=role)
    options: dict[str, Any] = {"poll_interval": 3600, "max_poll_interval": 3600}
    if not notify:
        options = {"poll_interval": 0.02, "max_poll_interval": 0.02, "notify": False}
    events = Events()
    try:
        works(dsn, conn, events, **options)
    finally:
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    # Under a millisecond a transaction of a proxy's may be cancelled before it has switched that off.
    if notify or group != "timeouts":
        assert events.named("reconnect") == []


def test_every_setting_that_a_role_can_have_is_in_the_table_or_known_to_be_harmless(conn: Conn) -> None:
    """A new server brings new ones: this says which have been looked at."""
    ours = {name.lower() for group in HURTS.values() for name in group}
    # What is logged, measured, cached or kept alive, and what only utilities and data types of others look at.
    harmless = (
        "allow_alter_system", "allow_in_place", "allow_system_table_mods", "backslash", "backtrace_functions",
        "bytea", "client_connection_check_interval", "compute_query_id", "cpu_", "createrole_self_grant",
        "deadlock_timeout", "debug_", "default_stat", "default_tab", "default_table", "default_text",
        "default_toast", "default_transaction", "dynamic_library_path", "effective_io", "maintenance_io", "enable_",
        "event_triggers", "exit_on_error", "explain_", "extension_control_path", "file_copy_method", "geqo",
        "gin_pending", "huge", "icu_validation", "ignore_", "in_hot_standby", "io_", "jit", "lc_",
        "local_preload", "log_", "max_parallel_", "max_stack_depth", "md5_password", "min_parallel_",
        "optimize_bounded", "parallel_", "password_encryption", "plpgsql.", "remove_temp", "restart_after",
        "row_security", "scram_", "send_abort", "seq_page_cost", "session_preload", "ssl",
        "synchronous_standby", "tcp_", "temp_", "trace_", "trace_locks", "track_", "transaction_",
        "update_process_title", "vacuum", "wal", "wal_", "zero_damaged",
    )  # fmt: skip
    rows = conn.execute("select lower(name) from pg_settings where context in ('user', 'superuser')").fetchall()
    left = {row[0] for row in rows if row[0] not in ours and not row[0].startswith(harmless)}
    assert left == set()


@pytest.mark.parametrize("notify", [True, False], ids=["session", "transactions"])
def test_an_engine_starts_where_each_connection_is_cut_short(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch, notify: bool
) -> None:
    """However slow the server is, there is a way to connect under which no timeout of the role counts."""

    def slow(statement: _statement.Statement[Any]) -> _statement.Statement[Any]:
        return _statement.Statement(f"{statement.sql}, pg_catalog.pg_sleep(0.02)", statement.params, statement.read)

    asked, set_locally = pooled.backend.statement(), pooled.set_locally.statement
    monkeypatch.setattr(pooled, "backend", _statement.call(lambda: slow(asked)))
    monkeypatch.setattr(pooled.set_locally, "statement", lambda made: slow(set_locally(made)))
    role = role_with(conn, HURTS["timeouts"])
    options: dict[str, Any] = {} if notify else {"poll_interval": 0.02, "max_poll_interval": 0.02, "notify": False}
    try:
        with running(Engine(make_conninfo(db.dsn, user=role), [flaky], **options)):
            assert ended(conn, gd.insert(conn, flaky, {"text": "x"}), timeout=20)[0].result == "x"
    finally:
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_environment_and_service_do_not_matter_either(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    conn.execute("create schema elsewhere")
    service = tmp_path / "service.conf"
    service.write_text("[around]\nclient_encoding=LATIN1\noptions=-c datestyle=SQL,MDY -c search_path=elsewhere\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv("PGCLIENTENCODING", "EUC_JP")
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_isolation=serializable -c statement_timeout=1")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    monkeypatch.setenv("PGDATESTYLE", "German")
    works(make_conninfo(db.dsn, service="around"), conn, Events(), poll_interval=3600, max_poll_interval=3600)
    monkeypatch.delenv("PGOPTIONS")


@pytest.mark.parametrize(
    ("where", "durable", "expected"),
    [("role", True, "on"), ("role", False, "off"), ("none", True, "on"), ("remote", True, "remote_write")],
)
def test_what_is_durable(db: Any, conn: Conn, where: str, durable: bool, expected: str) -> None:
    from gendurable_py.dispatch.dial import Dialer
    from gendurable_py.dispatch.link import Link
    from gendurable_py.dispatch.pooled import backend

    value = {"role": "off", "none": "on", "remote": "remote_write"}[where]
    name = conn.info.dbname
    conn.execute(sql.SQL("alter database {} set synchronous_commit = {}").format(sql.Identifier(name), value))

    async def asked() -> Any:
        link = Link(Dialer(db.dsn, "w"), "claims", lambda *_: None, durable=durable)
        await link.attempt(backend)
        assert link.conn is not None
        row = await (await link.conn.execute("show synchronous_commit")).fetchone()
        await link.drop()
        return row

    assert asyncio.run(asked()) == (expected,)
