"""DBOS: workflows of one step or five, out of a queue of its own, by one process."""

from __future__ import annotations

import os

from _clock import rows, run
from dbos import DBOS, DBOSClient

RUN = run()


@DBOS.step()
async def do(number: int, step: int) -> None:
    RUN.handle(number, step)


@DBOS.workflow()
async def work(number: int) -> None:
    for step in range(RUN.steps):
        await do(number, step)


os.environ["DBOS__APPVERSION"] = "bench"
DBOS(config={"name": "bench", "system_database_url": RUN.dsn, "application_version": "bench", "log_level": "ERROR"})
DBOS.launch()
client = DBOSClient(system_database_url=RUN.dsn)
for number in range(RUN.count):
    client.enqueue({"queue_name": "q", "workflow_name": "work", "app_version": "bench"}, number)
done = rows(RUN.dsn, "select count(*) from dbos.workflow_status where status = 'SUCCESS'")
RUN.start()
# It asks every 0.1 seconds and not every second, and runs as many at once as it likes: with a limit of 20 it would take
# 20 in each of its turns.
DBOS.register_queue("q", polling_interval_sec=0.1)
RUN.wait(done)
DBOS.destroy()
