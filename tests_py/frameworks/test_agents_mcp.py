"""An MCP server as a toolset in a flow: connections are opened, asked and closed in steps."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from pydantic_ai import Agent
from support.agents import Calls, ask, call, scripted
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.contrib.pydantic_ai import Durability, DurableModel
from gendurable_py.flow import FlowContext, flow
from gendurable_py.testing import assert_done, drain

fastmcp = pytest.importorskip(
    "fastmcp.server", reason="pip install 'pydantic-ai-slim[mcp]' 'fastmcp-slim[server]'", exc_type=ImportError
)
from pydantic_ai.mcp import MCPToolset  # noqa: E402

calls = Calls()
server = fastmcp.FastMCP("sums", instructions="Add with care.")


@server.tool
def add(a: int, b: int) -> int:
    calls.append("add")
    return a + b


agent = Agent(
    DurableModel(scripted(calls, [call("add", "c1", a=1, b=2), call("add", "c2", a=3, b=4)], ask)),
    toolsets=[MCPToolset(server, include_instructions=True)],
    capabilities=[Durability()],
)


@flow(name="mcp.sums")
async def sums(ctx: FlowContext) -> list[Any]:
    result = await agent.run("?")
    return [result.output.split("\n"), "Add with care." in str(result.all_messages()[0])]


def test_a_server_is_asked_in_steps(db: Any, conn: psycopg.Connection[Any]) -> None:
    calls.clear()
    id = gd.insert(conn, sums)
    drain(conn, [sums])
    assert assert_done(conn, id) == [["3", "7"], True]
    assert sorted(calls) == ["add", "add", "model", "model"]
    with running(Engine(db.dsn, machines=[sums])):
        [result] = ended(conn, gd.insert(conn, sums))
    assert (result.status, result.result) == ("done", [["3", "7"], True])
