"""Toolsets of pydantic-ai in flows: what is listed, opened, called, and what the model and the run are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic_ai import Agent, RunContext, ToolDefinition
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed, UserError
from pydantic_ai.messages import BinaryContent, ModelMessage, ToolReturn, ToolReturnPart
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, ToolsetTool
from support.agents import Calls, ask, call, entries, scripted

import gendurable_py as gd
from gendurable_py import InvalidArgument
from gendurable_py.contrib.pydantic_ai import Durability, DurableModel, DurableToolset
from gendurable_py.flow import FlowContext, StepFailed, flow
from gendurable_py.testing import assert_awaiting, assert_done, assert_failed, drain

Conn = psycopg.Connection[Any]

calls = Calls()


@pytest.fixture(autouse=True)
def _nothing_called() -> None:
    calls.clear()


# What a tool gives back


class Found(BaseModel):
    day: date


def say(day: date, days: set[int]) -> str:
    return f"{day.year} {sorted(days)}"


def again(n: int) -> str:
    if n < 2:
        raise ModelRetry("more")
    return "enough"


def fail() -> str:
    raise ToolFailed("it is closed")


def model_of_pydantic() -> Found:
    return Found(day=date(2026, 1, 2))


def picture() -> list[Any]:
    return ["a picture", BinaryContent(bytes(range(256)), media_type="image/png")]


def whole() -> ToolReturn:
    return ToolReturn("value", content="and more", metadata={"day": date(2026, 1, 2)})


def returns(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


tools = FunctionToolset([say, again, fail, model_of_pydantic, picture, whole])
giving = Agent(
    DurableModel(
        scripted(
            calls,
            [call("say", "c1", day="2026-01-02", days=[3, 1]), call("say", "c2", day="never", days=[])],
            [call("again", "c3", n=1)],
            [call("again", "c4", n=2), call("fail", "c5")],
            [call("model_of_pydantic", "c6"), call("picture", "c7"), call("whole", "c8")],
            "end",
        )
    ),
    toolsets=[DurableToolset(tools)],
    retries=3,
)


@flow(name="tools.giving")
async def gives(ctx: FlowContext) -> dict[str, Any]:
    said: dict[str, Any] = {}
    result = await giving.run("?")
    for part in returns(result.all_messages()):
        content = part.content
        if isinstance(content, list):
            content = [len(one.data) if isinstance(one, BinaryContent) else one for one in content]
        said[part.tool_call_id] = content
    return said


def test_what_a_tool_gives_back_is_what_the_model_is_told(conn: Conn) -> None:
    id = gd.insert(conn, gives)
    drain(conn, [gives])
    said = assert_done(conn, id)
    told_to_mend = {"c2", "c3"}  # as parts of one or another kind, by the version of pydantic-ai
    assert {name: content for name, content in said.items() if name not in told_to_mend} == {
        "c1": "2026 [1, 3]",
        "c4": "enough",
        "c5": "it is closed",
        "c6": {"day": "2026-01-02"},
        "c7": ["a picture", 256],
        "c8": "value",
    }
    names = [name for name in entries(conn, id) if name.startswith("tool")]
    assert [name.split()[-1] for name in names] == ["c1", "c3", "c4", "c5", "c6", "c7", "c8"]  # c2 did not fit


class Thing:
    pass


def odd() -> Thing:
    return Thing()


def wrong() -> None:
    calls.append("wrong")
    raise UserError("set it up first")


@pytest.mark.filterwarnings("ignore:Could not generate return schema")
@pytest.mark.parametrize(
    ("tool", "text"), [(odd, "what tool 'odd' returned cannot be stored"), (wrong, "set it up first")]
)
def test_what_another_attempt_cannot_mend_is_not_tried_again(conn: Conn, tool: Callable[..., Any], text: str) -> None:
    agent = Agent(
        DurableModel(scripted(calls, [call(tool.__name__, "c1")], ask)),
        tools=[tool],
        capabilities=[Durability(max_attempts=5)],
    )

    @flow(name=f"tools.{tool.__name__}")
    async def one(ctx: FlowContext) -> str:
        return (await agent.run("?")).output

    id = gd.insert(conn, one)
    drain(conn, [one], advance=True)
    assert_failed(conn, id, text)
    assert calls.count("wrong") <= 1


# Toolsets that have to be asked, and opened


class Remote(AbstractToolset[Any]):
    """As an MCP server is: asked what it has, and open while it is asked or called."""

    open = 0
    version = 1

    @property
    def id(self) -> str:
        return "remote"

    async def __aenter__(self) -> Remote:
        calls.append("open")
        await self.reach()
        Remote.open += 1
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self.reach()
        Remote.open -= 1

    async def reach(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)  # as I/O is, refused in a flow

    async def get_instructions(self, ctx: RunContext[Any]) -> str:
        assert Remote.open
        return "Ask the server."

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        assert Remote.open
        calls.append("list")
        await self.reach()
        schema = TypeAdapter(dict[str, int])
        tool_def = ToolDefinition(name="add", parameters_json_schema=schema.json_schema())
        return {"add": ToolsetTool(toolset=self, tool_def=tool_def, max_retries=2, args_validator=schema.validator)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        assert Remote.open
        calls.append("add")
        await self.reach()
        return sum(tool_args.values())


def told_twice(messages: list[ModelMessage]) -> Any:
    assert "int_parsing" in str(messages[-1])
    return [call("add", "c2", a=1, b=2)]


def adding(*, toolsets: list[Any], capabilities: list[Any]) -> Agent[None, str]:
    model = scripted(calls, [call("add", "c1", a="one")], told_twice, ask)
    return Agent(DurableModel(model), toolsets=toolsets, capabilities=capabilities)


async def choose(ctx: RunContext[None]) -> AbstractToolset[Any]:
    calls.append("choose")
    await Remote().reach()
    return Remote()


def prepared() -> FunctionToolset[Any]:
    made: FunctionToolset[Any] = FunctionToolset(instructions="Ask the server.")

    async def only_now(ctx: RunContext[Any], tool_def: ToolDefinition) -> ToolDefinition | None:
        calls.append("list")
        await Remote().reach()
        return tool_def

    @made.tool_plain(prepare=only_now)
    def add(a: int, b: int) -> int:
        calls.append("add")
        return a + b

    return made


def dynamic() -> Agent[None, str]:
    agent = adding(toolsets=[], capabilities=[Durability()])
    agent.toolset(choose)
    return agent


@pytest.mark.parametrize(
    "make",
    [
        lambda: adding(toolsets=[DurableToolset(Remote())], capabilities=[]),
        lambda: adding(toolsets=[Remote()], capabilities=[Durability()]),
        lambda: adding(toolsets=[prepared()], capabilities=[Durability()]),
        dynamic,
    ],
    ids=["wrapped", "by the capability", "prepared functions", "dynamic"],
)
def test_what_is_there_is_asked_in_steps(conn: Conn, make: Callable[[], Agent[None, str]]) -> None:
    agent = make()

    @flow(name="tools.adding")
    async def adds(ctx: FlowContext) -> list[Any]:
        result = await agent.run("?")
        return [result.output, "Ask the server." in str(result.all_messages()[0])]

    id = gd.insert(conn, adds)
    drain(conn, [adds])
    assert assert_done(conn, id) == ["3", True]
    assert calls.count("add") == 1 and calls.count("model") == 3 and Remote.open == 0
    assert entries(conn, id) == [
        "start", "tools", "model", "tool add c1", "tools", "model", "tool add c2", "tools", "model",
    ]  # fmt: skip


def test_outside_of_a_flow_a_toolset_is_as_it_was() -> None:
    class Free(Remote):
        async def reach(self) -> None:
            await asyncio.sleep(0)

    agent = adding(toolsets=[DurableToolset(Free(), max_attempts=2)], capabilities=[])
    assert agent.run_sync("?").output == "3"
    assert calls.count("open") == 1 and Remote.open == 0


@pytest.mark.parametrize("make", [Remote, prepared])
def test_only_functions_run_in_the_flow(conn: Conn, make: Callable[[], AbstractToolset[Any]]) -> None:
    agent = adding(toolsets=[DurableToolset(make(), in_flow=["add"])], capabilities=[])

    @flow(name="tools.refused")
    async def refused(ctx: FlowContext) -> str:
        return (await agent.run("?")).output

    id = gd.insert(conn, refused)
    drain(conn, [refused])
    assert_failed(conn, id, "tool 'add' cannot run in a flow itself")


# What waits outside of the agent


def pay(ctx: RunContext[Any], amount: int) -> str:
    calls.append("pay")
    if not ctx.tool_call_approved:
        raise ApprovalRequired({"amount": amount})
    return f"paid {amount}"


def look() -> str:
    raise CallDeferred({"where": "elsewhere"})


def sign(what: str) -> str:
    return f"signed {what}"


signing = FunctionToolset([pay, look])
signing.add_function(sign, requires_approval=True)
deferring = Agent(
    DurableModel(
        scripted(calls, [call("pay", "c1", amount=5), call("look", "c2"), call("sign", "c3", what="it")], ask)
    ),
    output_type=[str, DeferredToolRequests],
    toolsets=[signing],
    capabilities=[Durability()],
)


@flow(name="tools.deferring")
async def defers(ctx: FlowContext) -> list[Any]:
    first = await deferring.run("?")
    asked = first.output
    assert isinstance(asked, DeferredToolRequests)
    said = await ctx.signal("decided")
    second = await deferring.run(
        message_history=first.all_messages(),
        deferred_tool_results=DeferredToolResults(
            approvals={one.tool_call_id: said.payload == "yes" for one in asked.approvals},
            calls={one.tool_call_id: "seen" for one in asked.calls},
        ),
    )
    return [asked.metadata, second.output]


def test_calls_that_are_decided_elsewhere(conn: Conn) -> None:
    id = gd.insert(conn, defers)
    drain(conn, [defers])
    assert_awaiting(conn, id, "decided")
    gd.signal(conn, id, "decided", "yes")
    drain(conn, [defers])
    metadata, said = assert_done(conn, id)
    assert metadata == {"c1": {"amount": 5}, "c2": {"where": "elsewhere"}}
    assert sorted(said.split("\n")) == ["paid 5", "seen", "signed it"]
    assert calls == ["model", "pay", "pay", "model"]


# Failures


def test_failures_of_steps_are_the_run_s(conn: Conn) -> None:
    def boom() -> None:
        raise KeyError("x")

    agent = Agent(DurableModel(scripted(calls, [call("boom", "c1")], ask)), tools=[boom], capabilities=[Durability()])

    @flow(name="tools.caught")
    async def caught(ctx: FlowContext) -> bool:
        try:
            await agent.run("?")
        except StepFailed as failed:
            return failed.is_a(KeyError)
        return False

    id = gd.insert(conn, caught)
    drain(conn, [caught])
    assert assert_done(conn, id) is True


@pytest.mark.parametrize("make", [lambda **rule: DurableModel("test", **rule), Durability], ids=["model", "tools"])
def test_a_rule_is_checked_where_it_is_given(make: Callable[..., Any]) -> None:
    with pytest.raises(InvalidArgument, match="max_attempts is 0"):
        make(max_attempts=0)
    with pytest.raises(TypeError, match="attempts"):
        make(attempts=3)
