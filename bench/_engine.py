"""End to end: a dispatcher in a process of its own, as `python -m bench._engine '{"dsn": …, "concurrency": …}'`."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import psycopg

from bench._flow_machines import MACHINES
from gendurable_py import FSM, Await, Child, Context, Done, Engine, Next, ScheduleChilds, job, sql_step, step

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


UPDATE = "update bench_yardstick set n = n + 1 where id = %s"


@job(name="bench_transaction", transactional=True)
def transaction_job(args: dict[str, object], ctx: Context[dict[str, object]]) -> None:
    """Updates one row in the transaction of its outcome, on a thread."""
    ctx.conn.execute(UPDATE, (random.randint(1, 100_000),))


@job(name="bench_transaction_async", transactional=True)
async def transaction_job_async(args: dict[str, object], ctx: Context[dict[str, object]]) -> None:
    """The same on the loop."""
    await ctx.conn.execute(UPDATE, (random.randint(1, 100_000),))


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


class Three(FSM, name="bench_three"):
    """Three steps that do nothing."""

    @step
    def start(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("two")

    @step
    def two(self, ctx: Context[dict[str, object]]) -> Next:
        return Next("three")

    @step
    def three(self, ctx: Context[dict[str, object]]) -> Done:
        return Done()


class Mixed(FSM, name="bench_mixed"):
    """The same, with the second one in SQL."""

    two = sql_step()

    @step
    def start(self, ctx: Context[dict[str, object]]) -> Next:
        return Next(self.two)

    @step
    def three(self, ctx: Context[dict[str, object]]) -> Done:
        return Done()


IN_SQL = """
create or replace function bench_two(jsonb) returns jsonb language sql as $$
    select jsonb '{"kind": "next", "step": "three"}'
$$;
create or replace function bench_start(jsonb) returns jsonb language sql as $$
    select jsonb '{"kind": "next", "step": "two"}'
$$;
create or replace function bench_three(jsonb) returns jsonb language sql as $$
    select jsonb '{"kind": "done"}'
$$;
select gd_define_step('bench_mixed', 'two', 'bench_two(jsonb)');
select gd_define_step('bench_sql', step, ('bench_' || step || '(jsonb)')::regprocedure)
from unnest('{start,two,three}'::text[]) step;
"""


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
    metrics: bool = False


class Ready(logging.Handler):
    """Says so when the engine does, and where its metrics are."""

    url = ""

    def emit(self, record: logging.LogRecord) -> None:
        if " serves " in record.getMessage():
            print("ready", *filter(None, [self.url]), sep="\n", flush=True)


def serve(setup: Setup) -> None:
    """As a service runs it, until stdin is closed; for each line there it says what it has in memory."""
    machines = [
        *MACHINES,
        *(sync_job, async_job, start_job, transaction_job, transaction_job_async),
        *(Five, Three, Mixed, Fan, Resume),
    ]
    engine = Engine(setup.dsn, machines=machines, queues={"default": setup.concurrency}, **setup.options)  # type: ignore[arg-type]
    logger = logging.getLogger("gendurable")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    engine_ready = Ready()
    logger.addHandler(engine_ready)

    def wait() -> None:
        for _ in sys.stdin:
            gc.collect()
            print(json.dumps({"blocks": sys.getallocatedblocks(), "objects": len(gc.get_objects())}), flush=True)
        engine.stop()

    threading.Thread(target=wait, daemon=True).start()
    with contextlib.ExitStack() as stack:
        if setup.metrics:
            from gendurable_py import prometheus

            endpoint = stack.enter_context(prometheus.serve(engine, port=0, depth_interval=5))
            engine_ready.url = endpoint.url
        engine.run()


@contextlib.contextmanager
def dispatcher(
    dsn: str, concurrency: int = 400, metrics: bool = False, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """A dispatcher process that is up and asleep; it drains when the block ends."""
    arguments = [sys.executable, "-m", "bench._engine", json.dumps(asdict(Setup(dsn, concurrency, options, metrics)))]
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


class Drained(NamedTuple):
    """Seconds, by the server's clock: to insert so many instances at once, and then until the last one is done."""

    count: int
    insert: float
    work: float

    @property
    def rate(self) -> float:
        """Instances a second of a backlog, once it is there."""
        return self.count / self.work


def drain(conn: psycopg.Connection, machine: str, count: int) -> Drained:
    text = json.dumps([{"fsm": machine, "state": {"p": "x" * 80}} for _ in range(count)])
    with conn.transaction():
        (before, committed) = conn.execute(
            "select statement_timestamp(), clock_timestamp() from (select count(*) from gd_insert_many(%s)) done",
            [text],
        ).fetchone() or (None, None)
    finish(conn)
    query = """select extract(epoch from %s::timestamptz - %s), extract(epoch from max(finished_at) - %s)
        from gendurable.instance where fsm = %s and status = 'done'"""
    row = conn.execute(query, [committed, before, committed, machine]).fetchone()
    assert row is not None
    return Drained(count, float(row[0]), float(row[1]))


def finish(conn: psycopg.Connection) -> None:
    """Wait until nothing is left to do."""
    unfinished = "select exists (select from gendurable.instance where finished_at is null)"
    while conn.execute(unfinished).fetchone() == (True,):
        time.sleep(0.02)


if __name__ == "__main__":
    serve(Setup(**json.loads(sys.argv[1])))
