"""What asyncio has, in a flow: durable and in the same order, or refused with a text that says what to do."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FlowContext, flow
from gendurable_py.testing import assert_done, assert_failed, crash_everywhere, drain

Conn = psycopg.Connection[Any]
var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)


async def add(a: int, b: int) -> int:
    return a + b + var.get()


@flow(name="asyncio.everything")
async def everything(ctx: FlowContext) -> list[Any]:
    out: list[Any] = [await asyncio.wait_for(ctx.step("a", add, 1, 1), 50)]
    try:
        await asyncio.wait_for(ctx.signal("never"), 5)
    except TimeoutError:
        out.append("late")
    lock, semaphore, event, barrier = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event(), asyncio.Barrier(2)
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def work(n: int) -> None:
        async with semaphore:
            found = await ctx.step("work", add, n, n)
        async with lock:
            await queue.put(found)
        event.set()

    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(work(n))
        await event.wait()
    out.append(sorted(queue.get_nowait() for _ in range(3)))

    async def count() -> AsyncIterator[int]:
        for n in range(2):
            yield await ctx.step("count", add, n, 0)

    out += [n async for n in count()]
    var.set(100)
    out.append(await ctx.step("variable", add, 1, 1))
    await asyncio.sleep(30)
    await asyncio.gather(barrier.wait(), barrier.wait())
    tasks = [asyncio.ensure_future(ctx.step("task", add, n, 0)) for n in range(3)]
    out.append(sorted([await one for one in asyncio.as_completed(tasks)]))
    return out


def test_what_asyncio_has_is_durable(conn: Conn) -> None:
    id = gd.insert(conn, everything)
    drain(conn, [everything], advance=True)
    assert assert_done(conn, id) == [2, "late", [0, 2, 4], 0, 1, 102, [100, 101, 102]]
    assert crash_everywhere(conn, everything) > 30


async def in_completed_order(ctx: FlowContext) -> None:
    for one in asyncio.as_completed([ctx.step("add", add, 1, n) for n in range(3)]):
        await one


async def in_thread(ctx: FlowContext) -> None:
    await asyncio.to_thread(len, "a")


async def by_socket(ctx: FlowContext) -> None:
    await asyncio.open_connection("localhost", 1)


async def by_process(ctx: FlowContext) -> None:
    await asyncio.create_subprocess_exec("true")


async def for_ever(ctx: FlowContext) -> None:
    await asyncio.Event().wait()


async def nested(ctx: FlowContext) -> None:
    async def step() -> int:
        return await ctx.step("inner", add, 1, 1)

    await ctx.step("outer", step)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        # It begins them in the order of a set: each run would give the same names to others.
        (in_completed_order, "as_completed begins coroutines in an order that is another one in each run"),
        (in_thread, "what reaches outside belongs into a step"),
        (by_socket, "what reaches outside belongs into a step"),
        (by_process, "what reaches outside belongs into a step"),
        (for_ever, "waits for something that can never come"),
        (nested, "a checkpoint is asked for outside of the flow's own code"),
    ],
)
def test_what_a_flow_cannot_do_is_told(conn: Conn, function: Callable[..., Any], told: str) -> None:
    made = flow(name=f"asyncio.{function.__name__}")(function)
    id = gd.insert(conn, made)
    drain(conn, [made], advance=True)
    assert told in assert_failed(conn, id)
