"""A nightly report in SQL alone: a schedule, three steps, a mail in the outbox of the last one.

`python -m examples nightly`. nightly.sql has all of it. Where pg_cron is installed it runs the steps, by one line;
here the scene calls gd_run, as pg_cron would. Some steps fail once behind their writes, and nothing is counted twice.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import gendurable_py as gd
from gendurable_py.outcome import MachineLike

from ._run import Conn

SCHEMA = Path(__file__).with_suffix(".sql").read_bytes()
NIGHTS = 4


async def scene(conn: Conn) -> object:
    await sell(conn)
    ids = await nights(conn)
    # What pg_cron does each minute. An error waits a second before it is tried again.
    while not await over(conn):
        await gd.run(conn, "reports", for_=0.5)
    results = [await gd.result(conn, id) for id in ids]
    assert all(one is not None and one.status == "done" for one in results), results
    return await verify(conn)


async def sell(conn: Conn) -> None:
    """Sales of some days, and on each day another step that fails at first: collect, total, publish, none."""
    await conn.execute(
        """
        insert into sale
        select date '2000-11-01' + mod(n, %s), (array['lamp', 'desk', 'chair'])[1 + mod(n, 3)], n
        from generate_series(1, 100) n
        """,
        (NIGHTS,),
    )
    await conn.execute(
        """
        insert into glitch select date '2000-11-01' + (n::int - 1), step
        from unnest(array['collect', 'total', 'publish']) with ordinality u (step, n)
        """
    )


async def nights(conn: Conn) -> list[int]:
    """The instances that the schedule makes at three in the night; the last one here is made by the schedule itself."""
    ids = [
        await gd.insert(conn, "nightly", meta={"schedule": "nightly report", "tick": f"2000-11-{day:02}T03:00:00Z"})
        for day in range(2, NIGHTS + 2)
    ]
    ids.append(await gd.trigger(conn, "nightly report"))
    return [id for id in ids if id is not None]


async def over(conn: Conn) -> bool:
    found = await conn.execute("select from gd_instances where fsm = 'nightly' and finished_at is null limit 1")
    return await found.fetchone() is None


async def verify(conn: Conn) -> dict[str, object]:
    """One report a day, with what was sold on it, and one mail; each sale is in one of them."""
    found = await conn.execute(
        """
        select r.day, count(*), sum(r.lines), sum(r.cents),
            (select coalesce(sum(cents), 0) from sale where day = r.day),
            (select count(*) from report_line where day = r.day),
            (select count(*) from gd_instances where fsm = 'nightly.mail' and state ->> 'day' = r.day::text)
        from report r group by r.day order by r.day
        """
    )
    reports = await found.fetchall()
    assert len(reports) == NIGHTS + 1, reports
    for day, times, lines, cents, sold, stored, mails in reports:
        assert (times, lines, cents, mails) == (1, stored, sold, 1), (day, times, lines, cents, sold, stored, mails)
    found = await conn.execute("select count(*) from sale where not reported")
    forgotten = await found.fetchone()
    assert forgotten == (0,), f"{forgotten} sales are in no report"
    found = await conn.execute("select last_value from nightly_run")
    runs = await found.fetchone()
    assert runs is not None and runs[0] >= 3 * (NIGHTS + 1) + 3, "no step has run twice: nothing is shown"
    return {day.isoformat(): int(cents) for day, _, _, cents, *_ in reports if isinstance(day, date) and cents}


MACHINES: list[MachineLike] = []
QUEUES: dict[str, int] = {}
