"""End to end: a dispatcher in a process of its own, as `python -m bench._engine '{"dsn": …, "concurrency": …}'`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg

from gendurable_py import FSM, Await, Child, Context, Done, Engine, Next, ScheduleChilds, job, step

ROOT = Path(__file__).resolve().parent.parent


@job(name="bench_sync")
def sync_job(args: dict[str, object]) -> None:
    """Does nothing, on a thread."""


@job(name="bench_async")
async def async_job(args: dict[str, object]) -> None:
    """Does nothing, on the loop."""


@job(name="bench_start")
async def start_job(args: dict[str, object]) -> float:
    """Says when it began."""
    return time.time()


class Five(FSM, name="bench_five"):
    """Five steps that do nothing."""

    @step
    def start(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("two", ctx.state)

    @step
    def two(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("three", ctx.state)

    @step
    def three(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("four", ctx.state)

    @step
    def four(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("five", ctx.state)

    @step
    def five(self, ctx: Context[dict[str, object]]) -> Done:
        return Done()


class Fan(FSM, name="bench_fan"):
    """As many children as the state says."""

    @step
    def start(self, ctx: Context[dict[str, int]]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(sync_job)] * ctx.state["childs"])

    @step
    def join(self, ctx: Context[dict[str, int]]) -> Done:
        return Done()


class Resume(FSM, name="bench_resume"):
    """Awaits a signal, and says when it went on."""

    @step
    async def start(self, ctx: Context[dict[str, object]]) -> Await:
        return Await("go", step="resumed")

    @step
    async def resumed(self, ctx: Context[dict[str, object]]) -> Done:
        return Done(time.time())


@dataclass(frozen=True)
class Setup:
    """How the dispatcher of a workload is started."""

    dsn: str
    concurrency: int = 400
    options: dict[str, object] = field(default_factory=dict)


async def serve(setup: Setup) -> None:
    machines = [sync_job, async_job, start_job, Five, Fan, Resume]
    engine = Engine(setup.dsn, machines=machines, queues={"default": setup.concurrency}, **setup.options)  # type: ignore[arg-type]
    async with engine:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print(json.dumps({"cpu": time.process_time()}), flush=True)


@contextlib.contextmanager
def dispatcher(dsn: str, concurrency: int = 400, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A dispatcher process that is up and asleep; it drains when the block ends."""
    arguments = [sys.executable, "-m", "bench._engine", json.dumps(asdict(Setup(dsn, concurrency, options)))]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the dispatcher did not start")
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(30)


def drained(conn: psycopg.Connection, machine: str, count: int) -> float:
    """Instances a second: one insert of `count`, until the last one is done. By the server's clock."""
    text = json.dumps([{"fsm": machine, "state": {"p": "x" * 80}} for _ in range(count)])
    conn.execute("select count(*) from gd_insert_many(%s)", [text])
    finish(conn)
    query = """select count(*) / extract(epoch from max(finished_at) - min(inserted_at))
        from gendurable.instance where fsm = %s and status = 'done'"""
    row = conn.execute(query, [machine]).fetchone()
    assert row is not None
    return float(row[0])


def finish(conn: psycopg.Connection) -> None:
    """Wait until nothing is left to do."""
    unfinished = "select exists (select from gendurable.instance where finished_at is null)"
    while conn.execute(unfinished).fetchone() == (True,):
        time.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(serve(Setup(**json.loads(sys.argv[1]))))
