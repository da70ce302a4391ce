"""``gendurable worker --metrics-port``: one process, and several on one port, whatever becomes of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from support.cli import PROGRAM, environment, program
from support.scrape import Scrape, probe
from support.wait import wait_until
from support.workers import Worker, alive

import gendurable_py as gd
from gendurable_py import prometheus
from gendurable_py.cli.measured import Channel, Family, answer_parent, collect, report

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]

JOBS = """
import os
from gendurable_py import job
from prometheus_client import Counter, Gauge

SENT = Counter("mails_sent", "What a step counts itself", ["process"])


@job(name="quick", queue="jobs")
def quick(args: dict):
    SENT.labels("mine").inc()
    return os.getpid()
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@contextlib.contextmanager
def serving(db: Database, here: Path, *arguments: object) -> Iterator[tuple[Worker, str]]:
    """The program and the address of its metrics; whatever is left of it is killed in the end."""
    with subprocess.Popen(
        [*PROGRAM, "worker", "jobs", "--queues", "jobs=2", "--metrics-port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(db.dsn),
        cwd=here,
        process_group=0,
    ) as process:
        found = Worker(process)
        try:
            url = found.says(" metrics at ").rpartition(" metrics at ")[2].removesuffix("/metrics")
            # Nobody may be kept waiting by a log that is not read.
            threading.Thread(target=lambda: found.said.extend(process.stdout or ()), daemon=True).start()
            yield found, url
        finally:
            process.kill()
            for pid in children(found):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children(worker: Worker) -> dict[int, int]:
    """The process of each number, the latest."""
    found: dict[int, int] = {}
    for line in list(worker.said):
        if " is process " in line:
            words = line.split()
            found[int(words[-4])] = int(words[-1])
    return {pid: number for number, pid in found.items()}


def insert(conn: Conn, count: int) -> None:
    gd.insert_many(conn, [{"fsm": "quick", "queue": "jobs"}] * count)


def test_one_process(db: Database, conn: Conn, here: Path) -> None:
    insert(conn, 20)
    with serving(db, here) as (worker, url):
        wait_until(lambda: Scrape(url).total("steps_total", fsm="quick", step="start", outcome="done") == 20, 30)
        wait_until(lambda: probe(f"{url}/ready")[0] == 200, 30)
        found = Scrape(url)
        assert 'mails_sent_total{process="mine"} 20.0' in found.text
        assert "process_cpu_seconds_total" in found.text
        assert probe(f"{url}/health")[0] == 200
        wait_until(lambda: Scrape(url).points("queue_due", queue="jobs"), 30)
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
        with pytest.raises(OSError, match="refused"):
            Scrape(url)


def test_several_processes_on_one_port(db: Database, conn: Conn, here: Path) -> None:
    with serving(db, here, "--processes", 3) as (worker, url):
        wait_until(lambda: probe(f"{url}/ready")[0] == 200, 60)
        insert(conn, 60)
        wait_until(lambda: Scrape(url).total("steps_total", fsm="quick", outcome="done") == 60, 30)
        found = Scrape(url)
        assert {about["process"] for about, _ in found.points("slots", queue="jobs")} == {"1", "2", "3"}
        assert found.total("slots", queue="jobs") == 6
        assert found.total("processes") == 3
        assert found.text.count("# TYPE gendurable_steps_total ") == 1
        assert 'exported_process="mine"' in found.text
        numbers = {about["process"] for about, _ in found.points("live")}
        assert numbers == {"1", "2", "3"}
        assert 'process_cpu_seconds_total{process="0"}' in found.text
        assert 'process_cpu_seconds_total{process="3"}' in found.text

        # One at a time looks at the queues; for a while after its turn another one may still be shown.
        wait_until(lambda: Scrape(url).points("queue_due", queue="jobs"), 60)

        # One that is killed is started again, and only its own series begin again.
        victim, number = next(iter(children(worker).items()))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: Scrape(url).total("process_deaths_total") == 1, 60)
        wait_until(lambda: victim not in children(worker) and probe(f"{url}/ready")[0] == 200, 60)
        others = Scrape(url).points("steps_total", fsm="quick")
        assert sum(value for about, value in others if about["process"] != str(number)) > 0
        assert sum(value for about, value in others if about["process"] == str(number)) == 0

        # One that hangs is missed, and holds the others up for a few seconds only.
        hangs, number = next(iter(children(worker).items()))
        os.kill(hangs, signal.SIGSTOP)
        status, said = probe(f"{url}/health")
        assert (status, said["reasons"]) == (503, [f"process {number} does not answer"])
        assert Scrape(url).total("processes") == 2
        os.kill(hangs, signal.SIGCONT)
        wait_until(lambda: probe(f"{url}/health")[0] == 200, 30)
        wait_until(lambda: Scrape(url).total("processes") == 3, 30)
        told = children(worker)
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0
    assert not any(map(alive, told))


def test_while_they_drain_they_are_not_ready(db: Database, conn: Conn, here: Path) -> None:
    (here / "jobs.py").write_text(
        JOBS + "\n\n@job(name='held', queue='jobs')\ndef held(args: dict):\n    import time\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n"
    )
    with serving(db, here, "--processes", 2, "--drain-timeout", "60s") as (worker, url):
        wait_until(lambda: probe(f"{url}/ready")[0] == 200, 60)
        gd.insert_many(conn, [{"fsm": "held", "queue": "jobs"}])
        wait_until(lambda: Scrape(url).total("running_steps") == 1, 30)
        worker.signal(signal.SIGTERM)
        wait_until(lambda: any("it stops" in reason for reason in probe(f"{url}/ready")[1]["reasons"]), 30)
        assert probe(f"{url}/ready")[0] == 503
        assert probe(f"{url}/health")[0] == 200
        assert Scrape(url).total("running_steps") == 1
        (here / "go").touch()
        assert worker.process.wait(30) == 0


def test_the_children_end_with_a_parent_that_is_killed(db: Database, here: Path) -> None:
    with serving(db, here, "--processes", 2) as (worker, url):
        wait_until(lambda: probe(f"{url}/ready")[0] == 200, 60)
        pids = list(children(worker))
        assert len(pids) == 2
        worker.process.kill()
        wait_until(lambda: not any(map(alive, pids)), 30)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_port_that_is_taken(db: Database, here: Path, processes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["worker", "jobs", "--processes", processes, "--metrics-port", port]
        done = program(db.dsn, *command, PYTHONPATH=f"{environment(db.dsn)['PYTHONPATH']}{os.pathsep}{here}")
    assert done.returncode == 3
    assert f"port {port} of 127.0.0.1 cannot be had" in done.stderr
    assert "--metrics-port" in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_without_the_extra_it_says_how_to_get_it(db: Database, here: Path, processes: str) -> None:
    (here / "jobs.py").write_text("from gendurable_py import job\n\n@job\ndef quick(args: dict):\n    pass\n")
    code = (
        "import sys; sys.modules['prometheus_client'] = None; from gendurable_py.cli import main; "
        f"main(['worker', 'jobs', '--metrics-port', '0', '--processes', '{processes}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(db.dsn),
        cwd=here,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "gendurable_py[prometheus]" in done.stderr


def test_the_command_of_the_page(db: Database, here: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    [command] = re.findall(r"^```sh\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    (here / "jobs.py").rename(here / "shop.py")
    said = ["gendurable", "worker", "shop", "--metrics-port", "9464"]
    assert command.split() == said
    with subprocess.Popen(
        [*PROGRAM, *said[1:-1], "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(db.dsn),
        cwd=here,
    ) as process:
        try:
            url = Worker(process).says(" metrics at ").rpartition(" metrics at ")[2].removesuffix("/metrics")
            assert url.startswith("http://127.0.0.1:")
            wait_until(lambda: probe(f"{url}/ready")[0] == 200, 30)
        finally:
            process.terminate()
            process.communicate(timeout=30)


# What a parent makes of its children


def child(family: Family, number: int, *answers: bytes) -> None:
    """A child that answers so, each time it is asked."""
    theirs = family.begin(number)

    def serve() -> None:
        with theirs, theirs.makefile("r") as asked:
            for line, answer in zip(asked, answers, strict=False):
                asked_for = line.split()[0].encode()
                theirs.sendall(answer.replace(b"N", asked_for) + b"\n")

    threading.Thread(target=serve, daemon=True).start()


def about(live: bool, ready: bool, state: str, *reasons: str) -> dict[str, Any]:
    return {"live": live, "ready": ready, "reasons": reasons, "engines": [{"state": state}]}


@pytest.mark.parametrize(
    ("answer", "live", "ready", "reasons"),
    [
        (about(True, True, "running"), True, True, []),
        (about(False, False, "stopped", "it does not run"), True, False, ["process 1: it does not run"]),
        (about(True, False, "starting", "it starts"), True, False, ["process 1: it starts"]),
        (about(False, False, "running", "it hangs"), False, False, ["process 1: it hangs"]),
    ],
    ids=["well", "absent", "starting", "ill"],
)
def test_the_report_of_a_family(answer: Any, live: bool, ready: bool, reasons: list[str]) -> None:
    family = Family(1)
    child(family, 1, b"[N, %s]" % json.dumps(answer).encode())
    found = report(family)
    assert found[:2] == (live, ready)
    assert found[2]["reasons"] == reasons
    family.end(1, died=True)
    assert report(family)[:2] == (True, False)
    assert report(family)[2]["reasons"] == ["process 1 does not run"]
    assert family.deaths == 1


def test_answers_that_make_no_sense() -> None:
    family = Family(3)
    child(family, 1, b"nonsense", b'[N, "well"]')
    child(family, 2, b'[0, "too late"]\n[N, "in time"]')
    child(family, 3)
    family._channels[3]._socket.close()
    assert family.ask("metrics") == {1: None, 2: "in time"}
    assert family.ask("metrics")[1] == "well"


def test_a_child_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.cli.measured._PATIENCE", 0.05)
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    assert channel.ask("health") is None
    theirs.recv(100)
    theirs.sendall(b'[1, "late"]\n[2, "now"]\n')
    monkeypatch.setattr("gendurable_py.cli.measured._PATIENCE", 10.0)
    assert channel.ask("health") == "now"
    theirs.close()
    assert channel.ask("health") is None
    channel.close()


def test_families_are_merged() -> None:
    one = [["a", "gauge", "A", [["a", {"x": "1"}, 1.0]]], ["b", "counter", "B", [["b_total", {"process": "p"}, 2.0]]]]
    two = [["a", "gauge", "A", [["a", {}, 3.0]]], ["b", "gauge", "another B", [["b", {}, 9.0]]]]
    assert list(collect({2: two, 1: one, 3: None})) == [
        ("a", "gauge", "A", [("a", {"x": "1", "process": "1"}, 1.0), ("a", {"process": "2"}, 3.0)]),
        ("b", "counter", "B", [("b_total", {"exported_process": "p", "process": "1"}, 2.0)]),
    ]


def test_a_child_at_its_imports_starts_and_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.cli.measured._PATIENCE", 0.05)
    family = Family(1)
    with family.begin(1) as theirs:
        live, ready, said = report(family)
        assert (live, ready, said["reasons"]) == (True, False, ["process 1 starts"])
        monkeypatch.setattr("gendurable_py.cli.measured._BEGINS", 0.0)
        live, ready, said = report(family)
        assert (live, ready, said["reasons"]) == (False, False, ["process 1 does not answer"])
        monkeypatch.undo()
        theirs.sendall(b"[3, %s]\n[4, null]\n" % json.dumps(about(True, True, "running")).encode())
        assert report(family)[:2] == (True, True)
        assert report(family)[:2] == (False, False)


def test_an_answer_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.cli.measured._MOST_BYTES", 100)
    family = Family(1)
    with family.begin(1) as theirs:
        theirs.sendall(b"x" * 300)
        assert family.ask("metrics") == {1: None}
        theirs.sendall(b'xx\n[3, "well"]\n')
        assert family.ask("metrics") == {1: None}
        assert family.ask("metrics") == {1: "well"}


class Odd(Collector):
    """Its values are no JSON."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("odd", "Odd", value=Decimal("1.5"))  # type: ignore[arg-type]
        if self.is_worse:
            yield GaugeMetricFamily("worse", "Worse", value=object())  # type: ignore[arg-type]

    is_worse = False


def test_values_that_are_no_json_end_no_channel() -> None:
    family, odd = Family(1), Odd()
    REGISTRY.register(odd)
    try:
        answer_parent(family.begin(1), gd.Engine("", [], {"jobs": 1}))
        assert ["odd", "gauge", "Odd", [["odd", {}, 1.5]]] in family.ask("metrics")[1]
        odd.is_worse = True
        assert family.ask("metrics") == {1: None}
        assert family.ask("health")[1]["ready"] is False
    finally:
        REGISTRY.unregister(odd)
        prometheus.uninstrument()
        family.end(1, died=False)


def test_a_collector_that_hangs_makes_no_child_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gendurable_py.cli.measured._PATIENCE", 0.2)
    family, odd, going = Family(1), Odd(), threading.Event()
    answer_parent(family.begin(1), gd.Engine("", [], {"jobs": 1}))
    wait_until(lambda: family.ask("health")[1], 10)
    monkeypatch.setattr(odd, "collect", lambda: iter([going.wait(60)][:0]))
    REGISTRY.register(odd)
    try:
        for _ in range(3):
            assert family.ask("metrics") == {1: None}
        assert report(family)[0]
        going.set()
        wait_until(lambda: family.ask("metrics")[1], 10)
    finally:
        going.set()
        REGISTRY.unregister(odd)
        prometheus.uninstrument()
        family.end(1, died=False)
