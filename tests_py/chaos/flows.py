"""Flows beside the machines: `support.flow_whole`, which uses all that a flow can, and what has to be true of it.

Its steps write down what they were given, a trigger what is written to journals. Whatever was broken meanwhile: no
entry that was committed changes, each effect is there, a step that runs again is given the same, and what the flow
comes to is what it comes to without faults.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from support import flow_whole
from support.flows import WATCH, changed_entries, read_lines, run_more_than_once, told_different_things

import gendurable_py as gd

from .clients import Client
from .flow_hands import Hands
from .stubborn import stubborn

QUEUE = "flows"
SLOTS = 12
EFFECTS = "effects"
PAUSE = 0.15
MOST = 40
SIGNALS = 3
UNDER_WAY = f"select count(*) from gd_instances where queue = '{QUEUE}' and finished_at is null"
KEYS = (None, None, "flow:0", "flow:1")


class Customers:
    """Inserts flows and sends them their signals."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._random = random.Random(seed)
        self.ids: list[int] = []
        self.ready: list[int] = []
        """Those that have been sent their signals: one that is cancelled takes none."""
        self.finish = threading.Event()
        self._failure: BaseException | None = None
        self.hands = Hands(dsn, seed + 1, QUEUE, self.ready, self.finish)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with Client(self._dsn, self._random) as client:
                while not self.finish.wait(PAUSE):
                    if client.call(lambda c: c.execute(UNDER_WAY).fetchone())[0] < MOST:
                        self._begin(client, len(self.ids))
        except BaseException as error:  # noqa: BLE001 - told by the scene
            self._failure = error

    @property
    def busy(self) -> bool:
        return self.thread.is_alive() or self.hands.thread.is_alive()

    @property
    def failure(self) -> BaseException | None:
        return self._failure or self.hands.failure

    def _begin(self, client: Client, number: int) -> None:
        name = f"flow:{number}"
        options: dict[str, Any] = {"queue": QUEUE, "unique_key": name, "partition_key": client.random.choice(KEYS)}
        # A second call finds the first one's: it cannot have ended without its signals.
        id = client.call(lambda c: gd.insert(c, flow_whole.whole, {"round": 0}, **options) or gd.find(c, name))
        self.ids.append(id)
        for number in range(SIGNALS):
            client.call(lambda c, number=number: gd.signal(c, id, "go", number, dedup_key=f"{id}:{number}"))
        self.ready.append(id)


def prepare(conn: psycopg.Connection[Any]) -> None:
    conn.execute(WATCH)
    for machine in (flow_whole.whole, flow_whole.double, stubborn):
        # What ends before the first worker has come is kept, too.
        gd.register(conn, machine)


def judge(conn: psycopg.Connection[Any], folder: Path, customers: Customers) -> Iterator[str]:
    """What is not as it has to be."""
    yield from customers.hands.judge(conn, folder / EFFECTS)
    ids, cancelled = customers.ids, customers.hands.cancelled
    lines = read_lines(folder / EFFECTS)
    ran = {(line["id"], line["round"], line["name"]) for line in lines}
    yield from (f"was given different things: {text}" for text in told_different_things(lines))
    yield from changed_entries(conn)
    firsts = {(line["id"], line["round"]): line["given"] for line in lines if line["name"] == "first"}
    for id in ids:
        row = conn.execute("select status, result, last_error from gd_instances where id = %s", (id,)).fetchone()
        if row is None or row[0] != "done":
            yield f"{id}: {row}"
            continue
        if missing := {(id, 0, "first"), *((id, 1, step) for step in flow_whole.STEPS)} - ran:
            yield f"{id}: done without {sorted(missing)}"
        made: dict[str, Any] = row[1]
        if [made["draws"]] != firsts.get((id, 1)) or made["before"] != [*firsts.get((id, 0), ()), 0]:
            yield f"{id}: its steps were given something else than it goes on with"
        if (made["race"], made["signals"], made["kids"], made["kid"]) != ("fast", [1, 2], [0, 2, 4], 42):
            yield f"{id}: came to {made}"
        childs = conn.execute("select count(*) from gd_instances where parent_id = %s", (id,)).fetchone()
        # What is cancelled while its children run has others when it is tried again.
        if childs != (flow_whole.CHILDREN,) and not (id in cancelled and childs and childs[0] > flow_whole.CHILDREN):
            yield f"{id}: has {childs} children"


def tell(conn: psycopg.Connection[Any], folder: Path, customers: Customers) -> str:
    ids = set(customers.ids)
    lines = [line for line in read_lines(folder / EFFECTS) if line["id"] in ids]
    again = run_more_than_once(lines).total() - 2 * len(ids)
    entries = conn.execute("select count(*) from gendurable.journal").fetchone()
    said = f"flows: {len(ids)}, entries: {entries[0] if entries else 0}, steps of theirs run again: {again}"
    return f"{said}; {customers.hands.tell()}"
