"""What becomes of a step's effects in other databases and sessions, and after a crash, a failover, a restore.

The other half of the table in docs/exactly-once.md, see engine/test_effects.py. It needs a server of its own, of an
installation with dblink and postgres_fdw.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.conninfo import conninfo_to_dict
from support.busy import one
from support.engine import ended, running
from support.server import FAST, Server
from support.wait import run_in_thread, wait_until

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, Next, job, step
from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.embedded.places import server_user, temporary_folder
from gendurable_py.install import extension_files

Conn = psycopg.Connection[Any]

TABLES = """
create table effect (id bigint);
create unlogged table unlogged_effect (id bigint);
create function act(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into effect values ((ctx ->> 'id')::bigint);
    insert into unlogged_effect values ((ctx ->> 'id')::bigint);
    return '{"kind": "next", "step": "end"}';
end $$;
create function finish(ctx jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
select gd_define_step('effects.lost', 'start', 'act(jsonb)'), gd_define_step('effects.lost', 'end', 'finish(jsonb)');
"""


def installation() -> Installation:
    try:
        found = Installation.of(os.environ.get("PG_CONFIG", "pg_config"))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a PostgreSQL of your own: apt-get install postgresql, or PG_CONFIG=...")
    for name in ("dblink", "postgres_fdw"):
        if not (found.sharedir / "extension" / f"{name}.control").exists():
            pytest.skip(
                f"needs {name} in the PostgreSQL of PG_CONFIG: apt-get install postgresql, or its contrib package"
            )
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = FAST | {"max_prepared_transactions": "10"}
    cluster = Cluster(installation(), extension_files=extension_files(), settings=settings)
    yield Server(cluster.dsn, "with dblink, postgres_fdw and prepared transactions", cluster)
    cluster.stop()


def parts(dsn: str) -> dict[str, str]:
    given = {"port": "5432", **{key: str(value) for key, value in conninfo_to_dict(dsn).items()}}
    return {key: given[key] for key in ("host", "port", "user", "dbname")}


@pytest.fixture
def other(server: Server) -> Iterator[Conn]:
    """Another database."""
    dsn = server.new_database(empty=True)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table effect (n int)")
        conn.execute("create table picky (n int primary key deferrable initially deferred)")
        yield conn
    server.drop_database(dsn)


@pytest.fixture
def linked(db: Database, conn: Conn, other: Conn) -> Conn:
    """A database that reaches the other one by dblink and has its tables as foreign ones; twice, as two servers."""
    there = parts(other.info.dsn)
    options = ", ".join(f"{key} '{there[key]}'" for key in ("host", "port", "dbname"))
    conn.execute(
        f"""
        create extension dblink;
        create extension postgres_fdw;
        create server first foreign data wrapper postgres_fdw options ({options});
        create server second foreign data wrapper postgres_fdw options ({options});
        create user mapping for current_user server first options (user '{there["user"]}');
        create user mapping for current_user server second options (user '{there["user"]}');
        create foreign table effect_first (n int) server first options (table_name 'effect');
        create foreign table effect_second (n int) server second options (table_name 'effect');
        create foreign table picky_first (n int) server first options (table_name 'picky');
        create foreign table picky_second (n int) server second options (table_name 'picky');
        create table effect (n int)
        """.encode()
    )
    return conn


def act_twice(conn: Conn, db: Database, kind: str, does: str, fails: str = "raise") -> gd.Result:
    """A step that does this; its first run fails behind it."""

    @job(name="there.python", transactional=True, max_attempts=2, backoff=lambda attempt: 0.01)
    def act(args: Any, ctx: Context[Any]) -> None:
        ctx.conn.execute(does)
        if ctx.attempt == 0:
            if fails == "raise":
                raise ValueError("the step fails behind it")
            ctx.conn.execute(fails)

    id = gd.insert(conn, f"there.{kind}")
    if kind == "python":
        with running(Engine(db.dsn, [act])):
            return ended(conn, id)[0]
    conn.execute(
        f"""
        create function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            execute $does${does}$does$;
            if ctx -> 'attempt' = '0' then
                raise exception 'the step fails behind it';
            end if;
            return '{{"kind": "done"}}';
        end $$;
        select gd_define_step('there.sql', 'start', 'act(jsonb)')
        """.encode()
    )
    while one(conn, "select exists (select from gd_instances where finished_at is null)"):
        gd.run(conn, for_=0.2)
    return ended(conn, id)[0]


@pytest.mark.parametrize("kind", ["python", "sql"])
def test_dblink_commits_by_itself(db: Database, linked: Conn, other: Conn, kind: str) -> None:
    there = " ".join(f"{key}={value}" for key, value in parts(other.info.dsn).items())
    does = f"select dblink_exec('{there}', 'insert into effect values (1)'); insert into effect values (1)"
    assert act_twice(linked, db, kind, does).status == "done"
    assert (one(linked, "select count(*) from effect"), one(other, "select count(*) from effect")) == (1, 2)


@pytest.mark.parametrize("kind", ["python", "sql"])
def test_a_foreign_table_is_rolled_back_with_a_step_that_fails(
    db: Database, linked: Conn, other: Conn, kind: str
) -> None:
    assert act_twice(linked, db, kind, "insert into effect_first values (1)").status == "done"
    assert one(other, "select count(*) from effect") == 1


def test_a_foreign_server_may_have_committed_what_was_not(db: Database, linked: Conn, other: Conn) -> None:
    """They commit one after the other, in any order: when one refuses, those before it have committed."""
    for written, refusing in (("first", "second"), ("second", "first")):
        does = f"insert into effect_{written} values (1); insert into effect values (1)"
        refused = f"insert into picky_{refusing} values (1), (1)"
        assert act_twice(linked, db, "python", does, refused).status == "done"
    assert one(linked, "select count(*) from effect") == 2
    assert one(other, "select count(*) from effect") > 2
    assert one(other, "select count(*) from picky") == 0


def test_a_refused_commit_elsewhere_fails_the_call_of_gd_run(linked: Conn, other: Conn) -> None:
    """gd_run cannot know it before, and those that ran in the same transaction have not run either."""
    linked.execute(
        """
        create function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            insert into effect values (1);
            insert into picky_first select 1 from generate_series(1, (ctx #> '{state,rows}')::int);
            return '{"kind": "done"}';
        end $$;
        select gd_define_step('there.sql', 'start', 'act(jsonb)')
        """
    )
    ids = [gd.insert(linked, "there.sql", {"rows": rows}) for rows in (0, 2, 0)]
    with pytest.raises(psycopg.Error, match="picky"):
        gd.run(linked)
    assert one(linked, "select count(*) from effect") == 0
    query = "select status, attempt from gd_instances where id = any(%s)"
    assert linked.execute(query, (ids,)).fetchall() == [("executing", 0)] * 3


def test_a_step_that_prepares_its_transaction_leaves_it_behind(db: Database, conn: Conn) -> None:
    """It is an error of the step, but what was prepared is there, with its locks, until somebody decides."""
    conn.execute("create table effect (n int)")
    result = act_twice(conn, db, "python", "insert into effect values (1)", "prepare transaction 'left'")
    assert result.status == "done"
    assert one(conn, "select count(*) from effect") == 1
    assert one(conn, "select array_agg(gid) from pg_prepared_xacts where database = current_database()") == ["left"]
    conn.execute("commit prepared 'left'")
    assert one(conn, "select count(*) from effect") == 2


@pytest.mark.parametrize(
    "does", ["prepare transaction 'x'", "commit", "rollback", "vacuum", "create index concurrently on act_on (n)"]
)
def test_a_step_in_sql_cannot_leave_its_transaction(db: Database, conn: Conn, does: str) -> None:
    conn.execute("create table act_on (n int)")
    conn.execute(
        f"""
        create function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            execute '{does.replace("'", "''")}';
            return '{{"kind": "done"}}';
        end $$;
        select gd_define_step('there.sql', 'start', 'act(jsonb)')
        """.encode()
    )
    id = gd.insert(conn, "there.sql", max_attempts=1)
    assert gd.run(conn)["error"] == 1
    assert re.search("transaction|from a function", str(ended(conn, id)[0].last_error))
    assert one(conn, "select count(*) from pg_prepared_xacts") == 0


# -- a server that is lost, and copies of it


class Lost(FSM, name="effects.lost_python", transactional=True, queue="python"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        ctx.conn.execute("insert into effect values (%s)", (ctx.id,))
        ctx.conn.execute("insert into unlogged_effect values (%s)", (ctx.id,))
        return Next(self.end)

    @step
    def end(self, ctx: Context[Any]) -> Done:
        return Done()


def set_up(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        conn.execute("create extension gendurable")
        conn.execute(TABLES)


def fill(cluster: Cluster, count: int) -> list[int]:
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        new = [Child(machine, {}) for machine in ("effects.lost", Lost) for _ in range(count)]
        return [made.id for made in gd.insert_many(conn, new)]


@contextmanager
def worked(cluster: Cluster) -> Iterator[None]:
    """An engine for the steps in Python, and a session for those in SQL that is opened again when it is lost."""
    stopping = threading.Event()

    def run() -> None:
        while not stopping.is_set():
            with suppress(psycopg.Error), psycopg.connect(cluster.dsn, autocommit=True) as conn:
                while not stopping.is_set():
                    gd.run(conn, for_=0.1, batch=10, lease_ms=1000)

    session = run_in_thread(run)
    try:
        with running(Engine(cluster.dsn, [Lost], queues={"python": 4}, lease_ttl=1, heartbeat_interval=0.2)):
            yield
    finally:
        stopping.set()
        session.result()


APART = """
    select count(*) from (select id from gd_instances where step = 'end') i full join effect e using (id)
    where i.id is null or e.id is null or e.id in (select id from effect group by id having count(*) > 1)
"""
"""Instances whose effect is there and which are not past it, or the other way round, or whose effect is there twice."""


@pytest.mark.parametrize("synchronous_commit", ["on", "off"])
def test_a_server_that_crashes_loses_an_effect_and_its_transition_together(synchronous_commit: str) -> None:
    settings = FAST | {"synchronous_commit": synchronous_commit, "wal_writer_delay": "10s"}
    with Cluster(installation(), extension_files=extension_files(), settings=settings) as cluster:
        set_up(cluster)
        fill(cluster, 400)
        with worked(cluster):
            with psycopg.connect(cluster.dsn, autocommit=True) as conn:
                wait_until(lambda: one(conn, "select count(*) from effect") > 200, 30)
                cluster.kill()
            cluster.restart()
            with psycopg.connect(cluster.dsn, autocommit=True) as conn:
                assert one(conn, APART) == 0
                wait_until(lambda: one(conn, "select count(*) from gd_instances where finished_at is null") == 0, 30)
                assert one(conn, APART) == 0
                assert one(conn, "select count(*) from effect") == 800
                # An unlogged table is emptied by a crash, whatever was done.
                assert one(conn, "select count(*) from unlogged_effect") < 700


def program(name: str) -> Path:
    found = installation().bindir / name
    if not found.exists():
        pytest.skip(f"needs {name} in the PostgreSQL of PG_CONFIG")
    return found


def test_a_restored_copy_gives_ids_out_again(db: Database, conn: Conn, server: Server, tmp_path: Path) -> None:
    """So what was done elsewhere in the name of an id, after the backup, was done for another instance."""
    conn.execute(TABLES)
    before = gd.insert(conn, "effects.lost")
    gd.run(conn)
    subprocess.run([program("pg_dump"), "-Fc", "-f", tmp_path / "dump", "-d", db.dsn], check=True)
    lost = gd.insert(conn, "effects.lost")
    gd.run(conn)
    assert one(conn, "select count(*) from effect") == 2

    copy = server.new_database(empty=True)
    try:
        subprocess.run([program("pg_restore"), "-d", copy, tmp_path / "dump"], check=True)
        with psycopg.connect(copy, autocommit=True) as restored:
            assert one(restored, APART) == 0
            assert restored.execute("select id from effect").fetchall() == [(before,)]
            assert gd.insert(restored, "effects.lost") == lost
    finally:
        server.drop_database(copy)


def test_an_asynchronous_standby_loses_an_effect_and_its_transition_together(tmp_path: Path) -> None:
    """It is the primary of some time ago: what was done after that is gone, and its ids are given out again."""
    user = server_user()
    folder = temporary_folder(user, "gd-standby-")
    primary = Cluster(installation(), extension_files=extension_files(), settings=FAST)
    standby = None
    try:
        set_up(primary)
        command = [program("pg_basebackup"), "-D", folder / "data", "-d", primary.dsn]
        subprocess.run([*command, "-X", "stream", "-c", "fast", "-R"], check=True, capture_output=True)
        if user is not None:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
        standby = Cluster(installation(), folder, extension_files=extension_files(), settings=FAST)
        kept = {*fill(primary, 20)}
        with worked(primary), psycopg.connect(primary.dsn, autocommit=True) as conn:
            wait_until(lambda: one(conn, "select count(*) from effect") == len(kept), 30)
        with psycopg.connect(standby.dsn, autocommit=True) as behind:
            wait_until(lambda: one(behind, "select count(*) from effect") == len(kept), 30)
            behind.execute("alter system set primary_conninfo = ''")
            behind.execute("select pg_reload_conf()")
            wait_until(lambda: one(behind, "select count(*) from pg_stat_wal_receiver") == 0, 30)
            lost = {*fill(primary, 40)}
            with worked(primary), psycopg.connect(primary.dsn, autocommit=True) as conn:
                wait_until(lambda: one(conn, "select count(*) from effect") == len(kept | lost), 30)
                assert one(conn, APART) == 0
            primary.kill()
            assert one(behind, "select pg_promote()") is True
            assert one(behind, APART) == 0
            assert {row[0] for row in behind.execute("select id from effect")} == kept
            again = {*fill(standby, 40)}
            assert again & lost
            with worked(standby):
                wait_until(lambda: one(behind, "select count(*) from effect") == len(kept | again), 30)
            assert one(behind, APART) == 0
    finally:
        for cluster in (standby, primary):
            if cluster is not None:
                cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
