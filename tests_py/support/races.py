"""Sessions for tests that arrange races: plain calls, open transactions, waiting until one stands before a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from support.wait import Running, is_blocked, run_in_thread, wait_until, wait_until_blocked

T = TypeVar("T")
Row = dict[str, Any]

# A claim whose lease has run out before the call returns: a worker that was lost.
LOST = "1 microsecond"

# A session that waits for a lock longer than this has been stopped by somebody: the test fails with LockNotAvailable.
OPTIONS = "-c lock_timeout=10s"


def outcome(claim: Row, kind: str, **keys: Any) -> Row:
    return {"id": claim["id"], "claim_no": claim["claim_no"], "kind": kind, **keys}


class Session:
    """One backend. Calls commit at once unless `begin` opened a transaction."""

    def __init__(self, db: Any, name: str = "w") -> None:
        self.db = db
        self.name = name
        self.conn: psycopg.Connection[Row] = db.connect(row_factory=dict_row, options=OPTIONS)

    def begin(self, level: str = "read committed") -> Self:
        self.conn.execute(f"begin isolation level {level}".encode())
        return self

    def commit_open(self) -> None:
        self.conn.execute("commit")

    def roll_back(self) -> None:
        self.conn.execute("rollback")

    def end(self, how: str) -> None:
        assert how in ("commit", "rollback")
        self.conn.execute(how.encode())

    def rows(self, query: str, *values: Any) -> list[Row]:
        return self.conn.execute(query.encode(), values).fetchall()

    def one(self, query: str, *values: Any) -> Any:
        [row] = self.rows(query, *values)
        [value] = row.values()
        return value

    # -- the contract, call by call

    def insert(self, **arguments: Any) -> int:
        arguments = {"fsm": "m", **arguments}
        if isinstance(arguments.get("state"), dict):
            arguments["state"] = Jsonb(arguments["state"])
        named = ", ".join(f"p_{name} => %s" for name in arguments)
        value: int = self.one(f"select gd_insert({named})", *arguments.values())
        return value

    def insert_many(self, *instances: Row) -> list[Row]:
        objects = [{"fsm": "m", **one} for one in instances]
        return self.rows("select * from gd_insert_many(%s)", Jsonb(objects))

    def claim(self, limit: int = 10, queue: str = "default", lease: str = "60 seconds") -> list[Row]:
        return self.rows("select * from gd_claim(%s, %s, %s, %s::interval)", self.name, queue, limit, lease)

    def claim_one(self, queue: str = "default", lease: str = "60 seconds") -> Row:
        [row] = self.claim(1, queue, lease)
        return row

    def claim_soon(self, queue: str = "default", lease: str = "60 seconds", limit: int = 1) -> list[Row]:
        """Claims until there is something: what lies below the floor is found within about a second."""
        return wait_until(lambda: self.claim(limit, queue, lease))

    def commit(self, *outcomes: Row) -> list[str]:
        return [row["result"] for row in self.answers(*outcomes)]

    def answers(self, *outcomes: Row) -> list[Row]:
        return self.rows("select * from gd_commit(%s, %s)", self.name, Jsonb(list(outcomes)))

    def commit_one(self, one: Row) -> None:
        self.rows("select gd_commit_one(%s, %s)", self.name, Jsonb(one))

    def finish(self, *claims: Row) -> list[str]:
        return self.commit(*(outcome(claim, "done") for claim in claims))

    def commit_soon(self, one: Row) -> str:
        """Sends it again while the answer is busy, as a dispatcher does."""
        return wait_until(lambda: next((r for r in self.commit(one) if r != "busy"), None))

    def release(self, *claims: Row, delay: str = "0") -> int:
        pairs = Jsonb([[claim["id"], claim["claim_no"]] for claim in claims])
        value: int = self.one("select gd_release(%s, %s, %s::interval)", self.name, pairs, delay)
        return value

    def signal(self, target: int | str, name: str = "go", payload: Any = None, dedup: str | None = None) -> str:
        kind = "bigint" if isinstance(target, int) else "text"
        value: str = self.one(f"select gd_signal(%s::{kind}, %s, %s, %s)", target, name, Jsonb(payload), dedup)
        return value

    def call(self, name: str, *arguments: Any) -> Any:
        marks = ", ".join(["%s"] * len(arguments))
        return self.one(f"select gd_{name}({marks})", *arguments)

    def maintain(self) -> Row:
        value: Row = self.one("select gd_maintain()")
        return value

    def run(self, limit: int = 1000, **options: Any) -> Row:
        result: Row = self.one("call gd_run(p_limit => %s, p_options => %s)", limit, Jsonb(options))
        return result

    # -- sleep, and what wakes from it

    def falls_asleep(self, *queues: str) -> Row:
        self.conn.execute("listen gendurable")
        [row] = self.rows("select * from gd_sleep(%s, %s)", self.name, list(queues or ("default",)))
        return row

    def told(self) -> list[str]:
        """The notification that comes next, if one does."""
        return [note.payload for note in self.conn.notifies(timeout=10, stop_after=1)]

    # -- what stands in the table

    def look(self, id: int) -> Row:
        [row] = self.rows("select * from gendurable.instance where id = %s", id)
        return row

    def status(self, id: int) -> str:
        value: str = self.look(id)["status"]
        return value

    # -- two at a time

    def blocked(self, observer: Session, call: Callable[..., T], *arguments: Any, **named: Any) -> Running[T]:
        """Start a call of this session in a thread, and return when it stands before a lock.

        The observer must not be in a transaction: there it would see one and the same pg_stat_activity for ever.
        """
        running = run_in_thread(call, *arguments, **named)
        try:
            wait_until_blocked(observer.conn, self.conn)
        except TimeoutError:
            raise AssertionError(f"it did not wait: {running.result()!r}") from None
        return running

    def started(
        self,
        observer: Session,
        call: Callable[..., T],
        *arguments: Any,
        until: Callable[[], bool] | None = None,
        **named: Any,
    ) -> Running[T]:
        """Start a call that may wait or may not, and return when it has ended, or stands before a lock (or `until`)."""
        running = run_in_thread(call, *arguments, **named)
        there = until or (lambda: is_blocked(observer.conn, self.conn.info.backend_pid))
        wait_until(lambda: running.done or there())
        return running


def three(db: Any) -> tuple[Session, Session, Session]:
    return Session(db, "a"), Session(db, "b"), Session(db, "c")


def no_baton_was_lost(session: Session) -> None:
    """What gd_maintain has to repair is a defect."""
    assert session.maintain()["repaired"] == 0


# -- partition keys: a holder, those who wait, and the order in which they run


def ids(claims: list[Row]) -> list[int]:
    return [row["id"] for row in claims]


def all_due(session: Session, *, limit: int = 10) -> list[Row]:
    """Everything that is due, over as many claims as that takes."""
    claims: list[Row] = []
    while some := session.claim(limit):
        claims += some
    return claims


def lane(session: Session, worker: Session, waiting: int = 2, **arguments) -> tuple[Row, list[int]]:
    """A claim that holds the key 'k', and rows that are parked behind it."""
    first = session.insert(partition_key="k", **arguments)
    holder = worker.claim_one()
    assert holder["id"] == first
    rest = [session.insert(partition_key="k", **arguments) for _ in range(waiting)]
    assert worker.claim(10) == []
    assert all(session.look(id)["eligible_at"] is None for id in rest)
    return holder, rest


def drains(worker: Session, *expected: int) -> None:
    """The key's rows run one after the other, in this order, and nothing had to be repaired."""
    for id in expected:
        [claim] = worker.claim_soon(limit=10)
        assert claim["id"] == id
        assert worker.commit_soon(outcome(claim, "done")) == "ok"
    assert worker.claim(10) == []
    no_baton_was_lost(worker)
