"""What is told of flows: events, spans of their steps, and the counters of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from support.engine import Events, ended, running
from support.telemetry import Telemetry
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, otel
from gendurable_py.flow import FlowContext, StepFailed, flow

Conn = psycopg.Connection[Any]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    made.on()
    yield made
    otel.uninstrument()


def traced(x: int) -> str:
    return trace.format_span_id(trace.get_current_span().get_span_context().span_id)


async def traced_async(x: int) -> str:
    return traced(x)


def refuse() -> None:
    raise ValueError("no")


@flow(name="flow.told")
async def told(ctx: FlowContext) -> list[str]:
    first = await ctx.step("in a thread", traced, 1)
    await ctx.sleep(0.1)
    second = await ctx.step("on the loop", traced_async, 2)
    try:
        await ctx.using(max_attempts=2, delay=0.01).step("refuse", refuse)
    except StepFailed:
        return [first, second]
    return []


def test_events_tell_of_checkpoints_replays_and_suspensions(db: Any, conn: Conn) -> None:
    events = Events()
    with running(Engine(db.dsn, machines=[told], on_event=events)):
        id = gd.insert(conn, told)
        ended(conn, id)
        wait_until(lambda: events.count("checkpoint") == 5)
    kinds = [(about["kind"], about["checkpoint"]) for _, about in events.named("checkpoint")]
    assert kinds == [
        ("step", "in a thread"),
        ("sleep", "sleep"),
        ("step", "on the loop"),
        ("retry", "refuse"),
        ("step", "refuse"),
    ]
    assert [about["error"] for _, about in events.named("checkpoint")][3:] == ["ValueError: no"] * 2
    assert [numbers["attempts"] for numbers, _ in events.named("checkpoint")][3:] == [1, 2]
    assert events.named("suspend")[0] == ({"count": 1}, {"id": id, "fsm": "flow.told", "step": "(sleep)"})
    [(numbers, about), *_] = events.named("replay")
    assert numbers["entries"] == 2 and about == {"id": id, "fsm": "flow.told"}
    # a function is no step: its claims would be told as such, over and over
    assert events.count("step") == 0


def test_each_run_of_a_step_has_a_span_and_the_function_has_none(db: Any, conn: Conn, telemetry: Telemetry) -> None:
    with running(Engine(db.dsn, machines=[told])):
        with telemetry.tracer.start_as_current_span("insert"):
            id = gd.insert(conn, told)
        [result] = ended(conn, id)
    spans = telemetry.spans("flow.told ")
    assert [span.name for span in spans] == [
        "flow.told in a thread",
        "flow.told on the loop",
        "flow.told refuse",
        "flow.told refuse",
    ]
    found = [trace.format_span_id(span.context.span_id) for span in spans]
    assert result.result == found[:2]
    assert [span.attributes["gendurable.outcome"] for span in spans] == ["step", "step", "error", "error"]


def test_what_flows_come_to_is_counted_by_machine_and_not_by_checkpoint(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, machines=[told], heartbeat_interval=0.2)
    with running(engine):
        ended(conn, gd.insert(conn, told))
        wait_until(lambda: conn.execute("select count(*) from gd_stats() where step = 'flow'").fetchone() != (0,))
    rows = conn.execute("select distinct fsm, step from gd_stats()").fetchall()
    assert rows == [("flow.told", "flow")]
