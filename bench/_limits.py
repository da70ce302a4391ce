"""Rate limits: how much of one is used, whether it was ever passed, what it costs those it concerns and all others."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests_py.support.limits import Start, excess

from . import _engine, _sql
from ._measure import Bench, processor_time


@dataclass
class Seen:
    """What the sessions of a run did: starts of limited rows, how many free rows they made, how often they claimed."""

    starts: list[Start] = field(default_factory=list)
    free: int = 0
    claims: int = 0


def work(
    bench: Bench,
    sessions: int,
    seconds: float,
    queues: list[str],
    lost: float = 0.0,
    again: float = 0.0,
    limit: int = 20,
) -> Seen:
    """So many sessions claim and commit for so long; some of the claims are lost, or replayed."""
    seen = Seen()
    wanted = json.dumps(dict.fromkeys(queues, limit))
    lease = "200 ms" if lost else "60 seconds"
    stop = time.monotonic() + seconds

    def session(number: int) -> None:
        chance = random.Random(number)
        with psycopg.connect(bench.server.dsn, autocommit=True) as conn:
            while time.monotonic() < stop:
                began = time.monotonic()
                claims = conn.execute(
                    """select c.id, c.claim_no, i.rate_limit, i.weight
                    from gd_claim_many(%s, %s, %s) c join gendurable.instance i using (id)""",
                    (f"w{number}", wanted, lease),
                ).fetchall()
                ended = time.monotonic()
                seen.claims += 1
                outcomes = []
                for id, claim_no, bucket, weight in claims:
                    if bucket is None:
                        seen.free += 1
                    else:
                        seen.starts.append(Start(bucket, weight, began, ended))
                    drawn = chance.random()
                    if drawn >= lost:
                        kind = "replay" if drawn < lost + again else "done"
                        outcomes.append({"id": id, "claim_no": claim_no, "kind": kind})
                while outcomes:
                    answers = conn.execute(
                        "select ord, result from gd_commit(%s, %s)", (f"w{number}", json.dumps(outcomes))
                    ).fetchall()
                    outcomes = [outcomes[at] for at, result in answers if result == "busy"]
                if not claims:
                    time.sleep(0.002)

    threads = [threading.Thread(target=session, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def used(
    rate: float, burst: float, sessions: int, *, buckets: int = 1, queues: int = 1, keys: int = 0,
    weights: tuple[float, ...] = (1.0,), lost: float = 0.0, again: float = 0.0, seconds: float = 8.0,
) -> Callable[[Bench], float]:  # fmt: skip
    """The part of the limit that was used by so many sessions, out of a backlog in so many buckets, queues and keys."""

    def run(bench: Bench) -> float:
        conn = bench.conn
        conn.execute("select gd_set_rate_limit('bench', %s, '1 second', %s)", (rate, burst))
        conn.execute("create table bench_entered (id bigint)")
        conn.execute(
            """create function bench_enter() returns trigger language plpgsql as $$
            begin insert into public.bench_entered values (new.id); return null; end $$"""
        )
        conn.execute(
            """create trigger bench_enter after update on gendurable.instance for each row
            when (old.bucket_at is null and new.bucket_at is not null) execute function bench_enter()"""
        )
        try:
            names = [f"q{n}" for n in range(queues)]
            chance = random.Random(1)
            options: dict[str, Any] = {
                "rate_limit": lambda n: "bench" if buckets == 1 else f"bench:{n % buckets}",
                "queue": lambda n: names[n % queues],
                "weight": lambda n: chance.choice(weights),
            }
            if keys:
                options["partition_key"] = lambda n: f"k{n % keys}"
            most = buckets * (burst + rate * seconds) * 2 / statistics.mean(weights)
            _sql.insert(conn, _sql.instances(int(most), **options))
            seen = work(bench, sessions, seconds, names, lost, again)
            over = excess(seen.starts, rate, burst)
            entered = bench.value(
                "select coalesce(max(n), 0) from (select count(*) as n from bench_entered group by id) x"
            )
            repaired = bench.value("select (gd_maintain() ->> 'repaired')::int")
            weight = sum(start.weight for start in seen.starts)
            bench.notes.append(
                f"limit {rate:g}/s, burst {burst:g}, {sessions} sessions, {queues} queues, {buckets} buckets, "
                f"{keys} keys: {weight:,.0f} started in {seconds:g} s by {seen.claims:,} claims, "
                f"{over:.2f} above burst + rate * T in the worst window, put into a line {entered:.0f} times at most, "
                f"repaired {repaired:.0f}"
            )
            if over > 1e-6 or repaired:
                raise RuntimeError(bench.notes[-1])
            return weight / (buckets * (burst + rate * seconds))
        finally:
            conn.execute("drop trigger bench_enter on gendurable.instance")
            conn.execute("drop function bench_enter()")
            conn.execute("drop table bench_entered")

    return run


def beside_line(rate: float, waiting: int, sessions: int = 10, seconds: float = 5.0) -> Callable[[Bench], float]:
    """Free jobs a second beside a line of so many rows, by their rate alone; medians of three."""

    def run(bench: Bench) -> float:
        conn = bench.conn
        conn.execute("select gd_set_rate_limit('bench', %s, '1 second')", (rate,))
        rates: dict[bool, list[float]] = {False: [], True: []}
        limited = 0
        for _ in range(3):
            for beside, measured in rates.items():
                conn.execute("truncate gendurable.instance, gendurable.bucket cascade")
                if beside:
                    _sql.insert(conn, _sql.instances(waiting, rate_limit="bench"))
                    while bench.value("select count(*) from gd_claim('bench', 'default', 1000)"):
                        pass
                _sql.insert(conn, _sql.instances(10 * bench.scale))
                seen = work(bench, sessions, seconds, ["default"], limit=50)
                measured.append(seen.free / seconds)
                limited += len(seen.starts)
        bench.notes.append(
            f"free jobs: {statistics.median(rates[False]):,.0f}/s alone, "
            f"{statistics.median(rates[True]):,.0f}/s beside {waiting:,} rows in line before "
            f"{rate:g}/s, of which {limited / 3 / seconds:,.0f}/s started"
        )
        return statistics.median(rates[True]) / statistics.median(rates[False])

    return run


def ring(bench: Bench) -> float:
    """The server's processor time of a claim that rings and starts two or three rows, by that of a plain one of two."""
    bench.conn.execute("select gd_set_rate_limit('bench', 50, '1 second', 50)")
    _sql.insert(bench.conn, _sql.instances(bench.scale, rate_limit="bench"))
    _sql.insert(bench.conn, _sql.instances(bench.scale, queue="plain"))
    bench.conn.execute("vacuum analyze gendurable.instance")
    with psycopg.connect(bench.server.dsn, autocommit=True) as conn:
        call = _sql.Calls(conn)
        while call.claim(1000):
            pass
        times: dict[str, list[float]] = {"default": [], "plain": []}
        ticks = {"default": 0.0, "plain": 0.0}
        for _ in range(200):
            time.sleep(0.05)
            for queue, limit in (("plain", 2), ("default", 10)):
                began = precise_time(conn.info.backend_pid)
                found = call.claim(limit, queue)
                took = precise_time(conn.info.backend_pid) - began
                if found:
                    times[queue].append(took)
                    ticks[queue] += took
    ringing, plain = statistics.median(times["default"]), statistics.median(times["plain"])
    bench.notes.append(
        f"a claim that rings: {1e3 * ringing:.2f} ms of the server's processor, {20 * ringing:.1%} of one at 20 a "
        f"second; a plain claim of two: {1e3 * plain:.2f} ms"
    )
    return ringing / plain


def precise_time(pid: int) -> float:
    """Seconds that a process has spent on processors, to the microsecond where the kernel tells."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9
    except OSError:
        return processor_time(pid)


def backlog(bench: Bench) -> float:
    """Seconds a row to put a backlog into a line, by the seconds a row of an ordinary claim."""
    conn = bench.conn
    _sql.insert(conn, _sql.instances(bench.scale))
    call = _sql.Calls(conn)
    while call.claim():
        pass
    ordinary = call.seconds / bench.scale
    conn.execute("select gd_set_rate_limit('bench', 1, '1 hour', 1)")
    _sql.insert(conn, _sql.instances(10 * bench.scale, rate_limit="bench"))
    call = _sql.Calls(conn)
    claims = 0
    while bench.value("select count(*) from gendurable.instance where bucket_at is not null") < 10 * bench.scale - 1:
        call.claim(1000)
        claims += 1
    bench.notes.append(
        f"{10 * bench.scale:,} rows put into a line in {call.seconds:.1f} s by {claims} claims, "
        f"{1e6 * call.seconds / bench.scale / 10:.1f} us a row; an ordinary claim {1e6 * ordinary:.1f} us a row"
    )
    return call.seconds / 10 / bench.scale / ordinary


def at_hand(bench: Bench) -> float:
    """The seconds of claims whose rows find their tokens, by those of rows without a limit."""
    conn = bench.conn
    conn.execute("select gd_set_rate_limit('bench', 1e9, '1 second')")
    seconds = []
    for limit in (None, "bench"):
        _sql.insert(conn, _sql.instances(2 * bench.scale, rate_limit=limit))
        call = _sql.Calls(conn)
        while call.claim():
            pass
        seconds.append(call.seconds)
    return seconds[1] / seconds[0]


def engines(count: int, rate: float = 50.0, seconds: float = 10.0) -> Callable[[Bench], float]:
    """The part of a limit that so many engines use."""

    def run(bench: Bench) -> float:
        conn = bench.conn
        conn.execute("select gd_set_rate_limit('bench', %s, '1 second', 2)", (rate,))
        _sql.insert(conn, [{"fsm": "bench_async", "rate_limit": "bench"}] * int(3 * rate * seconds))
        done = "select count(*) from gendurable.instance where status = 'done'"
        stack = [_engine.dispatcher(bench.server.dsn, 100) for _ in range(count)]
        for one in stack:
            one.__enter__()
        try:
            time.sleep(1)
            began, before = time.monotonic(), bench.value(done)
            time.sleep(seconds)
            got, took = bench.value(done) - before, time.monotonic() - began
        finally:
            conn.execute("truncate gendurable.instance, gendurable.bucket cascade")
            for one in stack:
                one.__exit__(None, None, None)
        bench.notes.append(f"{count} engines at {rate:g}/s: {got / took:.1f} a second")
        return got / took / rate

    return run
