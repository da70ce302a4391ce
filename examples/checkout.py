"""An order waits for its payment, a signal, and is given up when none comes in time: `python -m examples checkout`."""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Next, step

from ._run import Conn


class Payment(BaseModel):
    amount: int


class Checkout(FSM, queue="checkout"):
    class State(BaseModel):
        order: int
        patience: float = 3600
        paid: int = 0

    @step
    def start(self, ctx: Context[State]) -> Next:
        return Next(self.await_payment)

    @step
    def await_payment(self, ctx: Context[State]) -> Await | Next:
        # The signal may have come before this step first ran: so look, and only then wait.
        payment = ctx.signal("payment")
        if payment is not None:
            amount = Payment.model_validate(payment.payload).amount
            # The new state and the use of the signal are one commit: a payment never counts twice, and is never lost.
            return Next(self.ship, ctx.state.model_copy(update={"paid": amount}))
        if ctx.timed_out:
            return Next(self.give_up)
        return Await("payment", timeout=ctx.state.patience)

    @step
    def ship(self, ctx: Context[State]) -> Done:
        return Done({"order": ctx.state.order, "shipped": True, "paid": ctx.state.paid})

    @step
    def give_up(self, ctx: Context[State]) -> Done:
        return Done({"order": ctx.state.order, "shipped": False})


async def scene(conn: Conn) -> object:
    """Three orders: paid while it waits, paid twice by a stuttering webhook, never paid."""
    paid = await gd.insert(conn, Checkout, {"order": 1}, unique_key="order:1")
    twice = await gd.insert(conn, Checkout, {"order": 2}, unique_key="order:2")
    never = await gd.insert(conn, Checkout, {"order": 3, "patience": 0.2}, unique_key="order:3")
    assert paid is not None and twice is not None and never is not None

    sent = [await gd.signal(conn, "order:1", "payment", {"amount": 100})]
    for _ in range(2):
        sent.append(await gd.signal(conn, "order:2", "payment", {"amount": 250}, dedup_key="event-7"))
    results = [(await gd.wait(conn, id, timeout=20)).result for id in (paid, twice, never)]
    sent.append(await gd.signal(conn, "order:3", "payment", {"amount": 1}))
    return {"sent": sent, "results": results}


SCHEMA = ""
MACHINES, QUEUES = [Checkout], {"checkout": 5}
