"""PgQueuer: jobs by one manager, on asyncpg, as its documentation begins."""

from __future__ import annotations

import asyncio

import asyncpg
from _clock import rows, run
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

RUN = run()


async def main() -> None:
    conn = await asyncpg.connect(RUN.dsn)
    queries = Queries(AsyncpgDriver(conn))
    await queries.install()
    for first in range(0, RUN.count, 1000):
        numbers = range(first, min(first + 1000, RUN.count))
        await queries.enqueue(["one"] * len(numbers), [str(n).encode() for n in numbers], [0] * len(numbers))
    await conn.close()
    manager = PgQueuer(AsyncpgDriver(await asyncpg.connect(RUN.dsn)))

    @manager.entrypoint("one")
    async def one(job: Job) -> None:
        RUN.handle(int(job.payload or b""))

    left = rows(RUN.dsn, f"select {RUN.count} - count(*) from pgqueuer")
    RUN.start()
    task = asyncio.create_task(manager.run(batch_size=RUN.slots, max_concurrent_tasks=2 * RUN.slots))
    await asyncio.to_thread(RUN.wait, left)
    manager.shutdown.set()
    await asyncio.wait([task], timeout=10)


asyncio.run(main())
