"""The script for pg_tle: what it registers, on any server; and an installation and an upgrade where pg_tle is there."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.released import SCRIPTS, extension_file
from support.server import FAST, ROOT, installations

from gendurable_py.embedded.cluster import Cluster
from gendurable_py.install import extension_files

# What pg_tle has, as far as the script uses it: each script becomes a function of that name.
STAND_IN = """
create schema pgtle;
create table pgtle.control (name name, default_version text, comment text);
create function pgtle.available_extensions() returns table (name name, default_version text)
language sql as $$ select name, default_version from pgtle.control $$;
create function pgtle.available_extension_versions() returns table (name name, version text)
language sql as $$
    select c.name, split_part(replace(p.proname, '.sql', ''), '--', 2)
    from pgtle.control c, pg_proc p
    where p.pronamespace = 'pgtle'::regnamespace and p.proname ~ '^gendurable--[^-]+\\.sql$'
$$;
create function pgtle.keep(file text, script text) returns boolean language plpgsql as $keep$
begin
    execute format('create function pgtle.%I() returns text language sql as %L', file, format('select %L', script));
    return true;
end $keep$;
create function pgtle.install_extension(name text, version text, description text, ext text) returns boolean
language sql as $$
    insert into pgtle.control values (name, version, description);
    select pgtle.keep(format('%s--%s.sql', name, version), ext)
$$;
create function pgtle.install_extension_version_sql(name text, version text, ext text) returns boolean
language sql as $$ select pgtle.keep(format('%s--%s.sql', name, version), ext) $$;
create function pgtle.install_update_path(name text, fromvers text, tovers text, ext text) returns boolean
language sql as $$ select pgtle.keep(format('%s--%s--%s.sql', name, fromvers, tovers), ext) $$;
create function pgtle.set_default_version(name text, version text) returns boolean
language sql as $$ update pgtle.control set default_version = version where control.name = $1 returning true $$;
"""


def made(root: Path = ROOT) -> str:
    """What `make pg-tle` writes, of a tree with that control file and those upgrades."""
    path = list(sys.path)
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return str(runpy.run_path(str(ROOT / "tools" / "pg_tle.py"))["script"](root))
    finally:
        sys.path[:] = path


def kept(conn: psycopg.Connection[Any], file: str) -> str:
    row = conn.execute(f'select pgtle."{file}"()'.encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_it_registers_the_scripts_of_the_extension(empty_db: Any) -> None:
    conn = empty_db.connect()
    conn.execute(STAND_IN)
    script, files = made(), {path.name: path for path in extension_files() if path.suffix == ".sql"}
    assert len(files) > 1
    for _ in range(2):  # the second time there is nothing to do
        conn.execute(script.encode())
        for name, path in files.items():
            assert kept(conn, name) == path.read_text(encoding="utf-8")
    row = conn.execute("select default_version, comment from pgtle.control").fetchone()
    assert row is not None and f"gendurable--{row[0]}.sql" in files
    assert f"comment = '{row[1]}'" in (ROOT / "gendurable.control").read_text()


def test_it_adds_a_release_to_one_that_is_there(empty_db: Any) -> None:
    conn = empty_db.connect()
    conn.execute(STAND_IN)
    conn.execute("select pgtle.install_extension('gendurable', '0.0.9', 'old', 'select 1')")
    conn.execute(made().encode())
    assert kept(conn, "gendurable--0.0.9.sql") == "select 1"
    for path in extension_files():
        if path.suffix == ".sql":
            assert kept(conn, path.name) == path.read_text(encoding="utf-8")
    row = conn.execute("select default_version from pgtle.control").fetchone()
    assert row is not None and row[0] != "0.0.9"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    for installation in installations():
        if (installation.sharedir / "extension" / "pg_tle.control").exists():
            with Cluster(installation, settings={**FAST, "shared_preload_libraries": "pg_tle"}) as cluster:
                yield cluster
            return
    pytest.skip("needs pg_tle (github.com/aws/pg_tle, make install)")


def test_an_ordinary_role_installs_and_upgrades_with_pg_tle(cluster: Cluster, tmp_path: Path) -> None:
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        conn.execute("create extension pg_tle; create role app; grant pgtle_admin to app")
        conn.execute("grant create on database postgres to app; create schema durable authorization app")
        conn.execute("set role app; set search_path = durable")
        old = max(SCRIPTS)
        text = extension_file(tmp_path, old).read_text(encoding="utf-8")
        conn.execute("select pgtle.install_extension('gendurable', %s, 'the release before', %s)", (old, text))
        conn.execute("create extension gendurable schema durable; select gd_insert('a', '{}')")
        conn.execute(made().encode())
        conn.execute("alter extension gendurable update")
        new = conn.execute("select gd_version(), (select count(*) from gd_instances)").fetchone()
        assert new is not None and new[0] != old and new[1] == 1
        conn.execute("drop extension gendurable; create extension gendurable schema durable")
        assert conn.execute("select gd_version()").fetchone() == (new[0],)
