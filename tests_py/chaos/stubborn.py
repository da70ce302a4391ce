"""A flow whose steps fail at random, and each failure ends it: it comes to its end by the hands of `flow_hands`."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

from support import flows

from gendurable_py.flow import FlowContext, flow

FAILS = 0.15
PARTS = 5
NAMES = (*(f"part {number}" for number in range(PARTS)), "left", "right", "last")


def work(id: int, round: int, name: str, given: list[str]) -> str:
    flows.effect(id, round, name, given)
    if random.random() < FAILS:
        raise ValueError("not this time")
    return secrets.token_hex(8)


async def work_async(id: int, round: int, name: str, given: list[str]) -> str:
    await asyncio.sleep(0.01)
    return work(id, round, name, given)


@flow(name="stubborn", max_attempts=20, retain={"done": 86_400, "failed": 86_400, "cancelled": 86_400})
async def stubborn(ctx: FlowContext, args: dict[str, Any]) -> dict[str, Any]:
    about = (ctx.id, int(args["round"]))
    made: list[str] = []
    for number, name in enumerate(NAMES[:PARTS]):
        made.append(await ctx.step(name, work if number % 2 else work_async, *about, name, list(made)))
        if number == 2:
            await ctx.sleep(0.02)
    so_far = list(made)
    made += await asyncio.gather(
        ctx.step("left", work, *about, "left", so_far), ctx.step("right", work_async, *about, "right", so_far)
    )
    made.append(await ctx.step("last", work_async, *about, "last", list(made)))
    return {"made": made, "round": about[1]}
