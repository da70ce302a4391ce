"""Each run of a step has context variables of its own, and what any of them raises costs its own row only."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import logging
import threading
from typing import Any

import psycopg
import pytest
from support.engine import ended, running
from support.workers import worker

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Stop, job, step

Conn = psycopg.Connection[Any]

tenant = contextvars.ContextVar("tenant", default="nobody")


def look_and_change(ctx: Context[Any]) -> list[Any]:
    found = [tenant.get(), str(decimal.Decimal(1) / 3)]
    tenant.set(f"of {ctx.id}")
    decimal.getcontext().prec = 3
    return found


class Sync(FSM, name="context.sync"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        return Done(look_and_change(ctx))


class Async(FSM, name="context.async"):
    @step
    async def start(self, ctx: Context[Any]) -> Done:
        found = look_and_change(ctx)
        # What it calls elsewhere sees what it has set.
        assert await asyncio.to_thread(tenant.get) == f"of {ctx.id}"
        assert await asyncio.create_task(asyncio.to_thread(tenant.get)) == f"of {ctx.id}"
        return Done(found)


class Handle(FSM, name="context.handle"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        tenant.set("set by the step")
        raise ValueError

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        found = tenant.get()
        tenant.set("set by handle")
        return Stop(found)


class HandleLater(Handle, name="context.handle_later"):
    async def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return super().handle(error, ctx)


class HandleAsync(HandleLater, name="context.handle_async"):
    @step
    async def start(self, ctx: Context[Any]) -> Done:
        tenant.set("set by the step")
        raise ValueError


MACHINES = [Sync, Async, Handle, HandleLater, HandleAsync]


async def test_nothing_leaks_from_one_run_to_the_next_and_all_begin_as_the_engine_did(
    db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.set("of the program")
    monkeypatch.setattr(decimal.getcontext(), "prec", 5)

    def heard(name: str, measurements: Any, metadata: Any) -> None:
        tenant.set("set by on_event")

    async with Engine(db.dsn, MACHINES, {"default": 1}, on_event=heard):
        tenant.set("set later")
        for machine in [Sync, Async] * 3:
            [result] = await asyncio.to_thread(ended, conn, gd.insert(conn, machine))
            assert result.result == ["of the program", "0.33333"]
        for machine in [Handle, HandleLater, HandleAsync] * 2:
            [result] = await asyncio.to_thread(ended, conn, gd.insert(conn, machine))
            assert result.last_error == "set by the step"
    assert tenant.get() == "set later"


@pytest.mark.parametrize("takes_context", [False, True])
async def test_a_task_factory_of_the_program_is_used(db: Any, conn: Conn, takes_context: bool) -> None:
    loop, made = asyncio.get_running_loop(), []

    def factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
        if options and not takes_context:
            raise TypeError(f"unexpected {options}")
        made.append(task := asyncio.Task(coro, loop=loop, **options))
        return task

    @job(name="context.factory")
    async def one(args: dict[str, Any]) -> bool:
        return asyncio.current_task() in made

    loop.set_task_factory(factory)
    try:
        async with Engine(db.dsn, [one], {"default": 2}):
            found = await asyncio.to_thread(ended, conn, *(gd.insert(conn, one) for _ in range(5)))
    finally:
        loop.set_task_factory(None)
    assert [result.result for result in found] == [True] * 5


def test_run_ahead_gives_each_step_its_own_too(db: Any, conn: Conn) -> None:
    class Ahead(FSM, name="context.ahead", run_ahead=True):
        @step
        def start(self, ctx: Context[Any]) -> gd.Next:
            return gd.Next("second", {"found": look_and_change(ctx)})

        @step
        def second(self, ctx: Context[Any]) -> Done:
            return Done([ctx.state["found"], look_and_change(ctx)])

    with running(Engine(db.dsn, [Ahead])):
        assert ended(conn, gd.insert(conn, Ahead))[0].result == [["nobody", "0.3333333333333333333333333333"]] * 2


# What is raised

RAISED: dict[str, Any] = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration(),
    "CancelledError": asyncio.CancelledError(),
    "ExceptionGroup": ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "BaseExceptionGroup": BaseExceptionGroup("several", [SystemExit(1), ValueError("a")]),
    "RecursionError": RecursionError(),
    "MemoryError": MemoryError(),
    "TimeoutError": TimeoutError(),
}


def raises(name: str) -> Any:
    raise RAISED[name]


class Raises(FSM, name="raises.sync"):
    @step
    def start(self, ctx: Context[Any]) -> Any:
        return raises(ctx.state["what"])


class RaisesAsync(FSM, name="raises.async"):
    @step
    async def start(self, ctx: Context[Any]) -> Any:
        return raises(ctx.state["what"])


class RaisesInHandle(Raises, name="raises.handle"):
    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return raises(ctx.state["what"])


class RaisesInHandleLater(Raises, name="raises.handle_later"):
    async def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return raises(ctx.state["what"])


class RaisesInHandleAsync(RaisesAsync, name="raises.handle_async"):
    async def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return raises(ctx.state["what"])


RAISERS = [Raises, RaisesAsync, RaisesInHandle, RaisesInHandleLater, RaisesInHandleAsync]


def test_whatever_a_step_or_its_handler_raises_costs_its_own_row_only(db: Any, conn: Conn) -> None:
    @job(name="raises.beside")
    async def beside(args: dict[str, Any]) -> None: ...

    with running(Engine(db.dsn, [*RAISERS, beside], {"default": 3})):
        cases = [(machine, name) for machine in RAISERS for name in RAISED]
        ids = [gd.insert(conn, machine, {"what": name}) for machine, name in cases]
        good = [gd.insert(conn, beside) for _ in range(20)]
        for (machine, name), result in zip(cases, ended(conn, *ids), strict=True):
            assert result.status == "failed", (machine, name)
            assert name in (result.last_error or ""), (machine, name, result)
        assert {result.status for result in ended(conn, *good)} == {"done"}


def test_a_task_of_a_step_that_exits_does_not_end_a_service(db: Any, conn: Conn) -> None:
    script = """
import asyncio
import gendurable_py as gd

async def exits(error):
    raise error

@gd.job(name="raises.task", max_attempts=1)
async def begins(args, ctx):
    error = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[args["what"]]
    await asyncio.create_task(exits(error(3)))

@gd.job(name="raises.good")
def good(args): ...

gd.Engine(sys.argv[1], [begins, good]).run()
"""
    with worker(script, db.dsn) as process:
        for name in ("SystemExit", "KeyboardInterrupt"):
            [result] = ended(conn, gd.insert(conn, "raises.task", {"what": name}))
            assert (result.status, name in (result.last_error or "")) == ("failed", True)
        ended(conn, gd.insert(conn, "raises.good"))
        process.signal(15)
        assert process.ends() == 0
    assert any("a task that a step began raised SystemExit" in line for line in process.said)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, RuntimeError])
def test_telemetry_and_logs_that_raise_stop_nothing(
    db: Any, conn: Conn, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = threading.Event()

    def hears(name: str, measurements: Any, metadata: Any) -> None:
        heard.set()
        raise error

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            str(record.getMessage())
            raise error

    class Mute(Exception):
        def __repr__(self) -> str:
            raise error

        __str__ = __repr__

    @job(name="raises.mute", max_attempts=1)
    def mute(args: dict[str, Any]) -> None:
        raise Mute

    @job(name="raises.told")
    async def told(args: dict[str, Any]) -> None: ...

    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler, logger = Raising(), logging.getLogger("gendurable")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with running(Engine(db.dsn, [told, mute], on_event=hears)):
            gd.insert(conn, "raises.unknown")
            assert ended(conn, gd.insert(conn, mute))[0].status == "failed"
            assert ended(conn, gd.insert(conn, told))[0].status == "done"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert heard.is_set()
