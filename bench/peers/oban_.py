"""Oban for Python: jobs by one queue."""

from __future__ import annotations

import asyncio
from typing import Any

from _clock import rows, run
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

RUN = run()


@worker(queue="q", max_attempts=1)
class One:
    async def process(self, job: Any) -> None:
        RUN.handle(job.args["n"])


async def main() -> None:
    async with AsyncConnectionPool(RUN.dsn, min_size=1, max_size=10, open=False) as pool:
        await install(pool)
        client = Oban(pool=pool)
        for first in range(0, RUN.count, 1000):
            numbers = range(first, min(first + 1000, RUN.count))
            await client.enqueue_many([One.new({"n": n}) for n in numbers])
        done = rows(RUN.dsn, "select count(*) from oban_jobs where state = 'completed'")
        RUN.start()
        async with Oban(pool=pool, queues={"q": RUN.slots}):
            await asyncio.to_thread(RUN.wait, done)


asyncio.run(main())
