"""From each release of the past to this one, as an extension and by the plain script: work, roles, neighbours."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from support.busy import fill, goes_on, insert, one, snapshot
from support.catalog import ailments, fingerprint
from support.people import People
from support.released import SCRIPTS, past, plain_script
from support.server import Server
from support.strangers import rights, strangers

import gendurable_py as gd
from gendurable_py.install import install, uninstall, upgrade, version

__all__ = ["past"]

Conn = psycopg.Connection[Any]
PROFILES = ("client", "worker", "operator", "reader")
WAYS = [(release, how) for release in SCRIPTS for how in ("extension", "plain script")]


@pytest.fixture
def people(past: Server) -> Iterator[People]:
    made = People(past)
    yield made
    made.close()


class Site:
    """A database of a release, and how it gets to this one."""

    def __init__(self, dsn: str, how: str) -> None:
        self.dsn, self.how = dsn, how
        self._stack = ExitStack()
        conn = self.connect()
        conn.execute("create schema api")
        conn.execute(f"alter database {conn.info.dbname} set search_path to api, public".encode())

    def connect(self) -> Conn:
        return self._stack.enter_context(psycopg.connect(self.dsn, autocommit=True))

    def install(self, release: str | None = None) -> None:
        conn = self.connect()
        if self.how == "extension":
            conn.execute(f"create extension gendurable version '{release or version()}'".encode())
        elif release is None:
            install(conn)
        else:
            with conn.transaction():
                conn.execute(plain_script(release).encode())
        assert gd.version(conn) == (release or version())

    def upgrade(self) -> None:
        conn = self.connect()
        if self.how == "extension":
            conn.execute("alter extension gendurable update")
        else:
            assert upgrade(conn) == version()
        assert gd.version(conn) == version()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(params=WAYS, ids=" as ".join)
def made(request: pytest.FixtureRequest, people: People) -> Iterator[tuple[Site, Site]]:
    """A database of the release, and an empty one for the same way."""
    release, how = request.param
    sites = Site(people.database(empty=True), how), Site(people.database(empty=True), how)
    sites[0].install(release)
    yield sites
    for site in sites:
        site.close()


@pytest.fixture
def site(made: tuple[Site, Site]) -> Site:
    return made[0]


def grant_all(conn: Conn, people: People) -> None:
    for profile in PROFILES:
        conn.execute("select gd_grant(%s::text::regrole, %s)", (people.role(profile), profile))


def test_it_becomes_a_new_installation_to_the_last_detail(made: tuple[Site, Site], people: People) -> None:
    old, new = made
    conn, fresh = old.connect(), new.connect()
    grant_all(conn, people)
    assert sum(map(len, fingerprint(conn).values())) > 300
    old.upgrade()
    new.install()
    grant_all(fresh, people)
    after, wanted = fingerprint(conn), fingerprint(fresh)
    for kind in wanted:
        assert after[kind] == wanted[kind], kind
    assert ailments(conn) == ailments(fresh) == []
    granted = "select * from gendurable.granted order by 1, 2"
    assert conn.execute(granted).fetchall() == fresh.execute(granted).fetchall() != []


def test_work_in_every_status_goes_on(site: Site) -> None:
    old = site.connect()
    made = fill(old)
    columns = "select string_agg(quote_ident(attname), ',') from pg_attribute where attrelid = 'gd_instances'::regclass"
    seen = f"select row({one(old, columns)}) from gd_instances order by id"
    before, rows = snapshot(old), old.execute(seen.encode()).fetchall()
    site.upgrade()
    assert old.execute(seen.encode()).fetchall() == rows
    after = snapshot(old)
    for name in ("gendurable.signal", "gendurable.signal_seen", "gendurable.key_limit", "gendurable.instance_id_seq"):
        assert after[name] == before[name]
    goes_on(site.connect, made)
    assert insert(old, "afterwards") > made.last_id


def test_rights_are_inferred_and_those_of_default_privileges_are_not(site: Site, people: People) -> None:
    conn = site.connect()
    grant_all(conn, people)
    anon, odd, gone = (people.role(name) for name in ("anon", "odd", "gone"))
    conn.execute("grant usage on schema api to public")
    conn.execute(f"grant all on all functions in schema api to {anon} with grant option".encode())
    conn.execute(f"grant all on all tables in schema api to {anon}".encode())
    conn.execute(f"grant select (id, state) on gd_instances to {anon}".encode())
    with people.connect(site.dsn, "anon") as other:
        other.execute(f"set search_path to api; grant execute on function gd_find(text) to {gone}".encode())
    # A role of two profiles, and two functions that only look like ours.
    for profile in ("client", "reader"):
        conn.execute("select gd_grant(%s::text::regrole, %s)", (odd, profile))
    conn.execute("create function api.gd_insert(mine int) returns int language sql return mine")
    conn.execute("create function api.gd_report() returns int language sql return 7")
    conn.execute("create view api.gd_mine as select id, status from gd_instances")
    conn.execute("grant select on api.gd_mine to public")
    site.upgrade()
    conn.execute("set search_path to api")
    granted = {(row[0], row[1]) for row in conn.execute("select role, profile from gendurable.granted")}
    assert granted == {(people.role(p), p) for p in PROFILES} | {(odd, "client"), (odd, "reader")}
    known = {people.role(profile) for profile in PROFILES} | {odd}
    theirs = ("gd_insert(integer)", "gd_report()", "gd_mine")
    assert strangers(conn, *known, not_ours=theirs) == set()
    assert {right for right in rights(conn) if right[0] in theirs and right[1] == "public"} == {
        ("gd_insert(integer)", "public", "EXECUTE"),
        ("gd_report()", "public", "EXECUTE"),
        ("gd_mine", "public", "SELECT"),
    }
    with people.connect(site.dsn, "anon") as other:
        other.execute("set search_path to api")
        for call in ("gd_version()", "gd_insert('m')", "gd_find('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(f"select {call}".encode())
        assert one(other, "select gd_insert(2) + gd_report()") == 9
    with people.connect(site.dsn, "worker") as worker:
        worker.execute("set search_path to api")
        assert worker.execute("select id from gd_claim('w')").fetchall() == []
        assert one(worker, "call gd_run()")["claimed"] == 0


def test_a_dump_of_the_upgraded_database_has_its_roles(site: Site, people: People, past: Server) -> None:
    assert past.cluster is not None
    conn = site.connect()
    grant_all(conn, people)
    conn.execute(f"grant all on all functions in schema api to {people.role('anon')}".encode())
    site.upgrade()
    wanted = rights(conn)
    assert len(wanted) > 50
    dump = subprocess.run([past.cluster.bindir / "pg_dump", "-d", site.dsn], check=True, capture_output=True).stdout
    restored = people.database(empty=True)
    psql = [past.cluster.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored]
    subprocess.run(psql, input=dump, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(restored, autocommit=True) as conn:
        assert rights(conn) == wanted
        granted = conn.execute("select count(*) from gendurable.granted").fetchone()
        assert granted == (len(PROFILES),)


def test_in_a_schema_that_was_renamed_before(site: Site, people: People) -> None:
    conn = site.connect()
    conn.execute("alter schema api rename to jobs")
    conn.execute("create schema api")
    conn.execute("set search_path to jobs")
    made = insert(conn, "q")
    if site.how == "extension":
        conn.execute("alter extension gendurable update")
    else:
        assert upgrade(conn) == version()
        assert one(conn, "show search_path") == "jobs"
    assert one(conn, "select count(*) from pg_proc where pronamespace = 'api'::regnamespace") == 0
    assert one(conn, "select api_schema from gendurable.meta") == "jobs"
    grant_all(conn, people)
    assert one(conn, "select status from gd_result($1)", made) == "runnable"


def test_a_package_of_today_uninstalls_it(made: tuple[Site, Site]) -> None:
    site, _ = made
    conn = site.connect()
    conn.execute("create function api.gd_insert(mine int) returns int language sql return mine")
    if site.how == "extension":
        conn.execute("drop extension gendurable")
    else:
        uninstall(conn)
    left = conn.execute("select oid::regprocedure::text from pg_proc where proname like 'gd\\_%'").fetchall()
    assert left == [("gd_insert(integer)",)]
    assert one(conn, "select to_regnamespace('gendurable')") is None
