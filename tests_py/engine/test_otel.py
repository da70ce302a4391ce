"""Spans and metrics, through the real SDK, from the insert to the steps of the children."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from support.engine import ended, field, running
from support.telemetry import Telemetry
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Cancel, Child, Context, Done, Engine, Next, ScheduleChilds, Stop, job, otel, step
from gendurable_py.testing import drain

Conn = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    made.on()
    yield made
    otel.uninstrument()


def ids_of(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def header(span: SpanContext | None) -> str:
    assert span is not None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def meta(conn: Conn, id: int | None) -> dict[str, Any]:
    found: dict[str, Any] = field(conn, id, "meta")
    return found


@job(name="otel.child", queue="childs")
async def child(args: dict[str, Any], ctx: Context[Any]) -> str:
    with trace.get_tracer_provider().get_tracer("user").start_as_current_span("unseen"):
        pass
    assert ctx.meta["traceparent"]
    return "child"


class Parent(FSM, name="otel.parent", version=3):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(self.fan)

    @step
    async def fan(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds(self.join, [Child(child, meta={"tag": "x"}), child])

    @step
    def join(self, ctx: Context[Any]) -> Done:
        return Done([found.result for found in ctx.childs])


def test_a_trace_goes_from_the_insert_to_the_steps_to_the_childs(db: Any, conn: Conn, telemetry: Telemetry) -> None:
    with running(Engine(db.dsn, [Parent, child], {"default": 2, "childs": 2})):
        token = context.attach(baggage.set_baggage("tenant", "ada"))
        with telemetry.tracer.start_as_current_span("request") as request:
            id = gd.insert(conn, Parent, meta={"tag": "t"})
        context.detach(token)
        assert ended(conn, id) == [gd.Result("done", ["child", "child"], None)]
        wait_until(lambda: len(telemetry.spans("otel.")) == 5)

    asked = request.get_span_context()
    for name in ("start", "fan", "join"):
        assert parent_of(telemetry.span(f"otel.parent {name}")) == (asked.trace_id, asked.span_id)
    fan = telemetry.span("otel.parent fan")
    childs = telemetry.spans("otel.child start")
    assert [parent_of(span) for span in childs] == [ids_of(fan)] * 2
    assert fan.kind is SpanKind.CONSUMER
    assert fan.attributes == {
        "gendurable.fsm": "otel.parent",
        "gendurable.version": 3,
        "gendurable.step": "fan",
        "gendurable.id": id,
        "gendurable.attempt": 0,
        "gendurable.queue": "default",
        "gendurable.outcome": "schedule_childs",
    }
    assert {(span.attributes or {})["gendurable.parent_id"] for span in childs} == {id}
    assert meta(conn, id)["tag"] == "t"
    for span in childs:
        found = meta(conn, int(str((span.attributes or {})["gendurable.id"])))
        assert found["baggage"] == "tenant=ada"
        assert found.get("tag") in ("x", None)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_span_of_a_step_is_current_while_it_runs(db: Any, conn: Conn, telemetry: Telemetry, kind: str) -> None:
    seen: list[Any] = []
    other = db.connect()

    def look() -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)
        seen.append(baggage.get_baggage("tenant"))
        seen.append(gd.insert(other, "otel.inserted", queue="elsewhere"))

    @job(name="otel.sync")
    def sync(args: dict[str, Any]) -> None:
        look()

    @job(name="otel.async")
    async def asynchronous(args: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        look()

    token = context.attach(baggage.set_baggage("tenant", "ada"))
    with telemetry.tracer.start_as_current_span("request"):
        id = gd.insert(conn, sync if kind == "sync" else asynchronous)
    context.detach(token)
    with running(Engine(db.dsn, [sync, asynchronous])):
        ended(conn, id)
    span = telemetry.span(f"otel.{kind} start")
    assert seen[:2] == [ids_of(span)[1], "ada"]
    assert meta(conn, seen[2]) == {"traceparent": header(span.context), "baggage": "tenant=ada"}


async def test_a_span_around_the_engine_is_no_parent(db: Any, conn: Conn, telemetry: Telemetry) -> None:
    with telemetry.tracer.start_as_current_span("main"):
        async with Engine(db.dsn, [child], {"childs": 1}):
            with context_without_span():
                id = gd.insert(conn, child, meta={"traceparent": "garbage", "baggage": 7})
            await asyncio.to_thread(ended, conn, id)
    assert parent_of(telemetry.span("otel.child")) is None


def context_without_span() -> Any:
    return trace.use_span(trace.INVALID_SPAN)


def test_links_let_each_step_begin_a_trace_of_its_own(conn: Conn, telemetry: Telemetry) -> None:
    telemetry.on(links=True)
    with telemetry.tracer.start_as_current_span("request") as request:
        gd.insert(conn, Parent)
    drain(conn, [Parent, child])
    steps = telemetry.spans("otel.parent")
    assert len({ids_of(span)[0] for span in steps}) == 3
    for span in steps:
        assert span.parent is None
        assert [link.context.span_id for link in span.links] == [request.get_span_context().span_id]
    fan = telemetry.span("otel.parent fan")
    for span in telemetry.spans("otel.child"):
        assert [link.context.span_id for link in span.links] == [ids_of(fan)[1]]


def test_every_way_of_inserting_carries_the_trace(conn: Conn, telemetry: Telemetry) -> None:
    theirs = "00-11111111111111111111111111111111-2222222222222222-01"
    with telemetry.tracer.start_as_current_span("request") as request:
        ids = [
            gd.insert(conn, "otel.none", meta={"a": 1}),
            gd.insert(conn, "otel.none", meta={"traceparent": theirs, "tracestate": "x=y"}),
            *(
                made.id
                for made in gd.insert_many(
                    conn,
                    [
                        child,
                        Child(child, meta={"b": 2}),
                        {"fsm": "otel.none"},
                        {"fsm": "otel.none", "meta": {"c": 3}},
                        {"fsm": "otel.none", "meta": {"traceparent": theirs}},
                    ],
                )
            ),
        ]
        with pytest.raises(gd.InvalidArgument):
            gd.insert_many(conn, [{"fsm": "otel.none", "meta": 7}])
    ours = {"traceparent": header(request.get_span_context())}
    assert [meta(conn, id) for id in ids] == [
        {"a": 1, **ours},
        {"traceparent": theirs, "tracestate": "x=y"},
        ours,
        {"b": 2, **ours},
        ours,
        {"c": 3, **ours},
        {"traceparent": theirs},
    ]


def test_without_a_span_or_once_switched_off_nothing_is_added(conn: Conn, telemetry: Telemetry) -> None:
    token = context.attach(baggage.set_baggage("tenant", "ada"))
    assert meta(conn, gd.insert(conn, "otel.none")) == {}
    context.detach(token)
    otel.uninstrument()
    with telemetry.tracer.start_as_current_span("request"):
        assert meta(conn, gd.insert(conn, "otel.none")) == {}
        assert meta(conn, gd.insert_many(conn, [{"fsm": "otel.none"}])[0].id) == {}


class Troubled(FSM, name="otel.troubled"):
    @step
    def start(self, ctx: Context[Any]) -> Any:
        match ctx.state["how"]:
            case "raise":
                raise ValueError("broken")
            case "stop":
                return Stop("no")
            case "wait":
                return Await("never")
            case "refused":
                return Next("start", priority=2**40)
        return None


def outcome_of(span: ReadableSpan) -> Any:
    return (span.attributes or {})["gendurable.outcome"]


@pytest.mark.parametrize(
    ("how", "outcome", "said"),
    [
        ("raise", "stop", "ValueError: broken"),
        ("stop", "stop", None),
        ("wait", "await", None),
        ("nothing", "stop", "InvalidArgument: step 'start' of otel.troubled returned NoneType, which is no outcome"),
    ],
)
def test_a_span_tells_how_its_step_ended(
    conn: Conn, telemetry: Telemetry, how: str, outcome: str, said: str | None
) -> None:
    gd.insert(conn, Troubled, {"how": how})
    drain(conn, [Troubled])
    span = telemetry.span("otel.troubled")
    assert outcome_of(span) == outcome
    if said is None:
        assert span.status.status_code is StatusCode.UNSET
        assert not span.events
    else:
        assert span.status.status_code is StatusCode.ERROR
        assert (span.status.description or "").splitlines()[0] == said
        assert [event.name for event in span.events] == ["exception"]


def test_a_refused_outcome_gets_a_second_span(conn: Conn, telemetry: Telemetry) -> None:
    gd.insert(conn, Troubled, {"how": "refused"})
    drain(conn, [Troubled])
    first, second = telemetry.spans("otel.troubled")
    assert (outcome_of(first), outcome_of(second)) == ("next", "stop")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)


def test_a_cancelled_step_ends_its_span(db: Any, conn: Conn, telemetry: Telemetry) -> None:
    begun: list[int] = []

    @job(name="otel.cancelled")
    async def forever(args: dict[str, Any], ctx: Context[Any]) -> None:
        begun.append(ctx.id)
        await asyncio.Event().wait()

    id = gd.insert(conn, forever)
    with running(Engine(db.dsn, [forever], heartbeat_interval=0.05)):
        wait_until(lambda: begun)
        assert telemetry.total("steps.running", queue="default") == 1
        assert gd.cancel(conn, id or 0)
        wait_until(lambda: telemetry.spans("otel.cancelled"))
        assert outcome_of(telemetry.span("otel.cancelled")) == "cancelled"
        wait_until(lambda: telemetry.total("lost") == 1)
    assert telemetry.total("steps", outcome="cancelled") == 1
    assert telemetry.total("steps.running") == 0


def test_the_metrics_add_up(db: Any, conn: Conn, telemetry: Telemetry) -> None:
    @job(name="otel.counted")
    def counted(args: dict[str, Any]) -> None:
        if args.get("fail"):
            raise Cancel("no")

    ids = [made.id for made in gd.insert_many(conn, [counted] * 30 + [Child(counted, {"fail": 1})] * 3)]
    refused = gd.insert(conn, Troubled, {"how": "refused"})
    unknown = gd.insert(conn, "otel.unknown")
    with running(Engine(db.dsn, [counted, Troubled], reap_interval=0.02)):
        ended(conn, *ids, refused)
        wait_until(lambda: telemetry.total("released", reason="unknown") == 1)
        wait_until(lambda: telemetry.points("maintained"))
    assert field(conn, unknown, "status") == "runnable"
    assert telemetry.total("claims", queue="default") == 35
    assert telemetry.total("steps", fsm="otel.counted", queue="default", step="start") == 33
    assert telemetry.total("steps", fsm="otel.counted", outcome="stop") == 3
    assert telemetry.total("outcomes", result="ok") == 34
    assert telemetry.total("outcomes", result="rejected") == 1
    [(_, duration)] = [found for found in telemetry.points("step.duration") if "counted" in str(found[0])]
    assert duration.count == 33
    [(_, size)] = telemetry.points("commit.size")
    assert (size.count, size.sum) == (telemetry.total("commits"), 35)
    assert telemetry.total("steps.running") == 0
    assert telemetry.total("maintained", what="repaired") == 0


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
def test_a_tracer_that_fails_stops_no_step(
    db: Any, conn: Conn, telemetry: Telemetry, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if moment == "on_start":
                raise RuntimeError("no start")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("no end")

    @job(name="otel.untold")
    def untold(args: dict[str, Any]) -> str:
        return "done all the same"

    telemetry.spans_of.add_span_processor(Broken())
    ids = [made.id for made in gd.insert_many(conn, [untold] * 3)]
    with caplog.at_level(logging.ERROR, "gendurable"), running(Engine(db.dsn, [untold])):
        assert {found.result for found in ended(conn, *ids)} == {"done all the same"}
    assert ("no span for step" if moment == "on_start" else "is lost") in caplog.text
    assert telemetry.total("steps.running") == 0


def test_nothing_is_imported_until_it_is_asked_for() -> None:
    code = "import sys, gendurable_py, gendurable_py.testing; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert python(code) == "[]"


def test_without_the_extra_it_says_how_to_get_it() -> None:
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        "try: import gendurable_py.otel\nexcept ImportError as error: print(error)"
    )
    assert python(code) == "OpenTelemetry is not installed: pip install 'gendurable_py[otel]'"


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()
