"""A parked flow holds no memory in its worker: its function and all that it held are gone, without a collection."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from support.engine import ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Child, Engine, job
from gendurable_py.dispatch.flowing import Driven
from gendurable_py.flow import FlowContext, StepFailed, flow

Conn = psycopg.Connection[Any]

held: weakref.WeakSet[Any] = weakref.WeakSet()
seen: list[str] = []


class Thing:
    pass


def hold(what: str) -> Thing:
    thing = Thing()
    held.add(thing)
    seen.append(what)
    return thing


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    held.clear()
    seen.clear()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def one() -> int:
    return 1


def fail() -> None:
    raise ValueError("no")


async def slow() -> None:
    await asyncio.sleep(3600)


@job(name="memory.child")
def child(args: dict[str, Any]) -> None:
    return None


@flow(name="memory.plain")
async def plain(ctx: FlowContext) -> None:
    thing = hold("plain")
    await ctx.step("one", one)
    await ctx.signal("go")
    del thing


@flow(name="memory.tasks")
async def tasks(ctx: FlowContext) -> None:
    thing = hold("tasks")
    await asyncio.gather(ctx.signal("go"), ctx.signal("gone"), ctx.step("one", one))
    del thing


@flow(name="memory.group")
async def group(ctx: FlowContext) -> None:
    thing = hold("group")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ctx.signal("go"))
        tasks.create_task(ctx.sleep(3600))
    del thing


@flow(name="memory.timeout")
async def timeout(ctx: FlowContext) -> None:
    thing = hold("timeout")
    async with asyncio.timeout(3600):
        await asyncio.wait_for(ctx.signal("go"), 1800)
    del thing


@flow(name="memory.failed")
async def failed(ctx: FlowContext) -> None:
    thing = hold("failed")
    try:
        await ctx.step("fail", fail)
    except StepFailed:
        await ctx.signal("go")
    del thing


@flow(name="memory.saga")
async def saga(ctx: FlowContext) -> None:
    thing = hold("saga")
    async with ctx.saga() as saga:
        saga.undo("one", one)
        await ctx.signal("go")
    del thing


@flow(name="memory.generator")
async def generator(ctx: FlowContext) -> None:
    thing = hold("generator")

    async def numbers() -> Any:
        inner = hold("inner")
        yield await ctx.step("one", one)
        await ctx.signal("go")
        del inner

    async for _ in numbers():
        pass
    del thing


@flow(name="memory.race")
async def race(ctx: FlowContext) -> None:
    thing = hold("race")
    racers = [asyncio.create_task(ctx.step("slow", slow)), asyncio.create_task(ctx.step("one", one))]
    _, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await ctx.signal("go")
    del thing


@flow(name="memory.future")
async def future(ctx: FlowContext) -> None:
    thing = hold("future")
    lock, queue = asyncio.Lock(), asyncio.Queue[int]()

    async def wait() -> None:
        async with lock:
            await queue.get()

    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await ctx.signal("go")
    del thing, waiting


@flow(name="memory.retry")
async def retry(ctx: FlowContext) -> None:
    thing = hold("retry")
    await ctx.using(max_attempts=2, delay=3600, max_delay=3600).step("fail", fail)
    del thing


PARKED = [plain, tasks, group, timeout, failed, saga, generator, race, future, retry]


def test_what_is_parked_is_freed_without_a_collection(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[*PARKED, child])), no_collection():
        for machine in PARKED:
            gd.insert(conn, machine)
        parked = "select count(*) from gd_instances where status = 'awaiting_signal' or step in ('(retry)', '(sleep)')"
        wait_until(lambda: conn.execute(parked).fetchone() == (len(PARKED),), 20)
        assert set(seen) >= {machine.gendurable_spec.name.partition(".")[2] for machine in PARKED}
        wait_until(lambda: len(held) == 0)


@flow(name="memory.ends")
async def ends(ctx: FlowContext, args: dict[str, Any]) -> None:
    thing = hold(args["how"])
    await ctx.step("one", one)
    if args["how"] == "raises":
        raise ValueError(str(thing))
    if args["how"] == "fails":
        await ctx.step("fail", fail)
    if args["how"] == "childs":
        await ctx.childs([Child(child, {})])
    if args["how"] == "restarts":
        ctx.restart({"how": "done"})


def test_what_has_ended_is_freed_without_a_collection(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[ends, child])), no_collection():
        ids = [gd.insert(conn, ends, {"how": how}) for how in ("raises", "fails", "childs", "restarts", "done")]
        ended(conn, *ids)
        wait_until(lambda: len(held) == 0)
        assert len(seen) >= 6


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


@flow(name="memory.lost")
async def lost(ctx: FlowContext) -> None:
    await ctx.step("wait", wait_for_ever)


@flow(name="memory.defaults")
async def defaults(ctx: FlowContext) -> int:
    thing = hold("defaults")
    return await ctx.step("use", lambda thing=thing: 1)


def test_what_is_lost_is_freed_without_a_collection(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, machines=[lost], heartbeat_interval=0.1)
    with running(engine), no_collection():
        ids = [gd.insert(conn, lost) for _ in range(3)]
        wait_until(lambda: len(engine.running) == 3)
        for id in ids:
            conn.execute("select gd_cancel(%s)", (id,))
        wait_until(lambda: not any(isinstance(one, Driven) for one in gc.get_objects()))


def test_what_a_function_made_in_passing_has_is_not_kept(db: Any, conn: Conn) -> None:
    with running(Engine(db.dsn, machines=[defaults])), no_collection():
        [found] = ended(conn, gd.insert(conn, defaults))
        assert found.result == 1
        wait_until(lambda: len(held) == 0)


MANY = 10_000
ELSEWHERE = "select count(*) from gd_instances where status <> 'awaiting_signal'"


@flow(name="memory.many")
async def many(ctx: FlowContext) -> None:
    thing = hold("many")
    await ctx.signal("go")
    del thing


def _count_blocks() -> int:
    """The fewest of some looks: the answer to the last commit may still be on its way."""
    looks = []
    for _ in range(20):
        time.sleep(0.05)
        looks.append(sys.getallocatedblocks())
    return min(looks)


@pytest.mark.timeout(180)
def test_many_parked_flows_hold_no_memory(db: Any, conn: Conn) -> None:
    """What a process has after 10,000 more are parked is what it had after the first thousand."""
    blocks: list[int] = []
    with running(Engine(db.dsn, machines=[many], queues={"default": 200})), no_collection():
        for count in (MANY // 10, MANY):
            gd.insert_many(conn, [Child(many)] * count)
            wait_until(lambda: conn.execute(ELSEWHERE).fetchone() == (0,), 120)
            wait_until(lambda: len(held) == 0)
            seen.clear()
            blocks.append(_count_blocks())
    # Less than a block for each second flow: one that were held would have fifty.
    assert blocks[1] - blocks[0] < MANY // 2, blocks
