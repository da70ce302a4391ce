"""An order waits for its row: whoever marks it as paid in the shop's own table, and however, it is shipped, once.

`python -m examples paid_order`. The table signals by itself (gd_signal_on), so the programs that write it know nothing
of gendurable. The step looks at the table and then awaits: a row that is written meanwhile is seen, or signals.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Next, step

from ._run import Conn

SCHEMA = """
create table shop_order (id int primary key, status text not null default 'new', cents int);
create table shipment (order_id int not null, cents int not null);
select gd_signal_on('shop_order', 'paid', 'order:{id}', 'status = ''paid''', '{cents}')
"""
ORDERS = 60


class Shipping(FSM, name="paid_order.shipping", queue="shipping", initial="look", transactional=True):
    class State(BaseModel):
        order: int

    @step
    def look(self, ctx: Context[State]) -> Await | Next:
        paid = ctx.conn.execute(
            "select from shop_order where id = %s and status = 'paid'", (ctx.state.order,)
        ).fetchone()
        # What is paid from now on has left its signal when the await is committed, or finds it waiting.
        return Next(self.ship) if paid else Await("paid", step=self.ship)

    @step
    def ship(self, ctx: Context[State]) -> Done:
        # No key keeps a second shipment away: the row is committed with the end of this instance, or not at all.
        ctx.conn.execute(
            "insert into shipment select id, cents from shop_order where id = %s and status = 'paid'",
            (ctx.state.order,),
        )
        return Done(ctx.awaited[0].payload if ctx.awaited else "was paid")


PAY = {
    "an update": "update shop_order set status = 'paid', cents = %(id)s where id = %(id)s",
    "an upsert": """
        insert into shop_order values (%(id)s, 'paid', %(id)s)
        on conflict (id) do update set status = 'paid', cents = excluded.cents
    """,
    "twice": """
        update shop_order set status = 'paid', cents = %(id)s where id = %(id)s;
        update shop_order set status = 'paid', cents = cents where id = %(id)s
    """,
    "a refund, and then paid once more": """
        update shop_order set status = 'paid', cents = 0 where id = %(id)s;
        update shop_order set status = 'refunded', cents = 0 where id = %(id)s;
        update shop_order set status = 'paid', cents = %(id)s where id = %(id)s
    """,
}
"""Programs of others: each statement list is one transaction of theirs."""


async def scene(conn: Conn) -> object:
    """Orders that are paid in many ways while their machines start, look and wait; and two that are not paid."""
    ids = {}
    for order in range(1, ORDERS + 1):
        # The instance is there before its row can come to match: both are one transaction.
        async with conn.transaction():
            await conn.execute("insert into shop_order (id) values (%s)", (order,))
            ids[order] = await gd.insert(conn, Shipping, {"order": order}, unique_key=f"order:{order}")
        if order > 10:
            await pay(conn, order - 10)
    for order in range(ORDERS - 9, ORDERS - 1):
        await pay(conn, order)
    async with conn.transaction(force_rollback=True):
        await conn.execute("update shop_order set status = 'paid', cents = 1 where id = %s", (ORDERS,))

    for order in range(1, ORDERS - 1):
        assert (await gd.wait(conn, ids[order] or 0, timeout=20)).status == "done"
    waiting = [ids[ORDERS - 1], ids[ORDERS]]
    while (await statuses(conn, waiting)) != ["awaiting_signal"] * 2:  # noqa: ASYNC110 - a worker sets no event
        await asyncio.sleep(0.02)
    return await verify(conn)


async def pay(conn: Conn, order: int) -> None:
    statements = list(PAY.values())[order % len(PAY)]
    async with conn.transaction():
        for statement in statements.split(";"):
            await conn.execute(statement.encode(), {"id": order})


async def statuses(conn: Conn, ids: list[int | None]) -> list[str]:
    found = await conn.execute("select status from gd_instances where id = any(%s)", (ids,))
    return [row[0] for row in await found.fetchall()]


async def verify(conn: Conn) -> dict[str, int]:
    """Each paid order was shipped once, with what was paid in the end; no other one was."""
    found = await conn.execute("select order_id, cents from shipment order by 1")
    shipped = await found.fetchall()
    assert shipped == [(order, order) for order in range(1, ORDERS - 1)], shipped
    return {"shipped": len(shipped), "waiting": 2}


MACHINES, QUEUES = [Shipping], {"shipping": 5}
