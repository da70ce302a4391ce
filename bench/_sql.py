"""The engine alone: one connection that claims and commits, with no Python in between but the calls."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psycopg

BATCH = 200
Row = dict[str, Any]


def insert(conn: psycopg.Connection, rows: list[Row]) -> float:
    """Rows a second of one gd_insert_many."""
    text = json.dumps(rows)
    started = time.perf_counter()
    conn.execute("select count(*) from gd_insert_many(%s)", [text])
    return len(rows) / (time.perf_counter() - started)


def instances(count: int, size: int = 80, **options: Any) -> list[Row]:
    """`count` instances with a state of about `size` bytes; an option may be a function of the number."""
    state = {"p": "x" * size}
    return [
        {"fsm": "bench", "state": state} | {k: v(n) if callable(v) else v for k, v in options.items()}
        for n in range(count)
    ]


def outcomes(claims: list[tuple[Any, ...]], steps: int, state: Row) -> str:
    """The next outcome of each claim (id, claim_no, step): steps s1, s2, … and then done."""
    made = []
    for id, claim_no, step in claims:
        at = 1 if step == "start" else int(step[1:])
        if at < steps:
            made.append({"id": id, "claim_no": claim_no, "kind": "next", "step": f"s{at + 1}", "state": state})
        else:
            made.append({"id": id, "claim_no": claim_no, "kind": "done"})
    return json.dumps(made)


def rounds(conn: psycopg.Connection, steps: int, size: int = 80, queue: str = "default") -> Iterator[int]:
    """Claim 200, commit 200, until nothing is due; yields how many steps each round made."""
    state = {"p": "x" * size}
    while claims := conn.execute("select id, claim_no, step from gd_claim('bench', %s, %s)", [queue, BATCH]).fetchall():
        answers = conn.execute("select result from gd_commit('bench', %s)", [outcomes(claims, steps, state)]).fetchall()
        if any(result != "ok" for (result,) in answers):
            raise RuntimeError(f"commit: {set(answers)}")
        yield len(claims)


def loop(conn: psycopg.Connection, steps: int, size: int = 80) -> float:
    """Steps a second until nothing is due."""
    started = time.perf_counter()
    return sum(rounds(conn, steps, size)) / (time.perf_counter() - started)


def run_ahead(conn: psycopg.Connection, steps: int) -> float:
    """Steps a second where each claim is kept until its instance is done."""
    state = {"p": "x" * 80}
    count = 0
    started = time.perf_counter()
    while claims := conn.execute("select id, claim_no from gd_claim('bench', 'default', %s)", [BATCH]).fetchall():
        for step in range(2, steps + 1):
            sent = [
                {"id": id, "claim_no": no, "kind": "next", "step": f"s{step}", "state": state, "keep": True}
                for id, no in claims
            ]
            kept = conn.execute("select detail from gd_commit('bench', %s)", [json.dumps(sent)]).fetchall()
            claims = [(detail["id"], detail["claim_no"]) for (detail,) in kept]
        done = [{"id": id, "claim_no": no, "kind": "done"} for id, no in claims]
        conn.execute("select count(*) from gd_commit('bench', %s)", [json.dumps(done)])
        count += steps * len(claims)
    return count / (time.perf_counter() - started)


def claim_time(conn: psycopg.Connection, limit: int, tries: int = 21) -> float:
    """Median seconds of a claim of `limit` rows, each rolled back; the first, which plans, is left out."""
    times = []
    for _ in range(tries + 1):
        with conn.transaction(force_rollback=True):
            started = time.perf_counter()
            got = conn.execute("select id from gd_claim('bench', 'default', %s)", [limit]).fetchall()
            times.append(time.perf_counter() - started)
        if len(got) != limit:
            raise RuntimeError(f"claimed {len(got)} of {limit}")
    return statistics.median(times[1:])


def hot_key(conn: psycopg.Connection, parked: int, free: int) -> tuple[float, float, float]:
    """Unrelated jobs a second without and with rows parked behind one key, and seconds a row to park them."""

    def drain() -> float:
        count, started = 0, time.perf_counter()
        while claims := conn.execute(
            "select id, claim_no, step from gd_claim('bench', 'default', %s)", [BATCH]
        ).fetchall():
            conn.execute("select count(*) from gd_commit('bench', %s)", [outcomes(claims, 1, {})])
            count += len(claims)
        return count / (time.perf_counter() - started)

    insert(conn, instances(free))
    before = drain()
    insert(conn, instances(parked, partition_key="hot"))
    started = time.perf_counter()
    while conn.execute("select due from gd_queues where queue = 'default'").fetchone() != (0,):
        conn.execute("select count(*) from gd_claim('bench', 'default', %s)", [BATCH])
    park = (time.perf_counter() - started) / parked
    insert(conn, instances(free))
    return before, drain(), park
