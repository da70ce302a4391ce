"""Metrics for Prometheus, scraped over HTTP from an engine that runs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter
from support.engine import Events, ended, field, running
from support.scrape import Scrape
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Cancel, Child, Context, Engine, InvalidArgument, Next, job, prometheus, step
from gendurable_py.telemetry import events
from gendurable_py.telemetry import instrument as telemetry
from gendurable_py.telemetry.collector import Collector
from gendurable_py.telemetry.looked import Looked, QueueDepth
from gendurable_py.telemetry.tally import BUCKETS, Names, Tally

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("unmetered")


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


def test_it_counts_from_the_moment_it_is_switched_on(db: Any, conn: Conn, registry: CollectorRegistry) -> None:
    @job(name="prometheus.later")
    def later(args: dict[str, Any]) -> None:
        return None

    def some(count: int) -> None:
        ended(conn, *(made.id for made in gd.insert_many(conn, [later] * count)))

    with running(Engine(db.dsn, [later], heartbeat_interval=15)):
        some(5)
        prometheus.instrument(registry=registry)
        some(7)
        wait_until(
            lambda: (
                'gendurable_steps_total{fsm="prometheus.later",outcome="done",step="start"} 7.0'
                in registry_text(registry)
            )
        )
        prometheus.uninstrument()
        other = CollectorRegistry()
        prometheus.instrument(registry=other)
        some(3)
        wait_until(lambda: ',outcome="done",step="start"} 3.0' in registry_text(other))


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
        meter.teller(f"m{number}", "start", "done")(0.02)
        meter.event(events.Claimed(2, 0.1, {f"q{number}": 2}))
        meter.event(events.Lost(1, f"m{number}", "start"))
        meter.event(events.StepTimedOut(1, 1, 1, f"m{number}", "start"))
    text = registry_text(registry)
    for name, label in (
        ("steps_total", "fsm"),
        ("claims_total", "queue"),
        ("lost_claims_total", "fsm"),
        ("step_timeouts_total", "fsm"),
    ):
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
            tally.teller("m", f"s{number % 3}", "done")(BUCKETS[number % len(BUCKETS)])
            if not number % 100:
                tally.settle()

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


# Switching it on and off


def test_in_the_registry_of_the_program(registry: CollectorRegistry) -> None:
    other = CollectorRegistry()
    prometheus.instrument(registry=registry)
    assert telemetry.meter is not None
    telemetry.meter.teller("m", "start", "done")(0.1)
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


def test_a_block_that_ends_leaves_another_one_its_metrics(registry: CollectorRegistry) -> None:
    first = prometheus.serve(Engine("", [], {"a": 1}), port=0, registry=registry)
    first.__enter__()
    with prometheus.serve(Engine("", [], {"b": 1}), port=0, registry=registry) as served:
        first.__exit__(None, None, None)
        assert telemetry.meter is not None
        assert Scrape(served.url).points("live") == [({}, 0.0)]
        assert telemetry.looks_every() == 15
    assert telemetry.meter is None


def test_each_result_of_an_outcome_is_there_before_the_first(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)
    for result in ("ok", "stale", "busy", "rejected"):
        assert f'gendurable_outcomes_total{{result="{result}"}} 0.0' in registry_text(registry)


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
