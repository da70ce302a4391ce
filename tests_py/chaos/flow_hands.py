"""Operators of flows: they cancel, retry one and many, edit, fork, and pause their queue, until all are done."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from support.flows import read_lines

import gendurable_py as gd

from .clients import Client
from .stubborn import NAMES, stubborn

PAUSE = 0.1
LONGEST = 0.2
MOST = 20
UNDER_WAY = "select count(*) from gd_instances where fsm = 'stubborn' and finished_at is null"
MOST_FORKS = 60


class Hands:
    """``queue``: that of the flows. ``ready``: those of others that bear to be cancelled."""

    def __init__(self, dsn: str, seed: int, queue: str, ready: list[int], finish: threading.Event) -> None:
        self._dsn = dsn
        self._random = random.Random(seed)
        self._queue = queue
        self._ready = ready
        self._finish = finish
        self.stubborn: list[int] = []
        self.cancelled: set[int] = set()
        self.forks = 0
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with Client(self._dsn, self._random) as client:
                while not self._finish.wait(PAUSE):
                    if client.call(lambda c: c.execute(UNDER_WAY.encode()).fetchone())[0] < MOST:
                        self._insert(client)
                    for act in (self._cancel, self._edit, self._fork, self._retry, self._pause):
                        if self._random.random() < 0.5:
                            act(client)
                while self._is_left(client):
                    self._retry(client)
                    threading.Event().wait(PAUSE)
        except BaseException as error:  # noqa: BLE001 - told by the scene
            self.failure = error

    def _insert(self, client: Client) -> None:
        name = f"stubborn:{len(self.stubborn)}"
        key = self._random.choice((None, None, "stubborn"))
        options: dict[str, Any] = {"queue": self._queue, "unique_key": name, "partition_key": key}
        found = "select id from gd_instances where unique_key = %s"
        self.stubborn.append(
            client.call(
                lambda c: gd.insert(c, stubborn, {"round": 0}, **options) or c.execute(found, (name,)).fetchone()[0]
            )
        )

    def _pick(self, client: Client, condition: str, most: int = 1) -> list[int]:
        query = f"select id from gd_instances where queue = %s and {condition} order by random() limit %s".encode()
        rows = client.call(lambda c: c.execute(query, (self._queue, most)).fetchall())
        return [id for (id,) in rows]

    def _is_left(self, client: Client) -> bool:
        return bool(self._pick(client, "fsm in ('stubborn', 'whole') and status <> 'done'"))

    def _cancel(self, client: Client) -> None:
        some = [*self._random.sample(self._ready, min(2, len(self._ready))), *self._pick(client, "fsm = 'stubborn'")]
        for id in some:
            if client.call(lambda c, id=id: gd.cancel(c, id, "chaos")):
                self.cancelled.add(id)

    def _edit(self, client: Client) -> None:
        for id in self._pick(client, "fsm in ('stubborn', 'whole') and finished_at is null"):
            client.call(lambda c, id=id: gd.edit(c, id, priority=self._random.choice((-1, 0, 2))))
        for id in self._pick(client, "fsm = 'stubborn' and status = 'failed'"):  # so it has a journal
            self._is_refused(client, lambda c, id=id: gd.edit(c, id, "part 0"))
            self._is_refused(client, lambda c, id=id: gd.retry(c, id, "part 0"))

    def _is_refused(self, client: Client, call: Callable[[psycopg.Connection[Any]], object]) -> None:
        def refused(conn: psycopg.Connection[Any]) -> bool:
            try:
                call(conn)
            except gd.InvalidArgument:
                return True
            return False

        assert client.call(refused), "a flow was given another step"

    def _fork(self, client: Client) -> None:
        if self.forks >= MOST_FORKS:
            return
        for id in self._pick(client, "fsm = 'stubborn' and meta = '{}'"):
            client.call(lambda c, id=id: self._fork_one(c, id))
            self.forks += 1

    def _fork_one(self, conn: psycopg.Connection[Any], id: int) -> None:
        row = conn.execute("select count(*) from gendurable.journal where instance_id = %s", (id,)).fetchone()
        options: dict[str, Any] = {"meta": {"fork_of": id}}
        if row and row[0] and self._random.random() < 0.7:
            options["journal"] = self._random.randint(0, row[0])
        gd.fork(conn, id, options=options)  # nobody else would cut it meanwhile

    def _pause(self, client: Client) -> None:
        client.call(lambda c: gd.pause_queue(c, self._queue))
        self._finish.wait(self._random.uniform(0, LONGEST))
        client.call(lambda c: gd.resume_queue(c, self._queue))

    def _retry(self, client: Client) -> None:
        ended = "fsm in ('stubborn', 'whole') and status in ('failed', 'cancelled')"
        if self._random.random() < 0.4:
            some = self._pick(client, ended, 5)
            client.call(lambda c: gd.calls.retry_many(c, some))
            return
        for id in self._pick(client, ended, 2):
            client.call(lambda c, id=id: self._retry_one(c, id, anew=self._random.random() < 0.1))

    def _retry_one(self, conn: psycopg.Connection[Any], id: int, *, anew: bool) -> None:
        rounds = "select (state ->> 'round')::int from gd_instances where id = %s and fsm = 'stubborn'"
        row = conn.execute(rounds.encode(), (id,)).fetchone()
        if row is not None and anew:
            gd.retry(conn, id, state={"round": row[0] + 1})
        else:
            gd.retry(conn, id)

    # Afterwards

    def judge(self, conn: psycopg.Connection[Any], effects: Any) -> Iterator[str]:
        ran = {(line["id"], line["round"], line["name"]) for line in read_lines(effects)}
        rows = conn.execute("select id, status, result, last_error, meta from gd_instances where fsm = 'stubborn'")
        found = {row[0]: row[1:] for row in rows}
        yield from (f"{id}: is not there" for id in self.stubborn if id not in found)
        for id, (status, result, error, meta) in found.items():
            if status != "done":
                yield f"{id}: {status}: {error}"
                continue
            steps = conn.execute("select name, value from gd_journal(%s) where kind = 'step'", (id,))
            values = dict(steps.fetchall())
            if result["made"] != [values.get(name) for name in NAMES]:
                yield f"{id}: came to {result}, its journal to {values}"
            if not meta and (missing := {(id, result["round"], name) for name in NAMES} - ran):
                yield f"{id}: done without {sorted(missing)}"
        yield from _went_on_elsewhere(conn, {id for id, row in found.items() if not row[3]})
        yield from _forked_otherwise(conn, {id: row[3]["fork_of"] for id, row in found.items() if row[3]})

    def tell(self) -> str:
        return f"failing flows: {len(self.stubborn)}, cancelled: {len(self.cancelled)}, forks: {self.forks}"


def _went_on_elsewhere(conn: psycopg.Connection[Any], ids: set[int]) -> Iterator[str]:
    """A flow that was retried asks for the checkpoint that had failed it, before all others but those beside it."""
    cut: dict[int, str] = {}
    for what, id, entry in conn.execute("select what, id, entry from public.journal_log order by n"):
        if id not in ids:
            continue
        if what == "DELETE":
            if entry["k"] == "step" and "e" in entry:
                cut[id] = entry["name"]
        elif entry["k"] == "start":
            cut.pop(id, None)
        elif entry["k"] == "step" and id in cut:
            failed = cut.pop(id)
            if entry["name"] != failed and {entry["name"], failed} != {"left", "right"}:
                yield f"{id}: went on with {entry['name']!r}, and had failed at {failed!r}"


def _forked_otherwise(conn: psycopg.Connection[Any], forks: dict[int, int]) -> Iterator[str]:
    """What a fork takes over is what its origin has come through, but for where it draws from."""
    log = conn.execute("select xid, id, seq, entry from public.journal_log where what = 'INSERT' order by n").fetchall()
    # one that takes over nothing begins by itself
    made = {(xid, id) for xid, id, seq, entry in log if id in forks and seq > 1 and entry["k"] == "retried"}
    written: dict[tuple[int, int], list[Any]] = {}
    begun: dict[int, str] = {}
    for xid, id, seq, entry in log:
        written.setdefault((id, seq), []).append(entry)
        taken = begun.setdefault(id, xid) == xid and (xid, id) in made and entry["k"] not in ("start", "retried")
        if taken and entry not in written.get((forks[id], seq), []):
            yield f"{id}: entry {seq} is {entry}, which its origin {forks[id]} does not have"
