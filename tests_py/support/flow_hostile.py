"""Bodies of flows that nobody should write, each with what has to become of it: its status, and words of the reason."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic import BaseModel

from gendurable_py.flow import FlowContext, FlowFunction, StepFailed, flow

Body = Callable[[FlowContext], Any]
CASES: dict[str, tuple[FlowFunction[..., Any], str, str]] = {}


def case(status: str, words: str = "") -> Callable[[Body], Body]:
    def add(body: Body) -> Body:
        name = body.__name__
        CASES[name] = flow(name=f"hostile.{name}", max_attempts=1)(body), status, words
        return body

    return add


def one() -> int:
    return 1


async def awaited() -> int:
    return 1


# It never rests, or never ends


@case("failed", "does not come to rest")
async def spins(ctx: FlowContext) -> None:
    while True:  # noqa: ASYNC110
        await asyncio.sleep(0)


@case("failed", "does not come to rest")
async def spins_on_errors(ctx: FlowContext) -> None:
    while True:
        try:
            await asyncio.to_thread(one)
        except BaseException:  # noqa: BLE001
            await asyncio.sleep(0)


@case("awaiting_signal")
async def swallows(ctx: FlowContext) -> None:
    while True:
        try:  # noqa: SIM105
            await ctx.signal("never")
        except BaseException:  # noqa: BLE001
            pass


@case("awaiting_signal")
async def swallows_and_goes_round(ctx: FlowContext) -> None:
    while True:
        try:
            await ctx.signal("never")
        except BaseException:  # noqa: BLE001
            while True:  # noqa: ASYNC110
                await asyncio.sleep(0)


@case("awaiting_signal")
async def begins_more_when_suspended(ctx: FlowContext) -> None:
    async def again() -> None:
        try:
            await ctx.signal("never")
        finally:
            asyncio.create_task(again())  # noqa: RUF006

    await again()


@case("awaiting_signal")
async def raises_when_suspended(ctx: FlowContext) -> None:
    try:
        await ctx.signal("never")
    finally:
        raise ValueError("in a finally")


@case("awaiting_signal")
async def exits_when_suspended(ctx: FlowContext) -> None:
    try:
        await ctx.signal("never")
    finally:
        raise SystemExit(3)


@case("awaiting_signal")
async def steps_when_suspended(ctx: FlowContext) -> None:
    try:
        await ctx.signal("never")
    finally:
        await ctx.step("cleanup", one)


@case("failed", "can never come")
async def waits_for_nothing(ctx: FlowContext) -> None:
    await asyncio.get_running_loop().create_future()


@case("failed", "can never come")
async def waits_for_itself(ctx: FlowContext) -> None:
    lock = asyncio.Lock()
    async with lock, lock:
        pass


# It leaves things open


@case("done")
async def leaks_tasks(ctx: FlowContext) -> int:
    tasks = [asyncio.create_task(ctx.signal("never")), asyncio.create_task(ctx.sleep(3600))]
    await ctx.step("one", one)
    return len(tasks)


@case("done")
async def leaves_a_step(ctx: FlowContext) -> int:
    async def slow() -> None:
        await asyncio.sleep(3600)

    task = asyncio.create_task(ctx.step("slow", slow))
    await ctx.step("one", awaited)
    return int(task.done())


@case("done")
async def leaves_a_generator_open(ctx: FlowContext) -> int:
    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield await ctx.step("number", one)
        finally:
            await ctx.step("cleanup", one)

    async for number in numbers():
        return number
    return 0


@case("done")
async def forgets_to_await(ctx: FlowContext) -> None:
    ctx.step("one", one)


@case("done")
async def swallows_a_restart(ctx: FlowContext) -> int:
    try:
        ctx.restart(None)
    except BaseException:  # noqa: BLE001
        return 1


# It reaches outside


@case("failed", "chance is drawn (do it before, and give it to the step) outside of the flow's own code")
async def draws_in_a_step(ctx: FlowContext) -> None:
    await ctx.step("draw", ctx.uuid)


@case("failed", "outside of the flow's own code")
async def draws_a_key_in_a_step(ctx: FlowContext) -> None:
    await ctx.step("charge", ctx.idempotency_key, "charge")


@case("failed", "outside of the flow's own code")
async def asks_for_chance_in_a_step(ctx: FlowContext) -> None:
    await ctx.step("chance", lambda: ctx.random.random())


@case("failed", "belongs into a step")
async def connects(ctx: FlowContext) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


@case("failed", "belongs into a step")
async def uses_a_thread(ctx: FlowContext) -> None:
    await asyncio.to_thread(one)


@case("failed", "belongs into a step")
async def uses_an_executor(ctx: FlowContext) -> None:
    await asyncio.get_running_loop().run_in_executor(None, one)


@case("failed", "belongs into a step")
async def runs_a_program(ctx: FlowContext) -> None:
    await asyncio.create_subprocess_exec("true")


@case("failed", "belongs into a step")
async def watches_a_file(ctx: FlowContext) -> None:
    asyncio.get_running_loop().add_reader(0, one)


@case("failed", "belongs into a step")
async def handles_signals(ctx: FlowContext) -> None:
    asyncio.get_running_loop().add_signal_handler(15, one)


@case("failed", "belongs into a step")
async def stops_the_loop(ctx: FlowContext) -> None:
    asyncio.get_running_loop().stop()


@case("failed", "belongs into a step")
async def closes_the_loop(ctx: FlowContext) -> None:
    asyncio.get_running_loop().close()


@case("failed", "running event loop")
async def runs_a_loop(ctx: FlowContext) -> None:
    coro = awaited()
    try:
        asyncio.run(coro)
    finally:
        coro.close()


@case("done")
async def is_called_by_a_thread(ctx: FlowContext) -> str:
    said: list[str] = []
    loop = asyncio.get_running_loop()

    def call() -> None:
        try:
            loop.call_soon_threadsafe(one)
        except Exception as error:  # noqa: BLE001
            said.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "outside of a flow" in said[0]
    return said[0]


stolen: list[Any] = []


@case("awaiting_signal")
async def gives_its_context_away(ctx: FlowContext) -> None:
    stolen.append(ctx)
    await ctx.signal("never")


@case("failed", "different loop")
async def uses_the_context_of_another(ctx: FlowContext) -> None:
    while not stolen:
        await ctx.sleep(0.05)
    await stolen[0].step("one", one)


# It ends in strange ways


@case("failed", "SystemExit")
async def exits(ctx: FlowContext) -> None:
    raise SystemExit(3)


@case("failed", "KeyboardInterrupt")
async def interrupts(ctx: FlowContext) -> None:
    await ctx.step("one", one)
    raise KeyboardInterrupt


@case("failed", "GeneratorExit")
async def leaves_as_a_generator(ctx: FlowContext) -> None:
    raise GeneratorExit


@case("failed", "cancellation that was its own")
async def cancels_itself(ctx: FlowContext) -> None:
    if (task := asyncio.current_task()) is not None:
        task.cancel()
    await asyncio.sleep(0)


@case("failed", "cancellation that was its own")
async def raises_a_cancellation(ctx: FlowContext) -> None:
    raise asyncio.CancelledError


@case("failed", "StopIteration")
async def stops_iterating(ctx: FlowContext) -> None:
    raise StopIteration


@case("failed", "RecursionError")
async def recurses(ctx: FlowContext) -> None:
    await recurses(ctx)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@case("failed", "Mute")
async def has_no_words(ctx: FlowContext) -> None:
    raise Mute


def raise_mute() -> None:
    raise Mute


@case("failed", "step 'mute' failed")
async def has_a_step_without_words(ctx: FlowContext) -> None:
    await ctx.step("mute", raise_mute)


def leave() -> None:
    raise SystemExit(4)


async def leave_async() -> None:
    raise KeyboardInterrupt


@case("done")
async def has_steps_that_exit(ctx: FlowContext) -> list[str]:
    said = []
    for name, function in (("exit", leave), ("interrupt", leave_async)):
        try:
            await ctx.step(name, function)  # type: ignore[arg-type]
        except StepFailed as failed:
            said.append(failed.kinds[0])
    assert said == ["builtins.SystemExit", "builtins.KeyboardInterrupt"]
    return said


async def cancelled() -> None:
    raise asyncio.CancelledError


async def cancels() -> None:
    if (task := asyncio.current_task()) is not None:
        task.cancel()
    await asyncio.sleep(0)


@case("done")
async def has_steps_that_cancel_themselves(ctx: FlowContext) -> list[str]:
    said = []
    for name, function in (("raised", cancelled), ("cancelled", cancels)):
        try:
            await ctx.step(name, function)
        except StepFailed as failed:
            said.append(failed.kinds[0])
    assert said == ["asyncio.exceptions.CancelledError"] * 2
    return said


@case("failed", "outside of the flow")
async def has_a_step_inside_a_step(ctx: FlowContext) -> None:
    async def outer() -> int:
        return await ctx.step("inner", one)

    await ctx.step("outer", outer)


class Order(BaseModel):
    number: int


@flow(name="hostile.typed", max_attempts=1)
async def typed(ctx: FlowContext, order: Order) -> int:
    return order.number


@flow(name="hostile.blocks")
async def blocks(ctx: FlowContext) -> None:
    await ctx.step("one", one)
    time.sleep(0.5)  # noqa: ASYNC251


@flow(name="hostile.neighbour")
async def neighbour(ctx: FlowContext) -> int:
    first = await ctx.step("one", one)
    await ctx.sleep(0.01)
    return first + await ctx.step("one", awaited)
