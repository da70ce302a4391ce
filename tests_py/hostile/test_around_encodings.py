"""Databases of every encoding, and installations by sessions whose settings are not the usual ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.busy import fill, goes_on, one
from support.catalog import fingerprint
from support.people import People, life
from support.released import plain_script as released_script
from support.server import Server

import gendurable_py as gd
from gendurable_py.install import extension_files, install, plain_script, uninstall, upgrade, version

Conn = psycopg.Connection[Any]
# With a word that the encoding has.
ENCODINGS = {
    "UTF8": "caf\u00e9 \u96fb\u8a71 \U0001f600",
    "LATIN1": "caf\u00e9",
    "LATIN2": "\u0142\u00f3d\u017a",
    "KOI8R": "\u0440\u0430\u0431\u043e\u0442\u0430",
    "EUC_JP": "\u96fb\u8a71",
    "EUC_KR": "\uc791\uc5c5",
    "SQL_ASCII": "caf\u00e9 \u96fb\u8a71",
}
# 0.1.0 had characters that not each of them has.
PLACES = [
    (encoding, how)
    for encoding in ENCODINGS
    for how in ("extension", "plain script", "python", "upgrade")
    if how != "upgrade" or encoding in ("UTF8", "EUC_JP", "EUC_KR", "SQL_ASCII")
]


def database(server: Server, people: People, encoding: str) -> str:
    dsn = people.database(empty=True)
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = conn.info.dbname
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))
        conn.execute(
            sql.SQL("create database {} template template0 encoding {} locale 'C'").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
    return dsn


def text(value: Any) -> Any:
    """A connection whose encoding is SQL_ASCII gives bytes."""
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize(("encoding", "how"), PLACES)
def test_it_installs_and_works_in_a_database_of_any_encoding(
    server: Server, people: People, encoding: str, how: str
) -> None:
    if how == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    dsn, word = database(server, people, encoding), ENCODINGS[encoding]
    # As the server likes it, and as everybody who has a PGCLIENTENCODING.
    with psycopg.connect(dsn, autocommit=True) as conn:
        if how == "extension":
            conn.execute("create extension gendurable")
        elif how == "plain script":
            with conn.transaction():
                conn.execute(plain_script().encode("ascii"))
        elif how == "python":
            assert install(conn) == install(conn) == version()
        else:
            with psycopg.connect(dsn, client_encoding="UTF8") as old:
                old.execute(released_script("0.1.0").encode())
            assert upgrade(conn) == version()
        assert text(one(conn, "select gd_version()")) == version()
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as conn:
        made = gd.insert(conn, "m", {"word": word}, queue="q", unique_key=word, meta={"said": word})
        assert made is not None and gd.find(conn, word) == made
        (row,) = conn.execute("select id, claim_no, state, unique_key from gd_claim('w', 'q')").fetchall()
        assert row[2:] == ({"word": word}, word)
        outcome = f'[{{"id": {made}, "claim_no": {row[1]}, "kind": "await", "signals": "{word}", "step": "b"}}]'
        assert one(conn, "select result from gd_commit('w', $1)", outcome) == "ok"
        assert gd.signal(conn, word, word, {"said": word}) == "delivered"
        (row,) = conn.execute("select claim_no, signals from gd_claim('w', 'q')").fetchall()
        assert (row[1][0]["name"], row[1][0]["payload"]) == (word, {"said": word})
        outcome = f'[{{"id": {made}, "claim_no": {row[0]}, "kind": "done", "result": "{word}"}}]'
        assert one(conn, "select result from gd_commit('w', $1)", outcome) == "ok"
        result = gd.result(conn, made)
        assert result is not None and result.result == word
        assert one(conn, "select gd_maintain('0')")["repaired"] == 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        if how == "extension":
            conn.execute("drop extension gendurable")
        else:
            uninstall(conn)
        assert one(conn, "select count(*) from pg_proc where proname like 'gd\\_%'") == 0


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in ("UTF8",)])
def test_another_encoding_has_all_situations_too(server: Server, people: People, encoding: str) -> None:
    dsn = database(server, people, encoding)
    with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as conn:
        install(conn)
        if encoding != "SQL_ASCII":
            # What the database cannot hold is refused to whoever sends it, and to nobody else.
            with pytest.raises(psycopg.errors.UntranslatableCharacter):
                gd.insert(conn, "m", {"x": "\U0001f600"})
        assert gd.insert(conn, "m", {"x": 1}, queue="mine") is not None
        conn.execute("select gd_cancel(id) from gd_instances")
        conn.execute("select gd_gc('0')")
        if encoding in ("LATIN1", "LATIN2"):
            made, opened = fill(conn), [psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") for _ in range(2)]
            goes_on(iter(opened).__next__, made)
            for other in opened:
                other.close()


def test_every_script_is_plain_ascii() -> None:
    for script in [plain_script(), *(path.read_text(encoding="utf-8") for path in extension_files())]:
        assert script.isascii()


# -- the settings of the session that installs

SETTINGS: dict[str, dict[str, str]] = {
    "strings": {"standard_conforming_strings": "off", "escape_string_warning": "on", "backslash_quote": "off"},
    "bodies unchecked": {"check_function_bodies": "off"},
    "dates": {"datestyle": "SQL, DMY", "intervalstyle": "sql_standard", "timezone": "Asia/Kathmandu"},
    "German dates": {"datestyle": "German, DMY", "intervalstyle": "iso_8601", "timezone": "-11:30"},
    "strict bodies": {"plpgsql.extra_errors": "all", "plpgsql.extra_warnings": "all", "plpgsql.check_asserts": "on"},
    "variables first": {"plpgsql.variable_conflict": "use_variable"},
    "columns first": {"plpgsql.variable_conflict": "use_column"},
    "a place for tables": {"default_tablespace": "pg_default", "default_toast_compression": "pglz"},
    "nulls": {"array_nulls": "off", "transform_null_equals": "on"},
    "isolation": {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
    "fixed snapshot": {"default_transaction_isolation": "repeatable read"},
    "planner": {"enable_seqscan": "off", "plan_cache_mode": "force_custom_plan", "jit": "on", "jit_above_cost": "0"},
    "rows": {"row_security": "off", "session_replication_role": "replica"},
    "silence": {"client_min_messages": "error", "lc_messages": "C", "bytea_output": "escape"},
    "latin": {"client_encoding": "LATIN1"},
    "ascii": {"client_encoding": "SQL_ASCII"},
    "japanese": {"client_encoding": "EUC_JP"},
    "commit": {"synchronous_commit": "off", "commit_delay": "0"},
}


def with_settings(dsn: str, settings: dict[str, str], **kwargs: Any) -> Conn:
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute("load 'plpgsql'")
    for name, value in settings.items():
        conn.execute("select set_config(%s, %s, false)", (name, value))
    conn.autocommit = kwargs.get("autocommit", True)
    return conn


@pytest.fixture(scope="module")
def usual(server: Server) -> Iterator[dict[str, list[str]]]:
    """What a plain installation is, in a session with no settings of its own."""
    dsn = server.new_database(empty=True)
    with psycopg.connect(dsn, autocommit=True) as conn:
        install(conn)
        yield fingerprint(conn, plain=True)
    server.drop_database(dsn)


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_session_change_nothing_of_an_installation(
    people: People, usual: dict[str, list[str]], name: str, autocommit: bool
) -> None:
    dsn = people.database(empty=True)
    with with_settings(dsn, SETTINGS[name], autocommit=autocommit) as conn:
        assert install(conn) == version()
        if not autocommit:
            conn.commit()
        # And they are what they were, for the transaction too.
        assert install(conn) == upgrade(conn) == version()
        for setting, value in SETTINGS[name].items():
            assert text(one(conn, "select current_setting($1)", setting)) == value
        conn.rollback()
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = fingerprint(conn, plain=True)
        for kind in usual:
            assert found[kind] == usual[kind], kind


# A fixed snapshot is refused; without triggers and as bytes the test's own words would be others.
@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"isolation", "fixed snapshot", "rows", "ascii"}))
def test_a_session_with_such_settings_can_do_everything(people: People, name: str) -> None:
    with with_settings(people.database(), SETTINGS[name]) as conn:
        life(conn)


def test_tables_and_indexes_go_to_the_place_that_the_session_names(
    server: Server, people: People, usual: dict[str, list[str]]
) -> None:
    if server.cluster is None:
        pytest.skip("makes a tablespace: GENDURABLE_TEST_SERVER=embedded")
    dsn, name = people.database(empty=True), f"place_{people.role('place')}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute("set allow_in_place_tablespaces to on")
        admin.execute(f"create tablespace {name} location ''".encode())
        try:
            with with_settings(dsn, {"default_tablespace": name}) as conn:
                install(conn)
                life(conn)
                conn.execute("reset default_tablespace")
                assert fingerprint(conn, plain=True) == usual
                there = one(conn, "select count(*) from pg_class where reltablespace <> 0 and relkind in ('r', 'i')")
                assert there > 15
                # Removed by a session that knows nothing of it.
                uninstall(conn)
        finally:
            admin.execute(f"drop tablespace {name}".encode())


def test_an_upgrade_and_an_uninstall_by_such_a_session(people: People, usual: dict[str, list[str]]) -> None:
    together = {
        name: value
        for group in ("strings", "bodies unchecked", "dates", "strict bodies", "nulls", "ascii")
        for name, value in SETTINGS[group].items()
    }
    dsn = people.database(empty=True)
    with psycopg.connect(dsn) as old:
        old.execute(released_script("0.1.0").encode())
    with with_settings(dsn, together) as conn:
        assert upgrade(conn) == version()
        with psycopg.connect(dsn, autocommit=True) as plain:
            found = fingerprint(plain, plain=True)
            for kind in usual:
                assert found[kind] == usual[kind], kind
        uninstall(conn)
        assert one(conn, "select to_regnamespace('gendurable')") is None


async def test_an_async_connection_of_another_encoding_installs(people: People) -> None:
    dsn = people.database(empty=True)
    async with await psycopg.AsyncConnection.connect(dsn, client_encoding="SQL_ASCII") as conn:
        assert await install(conn) == await upgrade(conn) == version()
        await uninstall(conn)


def test_a_session_that_may_only_read_is_told_so(people: People) -> None:
    dsn = people.database(empty=True)
    with with_settings(dsn, {"default_transaction_read_only": "on"}) as conn:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="CREATE SCHEMA"):
            install(conn)
        # The connection is as it was.
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        conn.execute("set default_transaction_read_only to off")
        assert install(conn) == version()


@pytest.mark.parametrize("schema", ["Jobs", 'a"b', "with space", "caf\u00e9", "select", "x,y"])
def test_the_schema_of_the_functions_may_have_any_name(people: People, schema: str) -> None:
    dsn = people.database(empty=True)
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = sql.Identifier(schema)
        conn.execute(sql.SQL("create schema {}").format(name))
        conn.execute(sql.SQL("set search_path to {}, public").format(name))
        path = one(conn, "show search_path")
        assert install(conn) == upgrade(conn) == version()
        assert one(conn, "select api_schema from gendurable.meta") == schema
        life(conn)
        assert one(conn, "show search_path") == path
        uninstall(conn)
        assert one(conn, "show search_path") == path
        assert one(conn, "select count(*) from pg_proc where proname like 'gd\\_%'") == 0
