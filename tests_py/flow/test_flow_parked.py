"""What a row says of the flow that is parked in it is said once, of what it was parked for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from support.engine import ended, field, running

import gendurable_py as gd
from gendurable_py import Child, Engine, job
from gendurable_py.flow import FlowContext, flow
from gendurable_py.testing import crash_everywhere, drain


@flow(name="parked.sleeper")
async def sleeper(ctx: FlowContext) -> None:
    await ctx.sleep(0.01)
    await ctx.sleep(3600)


@flow(name="parked.timers")
async def timers(ctx: FlowContext) -> None:
    await asyncio.sleep(0.01)
    await ctx.signal("word", timeout=3600)


@job(name="parked.child")
def child(args: dict[str, Any]) -> str:
    return "x" * int(args["bytes"])


@flow(name="parked.parent")
async def parent(ctx: FlowContext, args: dict[str, Any]) -> int:
    found = await asyncio.gather(*(ctx.childs([Child(child, args)]) for _ in range(2)))
    return await ctx.step("count", len, found)


def test_the_end_of_a_first_sleep_is_not_that_of_the_next(conn: Any) -> None:
    ids = [gd.insert(conn, sleeper), gd.insert(conn, timers)]
    drain(conn, [sleeper, timers])
    time.sleep(0.05)
    drain(conn, [sleeper, timers])
    assert [field(conn, id, "step") for id in ids] == ["(sleep)", "(signal)"]
    assert [field(conn, id, "status") for id in ids] == ["runnable", "awaiting_signal"]


def test_children_that_come_first_are_taken_once(conn: Any) -> None:
    assert crash_everywhere(conn, parent, {"bytes": 1}, machines=[child]) > 0
    id = gd.insert(conn, parent, {"bytes": 1})
    drain(conn, [parent, child])
    assert field(conn, id, "status") == "done"


def test_children_of_one_barrier_are_one_commit_however_large(db: Any, conn: Any) -> None:
    with running(Engine(db.dsn, machines=[parent, child])):
        [result] = ended(conn, gd.insert(conn, parent, {"bytes": 5_000_000}))
    assert (result.status, result.result) == ("done", 2), result
    id = gd.insert(conn, parent, {"bytes": 5_000_000})
    drain(conn, [parent, child])  # each commit gives the claim back
    assert field(conn, id, "status") == "done"
    found = conn.execute("select count(*) from gd_instances where parent_id = %s", (id,)).fetchone()
    assert found == (2,)
