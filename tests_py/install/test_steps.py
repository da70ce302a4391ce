"""Definitions of steps in SQL in dumps without their roles or functions, and where the owner of all is no superuser."""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest
from support.people import People
from support.server import Server

from gendurable_py.install import install

STEPS = "select fsm, step, version, handler, owner, chain, alone from gd_steps order by 1, 2, 3"
PROBLEMS = "select step, problem from gd_steps order by 1"
HANDLER = "language sql as $$ select jsonb_build_object('kind', 'done', 'result', current_user) $$"


def installed(people: People, server: Server, how: str, owner: str | None = None) -> str:
    if how == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    database = people.database(empty=True, owner=owner)
    conn = people.connect(database, owner) if owner else psycopg.connect(database, autocommit=True)
    with conn:
        if how == "extension":
            conn.execute("create extension gendurable")
        else:
            install(conn)
    return database


def define(conn: psycopg.Connection[Any], people: People) -> None:
    """Three steps of an author who could act as the worker, one of them in another language."""
    author = people.role("author")
    conn.execute(f"create schema app authorization {author}".encode())
    conn.execute(f"grant usage on schema app to {people.role('worker')}".encode())
    conn.execute("select gd_grant(%s::text::regrole, 'author')", (author,))
    conn.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
    conn.execute(f"grant {people.role('worker')} to {author}".encode())
    with people.connect(conn.info.dsn, "author") as mine:
        mine.execute(f"create function app.h(ctx jsonb) returns jsonb {HANDLER}".encode())
        mine.execute("""create function app."H 2"(ctx jsonb) returns jsonb language sql as 'select null::jsonb'""")
        mine.execute("select gd_define_step('m', 'a', 'app.h(jsonb)')")
        mine.execute("""select gd_define_step('m', 'b', 'app."H 2"(jsonb)', '{"version": 2, "alone": true}')""")
        mine.execute("select gd_define_step('m', 'c')")


def runs(people: People, database: str) -> Any:
    with people.connect(database, "worker") as worker:
        id = worker.execute("select gd_insert('m', p_step => 'a')").fetchone()
        result = worker.execute("call gd_run()").fetchone()
        assert id is not None and result is not None
        row = worker.execute("select status from gd_result(%s)", id).fetchone()
        return result[0], row


@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_where_the_owner_of_gendurable_may_not_use_the_schema_of_a_function(
    people: People, server: Server, how: str
) -> None:
    database = installed(people, server, how, owner="landlord")
    with psycopg.connect(database, autocommit=True) as conn:
        define(conn, people)
        rights = "select has_schema_privilege(%s, 'app', 'usage')"
        assert conn.execute(rights, (people.role("landlord"),)).fetchone() == (False,)
    result, row = runs(people, database)
    assert (result["ok"], row) == (1, ("done",))
    with people.connect(database, "landlord") as conn:
        assert conn.execute(PROBLEMS).fetchall() == [
            ("a", "the role may not execute the function"),
            ("b", "the role may not execute the function"),
            ("c", "it is in another language"),
        ]
        assert conn.execute("select count(*) from gd_claim('w', p_options => '{\"steps\": \"sql\"}')").fetchone() == (
            0,
        )


@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_a_restored_database_runs_what_it_can_and_says_what_it_cannot(people: People, server: Server, how: str) -> None:
    if server.cluster is None:
        pytest.skip("the programs of the server are elsewhere: run it with an embedded or local server")
    database = installed(people, server, how)
    author = people.role("author")
    with psycopg.connect(database, autocommit=True) as conn:
        define(conn, people)
        wanted = conn.execute(STEPS).fetchall()
        assert len(wanted) == 3

    def restored(*flags: str) -> str:
        assert server.cluster is not None
        dump = [server.cluster.bindir / "pg_dump", "-d", database, *flags]
        new = people.database(empty=True)
        load = [server.cluster.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", new]
        script = subprocess.run(dump, check=True, capture_output=True).stdout
        subprocess.run(load, check=True, input=script, stdout=subprocess.DEVNULL)
        with psycopg.connect(new) as conn:
            assert conn.execute(STEPS).fetchall() == wanted
        return new

    result, row = runs(people, restored())
    assert (result["ok"], row) == (1, ("done",))

    # the definitions without the functions
    with psycopg.connect(restored("--exclude-schema=app"), autocommit=True) as conn:
        assert {problem for step, problem in conn.execute(PROBLEMS) if step != "c"} == {"there is no such function"}
        conn.execute("select gd_insert('m', p_step => 'a')")
        result = conn.execute("call gd_run()").fetchone()
        assert result is not None and result[0]["claimed"] == 0
        conn.execute("create schema app")
        conn.execute(f"create function app.h(ctx jsonb) returns jsonb {HANDLER}".encode())
        assert dict(conn.execute(PROBLEMS).fetchall())["a"] == "the function has another owner than when it was defined"

    # without the roles: all is the superuser's, but what is written down
    new = restored("--no-owner", "--no-privileges")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"drop owned by {author} cascade".encode())
    with psycopg.connect(new, autocommit=True) as conn:
        conn.execute(f"drop owned by {author} cascade".encode())
        conn.execute(f"alter role {author} rename to {author}_gone".encode())
        try:
            owner = "the function has another owner than when it was defined"
            assert dict(conn.execute(PROBLEMS).fetchall()) == {"a": owner, "b": owner, "c": "it is in another language"}
            conn.execute(
                "select gd_define_step('m', 'a', 'app.h(jsonb)'), gd_drop_step('m', 'b', 2), gd_drop_step('m', 'c')"
            )
            conn.execute("select gd_insert('m', p_step => 'a')")
            result = conn.execute("call gd_run()").fetchone()
            assert result is not None and result[0]["ok"] == 1
        finally:
            conn.execute(f"alter role {author}_gone rename to {author}".encode())
