"""A machine that kills its worker every time, and signals around the moment in which an instance parks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
from support.engine import ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, Outcome, job, step

Conn = psycopg.Connection[Any]

CRASH_CAP = 20


@job(name="crashes.poison")
def poison(args: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@job(name="crashes.bystander")
def bystander(args: dict[str, Any]) -> int:
    return 1


def work_until_killed(dsn: str) -> int:
    """A dispatcher in a process of its own; its exit code."""
    program = "import sys, test_engine_crashes as t; t.serve(sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", program, dsn],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=60,
        check=False,
    ).returncode


def serve(dsn: str) -> None:
    Engine(
        dsn, machines=[poison, bystander], lease_ttl=0.2, heartbeat_interval=0.06, reap_interval=None, poll_interval=0.1
    ).run()


def test_a_machine_that_kills_its_worker_every_time_ends_at_the_crash_cap(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, poison)
    for crashed in range(1, CRASH_CAP + 1):
        assert work_until_killed(db.dsn) == -signal.SIGKILL
        assert field(conn, id, "crashes") == crashed - 1
        assert field(conn, id, "status") == "executing"
    # The next one that meets it hands it out no more, and goes on with other work.
    other = gd.insert(conn, bystander)
    with running(Engine(db.dsn, machines=[poison, bystander], poll_interval=0.1)):
        result, beside = ended(conn, id, other)
    assert result.status == "failed"
    assert "crash cap" in (result.last_error or "")
    assert str(CRASH_CAP) in (result.last_error or "")
    assert field(conn, id, "crashes") == CRASH_CAP
    assert beside.status == "done"


begun, sent = threading.Event(), threading.Event()


class Waiter(FSM, name="crashes.waiter"):
    @step
    def start(self, ctx: Context[dict[str, Any]]) -> Outcome:
        if ctx.state["when"] == "while":
            begun.set()
            assert sent.wait(20)
        return Await("go", ctx.state, step="went")

    @step
    def went(self, ctx: Context[dict[str, Any]]) -> Outcome:
        first, second = ctx.signal("go"), ctx.signal("go")
        return Done([signal and signal.payload for signal in (first, second)])


def test_a_signal_before_while_or_after_the_instance_parks_is_seen_exactly_once(db: Any, conn: Conn) -> None:
    ids = {when: gd.insert(conn, Waiter, {"when": when}) for when in ("before", "while", "after")}
    assert gd.signal(conn, ids["before"] or 0, "go", "before") == "delivered"
    with running(Engine(db.dsn, machines=[Waiter])):
        assert begun.wait(20)
        assert gd.signal(conn, ids["while"] or 0, "go", "while") == "delivered"
        sent.set()
        wait_until(lambda: field(conn, ids["after"], "status") == "awaiting_signal")
        assert gd.signal(conn, ids["after"] or 0, "go", "after") == "delivered"
        results = ended(conn, *ids.values())
    assert [result.result for result in results] == [["before", None], ["while", None], ["after", None]]
    assert conn.execute("select count(*) from gendurable.signal").fetchone() == (0,)
