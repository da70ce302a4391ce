"""What one engine at a time sees of all that is in the database, for Prometheus and OpenTelemetry alike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from support.engine import Events, ended, running
from support.people import People
from support.scrape import Scrape
from support.server import Server
from support.telemetry import Telemetry
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job, otel, prometheus
from gendurable_py.calls import measuring
from gendurable_py.dispatch import depth
from gendurable_py.telemetry import instrument as telemetry

Conn = psycopg.Connection[Any]
HOUR = 3600.0


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    yield
    prometheus.uninstrument()
    otel.uninstrument()
    assert telemetry.looks_every() is None


@pytest.fixture
def every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(telemetry._intervals, "test", 1.0)


@job(name="depth.fails", max_attempts=1)
def fails(args: dict[str, Any]) -> None:
    raise RuntimeError("as it is meant to")


def test_what_is_seen(db: Any, conn: Conn) -> None:
    ended_badly = [made.id for made in gd.insert_many(conn, [fails] * 3)]
    with running(Engine(db.dsn, [fails])):
        ended(conn, *ended_badly)
    gd.insert(conn, "depth.nobody", queue="mail")
    conn.execute("select gd_insert('depth.nobody', p_queue => 'mail', p_eligible_at => now() - interval '1 hour')")
    gd.insert(conn, "depth.nobody", queue="mail", delay=3600)
    for _ in range(3):
        gd.insert(conn, "depth.nobody", queue="shut", partition_key="one")
    gd.pause_queue(conn, "shut")
    seen = Telemetry()
    seen.on(depth_interval=3)
    engine = Engine(db.dsn, queues={"default": 7})
    with prometheus.serve(engine, port=0, registry=CollectorRegistry(), depth_interval=2) as served, running(engine):
        # The engine may have looked before it said hello.
        wait_until(lambda: Scrape(served.url).total("queue_workers", queue="default") == 1, 30)
        found = Scrape(served.url)
        assert found.total("queue_due", queue="mail") == 2
        assert found.total("queue_delayed", queue="mail") == 1
        assert found.total("queue_oldest_due_seconds", queue="mail") >= 3600
        assert found.total("queue_oldest_due_seconds", queue="default") == 0
        assert found.total("queue_paused", queue="shut") == 1
        assert found.total("queue_paused", queue="mail") == 0
        assert found.total("queue_slots", queue="default") == 7
        assert found.total("queue_workers", queue="mail") == 0
        assert found.total("failed_instances") == 3
        assert found.points("doctor", check="queues")  # nobody serves one of them
        assert found.total("depth_seconds") > 0
        assert found.total("depth_time_seconds") > 1.7e9
        wait_until(lambda: Scrape(served.url).points("table_live_rows", table="instance"), 30)
        assert seen.total("queue.due", queue="mail") == 2
        assert seen.total("queue.oldest_due", queue="mail") >= 3600
        assert seen.total("queue.paused", queue="shut") == 1
        assert seen.total("queue.workers", queue="default") == 1
        assert seen.total("failed") == 3
        assert seen.points("table.dead_rows")
        assert seen.total("doctor", check="queues") == 1


def test_parked_and_executing(db: Any, conn: Conn, every_second: None) -> None:
    told = Events()
    for _ in range(3):
        gd.insert(conn, "depth.nobody", queue="keyed", partition_key="one")
    [claim] = gd.claim(conn, "w", "keyed", 10)
    gd.set_rate_limit(conn, "few", 1, 3600)
    for _ in range(3):
        gd.insert(conn, "depth.nobody", queue="limited", rate_limit="few")
    assert len(gd.claim(conn, "w", "limited", 10)) == 1
    with running(Engine(db.dsn, queues={}, on_event=told)):
        wait_until(lambda: told.count("depth"))
    queues = told.named("depth")[0][1]["queues"]
    assert (queues["keyed"].executing, queues["keyed"].parked, queues["keyed"].due) == (1, 2, 0)
    assert (queues["limited"].executing, queues["limited"].parked, queues["limited"].limited) == (1, 2, 2)
    assert claim.queue == "keyed"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not look asks again at once."""
    monkeypatch.setattr(depth, "_later", lambda kept_off, interval: 0.05)


class Watched:
    """A call, and what it has answered."""

    def __init__(self, call: Any, told: list[Any]) -> None:
        self._call, self._told = call, told

    async def __call__(self, conn: Any, *args: Any) -> Any:
        answer = await self._call(conn, *args)
        self._told.append(answer)
        return answer


def test_one_at_a_time_and_another_if_it_ends(
    db: Any, conn: Conn, every_second: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[bool, float]] = []
    asked: list[float] = []
    # One turn of an hour: so long nobody else has one.
    monkeypatch.setitem(telemetry._intervals, "test", HOUR)
    monkeypatch.setattr(measuring, "take_turn", Watched(measuring.take_turn, taken))
    monkeypatch.setattr(measuring, "kept_off", Watched(measuring.kept_off, asked))
    first, second = Events(), Events()
    one = Engine(db.dsn, queues={}, on_event=first)
    with running(Engine(db.dsn, queues={}, on_event=second)):
        wait_until(lambda: second.count("depth") == 1)
        asked.clear()
        with running(one):
            wait_until(lambda: asked)
            assert 0 < asked[0] <= HOUR
            assert (first.count("depth"), second.count("depth")) == (0, 1)
            # Short turns: whoever has looked looks again, and the other goes on to ask.
            monkeypatch.setitem(telemetry._intervals, "test", 1.0)
            wait_until(lambda: second.count("depth") + first.count("depth") >= 4, 60)
            wait_until(lambda: [left for left in asked if 0 < left <= 1], 60)
        before = second.count("depth")
        wait_until(lambda: second.count("depth") > before, 60)


def test_who_has_no_turn_has_no_connection_for_it(
    db: Any, conn: Conn, every_second: None, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(measuring, "kept_off", Watched(measuring.kept_off, asked))
    engines = [Engine(db.dsn, queues={}) for _ in range(3)]
    # Somebody looks as long as this test lasts.
    conn.execute("select pg_advisory_lock(7311, ((extract(epoch from now())::bigint + 3600) % 1000000)::int)")
    with running(*engines):
        wait_until(lambda: len(asked) >= 9, 60)
        databases = [engine._database for engine in engines]
        assert all(database is not None and database._looks.connects == 0 for database in databases)
        assert all(left > 0 for left in asked)


def test_after_a_slow_look_nobody_looks(
    db: Any, conn: Conn, every_second: None, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(measuring, "kept_off", Watched(measuring.kept_off, asked))
    monkeypatch.setattr(depth, "_SHARE", 1e6)  # every look is a slow one
    told = [Events() for _ in range(3)]
    engines = [Engine(db.dsn, queues={}, on_event=each) for each in told]
    with running(*engines[:2]):
        wait_until(lambda: sum(each.count("depth") for each in told))
        asked.clear()
        wait_until(lambda: len(asked) >= 4, 60)
        with running(engines[2]):  # nor does one that comes later
            asked.clear()
            wait_until(lambda: len(asked) >= 4, 60)
            assert all(left > 1 for left in asked)
            assert sum(each.count("depth") for each in told) == 1


def test_a_look_that_fails_when_it_has_cost_much_is_slow_for_all(
    db: Any, conn: Conn, every_second: None, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails:
        async def __call__(self, conn: Any) -> Any:
            looks.append(1)
            raise TimeoutError("as if it had been cut off")

    asked: list[float] = []
    looks: list[int] = []
    monkeypatch.setattr(measuring, "kept_off", Watched(measuring.kept_off, asked))
    monkeypatch.setattr(measuring, "depths", Fails())
    monkeypatch.setattr(depth, "_SHARE", 1e7)
    with running(Engine(db.dsn, queues={})):
        wait_until(lambda: looks)
        wait_until(lambda: conn.execute("select true from pg_locks where classid = 7311").fetchone())
        asked.clear()
        with running(Engine(db.dsn, queues={})):
            wait_until(lambda: len(asked) >= 4, 60)
        assert all(left > 1 for left in asked)
        assert len(looks) == 1


def test_nobody_begins_a_look_beside_one_that_takes_long(
    db: Any, conn: Conn, every_second: None, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_rows = measuring.table_rows
    asked: list[float] = []
    looks: list[int] = []
    go_on = threading.Event()

    class Slow:
        async def __call__(self, conn: Any) -> Any:
            looks.append(1)
            await asyncio.to_thread(go_on.wait, 60)
            return await table_rows(conn)

    monkeypatch.setattr(measuring, "kept_off", Watched(measuring.kept_off, asked))
    monkeypatch.setattr(measuring, "table_rows", Slow())
    told = Events()
    with running(*(Engine(db.dsn, queues={}, on_event=told) for _ in range(2))):
        wait_until(lambda: looks)
        asked.clear()
        wait_until(lambda: len(asked) >= 4, 60)
        assert all(left > 1 for left in asked)  # longer than a turn
        assert len(looks) == 1
        go_on.set()
        wait_until(lambda: told.count("depth"))


def test_whoever_rests_keeps_all_off_until_then_or_until_it_ends(db: Any) -> None:
    with db.connect() as one, db.connect() as other, db.connect() as gone:
        assert measuring.kept_off(other, HOUR) == 0
        number = measuring.keep_off(one, 500)
        assert 490 < measuring.kept_off(other, HOUR) <= 502
        assert measuring.kept_off(other, 1.0) > 490
        assert measuring.kept_off(one, HOUR) == 0
        measuring.keep_off(gone, 900)
        assert measuring.kept_off(other, HOUR) > 890
        gone.close()
        wait_until(lambda: measuring.kept_off(other, HOUR) <= 502)
        measuring.let_in(one, [number])
        assert measuring.kept_off(other, HOUR) == 0
        # It is over by itself, however long its session goes on.
        measuring.keep_off(one, -1)
        assert measuring.kept_off(other, HOUR) == 0
        assert measuring.take_turn(one, HOUR)[0]
        assert 0 < measuring.kept_off(other, HOUR) <= HOUR
        measuring.end_turns(one)
        assert measuring.kept_off(other, HOUR) == 0


def test_a_turn_is_had_once_and_goes_with_its_session(db: Any) -> None:
    with db.connect() as one, db.connect() as other:
        had, left = measuring.take_turn(one, HOUR)
        assert had
        assert 0 < left <= HOUR
        assert not measuring.take_turn(other, HOUR)[0]
        one.close()
        wait_until(lambda: measuring.take_turn(other, HOUR)[0])
        measuring.end_turns(other)
        with db.connect() as third:
            assert measuring.take_turn(third, HOUR)[0]


def test_who_hangs_keeps_nobody_from_the_next_turn(db: Any) -> None:
    with db.connect() as hangs, db.connect() as other:
        assert measuring.take_turn(hangs, 1.0)[0]
        wait_until(lambda: measuring.take_turn(other, 1.0)[0])


def test_the_locks_are_nobody_elses(conn: Conn) -> None:
    classes = conn.execute(
        "select proname from pg_proc "
        "where pronamespace = 'gendurable'::regnamespace and proname like '\\_lock\\_of\\_%'"
    ).fetchall()
    numbers = {conn.execute(f"select gendurable.{name}()").fetchone() for (name,) in classes}  # type: ignore[arg-type]
    assert len(numbers) >= 9
    assert not numbers & {(measuring.TURNS,), (measuring.RESTS,)}


def test_a_role_that_may_not_look(
    server: Server, every_second: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "_AGAIN", 1.0)
    told = Events()

    @job(name="depth.works")
    def works(args: dict[str, Any]) -> None:
        return None

    with contextlib.closing(People(server)) as people:
        database = people.database()
        with psycopg.connect(database, autocommit=True) as conn:
            name = people.role("worker")
            gd.grant(conn, name, "worker")
            engine = Engine(people.dsn(database, "worker"), [works], on_event=told)
            with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
                wait_until(lambda: "the depth of the queues is not looked at" in caplog.text)
                ended(conn, gd.insert(conn, works))
                assert told.count("depth") == 0
                gd.grant(conn, name, "reader")
                wait_until(lambda: told.count("depth"), 30)
    assert caplog.text.count("is not looked at") == 1
    assert told.count("reconnect") == 0


def test_where_no_session_lasts_all_look_and_nothing_is_locked(db: Any, conn: Conn, every_second: None) -> None:
    told, other = Events(), Events()
    engines = [Engine(db.dsn, notify=False, on_event=each) for each in (told, other)]
    with running(*engines):
        wait_until(lambda: told.count("depth") and other.count("depth"))
        locks = "select count(*) from pg_locks where locktype = 'advisory' and classid in (7310, 7311)"
        assert conn.execute(locks).fetchone() == (0,)
    lasting = [numbers["lasts"] for numbers, _ in told.named("depth")]
    assert all(each >= 3 * 0.8 for each in lasting)


def test_a_locked_table_holds_nothing_up(db: Any, conn: Conn, every_second: None) -> None:
    told = Events()
    with db.connect(autocommit=False) as locker, running(Engine(db.dsn, queues={}, on_event=told)):
        wait_until(lambda: told.count("depth"), 60)
        locker.execute("lock table gendurable.paused_queue in access exclusive mode")
        wait_until(
            lambda: [
                what for _, what in told.named("reconnect") if what["link"] == "depth" and "lock" in what["error"]
            ],
            60,  # a pause is twenty times as long as a look
        )
        locker.rollback()
        before = told.count("depth")
        wait_until(lambda: told.count("depth") > before, 60)


def test_nobody_looks_unless_somebody_wants_to_know(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Events()
    monkeypatch.setattr(depth, "_UNWANTED", 0.01)
    rested: list[None] = []
    looks_every = telemetry.looks_every

    def asked() -> float | None:
        rested.append(None)
        return looks_every()

    monkeypatch.setattr(depth, "looks_every", asked)
    with running(Engine(db.dsn, queues={}, on_event=told)):
        wait_until(lambda: len(rested) > 20)
        names = "select count(*) from pg_stat_activity where application_name like 'gendurable %'"
        connections = conn.execute(names).fetchone()
        assert told.count("depth") == 0
        prometheus.instrument(registry=CollectorRegistry())
        wait_until(lambda: told.count("depth"))
        assert connections is not None
        wait_until(lambda: conn.execute(names).fetchone() == (connections[0] + 1,))
        prometheus.uninstrument()
        wait_until(lambda: conn.execute(names).fetchone() == connections)
