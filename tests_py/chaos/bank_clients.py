"""The customers of the bank, the sessions that run its steps in SQL, and an auditor who reads it all the while."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg

import gendurable_py as gd

from .bank import ACCOUNTS, CLEARING, HOLDS, QUEUE, SHOP, STEPS, TELLERS
from .clients import Client

PAUSE = 0.01
BACKLOG = 200
RUNNERS = 3
LEASE_MS = 2000
AUDIT = """
select (select sum(balance) from bank.account)::bigint,
    array(
        select format('transfer %s is at %s, and %s times written down at %s', h.k, h.n, h.times, h.part)
        from bank.half h
        where h.finished_at is null or h.finished_at > now() - interval '2 s'
        limit 5)
"""


class Customers:
    """Transfers, transfers of their own that they tell a teller of, and orders that they pay; each wish once.

    What was promised is kept, so after `finish` threads may go on for a while.
    """

    def __init__(self, dsn: str, direct: str, seed: int) -> None:
        self._dsn = dsn
        self._direct = direct
        self._seed = seed
        self.finish = threading.Event()
        """Insert nothing more."""
        self.over = threading.Event()
        """Nothing is left to run."""
        self.failure: BaseException | None = None
        self.told: list[dict[str, Any]] = []
        self.ran: Counter[str] = Counter()
        self.sessions = 0
        self.deadlocks: list[str] = []
        self.audits: list[tuple[int, list[str]]] = []
        calls: list[Callable[[Client], None]] = [self._transfer, self._pay, self._order]
        self.threads = [self._thread(call, n) for n, call in enumerate(calls)]
        self.others = [self._thread(self._run, 100 + n) for n in range(RUNNERS)]
        self.others.append(self._thread(self._audit, 200))
        for thread in self.threads + self.others:
            thread.start()

    def _thread(self, call: Callable[[Client], None], number: int) -> threading.Thread:
        return threading.Thread(target=self._guard, args=(call, number), daemon=True)

    def _guard(self, call: Callable[[Client], None], number: int) -> None:
        dsn = self._direct if number == 200 else self._dsn
        try:
            with Client(dsn, random.Random(self._seed * 1000 + number)) as client:
                call(client)
        except BaseException as error:  # noqa: BLE001 - told by the scene
            self.failure = error

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def _tell(self, what: str, number: int, **more: Any) -> None:
        self.told.append({"what": what, "id": number, **more})

    def _call(self, client: Client, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """A transaction, again and again until it is known to be committed: it must not do what it finds done."""

        def once(conn: psycopg.Connection[Any]) -> Any:
            try:
                with conn.transaction():
                    return call(conn)
            except psycopg.errors.DeadlockDetected as error:
                self.deadlocks.append(str(error))
                raise

        return client.call(once)

    # -- what they do

    def _transfer(self, client: Client) -> None:
        number = 0
        while not self.finish.wait(PAUSE):
            if client.call(under_way_here) > BACKLOG:
                continue
            wishes = [self._wish(client.random, number + n) for n in range(client.random.choice((1, 5, 10)))]
            self._call(client, lambda conn, wishes=wishes: gd.insert_many(conn, wishes))  # type: ignore[misc]
            for n in range(len(wishes)):
                self._tell("transfer", number + n)
            number += len(wishes)

    def _wish(self, chance: random.Random, number: int) -> dict[str, Any]:
        source, target = chance.sample(ACCOUNTS, 2)
        length = chance.choice((1, 2, 3, 3, 4, 5))
        parts: list[str | None] = [None] * length
        if length == 1 or chance.random() < 0.3:
            parts[chance.randrange(length)] = "both"
        else:
            first, second = sorted(chance.sample(range(length), 2))
            parts[first], parts[second] = "debit", "credit"
        route = [[chance.choice(STEPS if part is None else STEPS[:-1]), part] for part in parts]
        return {
            "fsm": "bank.transfer",
            "queue": QUEUE,
            "step": route[0][0],
            "unique_key": f"transfer:{number}",
            "unique_scope": HOLDS,
            "partition_key": f"customer:{source % 5}" if chance.random() < 0.2 else None,
            "state": {
                "k": number,
                "n": 0,
                "source": source,
                "target": target,
                "via": chance.choice(CLEARING),
                "amount": chance.randint(1, 50),
                "route": route,
                "tells": [n for n in range(length) if chance.random() < 0.4],
                "teller": chance.choice(TELLERS),
                "receipt": chance.choice(("sql", "sync")),
                "raises": [n for n in range(length) if chance.random() < 0.03],
            },
        }

    def _pay(self, client: Client) -> None:
        """A transaction of theirs that writes accounts and then signals, as a step does."""
        number = 0
        while not self.finish.wait(3 * PAUSE):
            source, target = client.random.sample(ACCOUNTS, 2)
            teller = client.random.choice(TELLERS)

            def pay(conn: psycopg.Connection[Any], what: str = f"client:{number}") -> None:
                if not is_new(conn, what):
                    return
                conn.execute("select bank.apply(%s, 'client', %s, %s, 7)", (what, source, target))  # noqa: B023
                gd.signal(conn, f"teller:{teller}", "note", what)  # noqa: B023

            self._call(client, pay)
            self._tell("client", number, teller=teller)
            number += 1

    def _order(self, client: Client) -> None:
        """The row and its machine together; some time later it is paid, which signals."""
        unpaid: list[int] = []
        number = 0
        while not self.finish.wait(5 * PAUSE) or unpaid:
            if not self.finish.is_set():
                self._call(client, lambda conn, id=number: self._put(conn, id))  # type: ignore[misc]
                unpaid.append(number)
                number += 1
            if len(unpaid) > 10 or self.finish.is_set():
                id = unpaid.pop(client.random.randrange(len(unpaid)))
                customer = client.random.choice(ACCOUNTS)
                self._call(client, lambda conn, id=id, who=customer: self._buy(conn, id, who))  # type: ignore[misc]
                self._tell("order", id)

    def _put(self, conn: psycopg.Connection[Any], id: int) -> None:
        if conn.execute("insert into bank.purchase values (%s, 'new') on conflict do nothing", (id,)).rowcount:
            gd.insert(conn, "bank.order", {"order": id}, queue=QUEUE, unique_key=f"order:{id}")

    def _buy(self, conn: psycopg.Connection[Any], id: int, customer: int) -> None:
        if is_new(conn, f"purchase:{id}"):
            conn.execute("select bank.apply(%s, 'client', %s, %s, 3)", (f"purchase:{id}", customer, SHOP))
            conn.execute("update bank.purchase set status = 'paid' where id = %s", (id,))

    # -- who runs steps in SQL

    def _run(self, client: Client) -> None:
        while not self.over.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, application_name="gendurable run") as conn:
                    self.sessions += 1
                    for _ in range(client.random.choice((1, 5, 50))):
                        self._run_once(conn, client.random)
                        if self.over.wait(PAUSE):
                            return
            except psycopg.OperationalError:
                self.over.wait(PAUSE)

    def _run_once(self, conn: psycopg.Connection[Any], chance: random.Random) -> None:
        try:
            counts = gd.run(
                conn,
                QUEUE,
                chance.choice((1, 20, 1000)),
                chance.choice((0, 0, 0.5)),
                batch=chance.choice((None, 10, 50)),
                budget_ms=chance.choice((None, 10, 300)),
                lease_ms=LEASE_MS,
            )
        except psycopg.errors.QueryCanceled:
            self.ran["cancelled"] += 1
        else:
            self.ran.update({name: count for name, count in counts.items() if isinstance(count, int)})

    # -- who reads

    def _audit(self, client: Client) -> None:
        while not self.over.wait(0.3):
            total, half = client.call(lambda conn: conn.execute(AUDIT.encode()).fetchone())
            self.audits.append((total, half))

    def close_tellers(self, conn: psycopg.Connection[Any]) -> None:
        """Once nothing else is left: they count what they have, and end."""
        for teller in TELLERS:
            gd.signal(conn, f"teller:{teller}", "close", dedup_key="close")


def under_way_here(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select count(*) from gendurable.instance where finished_at is null and id > 0").fetchone()
    return int(row[0]) if row else 0


def is_new(conn: psycopg.Connection[Any], what: str) -> bool:
    """Whether no transaction before this one has done it; one whose end its client did not hear of may have."""
    return conn.execute("insert into bank.asked values (%s) on conflict do nothing", (what,)).rowcount == 1
