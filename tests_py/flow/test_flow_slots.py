"""Slots of flows: each is given up in the end, and a queue never has more of them than it was given."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job
from gendurable_py.flow import FlowContext, StepFailed, flow

gate = threading.Event()


def hold() -> None:
    gate.wait(20)


@flow(name="slots.holds", queue="one")
async def holds(ctx: FlowContext) -> None:
    await ctx.step("hold", hold)


@flow(name="slots.plain", queue="one")
async def plain(ctx: FlowContext) -> int:
    return 1


def test_what_is_cancelled_while_it_waits_for_a_slot_takes_none(db: Any, conn: Any) -> None:
    gate.clear()
    events = Events()
    engine = Engine(
        db.dsn, machines=[holds, plain], queues={"one": 1}, prefetch=5, heartbeat_interval=0.1, on_event=events
    )
    first, second = gd.insert(conn, holds), gd.insert(conn, plain)
    with running(engine):
        wait_until(lambda: field(conn, second, "status") == "executing")
        conn.execute("select gd_cancel(%s)", (second,))
        wait_until(lambda: events.count("lost"))
        gate.set()
        third = gd.insert(conn, plain)
        assert [one.status for one in ended(conn, first, second, third)] == ["done", "cancelled", "done"]


class Odd(Exception):
    __module__ = "a\x00b"


class Broken(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[misc]
        raise RuntimeError("no class")


def raise_odd() -> None:
    raise Odd("odd")


def raise_broken() -> None:
    raise Broken("broken")


@flow(name="slots.odd", queue="one")
async def odd(ctx: FlowContext) -> bool:
    try:
        await ctx.step("odd", raise_odd)
    except StepFailed as error:
        return error.is_a(Odd) and error.is_a(Exception)
    return False


@flow(name="slots.broken", queue="one")
async def broken(ctx: FlowContext) -> None:
    await ctx.using(max_attempts=2, never=ValueError).step("broken", raise_broken)


def test_errors_with_code_of_their_own_cost_their_flow_alone(db: Any, conn: Any) -> None:
    with running(Engine(db.dsn, machines=[odd, broken, plain], queues={"one": 1})):
        ids = [gd.insert(conn, machine) for machine in (odd, broken, plain)]
        found = ended(conn, *ids)
    assert [one.status for one in found] == ["done", "failed", "done"], found
    assert found[0].result is True


class Together:
    """How many were in a step at once."""

    now = most = 0


async def tick() -> None:
    Together.now += 1
    Together.most = max(Together.most, Together.now)
    await asyncio.sleep(0.001)
    Together.now -= 1


@flow(name="slots.quick", queue="one")
async def quick(ctx: FlowContext) -> None:
    for _ in range(5):
        await ctx.step("tick", tick)


@pytest.mark.parametrize("prefetch", ["auto", 5])
def test_what_was_claimed_ahead_takes_no_slot_of_a_flow_that_goes_on(db: Any, conn: Any, prefetch: Any) -> None:
    Together.now = Together.most = 0
    ids = [gd.insert(conn, quick) for _ in range(60)]
    with running(Engine(db.dsn, machines=[quick], queues={"one": 1}, prefetch=prefetch)):
        assert {one.status for one in ended(conn, *ids)} == {"done"}
    assert Together.most == 1


replaying = threading.Event()


@flow(name="slots.long", queue="one")
async def long(ctx: FlowContext) -> None:
    for _ in range(300):
        replaying.set()
        time.sleep(0.01)  # noqa: ASYNC251 - so that it takes its time
        await ctx.step("one", swift)
    await ctx.signal("go")


def test_a_replay_is_given_back_by_a_drain(db: Any, conn: Any) -> None:
    replaying.clear()
    id = gd.insert(conn, long)
    conn.execute("""insert into gendurable.journal values (%s, 1, '{"k": "start", "at": 1, "seed": "x"}')""", (id,))
    conn.execute(
        "insert into gendurable.journal select %s, n + 2, jsonb_build_object("
        "'k', 'step', 'name', 'one', 'n', n, 'at', 2, 'v', '\"swift\"') from generate_series(0, 299) n",
        (id,),
    )
    with running(Engine(db.dsn, machines=[long], queues={"one": 1}, drain_timeout=0.1, lease_ttl=600)):
        assert replaying.wait(10)
    assert field(conn, id, "status") == "runnable"


class Ran:
    """How often, and where it stands."""

    count = 0


def slow() -> str:
    Ran.count += 1
    gate.wait(20)
    return "slow"


async def swift() -> str:
    return "swift"


@job(name="slots.word", queue="others")
def word(args: dict[str, Any]) -> None:
    pass


@flow(name="slots.beside", queue="one")
async def beside(ctx: FlowContext) -> list[Any]:
    async def wait() -> str:
        await ctx.sleep(0.2)
        return await ctx.step("swift", swift)

    return list(await asyncio.gather(ctx.step("slow", slow), wait()))


@flow(name="slots.after", queue="one")
async def after(ctx: FlowContext) -> None:
    await ctx.step("after", swift)


def test_a_flow_keeps_its_slot_while_steps_of_it_run(db: Any, conn: Any) -> None:
    gate.clear()
    first, second = gd.insert(conn, beside), gd.insert(conn, after)
    engine = Engine(db.dsn, machines=[beside, after], queues={"one": 1, "others": 1}, prefetch=5)
    with running(engine):
        # beside the slow one a sleep and a step are committed
        wait_until(lambda: conn.execute("select true from gd_journal(%s) where name = 'swift'", (first,)).fetchone())
        wait_until(lambda: field(conn, second, "status") == "executing")
        for _ in range(3):
            ended(conn, gd.insert(conn, word, {}))
        assert conn.execute("select count(*) from gd_journal(%s)", (second,)).fetchone() == (0,)
        gate.set()
        assert {one.status for one in ended(conn, first, second)} == {"done"}


def test_a_step_in_a_thread_is_waited_for_by_a_drain_whatever_comes_meanwhile(db: Any, conn: Any) -> None:
    gate.clear()
    Ran.count = 0
    id = gd.insert(conn, beside)
    engine = Engine(db.dsn, machines=[beside], queues={"one": 1}, drain_timeout=20)
    with running(engine):
        wait_until(lambda: Ran.count)
        engine.stop()
        wait_until(lambda: conn.execute("select true from gd_journal(%s) where kind = 'sleep'", (id,)).fetchone())
        assert field(conn, id, "status") == "executing"  # nobody else begins the slow step
        gate.set()
        # before it is stopped once more, which would hurry it
        wait_until(lambda: conn.execute("select true from gd_journal(%s) where name = 'slow'", (id,)).fetchone())
    with running(Engine(db.dsn, machines=[beside], queues={"one": 1})):
        [found] = ended(conn, id)
    assert (found.result, Ran.count) == (["slow", "swift"], 1)
