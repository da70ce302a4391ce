"""Procrastinate: jobs by one worker, on psycopg."""

from __future__ import annotations

import asyncio

from _clock import rows, run
from procrastinate import App, PsycopgConnector

RUN = run()
app = App(connector=PsycopgConnector(conninfo=RUN.dsn))


@app.task(queue="q", name="one")
async def one(n: int) -> None:
    RUN.handle(n)


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, RUN.count, 1000):
            numbers = range(first, min(first + 1000, RUN.count))
            await one.batch_defer_async(*({"n": n} for n in numbers))
        done = rows(RUN.dsn, "select count(*) from procrastinate_jobs where status = 'succeeded'")
        RUN.start()
        task = asyncio.create_task(
            app.run_worker_async(queues=["q"], concurrency=RUN.slots, install_signal_handlers=False)
        )
        await asyncio.to_thread(RUN.wait, done)
        task.cancel()
        await asyncio.wait([task], timeout=10)


asyncio.run(main())
