"""Absurd: tasks of one step or five, by one asynchronous worker."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from _clock import rows, run
from absurd_sdk import Absurd, AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL

RUN = run()


async def main() -> None:
    with psycopg.connect(RUN.dsn, autocommit=True) as conn:
        conn.execute(BUNDLED_SCHEMA_SQL.encode())
        Absurd(conn, queue_name="q").create_queue()
        for first in range(0, RUN.count, 1000):
            conn.execute(
                "select absurd.spawn_task('q', 'work', to_jsonb(n), '{}') from generate_series(%s::int, %s::int) n",
                (first, min(first + 1000, RUN.count) - 1),
            )
    client = AsyncAbsurd(RUN.dsn, queue_name="q")

    @client.register_task("work")
    async def work(number: Any, ctx: Any) -> None:
        for step in range(RUN.steps):

            async def do(step: int = step) -> None:
                RUN.handle(number, step)

            await ctx.step(f"step {step}", do)

    done = rows(RUN.dsn, "select count(*) from absurd.t_q where state = 'completed'")
    RUN.start()
    task = asyncio.create_task(client.start_worker(concurrency=RUN.slots))
    await asyncio.to_thread(RUN.wait, done)
    client.stop_worker()
    await asyncio.wait([task], timeout=10)


asyncio.run(main())
