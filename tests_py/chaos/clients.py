"""Clients: they insert, signal and cancel, by way of a proxy that cuts them off, and write down what they were told."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg

import gendurable_py as gd

from .machines import Parent, Steps, Waiter, keyed, unique

PAUSE = 0.03
# More than this under way, and producers wait: the faults are the subject, not the load.
BACKLOG = 250


class Clients:
    def __init__(self, dsn: str, seed: int, *, cancel: bool = True) -> None:
        self._dsn = dsn
        self._seed = seed
        self._cancels = cancel
        self.told: list[dict[str, Any]] = []
        self.finish = threading.Event()
        """Insert nothing more; what was promised is still sent."""
        self._signals: deque[tuple[int, str]] = deque()
        self._ids: deque[int] = deque(maxlen=5)
        self.failure: BaseException | None = None
        self.threads = [threading.Thread(target=self._guard, args=(call, n), daemon=True) for n, call in self._calls()]
        for thread in self.threads:
            thread.start()

    def _calls(self) -> list[tuple[int, Callable[[Client], None]]]:
        calls = [self._produce, self._produce_in_order, self._signal, *([self._cancel] if self._cancels else [])]
        return list(enumerate(calls))

    def _guard(self, call: Callable[[Client], None], number: int) -> None:
        try:
            with Client(self._dsn, random.Random(self._seed * 10 + number)) as client:
                call(client)
        except BaseException as error:  # noqa: BLE001 - told by the scene
            self.failure = error

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def _tell(self, what: str, id: int, answer: Any, **more: Any) -> None:
        self.told.append({"what": what, "id": id, "answer": answer, **more})

    def _produce(self, client: Client) -> None:
        number = 0
        while not self.finish.wait(PAUSE):
            if client.call(backlog) > BACKLOG:
                continue
            number += 1
            kind = client.random.choice(("steps", "steps", "strict", "parent", "waiter", "unique", "unique"))
            if kind == "waiter":
                self._waiter(client, number)
                continue
            made: int | None
            if kind == "steps":
                made = client.call(lambda c: gd.insert(c, Steps, {"n": 0}))
            elif kind == "strict":
                made = client.call(lambda c: gd.insert(c, "chaos.strict", {"n": 0}, queue="strict"))
            elif kind == "parent":
                kids = client.random.randint(0, 6)
                made = client.call(lambda c, kids=kids: gd.insert(c, Parent, {"n": 0, "kids": kids}))
            else:
                key = f"unique:{client.random.randint(0, 4)}"
                made = client.call(lambda c, key=key: gd.insert(c, unique, {"n": 0}, unique_key=key))
            if made is not None:
                self._tell("insert", made, made)
                self._ids.append(made)

    def _waiter(self, client: Client, number: int) -> None:
        wants = client.random.randint(1, 4)
        name = f"waiter:{number}"

        def insert(conn: psycopg.Connection[Any]) -> int | None:
            # The key is for a call whose answer was lost: the second one finds the first's instance.
            return gd.insert(conn, Waiter, {"n": 0, "got": [], "wants": wants}, unique_key=name) or gd.find(conn, name)

        id = client.call(insert)
        if id is None:  # inserted by the lost call, and ended by now: only a cancellation can do that
            return
        self._tell("insert", id, id)
        if client.random.random() < 0.1:
            self._ids.append(id)
        self._signals += [(id, f"{id}:{n}") for n in range(wants)]

    def _produce_in_order(self, client: Client) -> None:
        while not self.finish.wait(PAUSE):
            if client.call(backlog) <= BACKLOG:
                key = f"keyed:{client.random.randint(0, 3)}"
                made = client.call(lambda c, key=key: gd.insert(c, keyed, {"n": 0}, partition_key=key))
                self._tell("insert", made or 0, made)
                if client.random.random() < 0.1:
                    self._ids.append(made or 0)

    def _signal(self, client: Client) -> None:
        while not self.finish.wait(PAUSE) or self._signals or self.threads[0].is_alive():
            # Out of order, and some of them twice.
            for _ in range(min(3, len(self._signals))):
                self._signals.rotate(client.random.randint(0, 5))
                id, key = self._signals.popleft()
                name = client.random.choice(("even", "odd"))
                for _ in range(client.random.choice((1, 1, 2))):
                    answer = client.call(
                        lambda c, id=id, name=name, key=key: gd.signal(c, id, name, key, dedup_key=key)
                    )
                    self._tell("signal", id, answer, key=key)

    def _cancel(self, client: Client) -> None:
        while not self.finish.wait(PAUSE * 8):
            # By turns what a client knows of, and anything that is alive: children, parents that wait.
            id = client.call(any_alive) if client.random.random() < 0.3 else next(iter(self._ids), None)
            if id is not None:
                answer = client.call(lambda c, id=id: gd.cancel(c, id, "chaos", cascade=True))
                self._tell("cancel", id, answer)


class Client:
    """A connection that is made again as often as it is lost; each call is repeated until it is answered."""

    def __init__(self, dsn: str, chance: random.Random) -> None:
        self._dsn = dsn
        self._conn: psycopg.Connection[Any] | None = None
        self.random = chance

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        if self._conn is not None:
            self._conn.close()

    def call(self, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        while True:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = psycopg.connect(self._dsn, autocommit=True)
                return call(self._conn)
            except psycopg.OperationalError:
                if self._conn is not None:
                    self._conn.close()
                threading.Event().wait(PAUSE)


def backlog(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select count(*) from gendurable.instance where finished_at is null").fetchone()
    return int(row[0]) if row else 0


def any_alive(conn: psycopg.Connection[Any]) -> int | None:
    row = conn.execute(
        "select id from gendurable.instance where finished_at is null order by random() limit 1"
    ).fetchone()
    return row[0] if row else None
