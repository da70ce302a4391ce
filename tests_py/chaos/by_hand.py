"""Workers played by hand, one call after the other: nothing is left to chance. The records are those of the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from support.wait import wait_until

import gendurable_py as gd

from .clients import backlog
from .machines import BURST, FEW, LIMIT, MOST, RATE, SCHEDULES, STEPS, Journal, micros
from .records import LOG, Record, gather
from .sabotage import DEFECTS

# A lease that is over before the call returns.
LOST = 1e-6
QUEUES = ("default", "keyed", FEW)


class Hand:
    def __init__(self, conn: psycopg.Connection[Any], folder: Path, defect: str | None) -> None:
        self._conn = conn
        self._folder = folder
        self._journal = Journal(folder / "by-hand.jsonl")
        self._told: list[dict[str, Any]] = []
        self._repaired = 0
        conn.execute(LOG.encode())
        if defect is not None:
            DEFECTS[defect].plant(conn)

    def insert(self, fsm: str, state: dict[str, Any] | None = None, **options: Any) -> int:
        sent = micros()
        id = gd.insert(self._conn, fsm, {"n": 0, **(state or {})}, **options)
        assert id is not None
        self._tell("insert", id, id, sent)
        return id

    def limit(self) -> None:
        gd.set_rate_limit(self._conn, LIMIT, RATE, 1, BURST)

    def few(self) -> None:
        gd.set_queue(self._conn, FEW, limit=MOST)

    def schedule(self, name: str) -> None:
        options: Any = SCHEDULES[name]
        gd.schedule(self._conn, name, "@every 1 second", "chaos.tick", {"n": 0}, **options)

    def miss(self, time: str) -> None:
        """As if all had been scheduled so long before, and nobody had claimed since."""
        self._conn.execute(
            "update gendurable.schedule set since = since - %s::interval, next_at = next_at - %s::interval",
            (time, time),
        )
        self._conn.execute(
            "update gendurable.instance set eligible_at = eligible_at - %s::interval where id < 0", (time,)
        )

    def pause(self, name: str) -> None:
        gd.pause_schedule(self._conn, name)

    def signal(self, id: int, key: str) -> None:
        sent = micros()
        self._tell("signal", id, gd.signal(self._conn, id, "even", key, dedup_key=key), sent, key=key)

    def _tell(self, what: str, id: int, answer: Any, sent: int, **more: Any) -> None:
        when = {"sent": sent, "answered": micros(), "tries": 1}
        self._told.append({"what": what, "id": id, "answer": answer, **when, **more})

    def start(self, worker: str = "w", *, lease: float = 60) -> gd.Claim | None:
        """The next step begins."""
        for queue in QUEUES:
            for claim in gd.claim(self._conn, worker, queue, 1, lease):
                childs: Any = claim.childs
                more = {"kids": [[kid[name] for name in ("id", "status", "result", "last_error")] for kid in childs]}
                about = {"id": claim.id, "fsm": claim.fsm, "step": claim.step, "claim": claim.claim_no}
                at = {"attempt": claim.attempt, "key": claim.partition_key, "at": micros()}
                self._journal.write(what="run", by=worker, **about, **at, **more)
                return claim
        return None

    def finish(self, claim: gd.Claim, worker: str = "w") -> str:
        """The step ends, and its outcome is committed."""
        [result] = self.finish_together([claim], worker)
        return result

    def finish_together(self, claims: list[gd.Claim], worker: str = "w") -> list[str]:
        """Their steps end, and the outcomes are one commit."""
        for claim in claims:
            self._journal.write(what="ended", id=claim.id, claim=claim.claim_no, at=micros())
        outcomes = [{"id": claim.id, "claim_no": claim.claim_no, **_outcome_of(claim)} for claim in claims]
        return [answer.result for answer in gd.commit(self._conn, worker, outcomes)]

    def drain(self) -> None:
        while backlog(self._conn):
            claim = wait_until(lambda: self.start() or self._repair())
            if isinstance(claim, gd.Claim):
                self.finish(claim)

    def _repair(self) -> bool:
        repaired = gd.maintain(self._conn)["repaired"]
        assert isinstance(repaired, int)
        self._repaired += repaired
        return repaired > 0

    def record(self) -> Record:
        record = gather(self._conn, self._folder, self._told)
        record.repaired = self._repaired
        return record


def _outcome_of(claim: gd.Claim) -> dict[str, Any]:
    state: Any = claim.state
    raised = {**state, "n": state["n"] + 1}
    if claim.fsm == "chaos.waiter":
        return _gather(claim, raised)
    steps = STEPS[claim.fsm]
    if claim.step == steps[-1]:
        return {"kind": "done", "result": {"n": raised["n"]}}
    step = steps[raised["n"]]
    if claim.fsm == "chaos.parent":
        kids = [{"fsm": "chaos.child", "state": {"n": 0, "fails": False}}] * state["kids"]
        return {"kind": "schedule_childs", "step": step, "childs": kids, "state": raised}
    return {"kind": "next", "step": step, "state": raised}


def _gather(claim: gd.Claim, raised: dict[str, Any]) -> dict[str, Any]:
    """One signal a step, as the machine does it."""
    if not claim.signals:
        return {"kind": "await", "signals": "even"}
    signals: Any = claim.signals
    first = signals[0]
    got = [*raised["got"], first["payload"]]
    more = {"consume": [first["id"]]}
    if len(got) == raised["wants"]:
        return {"kind": "done", "result": {"n": raised["n"], "got": got}, **more}
    return {"kind": "next", "step": "start", "state": {**raised, "got": got}, **more}
