"""The primary dies under load and its synchronous standby takes over: what was acknowledged is there, work goes on."""

from __future__ import annotations

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
from support.engine import running
from support.standby import both, primary_and_standby, promote
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.embedded.cluster import Cluster

# Enough acknowledged on one side of the failover for a loss to show.
ENOUGH = 80


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary with gendurable in it, and its synchronous standby."""

    def prepare(conn: psycopg.Connection[Any]) -> None:
        conn.execute(LOG.encode())
        gd.set_rate_limit(conn, LIMIT, RATE, 1, BURST)
        gd.set_queue(conn, FEW, limit=MOST)

    with primary_and_standby(prepare) as made:
        yield made


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
            promote(standby)
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
