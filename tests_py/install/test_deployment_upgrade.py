"""An upgrade without a gap, by the commands of docs/deployment.md, under the worker of the release before."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.busy import one
from support.deploying import Commands, page_blocks
from support.older import RELEASE, older_package
from support.released import plain_script
from support.wait import wait_until
from support.workers import worker
from test_older_worker import OLD, Inserts

import gendurable_py as gd

SHOP = """
from gendurable_py import FSM, Context, Done, Next, step

class Strict(FSM, name="chaos.strict", version=1, queue="roll"):
    @step
    def start(self, ctx: Context[dict]) -> Next:
        return Next(self.second, {**ctx.state, "n": 1})

    @step
    def second(self, ctx: Context[dict]) -> Next:
        return Next(self.last, {**ctx.state, "n": 2})

    @step
    def last(self, ctx: Context[dict]) -> Done:
        return Done({"n": 3, "by": "new"})
"""


def done_by(conn: psycopg.Connection[Any], who: str) -> int:
    found: int = one(conn, "select count(*) from gd_instances where status = 'done' and result ->> 'by' = $1", who)
    return found


def test_the_commands_upgrade_without_a_gap(
    empty_db: Database, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = older_package(tmp_path_factory.mktemp("older"))
    (tmp_path / "shop.py").write_text(SHOP)
    cluster = empty_db.server.cluster
    path = os.environ["PATH"] if cluster is None else f"{cluster.bindir}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("psql", path=path) is None:
        pytest.skip("needs psql (Debian: apt-get install postgresql-client)")
    shell = Commands(empty_db.dsn, tmp_path, PATH=path)
    look, upgrade, new, after = page_blocks("An upgrade without a gap", "sh")
    conn = empty_db.connect()
    with conn.transaction():
        conn.execute(plain_script(RELEASE).encode())
    with worker(OLD, empty_db.dsn, package=package) as old:
        old.says("package")
        inserts = Inserts(empty_db.dsn, 1)
        wait_until(lambda: done_by(conn, RELEASE) > 20, 60)
        # Before the database is upgraded, a new worker does not start, and harms nothing.
        with pytest.raises(AssertionError, match="has gendurable"):
            shell.run("gendurable worker shop")
        shell.run(look)
        shell.run(upgrade)
        assert gd.version(conn) != RELEASE
        before = done_by(conn, RELEASE)
        wait_until(lambda: done_by(conn, RELEASE) > before + 20, 60)
        start, *rest = new.splitlines()
        with shell.serves(*shlex.split(start)[2:]):
            wait_until(lambda: done_by(conn, "new") > 20, 60)
            assert "roll" in shell.run("\n".join(rest))
            old.signal(15)
            old.says("ended")
            assert old.ends() == 0
            before = done_by(conn, "new")
            wait_until(lambda: done_by(conn, "new") > before + 20, 60)
            ids = inserts.end()
            wait_until(lambda: one(conn, "select count(*) from gd_instances where status <> 'done'") == 0, 60)
            shell.run(after)
    assert done_by(conn, RELEASE) + done_by(conn, "new") == len(ids)
    assert one(conn, "select count(*) from gd_instances where last_error is not null or attempt > 0") == 0
