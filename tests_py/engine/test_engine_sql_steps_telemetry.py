"""Steps in SQL in traces and metrics."""

from __future__ import annotations

from typing import Any

import psycopg
from opentelemetry.trace import SpanKind, StatusCode
from support.engine import ended, running
from support.telemetry import Telemetry
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, otel


def test_a_step_in_sql_has_a_span_in_the_trace_of_its_insert(conn: psycopg.Connection[Any], db: Any) -> None:
    conn.execute("""create function pay(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            if ctx #> '{state,bad}' then
                raise exception 'no money';
            end if;
            return '{"kind": "done"}';
        end $$""")
    gd.define_step(conn, "otel.alien", "start", "pay(jsonb)")
    telemetry = Telemetry()
    telemetry.on()
    with telemetry.tracer.start_as_current_span("order") as order:
        good = gd.insert(conn, "otel.alien", {"bad": False})
        bad = gd.insert(conn, "otel.alien", {"bad": True}, max_attempts=1)
    try:
        with running(Engine(db.dsn)):
            ended(conn, good, bad)
            wait_until(lambda: len(telemetry.spans("otel.alien start")) == 2)
    finally:
        otel.uninstrument()
    spans = {span.attributes["gendurable.id"]: span for span in telemetry.spans("otel.alien") if span.attributes}
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == order.get_span_context().span_id
        assert span.parent.trace_id == order.get_span_context().trace_id
        assert span.kind is SpanKind.CONSUMER
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time < span.end_time
    assert spans[good].attributes["gendurable.outcome"] == "ok"
    assert spans[bad].attributes["gendurable.outcome"] == "error"
    assert spans[bad].status.status_code is StatusCode.ERROR
    assert "no money" in (spans[bad].status.description or "")
    assert telemetry.total("steps", fsm="otel.alien", outcome="ok") == 1
    assert telemetry.total("steps", fsm="otel.alien", outcome="error") == 1
    assert telemetry.total("outcomes", result="ok") == 2
