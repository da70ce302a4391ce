"""Starting, stopping, leases, and what is left afterwards: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Context, Engine, job
from gendurable_py.dispatch import services

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]


class Gate:
    """A job that waits until the test opens the gate."""

    def __init__(self, name: str) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()
        self.cancelled = threading.Event()

        @job(name=name)
        def wait(args: dict[str, Any], ctx: Context[Any]) -> str:
            self.entered.release()
            while not self.opened.wait(0.005):
                if ctx.cancelled:
                    self.cancelled.set()
                    return "cancelled"
            return "through"

        self.job = wait


def connections(conn: Conn) -> int:
    row = conn.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_stop_lets_running_steps_finish_and_gives_back_the_rest(db: Any, conn: Conn) -> None:
    gate = Gate("life.drain")
    ids = [m.id for m in gd.insert_many(conn, [gate.job] * 6)]
    engine = Engine(db.dsn, [gate.job], {"default": 2}, prefetch=2, drain_timeout=20)
    with running(engine):
        assert gate.entered.acquire(timeout=10)
        assert gate.entered.acquire(timeout=10)
        wait_until(lambda: sum(field(conn, id, "status") == "executing" for id in ids) == 4)
        engine.stop()
        # The two that were only prefetched are given back while the others still run.
        wait_until(lambda: sum(field(conn, id, "status") == "executing" for id in ids) == 2)
        gate.opened.set()
        # Leaving the block tells it to stop again, which would not wait for them.
        wait_until(lambda: sum(field(conn, id, "status") == "done" for id in ids) == 2)
    found = sorted((field(conn, id, "status"), field(conn, id, "attempt")) for id in ids)
    assert found == [("done", 0)] * 2 + [("runnable", 0)] * 4


def test_a_second_stop_does_not_wait(db: Any, conn: Conn) -> None:
    entered = threading.Event()

    @job(name="life.forever")
    async def forever(args: dict[str, Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    id = gd.insert(conn, forever)
    engine = Engine(db.dsn, [forever], drain_timeout=3600)
    with running(engine):
        assert entered.wait(10)
        engine.stop()
        engine.stop()
    # An async step can be ended, so its row is given back at once, with no attempt burnt.
    assert (field(conn, id, "status"), field(conn, id, "attempt")) == ("runnable", 0)


def test_async_steps_that_were_never_begun_are_given_back_too(db: Any, conn: Conn) -> None:
    begun: list[int] = []

    @job(name="life.blocked")
    async def blocked(args: dict[str, Any], ctx: Context[Any]) -> None:
        begun.append(ctx.id)
        if len(begun) == 1:
            engine.stop()
            engine.stop()
        await asyncio.Event().wait()

    ids = [m.id for m in gd.insert_many(conn, [blocked] * 50)]
    engine = Engine(db.dsn, [blocked], {"default": 50})
    with running(engine):
        wait_until(lambda: begun)
    assert {(field(conn, id, "status"), field(conn, id, "attempt")) for id in ids} == {("runnable", 0)}


def test_a_thread_that_does_not_end_keeps_its_claim(db: Any, conn: Conn) -> None:
    gate = Gate("life.stuck")
    id = gd.insert(conn, gate.job)
    with running(Engine(db.dsn, [gate.job], drain_timeout=0)):
        assert gate.entered.acquire(timeout=10)
    assert gate.cancelled.wait(10)
    assert field(conn, id, "status") == "executing"


@pytest.mark.parametrize("load", [0, 500])
async def test_nothing_is_left_after_it_has_stopped(db: Any, conn: Conn, load: int) -> None:
    threads, tasks, before = set(threading.enumerate()), asyncio.all_tasks(), connections(conn)

    @job(name="life.nothing")
    def nothing(args: dict[str, Any]) -> None: ...

    for _ in range(2):
        gd.insert_many(conn, [nothing] * load)
        engine = Engine(db.dsn, [nothing], {"default": 50})
        async with engine:
            if load:
                await asyncio.to_thread(
                    wait_until,
                    lambda: conn.execute("select count(*) from gd_instances where status = 'executing'").fetchone(),
                )
            with pytest.raises(RuntimeError, match="running already"):
                await engine.serve()
        assert asyncio.all_tasks() == tasks
        left = {t for t in threading.enumerate() if t.name.startswith("gendurable")}
        assert not left - threads
    await asyncio.to_thread(wait_until, lambda: connections(conn) == before)


def test_several_engines_in_one_process_share_the_work(db: Any, conn: Conn) -> None:
    @job(name="life.shared")
    def shared(args: dict[str, Any]) -> None: ...

    one, two = Events(), Events()
    with running(Engine(db.dsn, [shared], on_event=one), Engine(db.dsn, [shared], on_event=two)):
        ids = [m.id for m in gd.insert_many(conn, [shared] * 200)]
        assert {r.status for r in ended(conn, *ids)} == {"done"}
    assert one.count("step") + two.count("step") == 200


def test_a_heartbeat_keeps_what_takes_longer_than_its_lease(db: Any, conn: Conn) -> None:
    gate = Gate("life.long")
    events = Events()
    with running(Engine(db.dsn, [gate.job], lease_ttl=0.6, heartbeat_interval=0.1, on_event=events)):
        id = gd.insert(conn, gate.job)
        assert gate.entered.acquire(timeout=10)
        first = field(conn, id, "lease_expires_at")
        wait_until(lambda: field(conn, id, "now()") > first)
        assert field(conn, id, "lease_expires_at > now()")
        gate.opened.set()
        assert ended(conn, id) == [gd.Result("done", "through", None)]
        assert field(conn, id, "crashes") == 0
    assert events.count("heartbeat") > 3
    assert events.count("step") == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_step_learns_that_its_instance_was_cancelled(db: Any, conn: Conn, kind: str) -> None:
    gate = Gate("life.cancelled")
    entered, ended_by = threading.Event(), threading.Event()

    @job(name="life.cancelled_async")
    async def waits(args: dict[str, Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended_by.set()
            raise

    machine: Any = gate.job if kind == "sync" else waits
    events = Events()
    with running(Engine(db.dsn, [machine], heartbeat_interval=0.05, on_event=events)):
        id = gd.insert(conn, machine)
        assert id is not None
        assert entered.wait(10) if kind == "async" else gate.entered.acquire(timeout=10)
        assert gd.cancel(conn, id, "enough")
        assert ended_by.wait(10) if kind == "async" else gate.cancelled.wait(10)
        other = gd.insert(conn, machine)  # the slot is free again
        assert other is not None
        gd.cancel(conn, other)
    assert gd.result(conn, id) == gd.Result("cancelled", None, "enough")
    assert events.count("rejected") == 0


def test_telemetry_that_fails_stops_nothing(db: Any, conn: Conn) -> None:
    def fails(name: str, measurements: Any, metadata: Any) -> None:
        raise RuntimeError(name)

    @job(name="life.telemetry")
    def work(args: dict[str, Any]) -> None: ...

    with running(Engine(db.dsn, [work], on_event=fails)):
        assert ended(conn, gd.insert(conn, work))[0].status == "done"


def test_a_database_without_the_extension_is_told_at_start(empty_db: Any) -> None:
    with pytest.raises(gd.VersionMismatch, match="not in this database"), running(Engine(empty_db.dsn)):
        pass


def test_another_version_of_the_extension_is_refused(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.engine.package_version", lambda: "99.0.0")
    with pytest.raises(gd.VersionMismatch, match=r"99\.0\.0") as caught, running(Engine(db.dsn)):
        pass
    assert caught.value.sqlstate == "GD506"


def test_a_server_that_is_not_there_fails_the_start(tmp_path: Path) -> None:
    with pytest.raises(psycopg.OperationalError), running(Engine(f"host={tmp_path} dbname=x")):
        pass


def test_a_node_may_do_nothing_but_maintenance(db: Any, conn: Conn) -> None:
    events = Events()
    gd.insert(conn, "nobody")
    with running(Engine(db.dsn, queues={}, reap_interval=0.01, on_event=events)):
        wait_until(lambda: events.count("maintain") >= 2)
    assert events.count("claim") == 0


PROCESS = """
import logging, sys, time
import gendurable_py as gd

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")

@gd.job(name="life.process")
def process(args, ctx):
    print("attempt", ctx.attempt, flush=True)
    if args["hang"] and ctx.attempt == 0:
        time.sleep(3600)
    return ctx.attempt

gd.Engine(sys.argv[1], [process], lease_ttl=0.5, heartbeat_interval=0.1, drain_timeout=float(sys.argv[2])).run()
"""


def process(db: Any, drain: float = 5, script: str = PROCESS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, db.dsn, str(drain)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def attempt(worker: subprocess.Popen[str]) -> str:
    """The next line that the job itself printed."""
    return wait_until(lambda: (said := line(worker)).startswith("attempt") and said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_the_process_well(db: Any, conn: Conn, number: int) -> None:
    id = gd.insert(conn, "life.process", {"hang": False})
    with process(db) as worker:
        assert attempt(worker) == "attempt 0"
        ended(conn, id)
        worker.send_signal(number)
        assert worker.wait(20) == 0


def test_a_second_signal_ends_it_at_once(db: Any, conn: Conn) -> None:
    gd.insert(conn, "life.process", {"hang": True})
    with process(db, 3600) as worker:
        assert attempt(worker) == "attempt 0"
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "drains" in line(worker))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_a_killed_worker_leaves_its_step_to_another(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, "life.process", {"hang": True})
    with process(db) as worker:
        assert attempt(worker) == "attempt 0"
        worker.kill()
        worker.wait(20)
    assert field(conn, id, "status") == "executing"
    with process(db) as worker:
        assert attempt(worker) == "attempt 1"
        assert ended(conn, id) == [gd.Result("done", 1, None)]
        assert field(conn, id, "crashes") == 0
        worker.terminate()
        assert worker.wait(20) == 0


FROZEN = """
import gc, sys
import gendurable_py as gd

@gd.job(name="life.frozen")
def frozen(args):
    return gc.get_freeze_count()

gd.Engine(sys.argv[1], [frozen]).run()
print(gc.get_freeze_count())
"""


def test_what_a_service_began_with_is_not_walked_by_the_garbage_collector(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, "life.frozen")
    with process(db, script=FROZEN) as worker:
        [(_, frozen, _)] = ended(conn, id)
        assert isinstance(frozen, int)
        assert frozen > 10_000
        worker.terminate()
        assert line(worker) == "0"


COLLECTING = """
import gc, sys
import gendurable_py as gd

gc.set_threshold(int(sys.argv[2]), 10, 10)

@gd.job(name="life.collecting")
def collecting(args):
    if args.get("set"):
        gc.set_threshold(*args["set"])
    return list(gc.get_threshold())

gd.Engine(sys.argv[1], [collecting]).run()
print(*gc.get_threshold())
"""


@pytest.mark.parametrize(
    ("before", "args", "within", "after"),
    [
        (700, {}, [20_000, 5, 2], "700 10 10"),
        (30_000, {}, [30_000, 10, 10], "30000 10 10"),
        (0, {}, [0, 10, 10], "0 10 10"),
        (700, {"set": [900, 9, 9]}, [900, 9, 9], "900 9 9"),
    ],
)
def test_a_service_collects_garbage_less_often_unless_told_otherwise(
    db: Any, conn: Conn, before: int, args: dict[str, Any], within: list[int], after: str
) -> None:
    id = gd.insert(conn, "life.collecting", args)
    with process(db, before, script=COLLECTING) as worker:
        assert ended(conn, id) == [gd.Result("done", within, None)]
        worker.terminate()
        assert line(worker) == after


async def test_a_service_that_loses_its_cancellation_is_stopped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_AGAIN", 0.01)
    lost: list[int] = []

    class Deaf(services.Service):
        name = "deaf"

        async def run(self) -> None:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    lost.append(1)
                    if len(lost) > 2:
                        raise

    deaf = Deaf()
    deaf.start(lambda task, error: pytest.fail(str(error)))
    await asyncio.sleep(0)
    await asyncio.wait_for(deaf.stop(), 30)
    assert len(lost) == 3
