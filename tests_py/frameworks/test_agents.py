"""Agents of pydantic-ai in flows: each call of a model or a tool is made once, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models.function import FunctionModel
from support.agents import Calls, ask, call, entries, scripted
from support.engine import ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.contrib.pydantic_ai import Durability, DurableModel
from gendurable_py.flow import FlowContext, StepFailed, current, flow
from gendurable_py.testing import assert_awaiting, assert_done, assert_failed, crash_everywhere, drain

Conn = psycopg.Connection[Any]

calls = Calls()


@pytest.fixture(autouse=True)
def _nothing_called() -> None:
    calls.clear()


# An agent that asks two tools at once, and then a person

city = Agent(
    DurableModel(
        scripted(
            calls,
            [call("people", "c1", city="Graz"), call("area", "c2", city="Graz")],
            lambda messages: [call("approve", "c3", what=ask(messages).replace("\n", "/"))],
            lambda messages: f"answer: {ask(messages)}",
        )
    ),
    capabilities=[Durability(in_flow={"approve"})],
)


@city.instructions
def be_short() -> str:
    return "Be short."


@city.tool_plain
def people(city: str) -> int:
    calls.append("people")
    return 300_000


@city.tool_plain
async def area(city: str) -> float:
    await asyncio.sleep(0)
    calls.append("area")
    return 127.5


@city.tool
async def approve(ctx: RunContext[None], what: str) -> str:
    said = await current().signal(f"approve {ctx.tool_call_id}", timeout=3600)
    return f"{what} {said.payload if said else 'nobody'}"


@flow(name="agents.density")
async def density(ctx: FlowContext) -> str:
    return (await city.run("How dense is Graz?")).output


def test_every_call_is_made_once_and_a_person_is_waited_for(conn: Conn) -> None:
    id = gd.insert(conn, density)
    drain(conn, [density])  # from the top after every checkpoint
    assert_awaiting(conn, id, "approve c3")
    gd.signal(conn, id, "approve c3", "yes")
    drain(conn, [density])
    assert assert_done(conn, id) == "answer: 300000/127.5 yes"
    assert sorted(calls) == ["area", "model", "model", "model", "people"]
    assert entries(conn, id) == ["start", "model", "tool people c1", "tool area c2", "model", "approve c3", "model"]


def test_nobody_answers(conn: Conn) -> None:
    id = gd.insert(conn, density)
    drain(conn, [density], advance=True)
    assert assert_done(conn, id) == "answer: 300000/127.5 nobody"


def test_an_agent_is_killed_everywhere(conn: Conn) -> None:
    places = crash_everywhere(conn, density, signals=[("approve c3", "yes")])
    assert places >= 20
    # A kill between a step's end and its commit (two places for each) has this step run again, and no other.
    runs = 1 + places
    assert [calls.count(name) for name in ("people", "area", "model")] == [runs + 2, runs + 2, 3 * (runs + 2)]


def test_an_agent_goes_on_in_another_engine(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[density])):
        id = gd.insert(conn, density)
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        assert sorted(calls) == ["area", "model", "model", "people"]
    with running(Engine(db.dsn, machines=[density])):
        gd.signal(conn, id, "approve c3", "yes")
        [result] = ended(conn, id)
    assert (result.status, result.result) == ("done", "answer: 300000/127.5 yes")
    assert sorted(calls) == ["area", "model", "model", "model", "people"]


def test_outside_of_a_flow_it_is_a_plain_agent() -> None:
    plain = Agent(
        DurableModel(scripted(calls, [call("double", "c1", x=2)], ask)), capabilities=[Durability(max_attempts=3)]
    )

    @plain.tool_plain
    def double(x: int) -> int:
        return 2 * x

    async def run() -> str:
        async with plain, plain.run_stream("?") as streamed:
            return "".join([text async for text in streamed.stream_text(delta=True)]).strip()

    assert plain.run_sync("?").output == "4"
    assert asyncio.run(run()) == "4"


inner = Agent(DurableModel(scripted(calls, "inner")))


async def ask_inside() -> str:
    return (await inner.run("?")).output


@flow(name="agents.nested")
async def nested(ctx: FlowContext) -> list[str]:
    async with inner:
        return [await ctx.step("ask", ask_inside), (await inner.run("?")).output]


def test_in_a_step_it_is_a_part_of_that(conn: Conn) -> None:
    id = gd.insert(conn, nested)
    drain(conn, [nested])
    assert assert_done(conn, id) == ["inner", "inner"]
    assert entries(conn, id) == ["start", "ask", "model"]


# An agent in an agent, and one without end

deep = Agent(
    DurableModel(scripted(calls, [call("ask_another", "c1")], ask), name="outer"),
    capabilities=[Durability(in_flow=["ask_another"])],
)
sure = Agent(
    DurableModel(scripted(calls, [call("people", "c1", city="Graz")], ask), name="inner"),
    tools=[people],
    capabilities=[Durability()],
)


@deep.tool_plain
async def ask_another() -> str:
    return (await sure.run("?")).output


@flow(name="agents.deep")
async def dive(ctx: FlowContext) -> str:
    return (await deep.run("?")).output


def test_an_agent_that_a_tool_of_the_flow_asks_is_durable_itself(conn: Conn) -> None:
    id = gd.insert(conn, dive)
    drain(conn, [dive])
    assert assert_done(conn, id) == "300000"
    assert calls == ["model", "model", "people", "model", "model"]
    assert entries(conn, id) == ["start", "outer", "inner", "tool people c1", "inner", "outer"]


class Talk(BaseModel):
    history: str = "[]"


chatting = Agent(DurableModel(scripted(calls, "first", "second", "third")))


@flow(name="agents.chat")
async def chat(ctx: FlowContext, talk: Talk) -> str:
    said = await ctx.signal("say")
    before = ModelMessagesTypeAdapter.validate_json(talk.history)
    result = await chatting.run(str(said.payload), message_history=before)
    if said.payload != "bye":
        ctx.restart(Talk(history=result.all_messages_json().decode()))
    return result.output


def test_a_talk_without_end_is_a_turn_a_journal(conn: Conn) -> None:
    id = gd.insert(conn, chat, Talk())
    for word in ("hello", "well", "bye"):
        gd.signal(conn, id, "say", word)
        drain(conn, [chat])
    assert assert_done(conn, id) == "third"
    assert entries(conn, id) == ["start", "say", "model"]


# Streams

heard: list[tuple[int, str]] = []


async def hear(events: AsyncIterable[ModelResponseStreamEvent]) -> None:
    async for event in events:
        if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            heard.append((current().id, event.delta.content_delta))
            return  # the rest is read all the same


async def hear_all(events: AsyncIterable[ModelResponseStreamEvent]) -> None:
    async for event in events:
        if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            heard.append((current().id, event.delta.content_delta))


told = Agent(DurableModel(scripted(calls, "so it is said"), on_events=hear_all, name="teller"))
half = Agent(DurableModel(scripted(calls, "so it is said"), on_events=hear))


@flow(name="agents.streams")
async def streams(ctx: FlowContext) -> list[str]:
    first = (await told.run("?")).output
    async with half.run_stream("?") as streamed:
        second = "".join([text async for text in streamed.stream_text(delta=True)])
    return [first.strip(), second.strip(), (await half.run("?")).output.strip()]


def test_what_a_model_streams_is_heard_in_its_step_once(conn: Conn) -> None:
    heard.clear()
    id = gd.insert(conn, streams)
    drain(conn, [streams])
    assert assert_done(conn, id) == ["so it is said"] * 3
    assert [text for _, text in heard[:3]] == ["it ", "is ", "said "] and len(heard) == 5
    assert {flow for flow, _ in heard} == {id}
    assert entries(conn, id) == ["start", "teller", "model", "model"]


# Values


class Place(BaseModel):
    name: str
    people: int


placed = Agent(
    DurableModel(
        scripted(
            calls,
            [call("final_result", "c1", name="Graz", people="many")],
            [call("final_result", "c2", name="Graz", people=1)],
            [call("final_result", "c3", name="Graz", people=300_000)],
        )
    ),
    output_type=Place,
    retries=3,
    capabilities=[Durability()],
)


@placed.output_validator
def check_place(place: Place) -> Place:
    if place.people < 10:
        raise ModelRetry("too few")
    return place


@flow(name="agents.placed")
async def place(ctx: FlowContext) -> Place:
    return (await placed.run("?")).output


def test_structured_output_with_a_sync_validator(conn: Conn) -> None:
    id = gd.insert(conn, place)
    drain(conn, [place])
    assert assert_done(conn, id) == {"name": "Graz", "people": 300_000}
    assert calls == ["model"] * 3


PIXEL = bytes(range(256))


def draw(messages: Any, info: Any) -> ModelResponse:
    return ModelResponse(parts=[FilePart(BinaryContent(PIXEL, media_type="image/png")), TextPart("drawn")])


artist = Agent(DurableModel(FunctionModel(draw)))


@flow(name="agents.drawn")
async def drawn(ctx: FlowContext) -> bool:
    result = await artist.run("?")
    return [file.data for file in result.response.files] == [PIXEL]


def test_bytes_come_back(conn: Conn) -> None:
    id = gd.insert(conn, drawn)
    drain(conn, [drawn])
    assert assert_done(conn, id) is True


# Trouble with the model

troubled: list[Exception] = []


def maybe(messages: Any) -> Any:
    return troubled.pop(0) if troubled else "well"


patient = Agent(DurableModel(scripted(calls, maybe), max_attempts=3, delay=60))


@flow(name="agents.patient")
async def patiently(ctx: FlowContext) -> str:
    try:
        return (await patient.run("?")).output
    except StepFailed as failed:
        return f"{failed.attempts} {failed.is_a(ModelHTTPError)}"


@pytest.mark.parametrize(
    ("errors", "expected", "asked"),
    [
        ([ModelHTTPError(503, "m"), ModelHTTPError(429, "m")], "well", 3),
        ([ModelHTTPError(503, "m")] * 3, "3 True", 3),
        ([ModelHTTPError(401, "m")], "1 True", 1),
        ([UserError("never")], "1 False", 1),
        ([RuntimeError("odd"), ConnectionError("gone")], "well", 3),
    ],
)
def test_a_request_is_tried_again_by_its_rule(conn: Conn, errors: list[Exception], expected: str, asked: int) -> None:
    troubled[:] = errors
    id = gd.insert(conn, patiently)
    drain(conn, [patiently], advance=True)
    assert assert_done(conn, id) == expected
    assert calls == ["model"] * asked


broken = [True]
breaking = Agent(
    DurableModel(scripted(calls, [call("work", "c1")], ask)), capabilities=[Durability(max_attempts=2, delay=1)]
)


@breaking.tool_plain
def work() -> str:
    calls.append("work")
    if broken[0]:
        raise OSError("it is down")
    return "worked"


@flow(name="agents.breaking")
async def breaks(ctx: FlowContext) -> str:
    return (await breaking.run("?")).output


def test_a_tool_that_failed_for_good_is_tried_again_alone(conn: Conn) -> None:
    broken[0] = True
    id = gd.insert(conn, breaks)
    drain(conn, [breaks], advance=True)
    assert_failed(conn, id, "step 'tool work c1' failed after 2 attempts: OSError: it is down")
    assert calls == ["model", "work", "work"]
    broken[0] = False
    gd.retry(conn, id)
    drain(conn, [breaks], advance=True)
    assert assert_done(conn, id) == "worked"
    assert calls == ["model", "work", "work", "work", "model"]
