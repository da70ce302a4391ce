"""From a release to the next one, with work in every status and dispatchers of the old release at work."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.busy import claim, fill, goes_on, insert, one, snapshot
from support.catalog import fingerprint
from support.engine import ended, running
from support.later import NEXT, next_release
from support.people import INEXACT, People
from support.people import fill as fill_schema
from support.server import Server, of_installation
from support.strangers import rights, strangers
from support.wait import run_in_thread, wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, embedded, step
from gendurable_py.errors import VersionMismatch
from gendurable_py.install import install, upgrade, version

Conn = psycopg.Connection[Any]
HOW = ("extension", "plain script")


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next_release(tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="module")
def both(later: Path) -> Iterator[Server]:
    """A server with the files of this release and of the next one."""
    try:
        installation = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    files = [later / "gendurable.control", *(later / "sql").glob("gendurable--*.sql")]
    server = of_installation(installation, "with the next release", extension_files=files)
    yield server
    server.close()


@pytest.fixture
def people(both: Server) -> Iterator[People]:
    made = People(both)
    yield made
    made.close()


class Site:
    """A database of this release, and how it gets to the next one."""

    def __init__(self, dsn: str, how: str, later: Path) -> None:
        self.dsn, self.how, self._later = dsn, how, later
        self._stack = ExitStack()
        conn = self.connect()
        conn.execute("create schema api")
        conn.execute(f"alter database {conn.info.dbname} set search_path to api".encode())

    def connect(self) -> Conn:
        return self._stack.enter_context(psycopg.connect(self.dsn, autocommit=True))

    def install(self, release: str) -> None:
        conn = self.connect()
        if self.how == "extension":
            conn.execute(f"create extension gendurable version '{release}'".encode())
        elif release == NEXT:
            with self.package_of_next():
                install(conn)
        else:
            install(conn)
        assert gd.version(conn) == release

    def upgrade(self, first: str = "select 1") -> None:
        conn = self.connect()
        conn.execute(first.encode())
        if self.how == "extension":
            conn.execute("alter extension gendurable update")
        else:
            with self.package_of_next():
                assert upgrade(conn) == NEXT
        assert gd.version(conn) == NEXT

    @contextmanager
    def package_of_next(self) -> Iterator[None]:
        """Calls of install and upgrade are the next release's."""
        files = (self._later / "gendurable.control", self._later / "sql")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(upgrade.__wrapped__.__globals__, "_folder", lambda: files)  # type: ignore[attr-defined]
            yield

    def close(self) -> None:
        self._stack.close()


Make = Callable[..., Site]


@pytest.fixture(params=HOW)
def make(request: pytest.FixtureRequest, people: People, later: Path) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(how: str = request.param) -> Site:
            site = Site(people.database(empty=True), how, later)
            stack.callback(site.close)
            return site

        yield made


@pytest.fixture
def site(make: Make) -> Site:
    """A database with this release."""
    made = make()
    made.install(version())
    return made


def test_an_upgraded_installation_is_a_new_one_to_the_last_detail(make: Make) -> None:
    upgraded, fresh = make(), make()
    (other,) = (make(how) for how in HOW if how != fresh.how)
    upgraded.install(version())
    conn = upgraded.connect()
    before = fingerprint(conn)
    assert sum(map(len, before.values())) > 300
    upgraded.upgrade()
    fresh.install(NEXT)
    other.install(NEXT)
    after = fingerprint(conn)
    assert after != before
    assert after == fingerprint(fresh.connect())
    # By the plain script there is the same as by the extension, but for what only an extension has.
    plain = {kind: after[kind] for kind in fingerprint(conn, plain=True)}
    assert plain == fingerprint(other.connect(), plain=True)
    assert one(conn, "select gd_extra()") == "extra 0"


def test_work_in_every_status_goes_on_after_the_upgrade(site: Site) -> None:
    old = site.connect()
    made = fill(old)
    claimed_before = insert(old, "floor")
    assert claim(old, "floor", worker="before")[0]["id"] == claimed_before
    before = snapshot(old)
    site.upgrade()
    for name in ("gd_instances", "gd_queues", "gd_workers", "gendurable.signal", "gendurable.instance_id_seq"):
        assert snapshot(old)[name] == before[name]
    # Commits what was claimed before, on the connection that has all the plans of before.
    one(old, "select gd_release('before', null)")
    one(old, "select gd_cancel($1)", claimed_before)
    goes_on(site.connect, made)
    assert insert(old, "afterwards") > made.last_id


def test_rights_outlive_the_upgrade_also_where_a_signature_changed(site: Site, people: People) -> None:
    conn = site.connect()
    for profile in ("client", "worker"):
        conn.execute("select gd_grant(%s::text::regrole, %s)", (people.role(profile), profile))
    made = insert(conn, "q", unique_key="u")
    with people.connect(site.dsn, "client") as client, people.connect(site.dsn, "worker") as worker:
        assert one(client, "select gd_find('u')") == made
        site.upgrade()
        for role in (client, worker):
            assert one(role, "select gd_find('u')") == one(role, "select gd_find('u', 'm')") == made
            assert one(role, "select gd_find('u', 'other')") is None
            assert isinstance(one(role, "select gd_insert('m')"), int)
        # What is new goes to those whose profile has it.
        assert one(worker, "select gd_extra()") == "extra 0"
        for call in ("gd_extra()", "gd_maintain()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.execute(f"select {call}".encode())
    with people.connect(site.dsn, "nobody") as nobody, pytest.raises(psycopg.errors.InsufficientPrivilege):
        nobody.execute("select api.gd_find('u')")


def test_an_upgrade_renews_what_is_held_and_no_more(site: Site, people: People, both: Server) -> None:
    conn = site.connect()
    names = ("kept", "revoked", "renamed", "gone", "anon", "by hand", "both")
    role = {name: people.role(name.replace(" ", "_")) for name in names}
    for name in names[:4]:
        conn.execute("select gd_grant(%s::text::regrole, 'worker')", (role[name],))
    for profile in ("client", "worker"):
        conn.execute("select gd_grant(%s::text::regrole, %s)", (role["both"], profile))
    conn.execute(f"revoke all on all functions in schema api from {role['revoked']}".encode())
    conn.execute(f"revoke execute on function gd_claim, gd_claim_many, gd_commit from {role['both']}".encode())
    conn.execute(f"alter role {role['renamed']} rename to {role['renamed']}_2".encode())
    conn.execute(f"drop owned by {role['gone']}; drop role {role['gone']}".encode())
    conn.execute(f"grant all on all functions in schema api to {role['anon']}".encode())
    conn.execute(f"grant execute on function gd_version() to {role['by hand']}".encode())
    conn.execute(f"alter default privileges in schema api grant all on functions to {role['anon']}".encode())
    # A name that another role has by now, which was never given anything.
    conn.execute(f"create role {role['renamed']}".encode())
    try:
        site.upgrade()
        worker = {object for object, _, _ in rights_of(conn, role["kept"])}
        assert len(worker) > 15 and {"gd_extra()", "gd_find(text,text)"} <= worker
        assert {object for object, _, _ in rights_of(conn, role["renamed"] + "_2")} == worker
        client = {object for object, _, _ in rights_of(conn, role["both"])}
        assert "gd_insert_many(jsonb)" in client and not {"gd_extra()", "gd_reap(integer)"} & client
        assert strangers(conn, role["kept"], role["renamed"] + "_2", role["both"]) == set()
        wanted = {(role["kept"], "worker"), (role["renamed"] + "_2", "worker"), (role["both"], "client")}
        granted = {tuple(row) for row in conn.execute("select role, profile from gendurable.granted")}
        # The name that is gone waits for nothing, and harms nothing.
        assert granted - {(role["gone"], "worker")} == wanted
        # A dump has all of it: nothing of it counts as the extension's own.
        assert both.cluster is not None
        before = rights(conn)
        dump = [both.cluster.bindir / "pg_dump", "-d", site.dsn]
        restored = people.database(empty=True)
        psql = [both.cluster.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored]
        text = subprocess.run(dump, check=True, capture_output=True).stdout
        subprocess.run(psql, input=text, check=True, stdout=subprocess.DEVNULL)
        with psycopg.connect(restored, autocommit=True) as there:
            assert rights(there) == before
    finally:
        conn.execute(f"drop role {role['renamed']}".encode())
        conn.execute(f"alter role {role['renamed']}_2 rename to {role['renamed']}".encode())


def rights_of(conn: Conn, role: str) -> set[tuple[str, str, str]]:
    return {right for right in rights(conn) if right[1] == role}


class Ledger:
    """A machine of three steps that writes down in the database which of them ran, and how often they committed."""

    def __init__(self) -> None:
        self.runs: Counter[tuple[int, str]] = Counter()
        ledger = self

        class Upgraded(FSM, name="upgraded"):
            @step
            def start(self, ctx: Context[Any]) -> Next:
                ledger.runs[ctx.id, "start"] += 1
                return Next("second", {"n": ctx.state["n"] + 1})

            @step
            async def second(self, ctx: Context[Any]) -> Next:
                ledger.runs[ctx.id, "second"] += 1
                return Next("third", {"n": ctx.state["n"] + 1})

            @step
            def third(self, ctx: Context[Any]) -> Done:
                ledger.runs[ctx.id, "third"] += 1
                return Done(ctx.state["n"] + 1)

        self.machine = Upgraded


def test_a_dispatcher_of_the_old_release_works_through_the_upgrade(site: Site) -> None:
    conn, ledger = site.connect(), Ledger()
    engine = Engine(site.dsn, [ledger.machine], queues={"default": 20}, poll_interval=0.2, max_poll_interval=0.2)
    work = [{"fsm": "upgraded", "state": {"n": 0}, "partition_key": f"k{n % 7}" if n % 2 else None} for n in range(300)]
    with running(engine):
        ids = [row.id for row in gd.insert_many(conn, work)]
        wait_until(lambda: len(ledger.runs) > 100)
        # The upgrade asks for the tables while claims and commits go on, and waits for an open transaction: they wait
        # behind it.
        reader = site.connect()
        with reader.transaction():
            reader.execute("select from gd_instances limit 1")
            upgrading = run_in_thread(site.upgrade)
            wait_until(
                lambda: one(
                    conn,
                    "select exists (select from pg_locks l join pg_database d on d.oid = l.database"
                    " where d.datname = current_database() and mode = 'AccessExclusiveLock' and not granted)",
                )
            )
        upgrading.result(30)
        more = [row.id for row in gd.insert_many(conn, work)]
        results = ended(conn, *ids, *more, timeout=30)
    assert {result.status for result in results} == {"done"} and {result.result for result in results} == {3}
    # No worker was lost, so no step ran twice.
    assert len(ledger.runs) == 1800 and set(ledger.runs.values()) == {1}


def test_an_upgrade_that_fails_changes_nothing(site: Site) -> None:
    conn = site.connect()
    made = fill(conn)
    # The next release forbids what this database has.
    conn.execute("alter table gendurable.key_limit drop constraint key_limit_max_executing_check")
    conn.execute("select gd_set_key_limit('huge', 1000000)")
    before, seen = fingerprint(conn), snapshot(conn)
    with pytest.raises(psycopg.errors.CheckViolation):
        site.upgrade()
    assert fingerprint(conn) == before and snapshot(conn) == seen
    assert gd.version(conn) == version()
    conn.execute("select gd_set_key_limit('huge', null)")
    site.upgrade()
    goes_on(site.connect, made)


def test_an_upgrade_runs_nothing_of_those_who_may_create_in_its_schema(site: Site, people: People, later: Path) -> None:
    conn = site.connect()
    conn.execute(f"grant all on schema api to {people.role('evil')}".encode())
    with people.connect(site.dsn, "evil") as evil:
        fill_schema(evil, INEXACT, "api", "".join(path.read_text() for path in (later / "sql").glob("*--*.sql")))
    site.upgrade("set check_function_bodies to off")
    conn.execute("set search_path to pg_catalog")
    bound = conn.execute(
        "select d.objid, p.oid::regprocedure from pg_depend d join pg_proc p on p.proowner = %s::regrole"
        " where d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = p.oid"
        " and d.classid <> 'pg_catalog.pg_operator'::regclass",
        (people.role("evil"),),
    ).fetchall()
    assert bound == []


# -- versions that do not fit


async def test_an_engine_refuses_a_database_of_another_release(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.engine.package_version", version)
    async with Engine(site.dsn, queues={}):
        pass
    # A newer package and an older database: the database is to be upgraded.
    monkeypatch.setattr("gendurable_py.engine.package_version", lambda: NEXT)
    with pytest.raises(VersionMismatch) as caught:
        async with Engine(site.dsn, queues={}):
            pass
    assert caught.value.sqlstate == "GD506"
    assert version() in str(caught.value) and NEXT in str(caught.value)
    assert "ALTER EXTENSION gendurable UPDATE" in str(caught.value) and "upgrade(conn)" in str(caught.value)
    site.upgrade()
    async with Engine(site.dsn, queues={}):
        pass
    # A package of the release before goes on, and may be started: the database is upgraded first, its workers after it.
    monkeypatch.setattr("gendurable_py.engine.package_version", version)
    async with Engine(site.dsn, queues={}):
        pass
    # Of an older one, or of another major release, the package is to be upgraded.
    major, minor = map(int, version().split(".")[:2])
    for older in (f"{major}.{minor - 1}.0", f"{major + 1}.{minor}.0"):
        monkeypatch.setattr("gendurable_py.engine.package_version", partial(str, older))
        with pytest.raises(VersionMismatch) as caught:
            async with Engine(site.dsn, queues={}):
                pass
        assert older in str(caught.value)
    monkeypatch.setattr("gendurable_py.engine.package_version", lambda: f"{major}.{minor - 1}.0")
    with pytest.raises(VersionMismatch) as caught:
        async with Engine(site.dsn, queues={}):
            pass
    assert "pip install" in str(caught.value) and "ALTER EXTENSION" not in str(caught.value)


def test_an_engine_knows_its_version_without_being_installed() -> None:
    from gendurable_py.engine import package_version

    assert package_version() == version()


async def test_an_engine_refuses_a_database_without_gendurable(people: People) -> None:
    with pytest.raises(VersionMismatch, match="CREATE EXTENSION gendurable") as caught:
        async with Engine(people.database(empty=True), queues={}):
            pass
    assert caught.value.sqlstate == "GD506"


def test_install_and_upgrade_refuse_what_does_not_fit_and_name_the_command(site: Site) -> None:
    conn = site.connect()
    wanted = "ALTER EXTENSION gendurable UPDATE" if site.how == "extension" else "call upgrade"
    with site.package_of_next(), pytest.raises(VersionMismatch, match=wanted):
        install(conn)
    site.upgrade()
    # This release's package: no way leads back.
    for call in (install, upgrade):
        with pytest.raises(VersionMismatch) as caught:
            call(conn)
        assert caught.value.sqlstate == "GD506"
    assert gd.version(conn) == NEXT


def test_the_plain_script_of_another_way_is_refused_by_the_server(site: Site, later: Path) -> None:
    script = (later / "sql" / f"gendurable.upgrade--{version()}--{NEXT}.sql").read_text()
    conn = site.connect()
    if site.how == "plain script":
        site.upgrade()
    before = fingerprint(conn)
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(script.encode())
    assert caught.value.sqlstate == "GD506"
    assert fingerprint(conn) == before
