"""Awa: jobs by its runtime in Rust, with handlers in Python."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import awa
from _clock import run

RUN = run()


@dataclass
class One:
    n: int


async def main() -> None:
    await awa.migrate(RUN.dsn)
    client = awa.AsyncClient(RUN.dsn, max_connections=10)

    @client.task(One, queue="q")
    async def one(job: Any) -> None:
        RUN.handle(job.args.n)

    for first in range(0, RUN.count, 1000):
        await client.insert_many_copy([One(n) for n in range(first, min(first + 1000, RUN.count))], queue="q")
    RUN.start()
    await client.start([("q", RUN.slots)])

    def ended() -> int:
        return len(RUN.handled)  # its tables are partitions that come and go: the shutdown waits for the last of them

    await asyncio.to_thread(RUN.wait, ended)
    await client.shutdown()
    await client.close()


asyncio.run(main())
