"""Flows in an engine: what a function waits for, and that it is the same whoever runs it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import Child, Engine, job
from gendurable_py.flow import FlowContext, flow


@job(name="flow.double")
def double(args: dict[str, Any]) -> int:
    return int(args["x"]) * 2


async def add(a: int, b: int) -> int:
    return a + b


def multiply(a: int, b: int) -> int:
    return a * b


@flow(name="flow.everything")
async def everything(ctx: FlowContext, args: dict[str, Any]) -> list[Any]:
    a = await ctx.step("add", add, 1, 2)
    b, c = await asyncio.gather(ctx.step("m", multiply, a, 4), ctx.step("m", multiply, a, 5))
    await ctx.sleep(0.1)
    s = await ctx.signal("go")
    n = await ctx.signal("never", timeout=0.1)
    kids = await ctx.childs([Child(double, {"x": i}) for i in range(3)])
    try:
        async with asyncio.timeout(0.1):
            await ctx.signal("nope")
    except TimeoutError:
        late = True
    k = await ctx.child(double, {"x": 21})
    return [a, b, c, s.payload, n, [kid.result for kid in kids], late, k, ctx.idempotency_key("a"), str(ctx.uuid())]


@pytest.mark.parametrize("notify", [True, False], ids=["sessions", "as behind a proxy"])
def test_everything_that_a_function_can_wait_for(db: Any, conn: Any, notify: bool) -> None:
    with running(Engine(db.dsn, machines=[everything, double], notify=notify, poll_interval=0.1)):
        id = gd.insert(conn, everything, {})
        gd.signal(conn, id, "go", {"p": 1})
        [result] = ended(conn, id)
    assert result.status == "done", result
    a, b, c, said, never, kids, late, one, key, uid = result.result
    assert [a, b, c, said, never, kids, late, one] == [3, 12, 15, {"p": 1}, None, [0, 2, 4], True, 42]
    assert len(key) == 32 and len(uid) == 36
    entries = [
        row[0]["k"]
        for row in conn.execute("select entry from gendurable.journal where instance_id = %s order by seq", (id,))
    ]
    assert entries == ["start", "step", "step", "step", "sleep", "signal", "signal", "childs", "timer", "childs"]


def test_what_the_module_has_is_found_at_the_decorator_of_its_name() -> None:
    for name in ("current", "FlowContext", "FlowError", "NonDeterministic", "StepFailed", "ChildFailed", "Saga"):
        assert getattr(gd.flow, name) is vars(sys.modules["gendurable_py.flow"])[name]
