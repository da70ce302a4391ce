"""Known workers that are lost, and those that others would keep waiting."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psycopg
from support.engine import ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job

Conn = psycopg.Connection[Any]

KILLED = """
import sys, time
import gendurable_py as gd

@gd.job(name="workers.killed")
def killed(args):
    print("entered", flush=True)
    time.sleep(3600)

gd.Engine(sys.argv[1], [killed], heartbeat_interval=0.05, lease_ttl=1).run()
"""


def test_a_worker_that_was_killed_is_gone_and_its_work_is_done_elsewhere(db: Any, conn: Conn) -> None:
    def seen(table: str, name: str) -> bool:
        return conn.execute(f"select 1 from {table} where worker = %s".encode(), (name,)).fetchone() is not None

    id = gd.insert(conn, "workers.killed")
    with subprocess.Popen([sys.executable, "-c", KILLED, db.dsn], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "entered\n"
            name = str(wait_until(lambda: field(conn, id, "worker")))
            wait_until(lambda: seen("gd_workers", name))
        finally:
            process.kill()

    @job(name="workers.killed")
    def killed(args: dict[str, Any]) -> None: ...

    with running(Engine(db.dsn, [killed], heartbeat_interval=0.05, lease_ttl=1)):
        ended(conn, id)
        wait_until(lambda: not seen("gd_workers", name))
    assert gd.maintain(conn)["ran"]
    assert not seen("gendurable.worker", name)


def test_nobody_who_says_hello_waits_for_an_open_transaction(db: Any, conn: Conn) -> None:
    """Not for another hello of the same name, an operator, a lock of the row or of a table."""
    with db.connect(autocommit=False) as open_one:
        conn.execute("set statement_timeout = '5s'")
        for statement in (
            "select gd_hello('new', '{}')",
            "select gd_hello('w', '{\"pid\": 2}')",
            "select gd_bye('w')",
            "select gd_drain_worker('w')",
            "lock table gendurable.worker",
            "lock table gendurable.minute_count",
            "select from gendurable.draining for update",
        ):
            gd.hello(conn, "w", {"pid": 1})
            open_one.execute(statement.encode())
            counters = {"no": 10**6, "rows": [["m", "s", "done", 1, 1]]}
            for name in ("w", "new", "other"):
                told = gd.hello(conn, name, {"pid": 1, "counters": counters})
                assert told.drain is False
            assert gd.maintain(conn)["ran"]
            gd.bye(conn, "w")
            open_one.rollback()
        assert gd.hello(conn, "w", {"pid": 1}).noted
