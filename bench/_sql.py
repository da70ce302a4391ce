"""The engine alone: one connection that claims and commits. Only the calls are timed, not the JSON between them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, LiteralString, NamedTuple

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


class Calls:
    """Calls on one connection, and the seconds that they took."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self.seconds = 0.0

    def __call__(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        started = time.perf_counter()
        rows = self._conn.execute(query, params).fetchall()
        self.seconds += time.perf_counter() - started
        return rows

    def claim(self, limit: int = BATCH, queue: str = "default") -> list[Claim]:
        rows = self("select id, claim_no, fsm, step from gd_claim('bench', %s, %s)", queue, limit)
        return list(map(Claim._make, rows))

    def commit(self, claims: list[Claim], answer: Answer) -> None:
        sent = json.dumps([{"id": one.id, "claim_no": one.claim_no} | answer(one) for one in claims])
        results = {result for (result,) in self("select result from gd_commit('bench', %s)", sent)}
        if results != {"ok"}:
            raise RuntimeError(f"commit: {results}")

    def rounds(self, answer: Answer) -> Iterator[int]:
        """Claim 200, commit 200, until nothing is due; yields how many steps each round made."""
        while claims := self.claim():
            self.commit(claims, answer)
            yield len(claims)


def loop(conn: psycopg.Connection, answer: Answer) -> float:
    """Steps a second until nothing is due."""
    call = Calls(conn)
    return sum(call.rounds(answer)) / call.seconds


def run_ahead(conn: psycopg.Connection, steps: int) -> float:
    """Steps a second where each claim is kept until its instance is done."""
    state = {"p": "x" * 80}
    count = 0
    call = Calls(conn)
    while claims := call("select id, claim_no from gd_claim('bench', 'default', %s)", BATCH):
        for step in range(2, steps + 1):
            sent = [
                {"id": id, "claim_no": no, "kind": "next", "step": f"s{step}", "state": state, "keep": True}
                for id, no in claims
            ]
            kept = call("select detail from gd_commit('bench', %s)", json.dumps(sent))
            claims = [(detail["id"], detail["claim_no"]) for (detail,) in kept]
        done = [{"id": id, "claim_no": no, "kind": "done"} for id, no in claims]
        call("select count(*) from gd_commit('bench', %s)", json.dumps(done))
        count += steps * len(claims)
    return count / call.seconds


def claim_times(conn: psycopg.Connection, limit: int, tries: int = 41) -> list[float]:
    """Seconds of each of many claims of `limit` rows that are there for them; the first, which plans, is left out.

    As on the connection on which a dispatcher claims, they do not wait for the disk.
    """
    insert(conn, instances(limit * (tries + 1)))
    conn.execute("set synchronous_commit = off")
    times = []
    for _ in range(tries + 1):
        call = Calls(conn)
        claims = call.claim(limit)
        times.append(call.seconds)
        if len(claims) != limit:
            raise RuntimeError(f"claimed {len(claims)} of {limit}")
    conn.execute("reset synchronous_commit")
    return times[1:]
