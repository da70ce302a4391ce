"""An agent of pydantic-ai that looks things up, asks a person, and pays: `python -m examples agent_pydantic_ai`.

Each request to its model and each call of a tool is a step of a flow. While it waits for the person it is a row of the
database: no process holds it. The model is a function, so nothing here needs a network; a real one is
`DurableModel("openai:gpt-5", max_attempts=5)`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

import gendurable_py as gd
from gendurable_py.contrib.pydantic_ai import Durability, DurableModel
from gendurable_py.flow import FlowContext, current, flow

from ._run import Conn, connect

SCHEMA = """
create table invoice (number text primary key, amount int not null, paid text unique);
create table supplier (invoice text primary key references invoice, name text not null);
insert into invoice (number, amount) values ('A-1', 120), ('A-2', 9000);
insert into supplier values ('A-1', 'Paper & Sons'), ('A-2', 'Golden Chairs Ltd')
"""


class Invoice(BaseModel):
    number: str


class Settled(BaseModel):
    number: str
    paid: bool
    because: str


def think(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """What a language model would come to."""
    parts = [part for message in messages for part in message.parts]
    told: dict[str, Any] = {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}
    [number] = [str(part.content).split()[-1] for part in parts if isinstance(part, UserPromptPart)]

    def call(tool: str, **args: object) -> ToolCallPart:
        return ToolCallPart(tool, args, f"{tool}-{number}")

    if "amount_of" not in told:  # two tools at once
        return ModelResponse(parts=[call("amount_of", number=number), call("supplier_of", number=number)])
    if told["amount_of"] > 1000 and "approve" not in told:
        return ModelResponse(parts=[call("approve", question=f"{told['amount_of']} to {told['supplier_of']}?")])
    said = told.get("approve", "a small one")
    if said != "no" and "pay" not in told:
        return ModelResponse(parts=[call("pay", number=number)])
    return ModelResponse(parts=[call("final_result", number=number, paid="pay" in told, because=said)])


clerk = Agent(
    DurableModel(FunctionModel(think), max_attempts=5),
    output_type=Settled,
    capabilities=[Durability(in_flow={"approve"}, max_attempts=3)],
)


@clerk.tool_plain
def amount_of(number: str) -> int:
    """What is to be paid."""
    with connect() as conn:
        [(amount,)] = conn.execute("select amount from invoice where number = %s", (number,)).fetchall()
    return int(amount)


@clerk.tool_plain
async def supplier_of(number: str) -> str:
    """Who is to be paid."""
    return await asyncio.to_thread(_supplier, number)


def _supplier(number: str) -> str:
    with connect() as conn:
        [(name,)] = conn.execute("select name from supplier where invoice = %s", (number,)).fetchall()
    return str(name)


@clerk.tool_plain
async def approve(question: str) -> str:
    """Ask a person, for a day at most. It runs in the flow itself, so that it may wait without a process."""
    said = await current().signal("approved", timeout=86400)
    return str(said.payload) if said else "no"


@clerk.tool
def pay(ctx: RunContext[None], number: str) -> str:
    """Pay an invoice. A step is run again where a worker died before its commit: the key makes it one payment."""
    with connect() as conn:
        conn.execute("update invoice set paid = %s where number = %s", (ctx.tool_call_id, number))
    return "paid"


@flow(name="settle", queue="agents")
async def settle(ctx: FlowContext, invoice: Invoice) -> Settled:
    result = await clerk.run(f"Settle the invoice {invoice.number}")
    return result.output


async def scene(conn: Conn) -> object:
    """Two invoices: a small one is paid at once, a large one waits for a person."""
    small = await gd.insert(conn, settle, Invoice(number="A-1"))
    large = await gd.insert(conn, settle, Invoice(number="A-2"))
    assert small is not None
    assert large is not None
    await gd.signal(conn, large, "approved", "the chairs are here")  # from a web page, say
    ended = [await gd.wait(conn, id, timeout=30) for id in (small, large)]
    journal = await conn.execute("select name from gd_journal(%s) where name <> '' order by seq", (large,))
    return {"ended": [one.result for one in ended], "journal": [name for (name,) in await journal.fetchall()]}


MACHINES, QUEUES = [settle], {"agents": 2}
