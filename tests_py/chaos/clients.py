"""Clients: they insert and signal, by way of a proxy that cuts them off, and write down what they were told.

What operators do (cancel, retry, reschedule, pause, limits) stands in operators.py.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg

import gendurable_py as gd

from .machines import (
    BUCKETS,
    FEW,
    LIFE,
    SCOPES,
    WEIGHTS,
    Few,
    Flaky,
    Keyed,
    Parent,
    Steps,
    Waiter,
    backoff,
    late,
    limited,
    micros,
    timed,
    unique,
)
from .operators import Operators

PAUSE = 0.03
# More than this under way, and producers wait: the faults are the subject, not the load.
BACKLOG = 250
# What waits in keys, behind somebody's lock, must not keep the others from inserting.
ROOM = 80

EVEN = ("steps", "steps", "strict", "parent", "waiter", "unique", "unique", "limited", "limited", "few", "few")
ROUGH = ("flaky", "flaky", "backoff", "late", "late", "mortal", "timed")


class Clients:
    """`cancel` False: an even load, without operators and without machines that fail."""

    def __init__(self, dsn: str, seed: int, *, cancel: bool = True) -> None:
        self._dsn = dsn
        self._seed = seed
        self._rough = cancel
        self.told: list[dict[str, Any]] = []
        self.finish = threading.Event()
        """Insert nothing more; what was promised is still sent."""
        self._signals: deque[tuple[int, str]] = deque()
        self.failure: BaseException | None = None
        calls: list[Callable[[Client], None]] = [self._produce, self._produce_in_order, self._signal]
        if cancel:
            operators = Operators(self.finish, self._tell)
            calls += [operators.cancel, operators.repair, operators.steer]
        self.threads = [
            threading.Thread(target=self._guard, args=(call, n), daemon=True) for n, call in enumerate(calls)
        ]
        for thread in self.threads:
            thread.start()

    def _guard(self, call: Callable[[Client], None], number: int) -> None:
        try:
            with Client(self._dsn, random.Random(self._seed * 10 + number)) as client:
                call(client)
        except BaseException as error:  # noqa: BLE001 - told by the scene
            self.failure = error

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def _tell(self, client: Client, what: str, id: int, answer: Any, **more: Any) -> None:
        when = {"sent": client.sent, "answered": client.answered, "tries": client.tries}
        self.told.append({"what": what, "id": id, "answer": answer, **when, **more})

    def _produce(self, client: Client) -> None:
        number = 0
        while not self.finish.wait(PAUSE):
            if client.call(under_way) > BACKLOG:
                continue
            number += 1
            kind = client.random.choice(EVEN + ROUGH if self._rough else EVEN)
            if kind == "waiter":
                self._waiter(client, number)
                continue
            delay = client.random.uniform(0.1, 1.5) if kind in ("late", "mortal") else None
            made = client.call(self._maker(kind, client.random, delay))
            if made is not None:
                due = None if delay is None else client.sent + int(delay * 1_000_000)
                expires = client.answered + int(LIFE * 1_000_000) if kind == "mortal" else None
                self._tell(client, "insert", made, made, due=due, expires=expires)

    @staticmethod
    def _maker(kind: str, chance: random.Random, delay: float | None) -> Callable[[Any], int | None]:
        priority = chance.choice((0, 0, 0, -1, 3))
        fails = chance.randint(0, 5)
        match kind:
            case "steps":
                return lambda c: gd.insert(c, Steps, {"n": 0}, priority=priority)
            case "strict":
                return lambda c: gd.insert(c, "chaos.strict", {"n": 0}, queue="strict")
            case "few":
                return lambda c: gd.insert(c, Few, {"n": 0}, priority=priority)
            case "parent":
                return lambda c: gd.insert(c, Parent, {"n": 0, "kids": fails + (fails > 2)})
            case "limited":
                options: dict[str, Any] = {
                    "rate_limit": chance.choice(BUCKETS),
                    "weight": chance.choice(WEIGHTS),
                    "queue": chance.choice(("default", "keyed", FEW)),
                    # some wait for their turn in a key first, together with others that have no limit
                    "partition_key": chance.choice((None, None, "keyed:0", "keyed:1")),
                }
                return lambda c: gd.insert(c, limited, {"n": 0}, priority=priority, **options)
            case "flaky":
                how = chance.choice(("raise", "replay"))
                return lambda c: gd.insert(c, Flaky, {"n": 0, "fails": fails, "how": how})
            case "backoff":
                return lambda c: gd.insert(c, backoff, {"n": 0, "fails": fails % 3})
            case "late":
                assert delay is not None
                return lambda c: gd.insert(c, late, {"n": 0}, delay=delay)
            case "mortal":
                assert delay is not None
                return lambda c: gd.insert(c, late, {"n": 0}, delay=delay, expires=LIFE)
            case "timed":
                return lambda c: gd.insert(c, timed, {"n": 0})
        key = chance.choice(sorted(SCOPES))
        return lambda c: gd.insert(c, unique, {"n": 0}, unique_key=key, unique_scope=SCOPES[key])

    def _waiter(self, client: Client, number: int) -> None:
        wants = client.random.randint(1, 4)
        name = f"waiter:{number}"

        def insert(conn: psycopg.Connection[Any]) -> int | None:
            # The key is for a call whose answer was lost: the second one finds the first's instance.
            return gd.insert(conn, Waiter, {"n": 0, "got": [], "wants": wants}, unique_key=name) or gd.find(conn, name)

        id = client.call(insert)
        if id is None:  # inserted by the lost call, and ended by now: only a cancellation can do that
            return
        self._tell(client, "insert", id, id)
        self._signals += [(id, f"{id}:{n}") for n in range(wants)]

    def _produce_in_order(self, client: Client) -> None:
        while not self.finish.wait(PAUSE):
            if client.call(under_way) <= BACKLOG - ROOM:
                key = client.random.choice(("keyed:0", "keyed:1", "keyed:2", "keyed:3", "wide:0", "wide:1"))
                options: dict[str, Any] = {"partition_key": key}
                if self._rough:
                    options["priority"] = client.random.choice((0, 0, 0, 1, -1))
                    options["delay"] = client.random.choice((None, None, None, None, 0.1))
                    # A key with rows in two queues, of which one may be paused.
                    options["queue"] = client.random.choice(("keyed", "keyed", "default"))
                self._insert_keyed(client, options)

    def _insert_keyed(self, client: Client, options: dict[str, Any]) -> None:
        made = client.call(lambda c: gd.insert(c, Keyed, {"n": 0}, **options))
        self._tell(client, "insert", made or 0, made)

    def _signal(self, client: Client) -> None:
        # Whether more can come before whether there is some: the last waiter's would be left over the other way round.
        while not self.finish.wait(PAUSE) or self.threads[0].is_alive() or self._signals:
            # Out of order, and some of them twice.
            for _ in range(min(3, len(self._signals))):
                self._signals.rotate(client.random.randint(0, 5))
                id, key = self._signals.popleft()
                name = client.random.choice(("even", "odd"))
                for _ in range(client.random.choice((1, 1, 2))):
                    self._send(client, id, name, key)

    def _send(self, client: Client, id: int, name: str, key: str) -> None:
        answer = client.call(lambda c: gd.signal(c, id, name, key, dedup_key=key))
        self._tell(client, "signal", id, answer, key=key)


class Client:
    """A connection that is made again as often as it is lost; each call is repeated until it is answered."""

    def __init__(self, dsn: str, chance: random.Random) -> None:
        self._dsn = dsn
        self._conn: psycopg.Connection[Any] | None = None
        self.random = chance
        # Of the last call: when it was first sent, when it was answered, and how often it was sent.
        self.sent = self.answered = self.tries = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._conn is not None:
            self._conn.close()

    def call(self, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        self.sent, self.tries = micros(), 0
        while True:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = psycopg.connect(self._dsn, autocommit=True)
                self.tries += 1
                answer = call(self._conn)
            except psycopg.OperationalError:
                if self._conn is not None:
                    self._conn.close()
                threading.Event().wait(PAUSE)
            else:
                self.answered = micros()
                return answer


def backlog(conn: psycopg.Connection[Any], *, own: bool = False) -> int:
    """What has not ended; `own`: without the rows of others in the same scene, which must not keep clients waiting."""
    of = "and fsm like 'chaos.%'" if own else ""
    row = conn.execute(
        f"select count(*) from gendurable.instance where finished_at is null and id > 0 {of}".encode()
    ).fetchone()
    return int(row[0]) if row else 0


def under_way(conn: psycopg.Connection[Any]) -> int:
    return backlog(conn, own=True)
