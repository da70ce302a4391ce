"""Flows in the testing kit: from the top after every checkpoint, and crashed wherever a worker could be killed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import Cancel, Child, job
from gendurable_py.flow import FlowContext, StepFailed, flow
from gendurable_py.testing import assert_awaiting, assert_done, assert_failed, crash_everywhere, drain

Conn = psycopg.Connection[Any]


@job(name="drain.double")
def double(args: dict[str, Any]) -> int:
    return int(args["x"]) * 2


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def multiply(a: int, b: int) -> int:
    return a * b


def refuse() -> None:
    raise ValueError("no")


@flow(name="drain.everything")
async def everything(ctx: FlowContext, args: dict[str, Any]) -> list[Any]:
    a = await ctx.step("add", add, 1, 2)
    b, c = await asyncio.gather(ctx.step("m", multiply, a, 4), ctx.step("m", add, a, 5))
    await ctx.sleep(3600)
    said = await ctx.signal("go")
    never = await ctx.signal("never", timeout=60)
    kids = await ctx.childs([Child(double, {"x": i}) for i in range(3)])
    async with asyncio.timeout(100):
        await asyncio.sleep(50)
    failed = ""
    try:
        await ctx.using(max_attempts=3, delay=100).step("refuse", refuse)
    except StepFailed as error:
        failed = str(error)
    k = await ctx.child(double, {"x": 21})
    return [a, b, c, said.payload, never, [kid.result for kid in kids], failed, k, ctx.idempotency_key("a")]


EXPECTED = [3, 12, 8, {"p": 1}, None, [0, 2, 4], "step 'refuse' failed after 3 attempts: ValueError: no", 42]


def test_a_flow_is_drained(conn: Conn) -> None:
    id = gd.insert(conn, everything, {})
    drain(conn, [everything, double])
    assert_awaiting_time(conn, id)
    drain(conn, advance=True)
    assert_awaiting(conn, id, "go")
    gd.signal(conn, id, "go", {"p": 1})
    drain(conn, advance=True)
    assert assert_done(conn, id)[:8] == EXPECTED


def assert_awaiting_time(conn: Conn, id: int | None) -> None:
    row = conn.execute("select step, status from gd_instances where id = %s", (id,)).fetchone()
    assert row == ("(sleep)", "runnable")


async def test_a_flow_is_drained_on_an_async_connection(db: Any) -> None:
    conn = await db.aconnect()
    id = await gd.insert(conn, everything, {})
    await gd.signal(conn, id, "go", {"p": 1})
    await drain(conn, [everything, double], advance=True)
    assert (await assert_done(conn, id))[:8] == EXPECTED


def test_it_comes_to_the_same_end_wherever_its_worker_is_killed(conn: Conn) -> None:
    places = crash_everywhere(conn, everything, {}, signals=[("go", {"p": 1})], machines=[double])
    assert places > 40
    assert conn.execute("select count(*) from gd_instances").fetchone() == (0,)


@flow(name="drain.chance")
async def chance(ctx: FlowContext) -> str:
    name = random.choice("abcdefghijklmnopqrstuvwxyz") + str(random.random())
    await ctx.step(name, add, 1, 2)
    await ctx.step(name, add, 1, 2)
    return name


def test_chance_in_a_function_is_found(conn: Conn) -> None:
    id = gd.insert(conn, chance, max_attempts=2)
    drain(conn, [chance], advance=True)
    assert "the journal goes on with step" in assert_failed(conn, id)


def test_a_helper_that_finds_another_end_says_where(conn: Conn) -> None:
    seen: list[int] = []

    def count() -> int:
        seen.append(1)
        return len(seen)

    @flow(name="drain.counting")
    async def counting(ctx: FlowContext) -> int:
        return await ctx.step("count", count)

    with pytest.raises(AssertionError, match="killed at the claim"):
        crash_everywhere(conn, counting)


async def refuse_async() -> None:
    raise ValueError("no")


@flow(name="drain.refusing")
async def refusing(ctx: FlowContext) -> None:
    await ctx.step("refuse", refuse_async)


@job(name="drain.refusing_job")
async def refusing_job(args: dict[str, Any]) -> None:
    raise ValueError("no")


def test_the_error_of_an_async_step_is_its_own(conn: Conn) -> None:
    ids = [gd.insert(conn, refusing), gd.insert(conn, refusing_job, max_attempts=1)]
    drain(conn, [refusing, refusing_job])
    assert assert_failed(conn, ids[0]) == "StepFailed: step 'refuse' failed: ValueError: no"
    assert assert_failed(conn, ids[1]) == "ValueError: no"


def make_much(size: int) -> str:
    return "x" * size


@flow(name="drain.large")
async def large(ctx: FlowContext) -> int:
    found = len(await ctx.step("much", make_much, (32 << 20) - 2))
    await ctx.step("too much", make_much, (32 << 20) - 1)
    return found


def test_a_value_that_is_too_long_is_the_failure_of_its_step(conn: Conn) -> None:
    id = gd.insert(conn, large)
    drain(conn, [large])
    assert "step 'too much' failed: InvalidArgument: the value has 33,554,433 bytes" in assert_failed(conn, id)


@flow(name="drain.in_a_group")
async def in_a_group(ctx: FlowContext, args: dict[str, Any]) -> str:
    if args["how"] == "done":
        return "done"
    async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
        group.create_task(ctx.signal("never"))
        inner.create_task(ctx.signal("never"))
        if args["how"] == "restart":
            ctx.restart({"how": "done"})
        raise Cancel("enough")


def test_a_flow_begins_anew_and_gives_up_out_of_groups_of_tasks(conn: Any) -> None:
    ids = [gd.insert(conn, in_a_group, {"how": how}) for how in ("restart", "cancel")]
    drain(conn, [in_a_group])
    assert_done(conn, ids[0])
    found = gd.result(conn, ids[1])
    assert found is not None and (found.status, found.last_error) == ("failed", "enough")
