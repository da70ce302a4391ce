"""The endpoint of the metrics: its probes, and that no request, however it is, touches the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import socket
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector as BaseCollector
from support.engine import ended, running
from support.proxy import Proxy
from support.scrape import Scrape, get, probe
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job, prometheus
from gendurable_py.dispatch.health import ABSENT
from gendurable_py.telemetry import endpoint
from gendurable_py.telemetry import instrument as telemetry
from gendurable_py.telemetry.endpoint import Endpoint

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("unmetered")


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


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True


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
        # Whoever speaks is answered, and the first of the silent ones makes room for it.
        assert probe(f"{served.url}/ready")[0] == 200
        first = silent.pop(0)
        first.settimeout(20)
        assert first.recv(1) == b""
        first.close()
        assert all(_is_open(each) for each in silent)
        ended(conn, gd.insert(conn, beside))
        monkeypatch.setattr(endpoint, "_PATIENCE", 0.0)
        for each in silent:
            each.settimeout(20)
            assert each.recv(1) == b""
            each.close()
        monkeypatch.undo()
        wait_until(lambda: served._server is not None and not served._server._open)
        assert Scrape(served.url).total("steps_total") == 1


def test_an_address_that_takes_all_the_room_makes_it(registry: CollectorRegistry) -> None:
    with contextlib.ExitStack() as stack, prometheus.serve(port=0, host="0.0.0.0", registry=registry) as served:

        def connect(address: str) -> socket.socket:
            made = socket.create_connection(("127.0.0.1", served.port), source_address=(address, 0))
            return stack.enter_context(made)

        server = served._server
        assert server is not None
        slow = connect("127.0.0.1")
        wait_until(lambda: len(server._open) == 1)
        crowd = [connect("127.0.0.2") for _ in range(15)]
        wait_until(lambda: len(server._open) == 16)
        crowd += [connect("127.0.0.2") for _ in range(40)]
        wait_until(lambda: [_is_open(each) for each in crowd].count(True) == 15)
        slow.setblocking(True)
        slow.settimeout(20)
        slow.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.0 503"
        wait_until(lambda: endpoint._MOST_THREADS - server._spare._value == 15)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1", "127.0.0.2", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    assert (endpoint._network(one) == endpoint._network(other)) is same


def test_answers_that_take_long_make_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            go_on.wait(60)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with contextlib.ExitStack() as stack, Endpoint(app, "127.0.0.1", 0) as served:
        stack.callback(go_on.set)
        server = served._server
        assert server is not None

        def ask(path: bytes) -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            made.settimeout(20)
            made.sendall(b"GET %s HTTP/1.0\r\n\r\n" % path)
            return made

        for _ in range(16):
            ask(b"/slow")
        wait_until(lambda: [one.silent for one in server._open.values()] == [False] * 16)
        monkeypatch.setattr(endpoint, "_BRIEF", 1000.0)
        with contextlib.suppress(ConnectionError):  # they have just begun: this one is turned away
            assert ask(b"/").recv(1) == b""
        monkeypatch.setattr(endpoint, "_BRIEF", 0.0)
        assert ask(b"/").recv(15) == b"HTTP/1.0 200 OK"
        # Threads that do not end are bounded all the same.
        for _ in range(40):
            with contextlib.suppress(ConnectionError):
                ask(b"/slow")
        wait_until(lambda: server._spare._value == 0)
        assert sum("process_request_thread" in thread.name for thread in threading.enumerate()) <= 32


def test_scrapes_that_hang_leave_room_for_the_probes(registry: CollectorRegistry) -> None:
    hanging: list[int] = []
    go_on = threading.Event()

    class Hangs(BaseCollector):
        def describe(self) -> Any:
            return ()

        def collect(self) -> Any:
            hanging.append(1)
            go_on.wait(60)
            return ()

    registry.register(Hangs())
    with contextlib.ExitStack() as stack, prometheus.serve(port=0, registry=registry) as served:
        stack.callback(go_on.set)
        for _ in range(8):
            made = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            made.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_until(lambda: len(hanging) == 8)
        assert get(f"{served.url}/metrics")[0] == 503
        assert probe(f"{served.url}/health")[1]["reasons"] == ["it has no engine"]
        go_on.set()
        wait_until(lambda: get(f"{served.url}/metrics")[0] == 200)


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 10_000, b"GET " + b"a" * 100_000, b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_garbage(registry: CollectorRegistry, garbage: bytes) -> None:
    with prometheus.serve(port=0, registry=registry) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as sender:
            sender.settimeout(20)
            try:
                sender.sendall(garbage)
                sender.shutdown(socket.SHUT_WR)
                while sender.recv(65536):
                    pass
            except TimeoutError:
                pytest.fail("neither an answer nor an end")
            except OSError:
                pass  # it may hang up at any point of this
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


def test_the_reasons_quote_no_row(registry: CollectorRegistry) -> None:
    class Refused:
        def health(self) -> Any:
            said = 'the connection for claims has failed: new row violates "c"\nDETAIL:  Failing row contains (4711).'
            return dataclasses.replace(ABSENT, reasons=(said,))

    with prometheus.serve(Refused(), port=0, registry=registry) as served:
        for path in ("ready", "health"):
            _, said = probe(f"{served.url}/{path}")
            assert said["reasons"] == ['the connection for claims has failed: new row violates "c"']


@pytest.mark.parametrize("moment", ["teller", "told", "event"])
def test_a_meter_that_fails_stops_no_step(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture, moment: str) -> None:
    class Broken:
        def teller(self, *about: Any) -> Any:
            if moment == "teller":
                raise SystemExit("no")
            return self.told

        def told(self, seconds: float) -> None:
            if moment == "told":
                raise SystemExit("no")

        def settle(self) -> None:
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
