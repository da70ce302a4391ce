"""Behind a real pgbouncer that pools transactions: poll only, and everything still works."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from _engine import ended, field, running
from _wait import wait_until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, ScheduleChilds, job, step

Conn = psycopg.Connection[Any]
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer: apt-get install pgbouncer")


@job(name="pgbouncer.work", max_attempts=3, backoff=lambda attempt: 0.01)
def work(args: dict[str, Any], ctx: Context[Any]) -> int:
    if ctx.attempt == 0:
        raise ValueError("the first time fails")
    return int(args["n"])


class Parent(FSM, name="pgbouncer.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(work, {"n": n}, partition_key=f"k:{n % 3}") for n in range(20)])

    @step
    async def join(self, ctx: Context[Any]) -> Any:
        go = ctx.signal("go")
        return Await("go", {"childs": len(ctx.childs)}) if go is None else Done([ctx.state, go.payload])


@pytest.fixture
def pooled(db: Any) -> Iterator[str]:
    """The dsn of the database by way of a pgbouncer with two server connections."""
    server = {key: str(value) for key, value in conninfo_to_dict(db.dsn).items()}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="gd-pgbouncer-"))
    target = " ".join(f"{key}={server[key]}" for key in ("host", "port", "user", "password") if server.get(key))
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
    )
    user = None
    if os.geteuid() == 0:
        # It does not run as root; the server's own user can reach the server's socket.
        user = _server_user()
        for path in (folder, ini):
            shutil.chown(path, user)
    assert PROGRAM is not None
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [PROGRAM, str(ini)],
        stdout=log,
        stderr=log,
        user=user,
        group=None if user is None else pwd.getpwnam(user).pw_gid,
    )
    dsn = make_conninfo(db.dsn, host="127.0.0.1", port=port, sslmode="disable", password="unused")

    def answers() -> bool:
        assert process.poll() is None, Path(log.name).read_text()
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError as error:
            raise AssertionError(str(error)) from error
        return True

    try:
        wait_until(answers)
        yield dsn
    finally:
        process.terminate()
        process.wait(10)
        log.close()
        shutil.rmtree(folder)


def _server_user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise AssertionError("no user to run pgbouncer as")


def test_an_engine_works_through_it(db: Any, conn: Conn, pooled: str) -> None:
    engine = Engine(
        pooled, [Parent, work], notify=False, poll_interval=0.02, max_poll_interval=0.05, heartbeat_interval=0.05
    )
    clients = psycopg.connect(pooled, autocommit=True, prepare_threshold=None)
    with clients, running(engine):
        id = gd.insert(clients, Parent)
        assert id is not None
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        assert gd.signal(clients, id, "go", "on") == "delivered"
        assert gd.wait(clients, id, 10) == gd.Result("done", [{"childs": 20}, "on"], None)
        many = gd.insert_many(clients, [Child(work, {"n": n}) for n in range(100)])
        assert [r.result for r in ended(conn, *(m.id for m in many))] == list(range(100))
