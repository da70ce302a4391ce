"""Money is moved between accounts, by steps in Python, by steps in SQL, and by a machine that has both.

`python -m examples transfer`. Each step writes in the transaction that commits its outcome. So no step asks whether it
has run before, and no table has a key against a second run, although some steps fail once behind their writes.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from pydantic import BaseModel

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Next, Stop, sql_step, step

from ._run import Conn

SCHEMA = Path(__file__).with_suffix(".sql").read_bytes()
ACCOUNTS, BALANCE, EACH = 10, 100, 20


class Order(BaseModel):
    source: int
    target: int
    amount: int
    stutters: bool = False


class Transfer(FSM, name="bank.python", queue="bank", initial="move", transactional=True, max_attempts=3):
    """All in Python: `ctx.conn` is the transaction of the step."""

    State = Order

    @step
    def move(self, ctx: Context[Order]) -> Next | Stop:
        new = ctx.state
        ctx.conn.execute("select nextval('move_run')")
        # In one order, so that two transfers of the same two accounts wait one way round only.
        ctx.conn.execute("select from account where id in (%s, %s) order by id for update", (new.source, new.target))
        covered = ctx.conn.execute(
            "update account set balance = balance - %(amount)s where id = %(source)s and balance >= %(amount)s",
            new.model_dump(),
        ).rowcount
        if not covered:
            return Stop("not covered")
        ctx.conn.execute("update account set balance = balance + %s where id = %s", (new.amount, new.target))
        for account, amount in ((new.source, -new.amount), (new.target, new.amount)):
            ctx.conn.execute("insert into booking values (%s, %s, %s)", (ctx.id, account, amount))
        if new.stutters and ctx.attempt == 0:
            raise ConnectionError("the step fails behind its writes")
        return Next(self.receipt)

    @step
    async def receipt(self, ctx: Context[Order]) -> Done:
        await ctx.conn.execute("insert into receipt values (%s, %s)", (ctx.id, ctx.state.amount))
        return Done()


class Mixed(FSM, name="bank.mixed", queue="bank"):
    """The step `move` is the function bank_move; the engine has it run where it is."""

    State = Order

    @step
    def start(self, ctx: Context[Order]) -> Next | Stop:
        """A plain step, which may call elsewhere: it writes nothing, and holds no lock meanwhile."""
        if ctx.state.source == ctx.state.target:
            return Stop("from an account to itself")
        return Next(self.move)

    move = sql_step()

    @step(transactional=True)
    def receipt(self, ctx: Context[Order]) -> Done:
        ctx.conn.execute("insert into receipt values (%s, %s)", (ctx.id, ctx.state.amount))
        return Done()


async def scene(conn: Conn) -> object:
    """As many transfers of each kind, all at once. A client runs the machine in SQL, and adds up in between."""
    await conn.execute("insert into account select n, %s from generate_series(1, %s) n", (BALANCE, ACCOUNTS))
    dice = random.Random(7)
    transfers = []
    for machine in (Transfer, Mixed, "bank.sql"):
        for number in range(EACH):
            source, target = dice.sample(range(1, ACCOUNTS + 1), 2)
            state = Order(source=source, target=target, amount=dice.randint(1, 60), stutters=number % 7 == 0)
            transfers.append(Child(machine, state.model_dump()))
    ids = [inserted.id for inserted in await gd.insert_many(conn, transfers)]

    while await still_open(conn, ids):
        # In a service: pg_cron, or any client in a loop.
        await gd.run(conn, "bank.sql")
        await look(conn)
        await asyncio.sleep(0.02)
    return await verify(conn)


async def still_open(conn: Conn, ids: list[int]) -> bool:
    found = await conn.execute("select from gd_instances where id = any(%s) and finished_at is null limit 1", (ids,))
    return await found.fetchone() is not None


async def look(conn: Conn) -> None:
    """At any time: the accounts hold what they held, and each account what was booked to it."""
    found = await conn.execute(
        """
        select sum(balance)::int, count(*) filter (where balance <> %s + booked)
        from account cross join lateral (
            select coalesce(sum(amount), 0) as booked from booking where account = account.id) b
        """,
        (BALANCE,),
    )
    assert await found.fetchone() == (ACCOUNTS * BALANCE, 0), "money has come or gone"


async def verify(conn: Conn) -> dict[str, object]:
    """In the end: each transfer was booked twice, on both sides, and sent one receipt; or none of it."""
    await look(conn)
    found = await conn.execute(
        """
        select i.fsm, i.status, i.last_error, count(*),
            min(b.legs) as legs_min, max(b.legs) as legs_max, min(r.n) as receipts_min, max(r.n) as receipts_max
        from gd_instances i
        cross join lateral (select count(*) as legs from booking where transfer = i.id) b
        cross join lateral (select count(*) as n from receipt where transfer = i.id) r
        group by 1, 2, 3 order by 1, 2
        """
    )
    ended: dict[str, int] = {}
    for fsm, status, error, count, *applied in await found.fetchall():
        if status == "done":
            assert applied == [2, 2, 1, 1], f"{fsm}: not applied once, but {applied}"
        else:
            assert (error, applied) == ("not covered", [0, 0, 0, 0]), f"{fsm}: {error}, {applied}"
        ended[f"{fsm} {status}"] = count
    assert sum(ended.values()) == 3 * EACH
    found = await conn.execute("select last_value from move_run")
    runs = await found.fetchone()
    assert runs is not None and runs[0] > 3 * EACH, "no step has run twice: nothing is shown"
    return {"sum": ACCOUNTS * BALANCE, "ended": ended, "runs of move": runs[0]}


MACHINES, QUEUES = [Transfer, Mixed], {"bank": 5}
