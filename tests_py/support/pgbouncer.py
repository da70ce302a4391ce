"""A real pgbouncer in front of the server of a test, and what a session that it pools must be like before and after."""

from __future__ import annotations

import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.wait import wait_until

from gendurable_py.embedded.places import server_user, temporary_folder

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

PROBE = (
    "select pg_backend_pid(), current_setting('synchronous_commit'), current_setting('search_path'), "
    "current_setting('jit'), current_setting('default_transaction_isolation'), current_setting('lock_timeout'), "
    "array(select pg_listening_channels())::text, "
    "(select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), "
    "(select count(*) from pg_prepared_statements)"
)


@pytest.fixture
def pooled(db: Any) -> Iterator[str]:
    """The dsn of the database by way of a pgbouncer with two server connections."""
    with pgbouncer(db, "pool_mode = transaction\ndefault_pool_size = 2\n") as dsn:
        yield dsn


@contextmanager
def pgbouncer(db: Any, options: str) -> Iterator[str]:
    server = {key: str(value) for key, value in conninfo_to_dict(db.dsn).items()}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # It does not run as root; the server's own user can reach the server's socket.
    user = server_user()
    folder = temporary_folder(user, "gd-pgbouncer-")
    target = " ".join(f"{key}={server[key]}" for key in ("host", "port", "user", "password") if server.get(key))
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\n{options}"
    )
    if user is not None:
        shutil.chown(ini, user)
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
