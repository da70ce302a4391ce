"""A flow that uses everything, for workers that are killed. Its steps write down that they ran, and with what."""

from __future__ import annotations

import asyncio
from typing import Any

from support import flows

from gendurable_py import Child, job
from gendurable_py.flow import FlowContext, StepFailed, flow

# The names of the steps: of the last round, and of the one before, which soon begins anew.
STEPS = (
    *("first", "left", "right", "fast", "one", "two", "flaky", "broken", "seat", "refused", "release"),
    *("patched", "last"),
)
CHILDREN = 4
SHORT = 0.02


@job(name="whole.double", retain={"done": 86_400})
def double(args: dict[str, Any]) -> int:
    return int(args["x"]) * 2


def sync(id: int, round: int, name: str, *given: Any) -> list[Any]:
    made: list[Any] = flows.effect(id, round, name, *given)
    return made


async def awaited(id: int, round: int, name: str, *given: Any) -> list[Any]:
    await asyncio.sleep(0)
    return sync(id, round, name, *given)


async def slow(id: int, round: int, name: str) -> None:
    await asyncio.sleep(3600)


def flaky(id: int, round: int, name: str) -> str:
    flows.effect(id, round, name)
    ran = [line for line in flows.read_lines(flows.effects_path()) if line["id"] == id and line["round"] == round]
    if sum(line["name"] == name for line in ran) < 3:
        raise ValueError("not yet")
    return "at last"


def broken(id: int, round: int, name: str) -> None:
    flows.effect(id, round, name)
    raise KeyError("never")


async def _race(ctx: FlowContext, about: tuple[int, int]) -> str:
    racers = {
        asyncio.create_task(ctx.step("fast", awaited, *about, "fast")): "fast",
        asyncio.create_task(ctx.step("slow", slow, *about, "slow")): "slow",
        asyncio.create_task(ctx.sleep(3600, name="sleeper")): "sleeper",
    }
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return " ".join(racers[task] for task in done)


async def _close(ctx: FlowContext, about: tuple[int, int]) -> list[str]:
    """Which of two comes first is chance: it is recorded."""
    came: list[str] = []

    async def one(name: str) -> None:
        await ctx.step(name, sync, *about, name)
        came.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(one("one"))
        group.create_task(one("two"))
        group.create_task(asyncio.sleep(SHORT))
    return came


@flow(name="whole", max_attempts=20, retain={"done": 86_400, "failed": 86_400, "cancelled": 86_400})
async def whole(ctx: FlowContext, args: dict[str, Any]) -> dict[str, Any]:
    about = (ctx.id, int(args["round"]))
    draws = [str(ctx.uuid()), ctx.random.random(), ctx.idempotency_key("pay"), ctx.now().isoformat()]
    first = await ctx.step("first", sync, *about, "first", draws)
    if args["round"] == 0:
        signal = await ctx.signal("go")
        ctx.restart({"round": 1, "before": [draws, signal.payload]})
    left, right = await asyncio.gather(
        ctx.step("left", sync, *about, "left", first), ctx.step("right", awaited, *about, "right", first)
    )
    made: dict[str, Any] = {"draws": draws, "left": left, "right": right}
    made["race"] = await _race(ctx, about)
    made["came"] = await _close(ctx, about)
    try:
        async with asyncio.timeout(SHORT):
            await ctx.signal("never")
    except TimeoutError:
        made["timeout"] = True
    await ctx.sleep(SHORT)
    signals = [await ctx.signal("go"), await ctx.signal("go")]
    made["signals"] = [one.payload for one in signals]
    made["none"] = await ctx.signal("none", timeout=SHORT)
    made["flaky"] = await ctx.using(max_attempts=3, delay=SHORT).step("flaky", flaky, *about, "flaky")
    try:
        await ctx.step("broken", broken, *about, "broken")
    except StepFailed as failed:
        made["broken"] = failed.is_a(KeyError)
    kids = await ctx.childs([Child(double, {"x": x}, queue=ctx.queue) for x in range(CHILDREN - 1)])
    made["kids"] = [kid.result for kid in kids]
    made["kid"] = await ctx.child(double, {"x": 21}, queue=ctx.queue)
    try:
        async with ctx.saga() as saga:
            await ctx.step("seat", awaited, *about, "seat")
            saga.undo("release", sync, *about, "release", ctx.now().isoformat())
            await ctx.step("refused", broken, *about, "refused")
    except StepFailed as failed:
        made["saga"] = failed.name
    if ctx.patched("later"):
        await ctx.step("patched", awaited, *about, "patched", str(ctx.uuid()), ctx.random.random())
    await ctx.step("last", sync, *about, "last", ctx.now().isoformat(), ctx.replaying)
    return made | {"before": args["before"]}
