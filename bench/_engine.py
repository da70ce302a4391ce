"""End to end: a dispatcher in a process of its own, as `python -m bench._engine DSN CONCURRENCY [--run-ahead]`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from gendurable_py import FSM, Context, Done, Engine, Next, job, step

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


async def serve(dsn: str, concurrency: int, ahead: bool) -> None:
    engine = Engine(
        dsn, machines=[sync_job, async_job, start_job, Five], queues={"default": concurrency}, run_ahead=ahead
    )
    async with engine:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    print(json.dumps({"cpu": time.process_time()}), flush=True)


@contextlib.contextmanager
def dispatcher(dsn: str, concurrency: int = 400, *, ahead: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A dispatcher process that is up and asleep; it drains when the block ends."""
    arguments = [sys.executable, "-m", "bench._engine", dsn, str(concurrency), *(["--run-ahead"] if ahead else [])]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("the dispatcher did not start")
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(30)


def drained(conn: psycopg.Connection, machine: str, count: int) -> float:
    """Instances a second: one insert of `count`, until the last one is done. By the server's clock."""
    text = json.dumps([{"fsm": machine, "state": {"p": "x" * 80}} for _ in range(count)])
    conn.execute("select count(*) from gd_insert_many(%s)", [text])
    unfinished = "select exists (select from gendurable.instance where eligible_at is not null)"
    while conn.execute(unfinished).fetchone() == (True,):
        time.sleep(0.02)
    query = """select count(*) / extract(epoch from max(finished_at) - min(inserted_at))
        from gendurable.instance where fsm = %s and status = 'done'"""
    row = conn.execute(query, [machine]).fetchone()
    assert row is not None
    return float(row[0])


def latencies(conn: psycopg.Connection, count: int) -> tuple[list[float], list[float]]:
    """Seconds of an empty durable commit, and from the call of an insert to the start of its step, the engine idle."""
    commits, starts = [], []
    conn.execute("create table if not exists bench_commit (n int)")
    for _ in range(count):
        started = time.perf_counter()
        conn.execute("insert into bench_commit values (1)")
        commits.append(time.perf_counter() - started)
        called = time.time()
        id = conn.execute("select gd_insert('bench_start')").fetchone()
        starts.append(begun(conn, id) - called)
        time.sleep(0.01)  # it falls asleep again
    return commits, starts


def lateness(conn: psycopg.Connection, count: int, seconds: float) -> list[float]:
    """Seconds by which steps start after their time, of rows that were delayed by so many seconds."""
    due = []
    for _ in range(count):
        id = conn.execute("select gd_insert('bench_start', p_delay => make_interval(secs => %s))", [seconds]).fetchone()
        at = conn.execute(
            "select extract(epoch from eligible_at) from gendurable.instance where id = %s", id
        ).fetchone()
        assert at is not None
        due.append((id, float(at[0])))
        time.sleep(0.1)
    return [begun(conn, id) - at for id, at in due]


def begun(conn: psycopg.Connection, id: tuple[int, ...] | None) -> float:
    """When a bench_start began, by this machine's clock."""
    while (row := conn.execute("select result from gd_result(%s) where status = 'done'", id).fetchone()) is None:
        time.sleep(0.002)
    return float(row[0])


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), "--run-ahead" in sys.argv))
