"""The clients of providers belong to the engine's loop: the loop of a flow neither opens, replaces nor closes them."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from support.agents import Calls, scripted

import gendurable_py as gd
from gendurable_py.contrib.pydantic_ai import DurableModel
from gendurable_py.flow import FlowContext, flow
from gendurable_py.testing import assert_done, drain

touched: list[str] = []
answers = scripted(Calls(), "said")


class WithClient(FunctionModel):
    """A model that says when its client is touched outside of a request."""

    async def __aenter__(self) -> Any:
        touched.append("open")
        return self

    async def __aexit__(self, *args: object) -> None:
        touched.append("close")

    def _refresh_http_client(self) -> None:
        touched.append("refresh")


agent = Agent(DurableModel(WithClient(answers.function, stream_function=answers.stream_function)))


@flow(name="clients.flow")
async def asks(ctx: FlowContext) -> str:
    async with agent:
        return (await agent.run("?")).output


def test_a_flow_leaves_the_client_alone(conn: psycopg.Connection[Any]) -> None:
    touched.clear()
    id = gd.insert(conn, asks)
    drain(conn, [asks])
    assert assert_done(conn, id) == "said"
    assert touched == []


def test_elsewhere_it_is_opened_and_closed() -> None:
    touched.clear()

    async def run() -> None:
        async with agent:
            await agent.run("?")

    asyncio.run(run())
    assert touched[0] == "open"
    assert touched[-1] == "close"
