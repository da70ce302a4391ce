"""Spans of agents in flows: one each, however often the flow is run from its top."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent, durable_exec
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.models.instrumented import InstrumentationSettings
from support.agents import Calls, ask, call, scripted

import gendurable_py as gd
from gendurable_py.contrib.pydantic_ai import Durability, DurableModel
from gendurable_py.flow import FlowContext, current, flow
from gendurable_py.testing import assert_done, drain

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

agent = Agent(
    DurableModel(scripted(Calls(), [call("look", "c1"), call("look", "c2")], [call("wait", "c3")], ask)),
    name="clerk",
    capabilities=[
        Instrumentation(settings=InstrumentationSettings(tracer_provider=provider)),
        Durability(in_flow={"wait"}),
    ],
)


@agent.tool_plain
def look() -> str:
    return "seen"


@agent.tool_plain
async def wait() -> str:
    return str((await current().signal("go")).payload)


@flow(name="spans.flow")
async def watched(ctx: FlowContext) -> str:
    return (await agent.run("?")).output


def told() -> Counter[str]:
    return Counter(" ".join(span.name.split()[:2]).partition(" function:")[0] for span in exporter.get_finished_spans())


@pytest.mark.skipif(
    not hasattr(durable_exec, "replay_scope"), reason="a newer pydantic-ai leaves out the spans of what is replayed"
)
def test_a_replay_has_no_spans(conn: psycopg.Connection[Any]) -> None:
    exporter.clear()
    id = gd.insert(conn, watched)
    drain(conn, [watched])
    assert told() == {
        "chat": 2,
        "execute_tool look": 2,
    }  # that of the run, and of the tool that waits, come at their end
    gd.signal(conn, id, "go", "on")
    drain(conn, [watched])
    assert assert_done(conn, id) == "on"
    assert told() == {"chat": 3, "execute_tool look": 2, "execute_tool wait": 1, "invoke_agent clerk": 1}
