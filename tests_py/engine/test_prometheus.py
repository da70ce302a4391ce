"""Metrics for Prometheus, scraped over HTTP from an engine that runs; what scrapes and errors do to the engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import re
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector as BaseCollector
from support.engine import Events, ended, field, running
from support.proxy import Proxy
from support.scrape import Scrape, get, probe
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Cancel, Child, Context, Engine, InvalidArgument, Next, job, prometheus, step
from gendurable_py.telemetry import endpoint, events
from gendurable_py.telemetry import instrument as telemetry
from gendurable_py.telemetry.collector import Collector
from gendurable_py.telemetry.looked import Looked, QueueDepth
from gendurable_py.telemetry.tally import BUCKETS, Names, Tally

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    yield
    prometheus.uninstrument()
    assert telemetry.meter is None
    assert telemetry.looks_every() is None


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


class Troubled(FSM, name="prometheus.troubled"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("start", priority=2**40)


# What is counted


def test_the_metrics_add_up(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    @job(name="prometheus.counted")
    def counted(args: dict[str, Any]) -> None:
        if args.get("fail"):
            raise Cancel("no")

    @job(name="prometheus.forever")
    async def forever(args: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    @job(name="prometheus.slow", timeout=0.2, max_attempts=1)
    async def slow(args: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    ids = [made.id for made in gd.insert_many(conn, [counted] * 30 + [Child(counted, {"fail": 1})] * 3)]
    refused, late = gd.insert(conn, Troubled), gd.insert(conn, slow)
    gd.insert(conn, "prometheus.unknown")
    engine = Engine(db.dsn, [counted, Troubled, forever, slow], reap_interval=0.02, heartbeat_interval=0.1)
    with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
        ended(conn, *ids, refused, late)
        lost = gd.insert(conn, forever)
        wait_until(lambda: field(conn, lost, "status") == "executing")
        gd.cancel(conn, lost or 0)
        wait_until(lambda: Scrape(served.url).total("steps_total", outcome="cancelled"))
        wait_until(lambda: Scrape(served.url).points("retention_overdue_seconds"))
        wait_until(lambda: Scrape(served.url).total("lost_claims_total", fsm="prometheus.forever", step="start"))
        found = Scrape(served.url)
    assert found.total("steps_total", fsm="prometheus.counted", step="start", outcome="done") == 30
    assert found.total("steps_total", fsm="prometheus.counted", step="start", outcome="stop") == 3
    assert found.total("step_seconds_count", fsm="prometheus.counted", step="start") == 33
    assert found.total("step_seconds_bucket", fsm="prometheus.counted", le="+Inf") == 33
    assert found.total("step_timeouts_total", fsm="prometheus.slow", step="start") == 1
    assert found.total("claims_total", queue="default") == 37
    assert found.total("claim_seconds_count") >= 1
    assert found.total("outcomes_total", result="rejected") == 1
    assert found.total("commit_outcomes_count") == found.total("commit_seconds_count") >= 1
    assert found.total("outcomes_total", result="ok") == 34 + found.total("step_timeouts_total")
    assert found.total("released_claims_total", reason="unknown") >= 1
    assert found.total("heartbeat_seconds_count") >= 1
    assert (found.total("slots", queue="default"), found.total("live"), found.total("ready")) == (10, 1, 1)
    assert "_created" not in found.text


def test_steps_in_sql_count(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    conn.execute("""create function f(jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$""")
    gd.define_step(conn, "prometheus.sql", "start", "f(jsonb)")
    id = gd.insert(conn, "prometheus.sql")
    engine = Engine(db.dsn)
    with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
        ended(conn, id)
        wait_until(lambda: Scrape(served.url).total("steps_total", fsm="prometheus.sql", outcome="ok") == 1)


def test_how_late_it_wakes(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    told = Events()

    @job(name="prometheus.woken")
    def woken(args: dict[str, Any]) -> None:
        return None

    engine = Engine(db.dsn, [woken], poll_interval=30, max_poll_interval=30, on_event=told)
    with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
        wait_until(lambda: told.count("sleep"))
        ended(conn, gd.insert(conn, woken))  # a writer tells of it
        wait_until(lambda: Scrape(served.url).total("wake_lateness_seconds_count") == 1)
        wait_until(lambda: told.count("sleep") == 2)
        ended(conn, gd.insert(conn, woken, delay=0.3))  # it becomes due
        wait_until(lambda: Scrape(served.url).total("wake_lateness_seconds_count") == 2)
    lateness = [numbers["late"] for numbers, _ in told.named("wake")]
    assert all(0 <= late < 25 for late in lateness), lateness  # and not a whole poll


def test_names_are_capped(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry, most_names=3)
    meter = telemetry.meter
    assert isinstance(meter, Collector)
    for number in range(50):
        meter.ended(f"m{number}", "start", "done", 0.02)
        meter.event(events.Claimed(2, 0.1, {f"q{number}": 2}))
        meter.event(events.Lost(1, f"m{number}", "start"))
        meter.event(events.StepTimedOut(1, 1, 1, f"m{number}", "start"))
    text = registry_text(registry)
    for name, label in (("steps_total", "fsm"), ("claims_total", "queue"), ("lost_claims_total", "fsm")):
        values = set(re.findall(rf'gendurable_{name}{{.*?{label}="(\w+)"', text))
        assert values == {*(f"{label[0] if label == 'queue' else 'm'}{n}" for n in range(3)), "other"}
    assert 'gendurable_steps_total{fsm="other",outcome="done",step="other"} 47.0' in text
    assert 'gendurable_claims_total{queue="other"} 94.0' in text


def test_queues_beyond_the_cap_are_summed(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)
    assert telemetry.meter is not None
    depth = QueueDepth(1, 2, 3, 4, 1, 7.0, False, 1, 5)
    queues = {f"q{n:03}": depth._replace(due=1000 - n) for n in range(300)} | {"other": depth._replace(oldest_due=9.0)}
    telemetry.meter.event(Looked(0.1, 1, 60, queues, {}, {"queues": "warning"}))
    text = registry_text(registry)
    assert len(re.findall(r"^gendurable_queue_due{", text, re.MULTILINE)) == 101
    assert f'gendurable_queue_due{{queue="other"}} {sum(1000 - n for n in range(100, 300)) + 1}.0' in text
    assert 'gendurable_queue_oldest_due_seconds{queue="other"} 9.0' in text
    assert 'gendurable_doctor{check="queues",level="warning"} 1.0' in text


def test_a_look_is_shown_as_long_as_it_lasts(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)
    assert telemetry.meter is not None
    queues = {"default": QueueDepth(1, 0, 0, 0, 0, 3.0, False, 1, 1)}
    telemetry.meter.event(Looked(0.1, 1, 3600, queues, {}, {}))
    assert "gendurable_queue_due{" in registry_text(registry)
    telemetry.meter.event(Looked(0.1, 1, 0, queues, {}, {}))
    assert "gendurable_queue_due{" not in registry_text(registry)


def test_nothing_is_lost_between_threads() -> None:
    tally = Tally(Names(10))
    ends, seen = threading.Event(), []

    def count() -> None:
        for number in range(30_000):
            tally.ended("m", f"s{number % 3}", "done", BUCKETS[number % len(BUCKETS)])

    def read() -> None:
        while not ends.is_set():
            seen.append(sum(sum(sums.buckets) for sums in tally.sums()))

    counting = [threading.Thread(target=count) for _ in range(4)]
    reading = threading.Thread(target=read)
    for thread in (*counting, reading):
        thread.start()
    for thread in counting:
        thread.join()
    ends.set()
    reading.join()
    sums = list(tally.sums())
    assert sum(sum(each.buckets) for each in sums) == 120_000
    # Each value is the bound of a bucket, and belongs into it: a bound is part of its bucket.
    assert [sum(each.buckets[n] for each in sums) for n in range(len(BUCKETS))] == [7500] * len(BUCKETS)
    assert seen == sorted(seen)


def registry_text(registry: CollectorRegistry) -> str:
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


# The endpoint


def test_probes(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    engine = Engine(db.dsn, heartbeat_interval=0.1)
    with prometheus.serve(engine, port=0, registry=registry) as served:
        status, said = probe(f"{served.url}/ready")
        assert (status, said["ready"], said["reasons"]) == (503, False, ["it does not run"])
        assert probe(f"{served.url}/health")[0] == 503
        with running(engine):
            assert probe(f"{served.url}/ready") == (
                200,
                {
                    "live": True,
                    "ready": True,
                    "reasons": [],
                    "engines": [{"worker": engine.worker, "state": "running", "held": False}],
                },
            )
            assert probe(f"{served.url}/health")[0] == 200
            wait_until(lambda: gd.drain_worker(conn, engine.worker))
            wait_until(lambda: probe(f"{served.url}/ready")[0] == 503)
            assert probe(f"{served.url}/ready")[1]["reasons"] == ["it was told to drain, and has nothing left"]
            assert probe(f"{served.url}/health")[0] == 200
            assert Scrape(served.url).total("ready") == 0
        assert probe(f"{served.url}/ready")[0] == 503


def test_without_its_server_it_is_not_ready_but_lives(db: Any, registry: CollectorRegistry) -> None:
    with Proxy(db.dsn) as proxy:
        engine = Engine(proxy.dsn, heartbeat_interval=0.1)
        with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
            assert probe(f"{served.url}/ready")[0] == 200
            proxy.refusing = True
            proxy.cut()
            wait_until(lambda: probe(f"{served.url}/ready")[0] == 503)
            _, said = probe(f"{served.url}/ready")
            assert any("the connection for" in reason for reason in said["reasons"])
            assert probe(f"{served.url}/health")[0] == 200
            assert Scrape(served.url).total("connection_failures_total") >= 1
            proxy.refusing = False
            wait_until(lambda: probe(f"{served.url}/ready")[0] == 200)


def test_other_requests(registry: CollectorRegistry) -> None:
    Counter("my_own", "What a step counts", registry=registry).inc(7)
    with prometheus.serve(port=0, registry=registry) as served:
        assert "my_own_total 7.0" in Scrape(served.url).text
        assert get(f"{served.url}/")[0] == get(f"{served.url}/metrics/more")[0] == 404
        assert get(f"{served.url}/metrics", "POST")[0] == get(f"{served.url}/ready", "DELETE")[0] == 405
        assert get(f"{served.url}/metrics", "HEAD") == (200, "")
        assert get(f"{served.url}/ready", "HEAD") == (503, "")
        assert get(f"{served.url}/metrics/")[0] == 200
        only = get(f"{served.url}/metrics?" + urllib.parse.urlencode({"name[]": "gendurable_crashes_total"}))[1]
        assert [line for line in only.splitlines() if line[0] != "#"] == ["gendurable_crashes_total 0.0"]
        assert probe(f"{served.url}/health") == (
            503,
            {"live": False, "ready": False, "reasons": ["it has no engine"], "engines": []},
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_addresses(registry: CollectorRegistry, host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("needs IPv6: a kernel with it")
    try:
        with prometheus.serve(port=0, host=host, registry=registry) as served:
            assert get(f"{served.url}/metrics")[0] == 200
    except OSError as error:
        if ":" not in host:
            raise
        pytest.skip(f"needs an address of IPv6: {error}")


def test_a_port_that_is_taken(registry: CollectorRegistry) -> None:
    with (
        prometheus.serve(port=0, registry=registry) as served,
        pytest.raises(OSError, match="in use"),
        prometheus.serve(port=served.port, registry=registry),
    ):
        pass


def test_requests_that_never_end(db: Any, conn: Conn, registry: CollectorRegistry, monkeypatch: Any) -> None:
    @job(name="prometheus.beside")
    def beside(args: dict[str, Any]) -> None:
        return None

    engine = Engine(db.dsn, [beside])
    with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
        silent = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(16)]
        for each in silent:
            each.sendall(b"GET /metr")
        wait_until(lambda: served._server is not None and len(served._server._open) == 16)
        # One more is sent away, and waits for nothing.
        with socket.create_connection(("127.0.0.1", served.port)) as more:
            more.settimeout(20)
            said = b""
            with contextlib.suppress(ConnectionError):
                more.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                said = more.recv(1)
            assert said == b""
        ended(conn, gd.insert(conn, beside))
        monkeypatch.setattr(endpoint, "_PATIENCE", 0.0)
        for each in silent:
            each.settimeout(20)
            assert each.recv(1) == b""
            each.close()
        monkeypatch.undo()
        wait_until(lambda: served._server is not None and not served._server._open)
        assert Scrape(served.url).total("steps_total") == 1


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 10_000, b"GET " + b"a" * 100_000, b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_garbage(registry: CollectorRegistry, garbage: bytes) -> None:
    with prometheus.serve(port=0, registry=registry) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as sender:
            sender.sendall(garbage)
            sender.shutdown(socket.SHUT_WR)
            sender.settimeout(20)
            try:
                while sender.recv(65536):
                    pass
            except ConnectionError:
                pass
        assert get(f"{served.url}/metrics")[0] == 200


def test_a_collector_that_fails_is_an_answer(
    db: Any, conn: Conn, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(BaseCollector):
        def describe(self) -> Any:
            return ()

        def collect(self) -> Any:
            raise RuntimeError("no metrics today")

    @job(name="prometheus.undisturbed")
    def undisturbed(args: dict[str, Any]) -> None:
        return None

    registry.register(Broken())
    engine = Engine(db.dsn, [undisturbed])
    with prometheus.serve(engine, port=0, registry=registry) as served, running(engine):
        status, text = get(f"{served.url}/metrics")
        assert (status, json.loads(text)) == (500, {"error": "RuntimeError"})
        assert "no metrics today" in caplog.text
        assert probe(f"{served.url}/ready")[0] == 200
        ended(conn, gd.insert(conn, undisturbed))


def test_an_engine_that_cannot_be_asked(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def health(self) -> Any:
            raise RuntimeError("no health")

    with prometheus.serve(Broken(), port=0, registry=registry) as served:
        found = Scrape(served.url)
        assert found.points("crashes_total")
        assert not found.points("ready")
        assert get(f"{served.url}/ready")[0] == 500
    assert "no health" in caplog.text


@pytest.mark.parametrize("moment", ["ended", "event"])
def test_a_meter_that_fails_stops_no_step(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture, moment: str) -> None:
    class Broken:
        def ended(self, *args: Any) -> None:
            if moment == "ended":
                raise SystemExit("no")

        def event(self, event: Any) -> None:
            if moment == "event":
                raise SystemExit("no")

    @job(name="prometheus.uncounted")
    def uncounted(args: dict[str, Any]) -> str:
        return "done all the same"

    telemetry.count_with(Broken())
    try:
        with caplog.at_level(logging.ERROR, "gendurable"), running(Engine(db.dsn, [uncounted])):
            ids = [made.id for made in gd.insert_many(conn, [uncounted] * 3)]
            assert {found.result for found in ended(conn, *ids)} == {"done all the same"}
    finally:
        telemetry.count_with(None)
    assert "telemetry failed" in caplog.text


def test_a_forked_child_lets_go_of_the_port(registry: CollectorRegistry) -> None:
    with prometheus.serve(port=0, registry=registry) as served:
        context = multiprocessing.get_context("fork")
        go = context.Event()
        child = context.Process(target=go.wait)
        child.start()
        port = served.port
    try:
        with prometheus.serve(port=port, registry=registry) as again:
            assert get(f"{again.url}/metrics")[0] == 200
    finally:
        go.set()
        child.join(20)


# Switching it on and off


def test_in_the_registry_of_the_program(registry: CollectorRegistry) -> None:
    other = CollectorRegistry()
    prometheus.instrument(registry=registry)
    assert telemetry.meter is not None
    telemetry.meter.ended("m", "start", "done", 0.1)
    prometheus.instrument(registry=registry, depth_interval=3)
    assert telemetry.looks_every() == 3
    prometheus.instrument(registry=other, depth_interval=None)
    assert telemetry.looks_every() is None
    assert 'gendurable_steps_total{fsm="m"' not in registry_text(registry)
    assert 'gendurable_steps_total{fsm="m",outcome="done",step="start"} 1.0' in registry_text(other)
    with prometheus.serve(port=0, registry=other):
        pass
    assert telemetry.meter is not None, "the program had said it before"
    Counter("gendurable_crashes", "somebody else's", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.instrument(registry=registry)
    assert 'gendurable_steps_total{fsm="m"' in registry_text(other)
    prometheus.uninstrument()
    prometheus.uninstrument()
    assert registry_text(other) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth_interval": 0},
        {"depth_interval": float("nan")},
        {"depth_interval": "often"},
        {"depth_interval": 90_000},
        {"most_names": 0},
        {"most_names": True},
        {"port": -1},
        {"port": 70_000},
        {"port": "9464"},
    ],
    ids=str,
)
def test_what_cannot_be_meant(registry: CollectorRegistry, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument), prometheus.serve(**{"port": 0, "registry": registry, **wrong}):
        pass
    assert telemetry.meter is None
    assert registry_text(registry) == ""


def test_nothing_is_imported_until_it_is_asked_for() -> None:
    code = "import sys, gendurable_py, gendurable_py.cli.app; print([m for m in sys.modules if 'prometheus_c' in m])"
    assert python(code) == "[]"


def test_without_the_extra_it_says_how_to_get_it() -> None:
    code = (
        "import sys\nsys.modules['prometheus_client'] = None\n"
        "try: import gendurable_py.prometheus\nexcept ImportError as error: print(error)"
    )
    assert python(code) == "prometheus_client is not installed: pip install 'gendurable_py[prometheus]'"


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stdout.strip()
