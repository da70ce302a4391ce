"""A flow for workers of different Pythons: `python -m support.flow_elsewhere DSN` serves it until SIGTERM.

It has what might differ: the order of tasks, groups, cancellation, timeouts, generators, chance, floats and texts.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gendurable_py import Engine
from gendurable_py.flow import FlowContext, StepFailed, flow

ROUNDS = 3


def minor() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def sync(x: Any) -> Any:
    return x


async def awaited(x: Any) -> Any:
    await asyncio.sleep(0)
    return x


async def at_once(x: Any) -> Any:
    return x


async def slow() -> None:
    await asyncio.sleep(3600)


def fail() -> None:
    raise LookupError("none")


async def _numbers(ctx: FlowContext) -> AsyncIterator[int]:
    for number in range(3):
        yield await ctx.step("number", at_once, number)


async def _round(ctx: FlowContext, turn: int) -> list[Any]:
    made: list[Any] = [str(ctx.uuid()), ctx.random.random(), ctx.idempotency_key("k"), {"ü": 1e22, "a": [0.1, None]}]
    made[3] = await ctx.step("kept", sync, made[3])
    made.append(await asyncio.gather(*(ctx.step("g", f, x) for x, f in enumerate((sync, awaited, at_once)))))
    racers = [asyncio.create_task(ctx.step("slow", slow)), asyncio.create_task(ctx.step("fast", at_once, turn))]
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    made.append(len(done))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("fail", fail))
            group.create_task(ctx.sleep(3600))
    except* StepFailed as failed:
        made.append([str(one) for one in failed.exceptions])
    try:
        async with asyncio.timeout(0.02):
            await ctx.step("slow", slow)
    except TimeoutError:
        made.append("late")
    lock = asyncio.Lock()

    async def guarded(x: int) -> Any:
        async with lock:
            return await ctx.step("guarded", awaited, x)

    made.append(await asyncio.gather(*map(guarded, range(3))))
    made.append([number async for number in _numbers(ctx)])
    return made


@flow(name="elsewhere", max_attempts=1)
async def elsewhere(ctx: FlowContext) -> list[Any]:
    made: list[Any] = []
    for turn in range(ROUNDS):
        made.append([await ctx.step("by", minor), await _round(ctx, turn)])
        await ctx.signal("go")
    return made


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    Engine(sys.argv[1], machines=[elsewhere], poll_interval=0.2).run()
