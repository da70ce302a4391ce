"""A loop that stands still is told with its cause: a call, with its place, or a process that had no time."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, running
from support.wait import wait_until
from support.workers import worker

import gendurable_py as gd
from gendurable_py import Engine, job

Conn = psycopg.Connection[Any]

OPTIONS: dict[str, Any] = {"heartbeat_interval": 0.2, "lease_ttl": 10}


def blocked_here() -> None:
    threading.Event().wait(0.5)  # what nobody should do in an async step


@job(name="blocked.step")
async def in_step(args: dict[str, Any]) -> None:
    blocked_here()


@job(name="blocked.task")
async def in_task(args: dict[str, Any]) -> None:
    async def part() -> None:
        blocked_here()

    await asyncio.create_task(part(), name="a part")


@job(name="blocked.callback")
async def in_callback(args: dict[str, Any]) -> None:
    asyncio.get_running_loop().call_soon(blocked_here)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (in_step, "step start of blocked.step 1 made a call that blocks"),
        (in_task, "the task 'a part' made a call that blocks"),
        (in_callback, "a callback made a call that blocks"),
    ],
    ids=lambda value: getattr(value, "__name__", "says"),
)
def test_who_blocks_the_loop_is_named_with_the_place(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture, machine: Any, says: str
) -> None:
    events = Events()
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [machine], on_event=events, **OPTIONS)),
    ):
        id = gd.insert(conn, machine)
        ended(conn, id)
        wait_until(lambda: events.count("blocked"))
    numbers, about = events.named("blocked")[0]
    assert numbers["seconds"] > 0.1
    assert about["cause"] == "call"
    assert re.fullmatch(r".*test_engine_blocked\.py:\d+ in blocked_here", about["where"])
    assert (about["id"], about["step"]) == ((id, "start") if machine is in_step else (None, None))
    assert f"{says} ({about['where']})" in caplog.text
    assert "the event loop was blocked for" in caplog.text


def test_a_thread_that_keeps_the_interpreter_is_no_call_on_the_loop(db: Any, conn: Conn) -> None:
    @job(name="blocked.busy")
    def keeps(args: dict[str, Any]) -> None:
        re.match(r"(a+)+$", "a" * 24 + "b")  # lets no other thread run meanwhile

    events = Events()
    with running(Engine(db.dsn, [keeps], on_event=events, **OPTIONS)):
        ended(conn, gd.insert(conn, keeps), timeout=60)
        wait_until(lambda: events.count("blocked"))
    assert events.named("blocked")[0][1] == {"cause": "busy", "where": None, "id": None, "fsm": None, "step": None}


def test_a_process_that_was_stopped_is_not_blamed_on_a_step(db: Any, conn: Conn) -> None:
    script = """
import gendurable_py as gd

@gd.job(name="blocked.before")
def before(args): ...

gd.Engine(sys.argv[1], [before], lease_ttl=10, heartbeat_interval=0.2).run()
"""
    with worker(script, db.dsn) as process:
        process.says("serves")
        ended(conn, gd.insert(conn, "blocked.before"))  # by now it looks at its loop
        process.signal(signal.SIGSTOP)
        threading.Event().wait(1)
        process.signal(signal.SIGCONT)
        assert "the process was suspended" in process.says("was blocked for")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_a_loop_that_only_waits_for_the_server_is_not_called_blocked(db: Any, conn: Conn) -> None:
    events = Events()
    gate = threading.Event()

    @job(name="blocked.waits")
    def waits(args: dict[str, Any]) -> None:
        assert gate.wait(30)

    locker = db.connect(autocommit=False)
    with running(Engine(db.dsn, [waits], on_event=events, **OPTIONS)):
        id = gd.insert(conn, waits)
        wait_until(lambda: events.count("heartbeat"))
        locker.execute("lock table gendurable.instance in exclusive mode")  # the next heartbeat waits
        threading.Event().wait(1)
        locker.rollback()
        beats = events.count("heartbeat")
        wait_until(lambda: events.count("heartbeat") > beats)
        gate.set()
        ended(conn, id)
    assert events.count("blocked") == 0
