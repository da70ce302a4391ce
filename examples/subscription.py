"""A subscription that waits for the same signal every month, for years if need be: `python -m examples subscription`.

The state and the use of a signal are one commit, so each payment is counted once, in whatever order it comes.
"""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Next, Stop, step

from ._run import Conn

MONTH = 30 * 24 * 3600.0


class Payment(BaseModel):
    cents: int


class Subscription(FSM, queue="subscriptions", initial="month"):
    class State(BaseModel):
        months: int
        month: float = MONTH
        paid: int = 0
        cents: int = 0
        reminders: int = 0

    @step
    def month(self, ctx: Context[State]) -> Await | Next | Done | Stop:
        state = ctx.state
        if (goodbye := ctx.signal("cancel")) is not None:
            return Done({"paid": state.paid, "cents": state.cents, "cancelled": goodbye.payload})
        payment = ctx.signal("payment")
        if payment is not None:
            # One payment a run: those that wait behind it in the inbox are for the months to come.
            paid, cents = state.paid + 1, state.cents + Payment.model_validate(payment.payload).cents
            if paid == state.months:
                return Done({"paid": paid, "cents": cents, "cancelled": None})
            return Next(self.month, state.model_copy(update={"paid": paid, "cents": cents, "reminders": 0}))
        if not ctx.timed_out:
            return Await(("payment", "cancel"), timeout=state.month)
        if state.reminders == 2:
            return Stop(f"not paid after {state.reminders} reminders")
        reminded = state.model_copy(update={"reminders": state.reminders + 1})
        return Await(("payment", "cancel"), reminded, timeout=state.month / 2)


async def scene(conn: Conn) -> object:
    """A year paid with repeated webhooks, one that ends by a signal, one that is never paid."""
    year = await gd.insert(conn, Subscription, {"months": 12}, unique_key="subscription:ada")
    short = await gd.insert(conn, Subscription, {"months": 12}, unique_key="subscription:bob")
    never = await gd.insert(conn, Subscription, {"months": 12, "month": 0.2}, unique_key="subscription:cleo")
    assert year is not None and short is not None and never is not None

    for month in range(1, 13):
        for _ in range(3):  # a webhook that does not trust its first answer
            await gd.signal(conn, "subscription:ada", "payment", {"cents": 100 + month}, dedup_key=f"month-{month}")
    await gd.signal(conn, "subscription:bob", "payment", {"cents": 500})
    # Signals of different names have no order among each other: this one is sent once the payment has been counted.
    counted = None
    while counted != ("1",):
        found = await conn.execute("select state ->> 'paid' from gd_instances where id = %s", (short,))
        counted = await found.fetchone()
    await gd.signal(conn, "subscription:bob", "cancel", "moving away")
    ended = [await gd.wait(conn, id, timeout=30) for id in (year, short, never)]
    return [(one.status, one.result if one.status == "done" else one.last_error) for one in ended]


SCHEMA = ""
MACHINES, QUEUES = [Subscription], {"subscriptions": 4}
