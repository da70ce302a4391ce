"""The assembled scripts: as an extension, as the plain script, and from one release to the next."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.server import ROOT, Server, of_installation

from gendurable_py import embedded
from gendurable_py.embedded.cluster import Installation
from gendurable_py.errors import VersionMismatch
from gendurable_py.install import extension_files, install, uninstall, upgrade, version

ASSEMBLE = runpy.run_path(str(ROOT / "tools" / "assemble.py"))

OBJECTS = """
select 'relation ' || c.oid::regclass from pg_class c
where c.relnamespace = 'gendurable'::regnamespace or c.relname like 'gd\\_%'
union all
select 'function ' || p.oid::regprocedure || md5(p.prosrc) from pg_proc p
where p.pronamespace = 'gendurable'::regnamespace or p.proname like 'gd\\_%'
union all
select 'type ' || t.oid::regtype from pg_type t where t.typnamespace = 'gendurable'::regnamespace
order by 1
"""
SCHEMAS = "select count(*) from pg_namespace where nspname = 'gendurable'"


def value(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def objects(conn: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in conn.execute(OBJECTS.encode())]


@pytest.fixture
def own_server(server: Server) -> Server:
    if server.cluster is None:
        pytest.skip("needs a server of its own to add extension files to: GENDURABLE_TEST_SERVER=embedded")
    return server


def test_every_table_and_sequence_is_marked_for_dumps(server: Server, conn: psycopg.Connection[Any]) -> None:
    if not server.as_extension:
        pytest.skip("the server runs the plain script; dump marks need the extension's files")
    unmarked = conn.execute(
        """
        select c.oid::regclass::text from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p', 'S')
          and c.oid <> all (select unnest(e.extconfig) from pg_extension e where e.extname = 'gendurable')
        """
    ).fetchall()
    assert unmarked == []


def test_dump_and_restore_keep_the_instances(own_server: Server, db: Any) -> None:
    assert own_server.cluster is not None
    with db.connect() as conn:
        ids = [
            value(conn, "select gd_insert('m', '{\"n\": 1}', p_unique_key => 'a')"),
            value(conn, "select gd_insert('m')"),
        ]
        rows = conn.execute("select i::text from gendurable.instance i order by id").fetchall()
    bindir = own_server.cluster.bindir
    dump = subprocess.run([bindir / "pg_dump", "-d", db.dsn], check=True, capture_output=True).stdout
    restored = own_server.new_database(empty=True)
    subprocess.run(
        [bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored],
        input=dump,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with psycopg.connect(restored, autocommit=True) as conn:
        assert conn.execute("select i::text from gendurable.instance i order by id").fetchall() == rows
        assert value(conn, "select gd_version()") == version()
        assert value(conn, "select gd_insert('m')") > max(ids), "the sequence goes on where it was"
        assert value(conn, "select gd_insert('m', p_unique_key => 'a')") is None
    own_server.drop_database(restored)


def test_plain_script_makes_the_same_objects_as_the_extension(db: Any, empty_db: Any) -> None:
    conn = empty_db.connect()
    assert install(conn) == version()
    assert objects(conn) == objects(db.connect())


def test_plain_installation_in_a_schema_of_its_own(empty_db: Any) -> None:
    conn = empty_db.connect()
    conn.execute("create schema api")
    conn.execute("create function public.gd_mine() returns int language sql return 1")
    conn.execute("set search_path to api")
    install(conn)
    assert value(conn, "select api.gd_version()") == version()
    conn.execute("set search_path to public")
    assert install(conn) == upgrade(conn) == version(), "nothing to do the second time"
    uninstall(conn)
    uninstall(conn)
    assert value(conn, SCHEMAS) == 0
    left = conn.execute("select pronamespace::regnamespace::text, proname from pg_proc where proname like 'gd\\_%'")
    assert left.fetchall() == [("public", "gd_mine")]
    assert value(conn, "select count(*) from pg_class where relname like 'gd\\_%'") == 0


def test_install_joins_the_callers_transaction(empty_db: Any) -> None:
    conn = empty_db.connect(autocommit=False)
    install(conn)
    conn.rollback()
    assert value(conn, SCHEMAS) == 0


async def test_install_on_an_async_connection(empty_db: Any) -> None:
    conn = await empty_db.aconnect()
    assert await install(conn) == version()
    assert await upgrade(conn) == version()
    await uninstall(conn)
    assert value(empty_db.connect(), SCHEMAS) == 0


def test_an_extension_is_left_to_alter_and_drop(server: Server, conn: psycopg.Connection[Any]) -> None:
    if not server.as_extension:
        pytest.skip("the server runs the plain script")
    assert install(conn) == version()
    for call in (upgrade, uninstall):
        with pytest.raises(VersionMismatch, match="EXTENSION gendurable"):
            call(conn)
    assert value(conn, "select gd_version()") == version()


def test_upgrade_without_an_installation(empty_db: Any) -> None:
    with pytest.raises(VersionMismatch, match="not installed"):
        upgrade(empty_db.connect())


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """A checkout of a later release: a new table, a changed function, two upgrade steps."""
    shutil.copytree(ROOT / "sql", tmp_path / "sql", ignore=shutil.ignore_patterns("gendurable*"))
    (tmp_path / "sql" / "upgrades").mkdir(exist_ok=True)
    control = (ROOT / "gendurable.control").read_text()
    (tmp_path / "gendurable.control").write_text(control.replace(f"'{version()}'", "'99.1'"))
    table = "create table gendurable.extra (id bigint generated always as identity primary key);\n"
    (tmp_path / "sql" / "upgrades" / f"{version()}--99.0.sql").write_text(table)
    (tmp_path / "sql" / "upgrades" / "99.0--99.1.sql").write_text("alter table gendurable.extra add note text;\n")
    (tmp_path / "sql" / "schema" / "999_extra.sql").write_text(table + "alter table gendurable.extra add note text;\n")
    (tmp_path / "sql" / "api" / "999_extra.sql").write_text(
        "create or replace function gd_extra() returns text\nlanguage sql as $$ select 'new' $$;\n"
        "comment on function gd_extra() is 'Is new.';\n"
    )
    ASSEMBLE["write"](tmp_path)
    return tmp_path


@pytest.fixture
def upgradable(next_release: Path) -> Iterator[Server]:
    try:
        installation = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    later = [next_release / "gendurable.control", *(next_release / "sql").glob("gendurable--*.sql")]
    server = of_installation(installation, "with a later release", extension_files=later)
    yield server
    server.close()


def test_alter_extension_update_reaches_the_state_of_a_new_installation(upgradable: Server) -> None:
    old, new = upgradable.new_database(empty=True), upgradable.new_database(empty=True)
    with psycopg.connect(old, autocommit=True) as upgraded, psycopg.connect(new, autocommit=True) as fresh:
        upgraded.execute("create schema api")
        upgraded.execute(f"create extension gendurable schema api version '{version()}'".encode())
        upgraded.execute("set search_path to api")
        kept = value(upgraded, "select gd_insert('m')")
        upgraded.execute("set search_path to public")
        upgraded.execute("alter extension gendurable update")
        fresh.execute("create extension gendurable")
        upgraded.execute("set search_path to api")
        assert objects(upgraded) == objects(fresh)
        assert value(upgraded, "select gd_version()") == "99.1"
        assert value(upgraded, "select gd_extra()") == "new"
        assert value(upgraded, "select id from gendurable.instance") == kept
        marks = "select cardinality(extconfig) from pg_extension where extname = 'gendurable'"
        assert value(upgraded, marks) == value(fresh, marks)


def test_plain_upgrade_goes_back_to_the_schema_of_the_api(
    upgradable: Server, next_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(upgradable.new_database(empty=True), autocommit=True) as conn:
        conn.execute("create schema api")
        conn.execute("set search_path to api")
        install(conn)
        conn.execute("set search_path to public")
        monkeypatch.setitem(
            upgrade.__wrapped__.__globals__,  # type: ignore[attr-defined]
            "_folder",
            lambda: (next_release / "gendurable.control", next_release / "sql"),
        )
        with pytest.raises(VersionMismatch, match="call upgrade"):
            install(conn)
        assert upgrade(conn) == "99.1"
        assert value(conn, "show search_path") == "public"
        assert value(conn, "select api.gd_version() || api.gd_extra()") == "99.1new"


def test_upgrade_scripts_lead_from_every_release_to_the_current_one(next_release: Path) -> None:
    released = [path.stem.removeprefix("gendurable-") for path in (ROOT / "tests_py" / "releases").glob("*.sql")]
    assert ASSEMBLE["names"](next_release) == [
        "gendurable--99.1.sql",
        *(f"gendurable--{old}--99.1.sql" for old in [*sorted(released), version(), "99.0"]),
    ]
    (next_release / "sql" / "upgrades" / "99.0--99.1.sql").unlink()
    with pytest.raises(SystemExit, match=r"lead to 99\.0"):
        ASSEMBLE["names"](next_release)


def test_make_install_into_a_tree(tmp_path: Path) -> None:
    try:
        pg_config = embedded.installation().bindir / "pg_config"
    except ImportError as error:
        pytest.skip(str(error))
    if shutil.which("make") is None:
        pytest.skip("make is missing (Debian: apt-get install make)")
    subprocess.run(
        ["make", "-C", str(ROOT), "install", f"PG_CONFIG={pg_config}", f"DESTDIR={tmp_path}"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))},
    )
    installed = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert installed == {path.name for path in extension_files()}


def test_installation_reads_pg_config() -> None:
    try:
        expected = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    found = Installation.of(expected.bindir / "pg_config")
    assert (found.sharedir, found.pkglibdir, found.major) == (expected.sharedir, expected.pkglibdir, 18)
