"""Engines that are known: what they say of themselves, what they are told while they run, and that they do it then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from support.engine import Events, asleep, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Engine, Next, job, step

Conn = psycopg.Connection[Any]
# No heartbeat comes by itself within a test: what is done is done by a notice.
SELDOM: dict[str, Any] = {"lease_ttl": 3600, "heartbeat_interval": 1000}


def worker(conn: Conn, engine: Engine, columns: str = "*") -> dict[str, Any]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute(
            f"select {columns} from gd_workers where worker = %s".encode(), (engine.worker,)
        ).fetchone()
    return {} if found is None else dict(found)


class Gate:
    """Steps that have begun and wait to be let go."""

    def __init__(self, name: str) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.told: list[int] = []

        @job(name=f"workers.{name}.async")
        async def waits(args: dict[str, Any], ctx: Context[Any]) -> None:
            self.entered.release()
            try:
                while not self.gate.is_set():  # noqa: ASYNC110 - set in another thread
                    await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                self.told.append(ctx.id)
                raise

        @job(name=f"workers.{name}.sync")
        def blocks(args: dict[str, Any], ctx: Context[Any]) -> None:
            self.entered.release()
            while not self.gate.wait(0.002):
                if ctx.cancelled:
                    self.told.append(ctx.id)
                    return

        self.jobs: dict[str, Any] = {"async": waits, "sync": blocks}

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=15)


@contextmanager
def open_at_end(gate: Gate) -> Iterator[None]:
    try:
        yield
    finally:
        gate.gate.set()


class Seen(FSM, name="workers.seen", version=3):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("end")

    @step
    def end(self, ctx: Context[Any]) -> gd.Done:
        return gd.Done()


def test_an_engine_is_seen_with_what_it_is_and_gone_when_it_has_ended(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, [Seen], {"default": 4, "mail": 2}, **SELDOM)
    with running(engine):
        wait_until(lambda: worker(conn, engine))
        seen = worker(conn, engine)
        assert seen["queues"] == {"default": 4, "mail": 2}
        assert ["workers.seen", 3, ["end", "start"]] in seen["machines"]
        assert (seen["state"], seen["running"], seen["executing"]) == ("running", 0, 0)
        assert seen["pid"] > 0 and seen["host"] and seen["version"] == gd.version(conn)
        assert seen["about"]["listens"] is True and seen["about"]["sql_steps"] is True
        assert abs(seen["clock_skew"]) < 60
        queues = conn.execute("select queue, workers, slots from gd_queues where queue = any('{mail,default}')")
        assert sorted(queues.fetchall()) == [("default", 1, 4), ("mail", 1, 2)]
        name = engine.worker
    assert conn.execute("select count(*) from gd_workers where worker = %s", (name,)).fetchone() == (0,)


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_cancel_reaches_the_step_that_runs_without_waiting_for_a_heartbeat(db: Any, conn: Conn, kind: str) -> None:
    events, gate = Events(), Gate(f"cancel.{kind}")
    engine = Engine(db.dsn, list(gate.jobs.values()), {"default": 3}, on_event=events, **SELDOM)
    with running(engine), open_at_end(gate):
        wait_until(lambda: worker(conn, engine))
        ids = [gd.insert(conn, gate.jobs[kind]) or 0 for _ in range(3)]
        gate.wait(3)
        assert gd.cancel(conn, ids[0])
        wait_until(lambda: gate.told == ids[:1])
        assert gd.cancel_many(conn, ids[1:]) == dict.fromkeys(ids[1:], "done")
        wait_until(lambda: sorted(gate.told) == sorted(ids))
        assert {about["what"] for _, about in events.named("notice")} == {"cancel"}
        assert {about["id"] for _, about in events.named("lost")} == set(ids)


def test_a_burst_of_cancels_is_one_notice_for_each_worker(db: Any, conn: Conn) -> None:
    with db.connect() as listener:
        listener.execute("listen gendurable_control")
        ids = [row.id for row in gd.insert_many(conn, [{"fsm": "m", "queue": "burst"} for _ in range(400)])]
        for name, listens in (("one", True), ("two", True), ("deaf", False)):
            gd.hello(conn, name, {"listens": listens})
            assert len(gd.claim(conn, f"{name}#2" if name == "two" else name, "burst", 100)) == 100
        assert set(gd.cancel_many(conn, ids).values()) == {"done"}
        conn.execute("select pg_notify('gendurable_control', 'that is all')")
        heard = [notify.payload for notify in listener.notifies(timeout=10, stop_after=3)]
        assert sorted(heard) == ["cancel one", "cancel two", "that is all"]
        # Nobody executes these, so nobody is told.
        gd.cancel(conn, gd.insert(conn, "m", queue="burst") or 0)
        conn.execute("select pg_notify('gendurable_control', 'that is all')")
        assert [notify.payload for notify in listener.notifies(timeout=10, stop_after=1)] == ["that is all"]


def test_a_worker_that_drains_finishes_what_it_has_and_claims_again_when_it_is_resumed(db: Any, conn: Conn) -> None:
    events, gate = Events(), Gate("drain")
    engine = Engine(db.dsn, list(gate.jobs.values()), {"default": 2}, prefetch=1, on_event=events, **SELDOM)
    with running(engine), open_at_end(gate):
        wait_until(lambda: worker(conn, engine))
        first = [gd.insert(conn, gate.jobs["sync"]) for _ in range(3)]
        gate.wait(2)
        wait_until(lambda: len([id for id in first if field(conn, id, "status") == "executing"]) == 3)
        assert gd.drain_worker(conn, engine.worker)
        wait_until(lambda: engine.health().state == "draining" and worker(conn, engine)["state"] == "draining")
        health = engine.health()
        assert (health.live, health.ready, health.reasons) == (True, False, ("it was told to drain",))
        later = gd.insert(conn, gate.jobs["sync"])
        gate.gate.set()
        ended(conn, *first)
        wait_until(lambda: worker(conn, engine)["state"] == "drained")
        seen = worker(conn, engine, "draining_since is not null as since, drained_by, queues, executing")
        assert (seen["since"], seen["executing"]) == (True, 0) and seen["drained_by"]
        assert field(conn, later, "status") == "runnable"
        assert conn.execute("select workers from gd_queues where queue = 'default'").fetchone() == (0,)
        # Nobody sleeps on the queue either: whoever looks sees that it is not served.
        assert conn.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'"
        ).fetchone() == (0,)
        assert gd.resume_worker(conn, engine.worker)
        ended(conn, later)
        wait_until(lambda: worker(conn, engine)["state"] == "running")
        assert not gd.resume_worker(conn, engine.worker)
        assert [about["state"] for _, about in events.named("drain")] == ["draining", "drained", "running"]


def test_an_idle_worker_that_drains_leaves_its_queues(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, [], {"default": 2}, **SELDOM)
    with running(engine):
        wait_until(lambda: worker(conn, engine) and asleep(conn))
        assert gd.drain_worker(conn, engine.worker)
        wait_until(lambda: not asleep(conn))  # or gd_why would take the queue for served
        assert engine.health().state == "drained"


class Ahead(FSM, name="workers.ahead", run_ahead=True):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("start", state={"n": ctx.state.get("n", 0) + 1})


def test_a_chain_of_kept_claims_ends_where_its_worker_drains(db: Any, conn: Conn, monkeypatch: Any) -> None:
    monkeypatch.setattr("gendurable_py.dispatch.feeder.RUN_AHEAD_FOR", 3600.0)
    engine = Engine(db.dsn, [Ahead], {"default": 1}, **SELDOM)
    with running(engine):
        id = gd.insert(conn, Ahead)
        wait_until(lambda: (field(conn, id, "state") or {}).get("n", 0) > 3)
        assert gd.drain_worker(conn, engine.worker)
        wait_until(lambda: worker(conn, engine)["state"] == "drained")
        assert field(conn, id, "status") == "runnable"


def test_the_concurrency_of_a_queue_changes_while_its_steps_run(db: Any, conn: Conn) -> None:
    events, gate = Events(), Gate("slots")
    engine = Engine(db.dsn, list(gate.jobs.values()), {"default": 2, "other": 1}, prefetch=1, on_event=events, **SELDOM)
    with running(engine), open_at_end(gate):
        wait_until(lambda: worker(conn, engine))
        ids = [gd.insert(conn, gate.jobs["sync"]) for _ in range(8)]
        gate.wait(2)
        assert engine.health().queues["default"].running == 2
        gd.set_queue(conn, "default", concurrency=5)
        gate.wait(3)
        wait_until(lambda: worker(conn, engine)["queues"] == {"default": 5, "other": 1})
        assert len(engine.running) == 5
        wait_until(lambda: sum(field(conn, id, "status") == "executing" for id in ids) == 6)
        gd.set_queue(conn, "default", concurrency=0)
        wait_until(lambda: engine.health().queues["default"].concurrency == 0)
        gate.gate.set()
        wait_until(lambda: engine.health().running == 0 and not engine.running)
        ended(conn, *[id for id in ids if field(conn, id, "status") != "runnable"])
        assert sum(field(conn, id, "status") == "runnable" for id in ids) == 2  # nothing more was claimed
        gd.set_queue(conn, "default", concurrency=None)
        ended(conn, *ids)
        wait_until(lambda: worker(conn, engine)["queues"] == {"default": 2, "other": 1})
        assert [(numbers["concurrency"], numbers["own"]) for numbers, _ in events.named("queue")] == [
            (5, 2),
            (0, 2),
            (2, 2),
        ]


def test_a_pause_of_a_queue_is_seen_in_health_at_once(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, [], {"default": 1}, **SELDOM)
    with running(engine):
        wait_until(lambda: worker(conn, engine))
        gd.pause_queue(conn, "default")
        wait_until(lambda: engine.health().queues["default"].paused)
        gd.resume_queue(conn, "default")
        wait_until(lambda: not engine.health().queues["default"].paused)


def test_what_runs_is_listed_with_its_age(db: Any, conn: Conn) -> None:
    gate = Gate("listed")
    engine = Engine(db.dsn, list(gate.jobs.values()), {"default": 3}, **SELDOM)
    assert engine.running == ()
    with running(engine), open_at_end(gate):
        first = gd.insert(conn, gate.jobs["sync"])
        gate.wait()
        second = gd.insert(conn, gate.jobs["async"])
        gate.wait()
        steps = engine.running
        assert [(each.id, each.kind, each.step, each.queue) for each in steps] == [
            (first, "thread", "start", "default"),
            (second, "task", "start", "default"),
        ]
        [claimed] = conn.execute(
            "select oldest_claim_at from gd_workers where worker = %s", (engine.worker,)
        ).fetchone()  # type: ignore[misc]
        assert steps[0].since is not None and abs((steps[0].since - claimed).total_seconds()) < 30
        gate.gate.set()
        wait_until(lambda: engine.running == ())
    assert engine.running == ()


def test_health_says_why_an_engine_does_not_do_its_work(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, [], {"default": 1}, heartbeat_interval=0.05, lease_ttl=10)
    assert engine.health().state == "stopped" and not engine.health().live
    with running(engine):
        wait_until(lambda: engine.health().greeted_ago is not None)
        health = engine.health()
        assert (health.live, health.ready, health.state, health.reasons) == (True, True, "running", ())
        assert health.renewed_ago is not None and health.worker == engine.worker
        with refused_logins(db, conn):
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'gendurable %'"
            )
            wait_until(lambda: len(engine.health().reasons) >= 2)
            health = engine.health()
            assert health.live and not health.ready
            assert any("the connection for heartbeats has failed" in reason for reason in health.reasons)
        wait_until(lambda: engine.health().ready)
    assert engine.health().reasons == ("it does not run",)


@contextmanager
def refused_logins(db: Any, conn: Conn) -> Iterator[None]:
    """Nobody gets in, not even who is in already and comes anew."""
    name, elsewhere = conn.info.dbname, psycopg.conninfo.make_conninfo(db.dsn, dbname="postgres")
    with psycopg.connect(elsewhere, autocommit=True) as other:
        other.execute(f'alter database "{name}" allow_connections false'.encode())
        try:
            yield
        finally:
            other.execute(f'alter database "{name}" allow_connections true'.encode())


def test_a_role_without_the_right_is_told_once_and_its_engine_works_unseen(db: Any, conn: Conn) -> None:
    events = Events()

    @job(name="workers.unseen")
    def unseen(args: dict[str, Any]) -> None: ...

    conn.execute("alter function gd_hello(text, jsonb) rename to gd_hello_gone")
    engine = Engine(db.dsn, [unseen], heartbeat_interval=0.05, lease_ttl=60, on_event=events)
    with running(engine):
        ended(conn, gd.insert(conn, unseen))
        wait_until(lambda: events.count("heartbeat") or events.count("hello"))
        ended(conn, gd.insert(conn, unseen))
        assert not worker(conn, engine)
    assert [about["result"] for _, about in events.named("hello")] == ["refused"]


def test_an_open_transaction_on_its_row_keeps_no_engine_from_its_work(db: Any, conn: Conn) -> None:
    events = Events()

    @job(name="workers.locked")
    def work(args: dict[str, Any]) -> None: ...

    engine = Engine(db.dsn, [work], heartbeat_interval=0.05, lease_ttl=60, on_event=events)
    with running(engine), db.connect(autocommit=False) as locker:
        wait_until(lambda: worker(conn, engine))
        locker.execute("select from gendurable.worker for update")
        wait_until(lambda: any(about["result"] == "busy" for _, about in events.named("hello")))
        ended(conn, gd.insert(conn, work))
        # An operator's say gets through all the same.
        assert gd.drain_worker(conn, engine.worker)
        wait_until(lambda: engine.health().state == "drained")
        locker.rollback()
        wait_until(lambda: worker(conn, engine)["state"] == "drained")


def test_two_engines_with_one_name_both_work_and_say_so(db: Any, conn: Conn, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr("gendurable_py.dispatch.database.make_worker_name", lambda: "twin")
    events = Events()

    @job(name="workers.twin")
    def work(args: dict[str, Any]) -> None: ...

    engines = [Engine(db.dsn, [work], heartbeat_interval=0.05, lease_ttl=60, on_event=events) for _ in range(2)]
    with running(*engines):
        wait_until(lambda: "another process says hello as twin" in caplog.text)
        ended(conn, *[gd.insert(conn, work) for _ in range(20)])
        assert conn.execute("select count(*) from gd_workers where worker = 'twin'").fetchone() == (1,)
        assert gd.drain_worker(conn, "twin")
        wait_until(lambda: all(engine.health().state == "drained" for engine in engines))
        assert gd.resume_worker(conn, "twin")
        wait_until(lambda: all(engine.health().state == "running" for engine in engines))
        ended(conn, gd.insert(conn, work))
        # The goodbye of one is forgotten with the next hello of the other.
        engines[0].stop()
        wait_until(lambda: engines[0].health().state == "stopped")
        wait_until(lambda: worker(conn, engines[1]))


def test_steps_are_counted_once_by_minute_and_outcome(db: Any, conn: Conn) -> None:
    @job(name="workers.counted", max_attempts=1)
    def counted(args: dict[str, Any]) -> None:
        if args.get("fails"):
            raise ValueError

    engine = Engine(db.dsn, [counted, Seen], heartbeat_interval=0.05, lease_ttl=60)
    with running(engine), db.connect(autocommit=False) as locker:
        ended(conn, *[gd.insert(conn, counted) for _ in range(5)], gd.insert(conn, counted, {"fails": True}))
        wait_until(lambda: sum(row.ended for row in gd.stats(conn, 5)) == 6)
        locker.execute("lock table gendurable.minute_count")  # the report is refused, and sent again
        ended(conn, *[gd.insert(conn, Seen) for _ in range(3)])
        locker.rollback()
        wait_until(lambda: sum(row.ended for row in gd.stats(conn, 5)) == 12)
        ended(conn, gd.insert(conn, counted))
    totals: dict[tuple[str, str, str], int] = {}
    for row in gd.stats(conn, 5):
        totals[row[1:4]] = totals.get(row[1:4], 0) + row.ended
        assert row.seconds >= 0
    assert totals == {
        ("workers.counted", "start", "done"): 6,  # the last of them with the goodbye
        ("workers.counted", "start", "error"): 1,
        ("workers.seen", "start", "next"): 3,
        ("workers.seen", "end", "done"): 3,
    }
