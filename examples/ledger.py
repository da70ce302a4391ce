"""A ledger for each customer: entries of one customer strictly one after the other, of different ones side by side.

`python -m examples ledger`. The partition key does it: at most one instance of a key executes, in order of insertion.
"""

from __future__ import annotations

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, step

from ._run import Conn, connect

SCHEMA = """
create table ledger (
    customer text not null,
    line int not null,
    entry text not null unique,
    amount int not null,
    balance int not null,
    primary key (customer, line)
)
"""


class Entry(FSM, queue="ledger"):
    class State(BaseModel):
        customer: str
        entry: str
        amount: int

    @step
    def start(self, ctx: Context[State]) -> Done:
        new = ctx.state
        with connect() as conn:
            last = conn.execute(
                "select line, balance from ledger where customer = %s order by line desc limit 1", (new.customer,)
            ).fetchone()
            line, balance = last or (0, 0)
            # Read, compute, write, without a lock: nobody else writes lines of this customer meanwhile. The two keys
            # of the table are for a second run of this very entry, and for a worker that lost its lease and still runs.
            conn.execute(
                """
                insert into ledger (customer, line, entry, amount, balance) values (%s, %s, %s, %s, %s)
                on conflict (entry) do nothing
                """,
                (new.customer, line + 1, new.entry, new.amount, balance + new.amount),
            )
        return Done()


async def scene(conn: Conn) -> object:
    entries = [
        Child(
            Entry,
            {"customer": customer, "entry": f"{customer}:{number}", "amount": number},
            partition_key=f"customer:{customer}",
        )
        for number in range(1, 11)
        for customer in ("ada", "bob", "cleo")
    ]
    for inserted in await gd.insert_many(conn, entries):
        await gd.wait(conn, inserted.id, timeout=30)
    found = await conn.execute("select customer, array_agg(balance order by line) from ledger group by 1 order by 1")
    return dict(await found.fetchall())


MACHINES, QUEUES = [Entry], {"ledger": 6}
