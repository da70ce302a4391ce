"""What each page of the dashboard costs the server: python -m bench.pages DSN, of a database of yours. With --fill it
is filled first: an empty one becomes one with 10,000,000 finished, 1,000,000 waiting and 20,000 failed instances.

Printed are milliseconds of processor time of the sessions (Linux: /proc/PID/schedstat): the server has to run here."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import psycopg

from gendurable_py.install import ensure
from gendurable_py.web import app

FILL = """
select gd_register('m' || g, 1, 'start', 'q' || g,
    p_options => '{"steps": ["start", "pay", "ship", "bill"], "history": "steps"}') from generate_series(0, 9) g;
insert into gendurable.instance (fsm, step, queue, status, inserted_at, finished_at, updated_at, state, result)
select 'm' || g % 10, 'bill', 'q' || g % 10, 'done', t.at, t.at, t.at, '{"order": 1}', '{"sent": true}'
from generate_series(1, 10000000) g, lateral (select now() - interval '10 days' + g * interval '80 ms' as at) t;
insert into gendurable.instance (
    fsm, step, queue, status, finished_at, failed_at, last_error, unique_key, inserted_at)
select 'm' || g % 10, 'pay', 'q' || g % 10, case when g % 20 = 0 then 'cancelled' else 'failed' end::gendurable.status,
    now() - g * interval '1 s', now() - g * interval '1 s',
    'order ' || g || ' has no card of kind ' || (array['a', 'b', 'c', 'd', 'e', 'f'])[1 + g % 6]
        || repeat(' and so on', 20), 'order:' || g, now() - interval '2 days'
from generate_series(1, 20000) g;
-- 400,000 due, 2,000 of them executing; 200,000 delayed; 150,000 await signals, 100,000 children; 200 keys; 100 buckets
insert into gendurable.instance (
    fsm, step, queue, priority, eligible_at, status, worker, lease_expires_at, claim_no)
select 'm' || g % 10, (array['start', 'pay', 'ship', 'bill'])[1 + g % 4], 'q' || g % 10, g % 3,
    now() - interval '1 hour' + g * interval '1 ms',
    case when g <= 2000 then 'executing' else 'runnable' end::gendurable.status,
    case when g <= 2000 then 'w' || g % 20 end, case when g <= 2000 then now() + interval '10 days' end,
    case when g <= 2000 then extract(epoch from now())::bigint * 1000000 + g else 0 end
from generate_series(1, 400000) g;
insert into gendurable.instance (fsm, step, queue, eligible_at)
select 'm' || g % 10, 'start', 'q' || g % 10, now() + interval '20 days' + g * interval '1 ms'
from generate_series(1, 200000) g;
insert into gendurable.instance (fsm, step, queue, status, children_pending)
select 'm' || g % 10, 'ship', 'q' || g % 10, 'awaiting_children', 1 from generate_series(1, 100000) g;
insert into gendurable.instance (fsm, step, queue, status, awaits, eligible_at, deadline_at, parent_id)
select 'm' || g % 10, 'pay', 'q' || g % 10, 'awaiting_signal', '{paid}',
    case when g % 2 = 0 then now() + interval '20 days' end, case when g % 2 = 0 then now() + interval '20 days' end,
    (select max(i.id) from gendurable.instance i)
from generate_series(1, 150000) g;
insert into gendurable.instance (fsm, step, queue, partition_key, lane_at, eligible_at)
select 'm' || g % 10, 'start', 'q' || g % 10, 'k:' || g % 200, now() - interval '1 hour' + g * interval '1 ms',
    case when g <= 200 then now() - interval '1 hour' + g * interval '1 ms' end
from generate_series(1, 100000) g;
select gd_set_rate_limit('mail', 1, '1 minute');
insert into gendurable.instance (fsm, step, queue, rate_limit, bucket_at)
select 'm' || g % 10, 'start', 'q' || g % 10, 'mail:' || g % 100, now() - interval '1 hour' + g * interval '1 ms'
from generate_series(1, 50000) g;
insert into gendurable.bucket (bucket, no, full_at, lines)
select 'mail:' || b, 1, now() + interval '1 hour', '{}' from generate_series(0, 99) b;
insert into gendurable.minute_count (at, fsm, step, outcome, count, seconds, summed, next_step)
select date_trunc('minute', now()) - m * interval '1 min', 'm' || f, s,
    case when (m + f) % 7 = 0 then 'error' else 'next' end, 100, 3.5, true,
    case when (m + f) % 7 > 0 then (array['pay', 'ship', 'bill'])[array_position(array['start', 'pay', 'ship'], s)] end
from generate_series(0, 1439) m, generate_series(0, 9) f, unnest('{start,pay,ship,bill}'::text[]) s;
select gd_hello('w' || g, jsonb_build_object('host', 'h' || g % 5, 'pid', g, 'version', '0.4.0',
    'queues', (select jsonb_object_agg('q' || x, 10) from generate_series(0, 9) x),
    'machines', (select jsonb_agg(jsonb_build_array('m' || x, 1, '["start", "pay", "ship", "bill"]'::jsonb))
        from generate_series(0, 9) x)))
from generate_series(0, 19) g;
update gendurable.worker set until = now() + interval '30 days';
insert into gendurable.queue_name select 'q' || g from generate_series(0, 9) g
where not exists (select from gendurable.queue_name q where q.queue = 'q' || g);
select gd_schedule('s' || g, '0 6 * * *', 'm' || g % 10) from generate_series(1, 100) g;
insert into gendurable.audit (call, session_role, what, count, about_id)
select (array['gd_cancel', 'gd_retry', 'gd_pause_queue', 'gd_edit'])[1 + g % 4], 'postgres', '{"reason": "x"}', 1,
    case when g % 2 = 0 then g end
from generate_series(1, 100000) g;
insert into gendurable.error (instance_id, no, at, attempt, kind, step, worker, error, traceback)
select i.id, n, i.failed_at - n * interval '1 s', n, 'error', 'pay', 'w1', i.last_error, repeat('  line' || chr(10), 50)
from gendurable.instance i, generate_series(1, 3) n where i.failed_at is not null;
insert into gendurable.history (instance_id, no, at, seconds, attempt, kind, step, next_step, worker)
select i.id, n, i.inserted_at, 0.1, 0, case when n = 5 then 'done' else 'next' end,
    (array['start', 'pay', 'ship', 'bill', 'bill'])[n], (array['pay', 'ship', 'bill', 'bill'])[n], 'w1'
from gendurable.instance i, generate_series(1, 5) n where i.id > 10000000;
vacuum analyze;
"""

SOME = """
select (select max(id) from gendurable.instance where failed_at is not null),
    (select min(id) from gendurable.instance
        where queue = 'q0' and priority = 2 and status = 'runnable' and eligible_at <= now()),
    (select max(id) from gendurable.instance where partition_key = 'k:7'),
    (select max(id) from gendurable.instance where rate_limit = 'mail:7'),
    (select max(id) from gendurable.instance where status = 'awaiting_children')
"""

PAGES = (
    *("/", "/queues", "/queue?name=q0", "/instances", "/instances?status=failed", "/instances?fsm=m3&status=open"),
    *("/instances?status=failed&error=kind%20a", "/instances?queue=q3&status=executing", "/failures"),
    *("/failures?fsm=m0&since=30d", "/line?key=k:7", "/machines", "/machine?name=m0", "/schedules", "/limits"),
    *("/bucket?name=mail:7", "/workers", "/worker?name=w1", "/pauses", "/doctor", "/audit", "/audit?actor=nobody"),
    *("/search?q=nothing%20at%20all", "/search?q=order:77"),
)


class Sessions:
    """Connects as the dashboard is to, and knows what the sessions have spent."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pids: list[int] = []

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        conn = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        self._pids.append(conn.info.backend_pid)
        return conn

    def spent(self, first: int | None = None) -> float:
        """Milliseconds of all of them, or of the first ones."""
        each = (Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in self._pids[:first])
        return sum(map(int, each)) / 1_000_000

    async def rest(self) -> None:
        """Until none of them does anything."""
        before = -1.0
        while before != self.spent() or not self._pids:
            before = self.spent()
            await asyncio.sleep(0.7)


async def measure(dsn: str, path: str) -> tuple[float, list[float]]:
    """The first look of a session that knows nothing; and five of one that has learned, as the dashboard has them."""
    unlearned: list[float] = []
    times: list[float] = []
    for learns, found in ((False, unlearned), (True, times)):
        sessions = Sessions(dsn)
        dashboard = app(sessions.connect, patience=60)
        async with contextlib.AsyncExitStack() as stack:
            if learns:
                await stack.enter_async_context(dashboard.router.lifespan_context(dashboard))
                await sessions.rest()
            transport = httpx.ASGITransport(app=dashboard)
            browser = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://local"))
            for _ in range(5 if learns else 1):
                # the first session is the one that looks: others learn meanwhile
                before = sessions.spent(1)
                answer = await browser.get(path)
                if answer.status_code not in (200, 303):
                    raise RuntimeError(f"{path}: {answer.status_code}")
                found.append(sessions.spent(1) - before)
    return unlearned[0], times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("dsn")
    parser.add_argument("--fill", action="store_true")
    options = parser.parse_args()
    with psycopg.connect(options.dsn, autocommit=True) as conn:
        if options.fill:
            ensure(conn, extension=False)
            for statement in FILL.split(";\n"):
                if statement.strip():
                    conn.execute(statement.encode())
        some = conn.execute(SOME).fetchone()
    assert some is not None
    for path in (*PAGES, *(f"/instances/{id}" for id in some), f"/instances/{some[0]}/history"):
        unlearned, (first, *later) = asyncio.run(measure(options.dsn, path))
        print(
            f"{path:45} a new session {unlearned:6.1f}; one that has learned: first {first:5.1f}, then "
            f"{min(later):5.1f} to {max(later):5.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
