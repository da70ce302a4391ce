"""Dumps of a part: which of them give a database that works, and what is in it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.busy import fill, goes_on, insert, one, snapshot
from support.people import People
from support.server import Server
from support.strangers import rights
from test_dump import installed, program

import gendurable_py as gd
from gendurable_py.install import install, uninstall, upgrade, version

Conn = psycopg.Connection[Any]


@dataclass(frozen=True)
class Kind:
    """The flags of pg_dump; whether the instances come along, the rights, and what has to be there before."""

    flags: tuple[str, ...]
    data: bool = True
    rights: bool = True
    into: str = "an empty database"


KINDS = {
    "everything": Kind(()),
    "as inserts": Kind(("--inserts",)),
    "dropping first": Kind(("--clean", "--if-exists")),
    "without owners": Kind(("--no-owner",)),
    "the structure": Kind(("--schema-only",), data=False),
    "without our data": Kind(("--exclude-table-data=gendurable.*",), data=False),
    "our schemas": Kind(("-n", "api", "-n", "gendurable", "-n", "mine")),
    "our schemas and the extension": Kind(("-n", "api", "-n", "mine", "-e", "gendurable")),
    "the data": Kind(
        ("--data-only", "--exclude-table-data=gendurable.meta"), rights=False, into="an installation without work"
    ),
}
# What is in no schema is dumped only when it is asked for: -n leaves out the extension, -e what is none.
NOT = {("extension", "our schemas"), ("plain script", "our schemas and the extension")}
PLACES = [(how, kind) for how in ("extension", "plain script") for kind in KINDS if (how, kind) not in NOT]


def restore(server: Server, text: bytes, dsn: str) -> None:
    command = [program(server, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def dump(server: Server, dsn: str, *flags: str) -> bytes:
    return subprocess.run([program(server, "pg_dump"), *flags, "-d", dsn], check=True, capture_output=True).stdout


def with_path(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"alter database {conn.info.dbname} set search_path to api, public".encode())
    return dsn


@pytest.mark.parametrize(("how", "name"), PLACES)
def test_a_dump_of_a_part_gives_a_database_that_works(server: Server, people: People, how: str, name: str) -> None:
    kind = KINDS[name]
    old = installed(server, people, how)
    with psycopg.connect(old, autocommit=True) as conn:
        made = fill(conn)
        conn.execute("create schema mine; create table mine.orders as select id from gd_instances")
        conn.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
        before, held = snapshot(conn), rights(conn)
    if kind.into == "an empty database":
        new = people.database(empty=True)
    else:
        new = installed(server, people, how)
        with psycopg.connect(new, autocommit=True) as conn:
            conn.execute("create schema mine; create table mine.orders (id bigint)")
    restore(server, dump(server, old, *kind.flags), new)
    opened: list[Conn] = []

    def connect() -> Conn:
        opened.append(psycopg.connect(with_path(new), autocommit=True))
        return opened[-1]

    conn = connect()
    assert gd.version(conn) == version()
    assert rights(conn) == (held if kind.rights else set())
    role = people.role("worker")
    if kind.data:
        assert snapshot(conn) == before
        assert conn.execute("select role, profile from gendurable.granted").fetchall() == [(role, "worker")]
        goes_on(connect, made)
    else:
        assert one(conn, "select count(*) from gd_instances") == 0
        assert insert(conn, "q") == 1
    # It is as good as the first: it can be granted, upgraded, and removed.
    conn.execute("select gd_grant(%s::text::regrole, 'worker')", (role,))
    assert rights(conn) == held
    if how == "extension":
        conn.execute("alter extension gendurable update")
        conn.execute("drop extension gendurable")
    else:
        assert install(conn) == upgrade(conn) == version()
        uninstall(conn)
    assert one(conn, "select count(*) from pg_proc where proname like 'gd\\_%'") == 0
    for other in opened:
        other.close()


def test_without_privileges_nobody_but_the_owner_and_only_of_the_extension(server: Server, people: People) -> None:
    """pg_dump -x knows no revoke either: what the script took from PUBLIC comes back, but for an extension's script."""
    seen = {}
    for how in ("extension", "plain script"):
        old = installed(server, people, how)
        with psycopg.connect(old, autocommit=True) as conn:
            conn.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
        new = people.database(empty=True)
        restore(server, dump(server, old, "--no-privileges"), new)
        with psycopg.connect(with_path(new), autocommit=True) as conn:
            seen[how] = {right[1] for right in rights(conn)}
            # As the documentation says: then nobody has anything, and grants begin anew.
            conn.execute("revoke all on all routines in schema api, gendurable from public")
            assert {right for right in rights(conn) if right[2] == "EXECUTE"} == set()
            conn.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("client"),))
            assert {right[1] for right in rights(conn) if right[2] == "EXECUTE"} == {people.role("client")}
    assert seen == {"extension": set(), "plain script": {"public"}}


def test_a_dump_without_the_private_schema_is_one_of_the_extension_only(
    server: Server, people: People, tmp_path: Path
) -> None:
    for how in ("extension", "plain script"):
        dsn = installed(server, people, how)
        with psycopg.connect(dsn, autocommit=True) as conn:
            insert(conn, "q")
        text = dump(server, dsn, "-T", "gendurable.*")
        new = people.database(empty=True)
        if how == "extension":
            restore(server, text, new)
            with psycopg.connect(with_path(new), autocommit=True) as conn:
                assert one(conn, "select count(*) from gd_instances") == 0
                assert insert(conn, "q") == 1
        else:
            # The tables are not there, and the restore says so.
            with pytest.raises(AssertionError, match="does not exist"):
                restore(server, text, new)
