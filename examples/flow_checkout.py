"""A checkout as a flow: paid, packed, and sent when a person has approved it; else the money goes back.

`python -m examples flow_checkout`. The function reads from top to bottom; while it waits for the person there is no
memory of it anywhere, only its row. `examples/checkout.py` is the like as a machine.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import Cancel, FlowContext, flow

from ._run import Conn, connect

SCHEMA = """
create table payment (
    key text primary key,
    order_no int not null,
    cents int not null,
    refunded boolean not null default false
);
create table parcel (order_no int primary key, sent boolean not null default false)
"""


class Order(BaseModel):
    number: int
    cents: int
    patience: float = 86_400


class Paid(BaseModel):
    key: str
    cents: int


class Receipt(BaseModel):
    order: int
    cents: int
    label: str
    by: str


class Declined(Exception):
    """The bank will say so tomorrow, too."""


def charge(order: Order, key: str) -> Paid:
    """The bank: it takes money once for each key, whoever asks and however often."""
    if order.cents > 10_000:
        raise Declined(f"{order.cents} cents are too many")
    with connect() as conn:
        conn.execute(
            "insert into payment (key, order_no, cents) values (%s, %s, %s) on conflict do nothing",
            (key, order.number, order.cents),
        )
    return Paid(key=key, cents=order.cents)


def refund(paid: Paid) -> None:
    with connect() as conn:
        conn.execute("update payment set refunded = true where key = %s", (paid.key,))


def pack(order: Order) -> None:
    with connect() as conn:
        conn.execute("insert into parcel (order_no) values (%s) on conflict do nothing", (order.number,))


async def print_label(order: Order) -> str:
    return f"label {order.number}"


def send(order: Order) -> None:
    with connect() as conn:
        conn.execute("update parcel set sent = true where order_no = %s", (order.number,))


@flow(name="flow_checkout", queue="checkouts")
async def checkout(ctx: FlowContext, order: Order) -> Receipt:
    patient = ctx.using(max_attempts=5, delay=0.1, never=Declined)
    # The same key in each run, so that a crash between the bank's answer and our commit costs the customer nothing.
    paid = await patient.step("charge", charge, order, ctx.idempotency_key("charge"))
    _, label = await asyncio.gather(ctx.step("pack", pack, order), ctx.step("label", print_label, order))
    word = await ctx.signal("decision", timeout=order.patience)
    if word is None or not isinstance(word.payload, dict) or not word.payload["yes"]:
        # A refund must succeed some day.
        await ctx.using(max_attempts=1_000, delay=0.1).step("refund", refund, paid)
        raise Cancel("nobody approved in time" if word is None else "not approved")
    await ctx.step("send", send, order)
    return Receipt(order=order.number, cents=paid.cents, label=label, by=str(word.payload["by"]))


async def scene(conn: Conn) -> object:
    """Four orders: approved, refused, forgotten, and one that the bank does not like."""
    orders = [
        Order(number=1, cents=500),
        Order(number=2, cents=700),
        Order(number=3, cents=900, patience=0.2),
        Order(number=4, cents=1_000_000),
    ]
    ids = [await gd.insert(conn, checkout, order, unique_key=f"order:{order.number}") for order in orders]
    await gd.signal(conn, "order:1", "decision", {"yes": True, "by": "ada"})
    await gd.signal(conn, "order:2", "decision", {"yes": False, "by": "bob"})
    ended = [await gd.wait(conn, id, timeout=30) for id in ids if id is not None]
    payments = await conn.execute("select order_no, refunded from payment order by order_no")
    parcels = await conn.execute("select order_no, sent from parcel order by order_no")
    return {
        "ended": [(one.status, one.result or one.last_error) for one in ended],
        "refunded": dict(await payments.fetchall()),
        "sent": dict(await parcels.fetchall()),
    }


MACHINES, QUEUES = [checkout], {"checkouts": 5}
