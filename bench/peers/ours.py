"""gendurable itself: jobs, and machines and flows of five steps, as an engine runs them by default.

With an empty GD_PEERS_KEEP in the environment jobs are fleeting: a row is deleted by the commit that ends it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import psycopg
from _clock import rows, run

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, FlowContext, Next, flow, job, step

RUN = run()
KEEPS = bool(os.environ.get("GD_PEERS_KEEP", "1"))


@job(name="peers.job", queue="q", retain=None if KEEPS else {"done": 0})
async def one(args: dict[str, int]) -> None:
    RUN.handle(args["n"])


class Five(FSM, name="peers.five", queue="q", run_ahead=True):
    @step
    async def start(self, ctx: Context[dict[str, int]]) -> Next:
        RUN.handle(ctx.state["n"], 0)
        return Next(self.second, ctx.state)

    @step
    async def second(self, ctx: Context[dict[str, int]]) -> Next:
        RUN.handle(ctx.state["n"], 1)
        return Next(self.third, ctx.state)

    @step
    async def third(self, ctx: Context[dict[str, int]]) -> Next:
        RUN.handle(ctx.state["n"], 2)
        return Next(self.fourth, ctx.state)

    @step
    async def fourth(self, ctx: Context[dict[str, int]]) -> Next:
        RUN.handle(ctx.state["n"], 3)
        return Next(self.last, ctx.state)

    @step
    async def last(self, ctx: Context[dict[str, int]]) -> Done:
        RUN.handle(ctx.state["n"], 4)
        return Done()


async def do(number: int, step: int) -> None:
    RUN.handle(number, step)


@flow(name="peers.flow", queue="q")
async def function(ctx: FlowContext, args: dict[str, int]) -> None:
    for number in range(5):
        await ctx.step("do", do, args["n"], number)


MACHINES: dict[str, Any] = {"jobs": one, "steps": Five, "flows": function}
machine = MACHINES[RUN.workload]
with psycopg.connect(RUN.dsn, autocommit=True) as conn:
    gd.install(conn)
    for first in range(0, RUN.count, 1000):
        numbers = range(first, min(first + 1000, RUN.count))
        gd.insert_many(conn, [Child(machine, {"n": n}) for n in numbers])


ENDED = "select count(*) from gd_instances where status = 'done'"
GONE = f"select {RUN.count} - count(*) from gd_instances"


async def main() -> None:
    RUN.start()
    async with Engine(RUN.dsn, machines=[machine], queues={"q": RUN.slots}):
        await asyncio.to_thread(RUN.wait, rows(RUN.dsn, ENDED if KEEPS else GONE))


asyncio.run(main())
