"""An order sets others to work and is told of the end by the outbox of its outcomes: `python -m examples outbox`.

What is in the outbox comes into being with the commit of the step, or not at all. A step that inserts by itself does so
in another transaction: one that fails behind it inserts once more when it runs again. Both are shown.
"""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Insert, Send, Stop, job, step

from ._run import Conn, connect

CAREFUL, CARELESS = range(1, 21), range(101, 106)


class Order(FSM, name="outbox.order", queue="orders", max_attempts=3, backoff=lambda attempt: 0.05):
    class State(BaseModel):
        order: int
        careless: bool = False

    @step
    def start(self, ctx: Context[State]) -> Await:
        order = ctx.state.order
        letter = {"to": f"customer {order}", "about": "we have your order"}
        if ctx.state.careless:
            with connect() as conn:  # committed here, whatever becomes of this step
                gd.insert(conn, mail, letter, queue="mails")
        if ctx.attempt == 0 and order % 5 == 0:
            raise ConnectionError("the worker is cut off behind what it did")
        return Await(
            "shipped",
            step=self.end,
            insert=[
                Insert(Parcel, {"order": order}),
                *([] if ctx.state.careless else [Insert(mail, letter, queue="mails")]),
            ],
        )

    @step
    def end(self, ctx: Context[State]) -> Done:
        # All of them, should there be more than one.
        return Done([told.payload for told in ctx.awaited])


class Parcel(FSM, name="outbox.parcel", queue="parcels", max_attempts=3, backoff=lambda attempt: 0.05):
    """A machine of another department: it knows the order by its key."""

    class State(BaseModel):
        order: int

    @step
    def start(self, ctx: Context[State]) -> Done | Stop:
        if ctx.attempt == 0 and ctx.state.order % 4 == 0:
            raise ConnectionError("the label printer did not answer")
        return Done(signal=[Send(f"order:{ctx.state.order}", "shipped", {"parcel": ctx.id})])


@job(name="outbox.mail", queue="mails")
def mail(letter: dict[str, str]) -> None:
    """A mail is a call to elsewhere, so it can be sent twice; but there is one instance for it."""


async def scene(conn: Conn) -> object:
    """Twenty orders, and five that write their mail by themselves. Every fifth of each fails once."""
    ids = []
    for order in (*CAREFUL, *CARELESS):
        state = {"order": order, "careless": order in CARELESS}
        ids.append(await gd.insert(conn, Order, state, unique_key=f"order:{order}"))
    return await verify(conn, [await gd.wait(conn, id or 0, timeout=20) for id in ids])


async def verify(conn: Conn, ended: list[gd.Result]) -> dict[str, object]:
    """One parcel, one word of it and one mail for each order; of the careless ones, a mail for each run."""
    for one in ended:
        assert one.status == "done" and isinstance(one.result, list) and len(one.result) == 1, one
    parcels = await count(conn, "outbox.parcel", "order")
    assert parcels == {str(order): 1 for order in (*CAREFUL, *CARELESS)}, parcels
    mails = await count(conn, "outbox.mail", "to")
    careless = [mails.pop(f"customer {order}") for order in CARELESS]
    assert mails == {f"customer {order}": 1 for order in CAREFUL}, mails
    return {"orders": len(ended), "mails": sum(mails.values()), "mails of each careless order": careless}


async def count(conn: Conn, fsm: str, key: str) -> dict[str, int]:
    found = await conn.execute("select state ->> %s, count(*) from gd_instances where fsm = %s group by 1", (key, fsm))
    return dict(await found.fetchall())


SCHEMA = ""
MACHINES, QUEUES = [Order, Parcel, mail], {"orders": 4, "parcels": 4, "mails": 2}
