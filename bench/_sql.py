"""The engine alone: one connection that claims and commits, with no Python in between but the calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg

BATCH = 200
Row = dict[str, Any]


class Claim(NamedTuple):
    id: int
    claim_no: int
    fsm: str
    step: str


Answer = Callable[[Claim], Row]


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


def through(steps: int, size: int = 80) -> Answer:
    """So many steps: start, s2, s3, … and then done."""
    state = {"p": "x" * size}

    def answer(claim: Claim) -> Row:
        at = 1 if claim.step == "start" else int(claim.step[1:])
        if at < steps:
            return {"kind": "next", "step": f"s{at + 1}", "state": state}
        return {"kind": "done"}

    return answer


def claim(conn: psycopg.Connection, limit: int = BATCH, queue: str = "default") -> list[Claim]:
    query = "select id, claim_no, fsm, step from gd_claim('bench', %s, %s)"
    return [Claim(*row) for row in conn.execute(query, [queue, limit]).fetchall()]


def commit(conn: psycopg.Connection, claims: list[Claim], answer: Answer) -> None:
    sent = json.dumps([{"id": one.id, "claim_no": one.claim_no} | answer(one) for one in claims])
    results = {result for (result,) in conn.execute("select result from gd_commit('bench', %s)", [sent]).fetchall()}
    if results != {"ok"}:
        raise RuntimeError(f"commit: {results}")


def rounds(conn: psycopg.Connection, answer: Answer) -> Iterator[int]:
    """Claim 200, commit 200, until nothing is due; yields how many steps each round made."""
    while claims := claim(conn):
        commit(conn, claims, answer)
        yield len(claims)


def loop(conn: psycopg.Connection, answer: Answer) -> float:
    """Steps a second until nothing is due."""
    started = time.perf_counter()
    return sum(rounds(conn, answer)) / (time.perf_counter() - started)


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


def claim_times(conn: psycopg.Connection, limit: int, tries: int = 41) -> list[float]:
    """Seconds of each of many claims of `limit` rows that are there for them; the first, which plans, is left out.

    As on the connection on which a dispatcher claims, they do not wait for the disk.
    """
    insert(conn, instances(limit * (tries + 1)))
    conn.execute("set synchronous_commit = off")
    times = []
    for _ in range(tries + 1):
        started = time.perf_counter()
        claims = claim(conn, limit)
        times.append(time.perf_counter() - started)
        if len(claims) != limit:
            raise RuntimeError(f"claimed {len(claims)} of {limit}")
    conn.execute("reset synchronous_commit")
    return times[1:]
