"""The scene of the bank: everything that runs steps in one queue, and kills at random; then the books have to balance.

Little time passes between two faults, and several may be at work at once: no fault is waited for but those that have
to be ended. Every now and then it is looked whether work goes on.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import psycopg
from support.wait import wait_until

import gendurable_py as gd

from .bank import open_bank
from .bank_checker import Books, check, gather
from .bank_clients import Customers, under_way_here
from .faults import LIVE, Faults, last
from .records import lines
from .scene import DRAIN_SECONDS, Report, Scene

ROUND = 15.0
LONGEST_PAUSE = 0.6
OFTEN = 4
EVERYBODY = "datname = current_database() and pid <> pg_backend_pid() and backend_type <> 'walsender'"
RUNS = "application_name = 'gendurable run' and state = 'active'"
HIT = "select {}(pid) from pg_stat_activity where {} order by random() limit 1"
HOLD = "select from bank.account where id = any(%s) order by id for update"


class RandomFaults(Faults):
    """Kinds by how often they come, in relation to each other."""

    def __init__(self, scene: Money, seed: int) -> None:
        super().__init__(scene, seed)
        self.kinds |= {
            "backend terminated": lambda: self._hit("pg_terminate_backend", EVERYBODY),
            "backend cancelled": lambda: self._hit("pg_cancel_backend", EVERYBODY),
            "gd_run terminated": lambda: self._hit("pg_terminate_backend", RUNS),
            "gd_run cancelled": lambda: self._hit("pg_cancel_backend", RUNS),
            "worker stopped": self.stop_for_a_moment,
            "worker stopped past its lease": self.stop_worker,
            "accounts held by a client": self.hold_accounts,
        }
        self.weights = {
            "backend terminated": 20,
            "backend cancelled": 20,
            "gd_run terminated": 8,
            "gd_run cancelled": 8,
            "worker killed": 8,
            "worker stopped": 8,
            "worker stopped past its lease": 3,
            "accounts held by a client": 6,
            "backend stopped": 4,
            "connections cut": 3,
            "server killed": 4,
            "server restarted": 1,
            "all backends terminated": 1,
            "worker restarted": 1,
            "connections refused": 1,
            "network silent": 1,
            "disk slow": 1,
        }

        # those that come often, once each before chance has its way
        self._first = [kind for kind, weight in self.weights.items() if weight >= OFTEN]
        self._random.shuffle(self._first)

    def one(self) -> None:
        by_chance = self._random.choices([*self.weights], [*self.weights.values()])[0]
        self.inject(self._first.pop() if self._first else by_chance)
        last(self._random.uniform(0.05, LONGEST_PAUSE))

    def _hit(self, how: str, whom: str) -> bool:
        return self._ask(HIT.format(how, whom)) == [True]

    def _stop_one(self, until: Any) -> None:
        process = self._random.choice(self._scene.workers)
        process.send_signal(signal.SIGSTOP)
        try:
            until(process)
        finally:
            process.send_signal(signal.SIGCONT)

    def stop_for_a_moment(self) -> None:
        self._stop_one(lambda _: last(self._random.uniform(0.1, 1.5)))

    def stop_worker(self) -> None:
        def past_its_leases(process: Any) -> None:
            with suppress(TimeoutError):
                wait_until(lambda: self._ask(LIVE, f"%:{process.pid}:%")[0] == 0, 10)
            last(self._random.uniform(0, 0.5))

        self._stop_one(past_its_leases)

    def hold_accounts(self) -> None:
        with psycopg.connect(self._scene.dsn) as conn:
            conn.execute(HOLD, ([*self._random.sample(range(1, 41), 3)],))
            last(self._random.uniform(0.05, 1.0))


class Money(Scene):
    books: Books

    def __init__(self, seed: int, sabotage: str | None = None) -> None:
        super().__init__(seed, sabotage=sabotage, more="+bank")

    def _prepare(self, conn: psycopg.Connection[Any]) -> None:
        open_bank(conn)

    def _begin(self, seed: int, cancel: bool) -> None:
        self.customers = self.clients = Customers(self.proxy.dsn, self.dsn, seed)
        self.faults: RandomFaults = RandomFaults(self, seed)

    def _drain(self, conn: psycopg.Connection[Any]) -> None:
        tellers = conn.execute("select count(*) from gd_instances where fsm = 'bank.teller'").fetchone()
        assert tellers is not None
        wait_until(lambda: under_way_here(conn) <= tellers[0], DRAIN_SECONDS)
        self.customers.close_tellers(conn)
        wait_until(lambda: under_way_here(conn) == 0, DRAIN_SECONDS)

    def judge(self) -> Report:
        self.customers.over.set()
        for thread in self.customers.others:
            thread.join(30)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            repaired = gd.maintain(conn)["repaired"]
            books = gather(conn)
        assert isinstance(repaired, int)
        books.told, books.audits, books.deadlocks = self.customers.told, self.customers.audits, self.customers.deadlocks
        books.repaired = repaired
        self.violations += check(books)
        return self._tell(books)

    def _in_vain(self) -> tuple[int, int, int]:
        """Runs in Python beyond the first of a step of a transfer, outcomes that were stale, looks of gd_maintain."""
        written = lines(self.folder)
        runs = [(line["id"], line["n"]) for line in written if line["what"] == "run" and "n" in line]
        seen = Counter(line["what"] for line in written)
        return len(runs) - len(set(runs)), seen["stale"], seen["maintain"]

    def _tell(self, books: Books) -> Report:
        by = Counter(name for line in books.ledger for name in line.by)
        ran = ", ".join(f"{count} {name}" for name, count in sorted(self.customers.ran.items()))
        return Report(
            self.seed,
            self.faults.injected,
            Counter(f"{one.fsm} {one.status}" for one in books.instances),
            Counter(line["what"] for line in books.told),
            self.violations,
            books.steps,
            *self._in_vain(),
            remarks=[
                f"movements by step: {', '.join(f'{count} {name}' for name, count in sorted(by.items()))}",
                f"gd_run: {self.customers.sessions} sessions, {ran}",
                f"audits: {len(books.audits)}, customers chosen to end a deadlock: {len(books.deadlocks)}",
            ],
        )


def play_money(seed: int, minutes: float, sabotage: str | None = None) -> Report:
    until = time.monotonic() + minutes * 60
    with Money(seed, sabotage) as scene:
        scene.go_on()
        while time.monotonic() < until:
            looked = time.monotonic()
            while time.monotonic() < min(until, looked + ROUND):
                scene.faults.one()
            scene.go_on()
        scene.calm()
        return scene.judge()
