"""One dispatcher process: `python -m chaos.worker DSN JOURNAL STYLE`. It serves until SIGTERM, whatever happens.

A style with "+around" serves what is hostile, too; one with "+bank" the bank alone.

Beside the engine a plain SQL client works: it writes its ledger in the transaction that commits the step.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from support import flow_whole
from support import flows as support_flows

import gendurable_py as gd
from gendurable_py import Engine

from . import bank, flows, machines, payloads
from .aside import OPTIONS
from .stubborn import stubborn

LEASE = 2.0
# One as most are, one that keeps claims and takes rows in advance, and one that only polls.
STYLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ahead": {"run_ahead": True, "prefetch": 6},
    "polls": {"notify": False},
}
FLOW = machines.STEPS["chaos.strict"]
# A start while the server is away fails, as it should; the next one is tried after this.
PAUSE = 0.1


def on_event(name: str, measurements: Mapping[str, float], metadata: Mapping[str, object]) -> None:
    if name in ("maintain", "stale"):
        try:
            assert machines.journal is not None
            machines.journal.write(what=name, repaired=measurements.get("repaired"))
        except Exception:  # noqa: BLE001 - told, and the end
            # The engine goes on without its listener; here that would be a blind spot.
            traceback.print_exc()
            os._exit(3)


class SqlWorker:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.stopping = threading.Event()
        self._name = f"sql:{os.getpid()}:{secrets.token_hex(4)}"
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, application_name="gendurable sql") as conn:
                    # After a lost connection: what it may hold and does not know of.
                    gd.release(conn, self._name, None)
                    while not self.stopping.is_set():
                        if not self._work(conn):
                            self.stopping.wait(0.05)
            except psycopg.OperationalError:
                self.stopping.wait(PAUSE)

    def _work(self, conn: psycopg.Connection[Any]) -> int:
        claims = gd.claim(conn, self._name, "strict", 4, LEASE)
        for claim in claims:
            try:
                with conn.transaction():
                    self._step(conn, claim)
            except gd.ClaimLost:
                continue
        return len(claims)

    def _step(self, conn: psycopg.Connection[Any], claim: gd.Claim) -> None:
        assert machines.journal is not None
        about = {"id": claim.id, "fsm": claim.fsm, "step": claim.step, "attempt": claim.attempt}
        machines.journal.write(what="run", claim=claim.claim_no, by=self._name, at=machines.micros(), **about)
        state: Any = claim.state
        n = state["n"]
        machines.journal.write(what="ended", id=claim.id, claim=claim.claim_no, at=machines.micros())
        conn.execute("insert into chaos.ledger (id, n, claim) values (%s, %s, %s)", (claim.id, n, claim.claim_no))
        outcome: dict[str, object] = {"id": claim.id, "claim_no": claim.claim_no}
        if n + 1 < len(FLOW):
            outcome |= {"kind": "next", "step": FLOW[n + 1], "state": {**state, "n": n + 1}}
        else:
            outcome |= {"kind": "done", "result": {"n": n + 1}}
        gd.commit_one(conn, self._name, outcome)


def main() -> None:
    dsn, path, given = sys.argv[1:]
    style, _, more = given.partition("+")
    around, banks = more == "around", more == "bank"
    queues = {"default": 8, "keyed": 4, machines.FEW: 4, flows.QUEUE: flows.SLOTS}
    served = [*machines.MACHINES, flow_whole.whole, flow_whole.double, stubborn]
    support_flows.effects = support_flows.Lines(Path(path).with_name(flows.EFFECTS))
    if around:
        queues[payloads.QUEUE] = 3
        served = [*served, payloads.Hostile]
    if banks:
        queues, served, bank.OWN_DSN = {bank.QUEUE: 12}, bank.MACHINES, dsn
    machines.journal = machines.Journal(path)
    machines.ticking = machines.Journal(Path(path).with_name(f"ticks-{Path(path).name}"))
    stopped = threading.Event()
    # A client like others, which owes its settings to nobody else.
    beside = SqlWorker(make_conninfo(dsn, user="postgres", options=OPTIONS) if around else dsn)
    if not banks:
        beside.thread.start()
    while not stopped.is_set():
        # Also while the server is away and no engine runs, which has a handler of its own.
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        machines.journal.write(what="up")
        engine = Engine(
            dsn,
            served,
            queues=queues,
            lease_ttl=LEASE,
            heartbeat_interval=0.5,
            poll_interval=0.2,
            max_poll_interval=0.5,
            reap_interval=1,
            retention=bank.KEPT if banks else machines.RETENTION,
            drain_timeout=2,
            on_event=on_event,
            **STYLES[style],
        )
        try:
            engine.run()
            break
        except psycopg.OperationalError:
            beside.stopping.wait(PAUSE)
    beside.stopping.set()
    if not banks:
        beside.thread.join(5)


if __name__ == "__main__":
    main()
