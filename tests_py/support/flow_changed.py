"""Flows whose code changes while they are parked: the same name is defined again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gendurable_py.flow import FlowContext, FlowFunction, flow

Body = Callable[[FlowContext], Any]

ran: list[str] = []


def note(name: str) -> str:
    ran.append(name)
    return name


async def first(ctx: FlowContext) -> list[str]:
    """As it was when it was begun."""
    a = await ctx.step("a", note, "a")
    b = await ctx.step("b", note, "b")
    await ctx.signal("go")
    return [a, b, await ctx.step("c", note, "c")]


# Those that are no continuation of it, and what is said of them


async def renamed(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await ctx.step("other", note, "b")
    await ctx.signal("go")


async def removed(ctx: FlowContext) -> None:
    await ctx.step("b", note, "b")
    await ctx.signal("go")


async def inserted(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await ctx.step("new", note, "new")
    await ctx.step("b", note, "b")
    await ctx.signal("go")


async def swapped(ctx: FlowContext) -> None:
    await ctx.step("b", note, "b")
    await ctx.step("a", note, "a")
    await ctx.signal("go")


async def shorter(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")


async def swallowed(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    while True:
        try:
            await ctx.step("other", note, "other")
        except BaseException:  # noqa: BLE001, S110
            pass


def number() -> int:
    return 1


async def retyped(ctx: FlowContext) -> None:
    await ctx.step("a", number)


async def another_kind(ctx: FlowContext) -> None:
    await ctx.step("a", note, "a")
    await ctx.sleep(1, name="b")


CONFLICTS: dict[Body, str] = {
    renamed: "the journal goes on with step 'b', and the function waits for step 'other'",
    removed: "the journal goes on with step 'a', and the function waits for step 'b'",
    inserted: "the journal goes on with step 'b', and the function waits for step 'new'",
    swapped: "the journal goes on with step 'a', and the function waits for step 'b'",
    shorter: "the journal goes on with step 'b', and the function ended",
    swallowed: "the journal goes on with step 'b', and the function waits for step 'other'",
    retyped: "what the journal has of step 'a' is not what its function is annotated to return any more",
    another_kind: "the journal goes on with step 'b', and the function waits for sleep 'b'",
}


# Those that go on


async def appended(ctx: FlowContext) -> list[str]:
    return [*await first(ctx), await ctx.step("d", note, "d")]


async def with_a_branch(ctx: FlowContext) -> list[str]:
    both = await asyncio.gather(first(ctx), ctx.step("beside", note, "beside"))
    return [*both[0], both[1]]


async def with_a_timeout(ctx: FlowContext) -> list[str]:
    async with asyncio.timeout(3600):
        return await first(ctx)


async def as_tasks(ctx: FlowContext) -> list[str]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(first(ctx))
    return task.result()


async def other_arguments(ctx: FlowContext) -> list[str]:
    a = await ctx.step("a", note, "never looked at")
    b = await ctx.using(max_attempts=7).step("b", note, "nor this")
    await ctx.signal("go", timeout=3600)
    return [a, b, await ctx.step("c", note, "c")]


async def patched(ctx: FlowContext) -> list[str]:
    if ctx.patched("early"):
        await ctx.step("early", note, "early")
    done = await first(ctx)
    if ctx.patched("late"):
        done.append(await ctx.step("late", note, "late"))
    return done


GO_ON: dict[Body, list[str]] = {
    appended: ["a", "b", "c", "d"],
    with_a_branch: ["a", "b", "c", "beside"],
    with_a_timeout: ["a", "b", "c"],
    as_tasks: ["a", "b", "c"],
    other_arguments: ["a", "b", "c"],
    patched: ["a", "b", "c", "late"],
}


async def rounds(ctx: FlowContext) -> list[str]:
    done: list[str] = []
    for turn in range(3):
        done.append(await ctx.step("work", note, f"work {turn}"))
        await ctx.signal("go")
    return done


async def rounds_patched(ctx: FlowContext) -> list[str]:
    done: list[str] = []
    for turn in range(3):
        if ctx.patched("more"):
            done.append(await ctx.step("more", note, f"more {turn}"))
        done.append(await ctx.step("work", note, f"work {turn}"))
        await ctx.signal("go")
    return done


def define(name: str, body: Body, version: int = 1, max_attempts: int = 20) -> FlowFunction[..., Any]:
    """A body under this name: as if its module had been changed, and loaded again."""

    async def perform(ctx: FlowContext) -> Any:
        return await body(ctx)

    perform.__qualname__ = perform.__name__ = f"{name}_{version}"
    return flow(name=name, version=version, max_attempts=max_attempts)(perform)
