"""How a process that serves begins and ends: signals at every moment, stops before and after, threads that go on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import socket
import threading
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.wait import wait_until
from support.workers import worker

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, job, step

Conn = psycopg.Connection[Any]

# Starting


@pytest.fixture
def silent() -> Any:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


START = """
import gendurable_py as gd
gd.Engine(sys.argv[1], drain_timeout=3600).run()
print("ended well")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_breaks_off_a_start_that_waits_for_a_server(silent: socket.socket, number: int) -> None:
    with worker(START, f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=x connect_timeout=600") as process:
        connection, _ = silent.accept()
        with connection:
            process.signal(number)
            assert process.ends() == 0
    assert process.said[-1] == "ended well"


async def test_a_stop_breaks_off_a_start_and_the_engine_can_be_used_again(silent: socket.socket) -> None:
    silent.setblocking(False)
    engine = Engine(f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=x connect_timeout=600")
    for _ in range(2):
        before = asyncio.all_tasks()
        serving = asyncio.ensure_future(engine.serve())
        connection, _ = await asyncio.get_running_loop().sock_accept(silent)
        with connection:
            engine.stop()
            await asyncio.wait_for(serving, 20)
        assert asyncio.all_tasks() == before


async def test_a_stop_before_the_first_start_is_kept_for_it_and_one_after_the_end_is_nothing(
    db: Any, conn: Conn
) -> None:
    engine = Engine("host=/nowhere dbname=nothing")
    engine.stop()
    await engine.serve()  # it would raise if it tried to connect
    with pytest.raises(psycopg.OperationalError):
        await engine.serve()

    @job(name="process.again")
    def again(args: dict[str, Any]) -> None: ...

    engine = Engine(db.dsn, [again])
    for _ in range(2):
        async with engine:
            await asyncio.to_thread(ended, conn, gd.insert(conn, again))
            engine.stop()
        engine.stop()
        engine.stop()


EARLY = """
import asyncio, signal
import gendurable_py as gd

original, engine = asyncio.set_event_loop, gd.Engine("host=/nowhere dbname=nothing")

def early(loop):
    if loop is not None:
        signal.raise_signal(signal.SIGTERM)
    original(loop)

asyncio.set_event_loop = early
for _ in range(2):
    engine.run()
print("handlers", signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_a_signal_counts_before_the_loop_runs_and_the_handlers_are_given_back() -> None:
    with worker(EARLY) as process:
        assert process.ends() == 0
    assert process.said[-1] == "handlers 0 True"


# Stopping


STOPPED = """
import signal, threading
import gendurable_py as gd

@gd.job(name="process.waits")
def waits(args, ctx):
    print("entered")
    while not ctx.draining:
        threading.Event().wait(0.01)
    return {"draining": ctx.draining, "cancelled": ctx.cancelled}

engine = gd.Engine(sys.argv[1], [waits], drain_timeout=60)
signal.signal(signal.SIGUSR1, lambda number, frame: engine.stop())
engine.run()
engine.stop()
print("ended well")
"""


@pytest.mark.parametrize("how", ["signal", "handler"])
def test_sync_steps_learn_of_draining_at_once_and_what_they_return_is_committed(db: Any, conn: Conn, how: str) -> None:
    id = gd.insert(conn, "process.waits")
    with worker(STOPPED, db.dsn) as process:
        process.says("entered")
        process.signal(signal.SIGTERM if how == "signal" else signal.SIGUSR1)
        assert process.ends() == 0
    assert process.said[-1] == "ended well"
    assert gd.result(conn, id or 0) == gd.Result("done", {"draining": True, "cancelled": False}, None)


async def test_async_steps_learn_of_draining_too_whatever_ends_the_engine(db: Any, conn: Conn) -> None:
    entered = asyncio.Event()

    @job(name="process.async_waits")
    async def waits(args: dict[str, Any], ctx: Context[Any]) -> bool:
        entered.set()
        while not ctx.draining:  # noqa: ASYNC110 - that is what it is about
            await asyncio.sleep(0.005)
        return ctx.draining

    id = gd.insert(conn, waits)
    serving = asyncio.ensure_future(Engine(db.dsn, [waits], drain_timeout=60).serve())
    await entered.wait()
    serving.cancel()
    await asyncio.wait([serving], timeout=20)
    assert serving.cancelled()
    assert gd.result(conn, id or 0) == gd.Result("done", True, None)


def test_a_step_that_no_engine_runs_is_never_told_to_stop() -> None:
    class Machine(FSM, name="process.no_engine"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done(ctx.draining)

    from gendurable_py.testing import context

    assert context(Machine).draining is False
    with pytest.raises(AttributeError):
        context(Machine).draining = True  # type: ignore[misc]


# Threads that steps hand work to


HANDED_OVER = """
import asyncio, atexit, concurrent.futures, threading
import gendurable_py as gd

@gd.job(name="process.handed_over")
async def handed_over(args, ctx):
    print("entered")
    if args["how"] == "to_thread":
        await asyncio.to_thread(threading.Event().wait)
    else:
        await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

atexit.register(print, "atexit")
gd.Engine(sys.argv[1], [handed_over], drain_timeout=float(sys.argv[2])).run()
print("ended well")
"""


@pytest.mark.parametrize("how", ["to_thread", "run_in_executor"])
@pytest.mark.parametrize("signals", [1, 2])
def test_the_end_waits_for_no_thread_and_its_row_is_not_given_back(db: Any, conn: Conn, how: str, signals: int) -> None:
    id = gd.insert(conn, "process.handed_over", {"how": how}, partition_key="k")
    behind = gd.insert(conn, "process.handed_over", {"how": how}, partition_key="k")
    with worker(HANDED_OVER, db.dsn, 0.1 if signals == 1 else 3600) as process:
        process.says("entered")
        process.signal(signal.SIGTERM)
        if signals == 2:
            process.says("drains")
            process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.said[-2:] == ["ended well", "atexit"]
    assert [line for line in process.said if "1 steps go on in their threads; what they hold is left" in line]
    # Its claim stands until the lease ends: nobody runs it, or what is behind it, beside the thread.
    assert field(conn, id, "status = 'executing' and lease_expires_at > now()")
    assert field(conn, behind, "status") == "runnable"


@pytest.mark.parametrize("how", ["to_thread", "run_in_executor", "an executor of its own"])
def test_a_cancelled_step_keeps_its_claim_and_its_slot_until_its_thread_ends(db: Any, conn: Conn, how: str) -> None:
    gate, entered, cancelled = threading.Event(), threading.Event(), threading.Event()
    pool = concurrent.futures.ThreadPoolExecutor(1)

    def blocks() -> None:
        entered.set()
        assert gate.wait(60)

    @job(name="process.outlives")
    async def outlives(args: dict[str, Any], ctx: Context[Any]) -> str:
        if ctx.attempt or cancelled.is_set():
            return "again"
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        threading.Thread(target=lambda: (entered.wait(10), loop.call_soon_threadsafe(task.cancel))).start()
        try:
            if how == "to_thread":
                await asyncio.to_thread(blocks)
            else:
                await loop.run_in_executor(None if how == "run_in_executor" else pool, blocks)
        finally:
            cancelled.set()
        raise AssertionError("not reached")

    events = Events()
    options: dict[str, Any] = {"lease_ttl": 0.6, "heartbeat_interval": 0.05}
    with pool, running(Engine(db.dsn, [outlives], {"default": 1}, on_event=events, **options)):
        try:
            id, behind = gd.insert(conn, outlives), gd.insert(conn, outlives)
            assert cancelled.wait(10)
            # Longer than its lease: it is renewed, and its slot is not free.
            first = field(conn, id, "lease_expires_at")
            wait_until(lambda: field(conn, id, "now()") > first)
            assert field(conn, id, "status = 'executing' and lease_expires_at > now() and crashes = 0")
            assert field(conn, behind, "status") == "runnable"
            assert events.count("release") == events.count("step") == 0
        finally:
            gate.set()
        wait_until(lambda: field(conn, id, "status = 'runnable' and eligible_at > now() + interval '5 s'"))
        ended(conn, behind)


async def test_what_others_on_the_loop_hand_over_is_no_affair_of_the_engine(db: Any, conn: Conn) -> None:
    loop = asyncio.get_running_loop()
    gate = threading.Event()
    async with Engine(db.dsn):
        assert await asyncio.to_thread(lambda: 1) == 1
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, lambda: 2) == 2
        going_on = asyncio.ensure_future(asyncio.to_thread(gate.wait, 60))
        await asyncio.sleep(0)
    assert "run_in_executor" not in vars(loop)
    gate.set()
    assert await going_on


def test_a_call_that_raises_what_no_future_carries_ends_its_step(db: Any, conn: Conn) -> None:
    script = """
import asyncio
import gendurable_py as gd

def raises(name):
    raise {"StopIteration": StopIteration, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[name]

@gd.job(name="process.raises", max_attempts=1)
async def raises_there(args, ctx):
    await asyncio.to_thread(raises, args["what"])

gd.Engine(sys.argv[1], [raises_there]).run()
"""
    names = ["StopIteration", "SystemExit", "KeyboardInterrupt"]
    ids = [gd.insert(conn, "process.raises", {"what": name}) for name in names]
    with worker(script, db.dsn) as process:
        for name, result in zip(names, ended(conn, *ids), strict=True):
            assert result.status == "failed"
            assert name in (result.last_error or "")
        process.signal(signal.SIGTERM)
        assert process.ends() == 0


def test_what_steps_leave_on_the_loop_does_not_hold_up_the_end(db: Any, conn: Conn) -> None:
    script = """
import asyncio, contextlib
import gendurable_py as gd

left = []

async def stubborn():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

async def generator():
    try:
        while True:
            yield
    finally:
        await asyncio.Event().wait()

@gd.job(name="process.leaves")
async def leaves(args, ctx):
    left.append(asyncio.create_task(stubborn()))
    left.append(generator())
    await anext(left[-1])

gd.Engine(sys.argv[1], [leaves]).run()
print("ended well")
"""
    id = gd.insert(conn, "process.leaves")
    with worker(script, db.dsn) as process:
        ended(conn, id)
        process.signal(signal.SIGTERM)
        assert process.ends() == 0
    assert process.said[-1] == "ended well"
    assert [line for line in process.said if "Traceback" in line or "destroyed" in line] == []
