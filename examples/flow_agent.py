"""An agent as a flow: each call of the model and of a tool is a step, so a crash repeats none that has ended.

`python -m examples flow_agent`. No network: the model is a function that plays one. Tools that it asks for together run
together; one that costs money waits for a person, for days if need be, and the agent takes no memory meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

import gendurable_py as gd
from gendurable_py import Cancel, FlowContext, StepFailed, flow

from ._run import Conn, connect

SCHEMA = """
create table call_log (no bigint generated always as identity, what text not null);
create table ticket (key text primary key, city text not null, euros int not null)
"""
NEEDS_APPROVAL = {"buy_ticket"}
MOST_TURNS = 10


class Call(BaseModel):
    id: str
    tool: str
    args: dict[str, Any] = {}


class Message(BaseModel):
    role: Literal["user", "model", "tool"]
    text: str = ""
    calls: list[Call] = []
    call_id: str | None = None


class Question(BaseModel):
    text: str
    patience: float = 7 * 86_400


# The world


def log(what: str) -> None:
    with connect() as conn:
        conn.execute("insert into call_log (what) values (%s)", (what,))


async def ask_model(talk: list[Message]) -> Message:
    """A model that compares two cities, then wants a ticket to the warmer one."""
    await asyncio.to_thread(log, "model")
    said = {message.call_id: message.text for message in talk if message.role == "tool"}
    if not said:
        cities = ("oslo", "rome")
        calls = [Call(id=f"w-{city}", tool="temperature", args={"city": city}) for city in cities]
        calls += [Call(id=f"p-{city}", tool="price", args={"city": city}) for city in cities]
        return Message(role="model", calls=calls)
    warmer = "oslo" if float(said["w-oslo"]) > float(said["w-rome"]) else "rome"
    if "buy" not in said:
        return Message(role="model", calls=[Call(id="buy", tool="buy_ticket", args={"city": warmer})])
    return Message(role="model", text=f"{warmer} is warmer; the ticket: {said['buy']}")


async def temperature(city: str) -> float:
    await asyncio.to_thread(log, f"temperature {city}")
    return {"oslo": 3.5, "rome": 17.0}[city]


def price(city: str) -> int:
    log(f"price {city}")
    if city == "oslo":
        raise LookupError("no flights to oslo today")
    return 120


def buy_ticket(city: str, key: str) -> str:
    with connect() as conn:
        conn.execute("insert into ticket (key, city, euros) values (%s, %s, 120) on conflict do nothing", (key, city))
    return f"bought to {city}"


# The agent


@flow(name="flow_agent", queue="agents")
async def agent(ctx: FlowContext, question: Question) -> str:
    talk = [Message(role="user", text=question.text)]
    model = ctx.using(max_attempts=5, timeout=60)
    for _ in range(MOST_TURNS):
        answer = await model.step("model", ask_model, talk)
        if not answer.calls:
            return answer.text
        results = await asyncio.gather(*(use_tool(ctx, question, call) for call in answer.calls))
        talk += [answer, *results]
    raise Cancel(f"no answer after {MOST_TURNS} turns")


async def use_tool(ctx: FlowContext, question: Question, call: Call) -> Message:
    """What a tool gave, or why it gave nothing: the model is to know."""
    name = f"{call.tool} {call.id}"
    if call.tool in NEEDS_APPROVAL and not await is_approved(ctx, question, call):
        return Message(role="tool", call_id=call.id, text="refused by a person")
    try:
        # One by one, so that a type checker sees what each takes.
        found: JsonValue
        match call.tool:
            case "temperature":
                found = await ctx.step(name, temperature, **call.args)
            case "price":
                found = await ctx.step(name, price, **call.args)
            case "buy_ticket":
                found = await ctx.step(name, buy_ticket, key=ctx.idempotency_key(name), **call.args)
            case _:
                found = f"there is no tool {call.tool}"
    except StepFailed as failed:
        found = f"error: {failed.message}"
    return Message(role="tool", call_id=call.id, text=str(found))


async def is_approved(ctx: FlowContext, question: Question, call: Call) -> bool:
    word = await ctx.signal(f"approve {call.id}", timeout=question.patience)
    return word is not None and word.payload is True


async def find_request(conn: Conn, id: int) -> str:
    """What an application shows to the person: for what the agent waits."""
    while True:
        found = await conn.execute(
            "select awaits[1] from gd_instances where id = %s and cardinality(awaits) = 1", (id,)
        )
        if (row := await found.fetchone()) is not None:
            return str(row[0])
        await asyncio.sleep(0.02)


async def scene(conn: Conn) -> object:
    """Two questions: a person approves of one ticket, and not of the other."""
    ids = [await gd.insert(conn, agent, Question(text="Where is it warmer? Buy me a ticket.")) for _ in range(2)]
    for id, word in zip(ids, (True, False), strict=True):
        assert id is not None
        await gd.signal(conn, id, await find_request(conn, id), word)
    ended = [await gd.wait(conn, id, timeout=30) for id in ids if id is not None]
    calls = await conn.execute("select what, count(*) from call_log group by what order by what")
    tickets = await conn.execute("select city from ticket")
    return {
        "answers": [one.result for one in ended],
        "calls": dict(await calls.fetchall()),
        "tickets": [city for (city,) in await tickets.fetchall()],
    }


MACHINES, QUEUES = [agent], {"agents": 5}
