"""The server is killed ten times under load, and one of three engines about every second: all comes to its end, once.

It is the chaos suite's scene with these two faults only, both at the same time, and with no client that cancels.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import psycopg
import pytest
from chaos.checker import check
from chaos.machines import STEPS, Steps
from chaos.records import Record, Row, gather
from chaos.scene import WORKERS, Scene, Unavailable, installation
from chaos.worker import LEASE
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Child

SEED = 4
SERVER_KILLS = 10
# Inserted at once before each of them, so that no engine has a free slot when it is hit; the clients' load is even.
BURST = 300
# The pace of a fault, not a wait for anything.
SECONDS_BETWEEN_ENGINE_KILLS = 1.0

Transition = tuple[int, int, str]


class EngineKiller:
    """Kills one engine after the other with SIGKILL, whatever the server does meanwhile, and starts another for it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._finish = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.killed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish.set()
        self._thread.join()

    def _run(self) -> None:
        for index in itertools.cycle(range(WORKERS)):
            if self._finish.wait(SECONDS_BETWEEN_ENGINE_KILLS):
                break
            # One that still starts has nothing to lose. On a loaded machine none would ever come to work.
            if serves(self._scene, index):
                self._scene.kill_worker(index)
                self.killed += 1


def serves(scene: Scene, index: int) -> bool:
    """Whether the engine that is there now has run a step."""
    process = scene.workers[index]
    journals = "".join(path.read_text() for path in scene.folder.glob("worker-*.jsonl"))
    return f'"engine:{process.pid}"' in journals


def burst(scene: Scene) -> None:
    with psycopg.connect(scene.dsn) as conn:
        made = gd.insert_many(conn, [Child(Steps, {"n": 0})] * BURST)
    scene.clients.told += [{"what": "insert", "id": one.id, "answer": one.id} for one in made]


def kill_server(scene: Scene) -> None:
    scene.server.kill()  # pg_ctl stop -m immediate
    scene.server.restart()


def completed(row: Row) -> bool:
    return row.status == "done" or (row.fsm == "chaos.child" and row.status == "failed" and row.state["fails"])


def transitions_of(row: Row) -> Iterator[Transition]:
    """What has to be committed until a row has completed."""
    for n in range(row.result["n"] if row.status == "done" else 1):
        # A waiter takes one step again and again, once for each signal.
        yield row.id, n, STEPS[row.fsm][n] if row.fsm in STEPS else "start"


def committed_in(record: Record) -> Counter[Transition]:
    return Counter((e.id, e.old_n or 0, e.old_step or "") for e in record.events if e.committed)


def taken_back(record: Record) -> int:
    """How often what somebody had claimed was handed out again with nothing committed."""
    return sum(
        e.old_status == "executing" and (e.claimed or (e.status == "runnable" and e.n == e.old_n))
        for e in record.events
        if e.fsm != "chaos.waiter"  # that one gives itself back, to wait
    )


def longest_wait(record: Record) -> float:
    """Seconds from a claim that was lost to the next one of its instance, the server's downtime with it."""
    longest, claimed_at = 0, dict[int, int]()
    for event in record.events:
        if event.old_status == "executing" and event.claimed:
            longest = max(longest, event.at - claimed_at[event.id])
        if event.claimed or event.kept:
            claimed_at[event.id] = event.at
    return longest / 1e6


@pytest.mark.timeout(240)
def test_server_and_engines_are_killed_and_every_transition_is_committed_once() -> None:
    try:
        installation()
    except Unavailable as error:
        pytest.skip(str(error))
    with Scene(SEED, cancel=False) as scene:
        scene.go_on()
        with EngineKiller(scene) as engines:
            for _ in range(SERVER_KILLS):
                burst(scene)
                scene.go_on()
                killed = engines.killed
                kill_server(scene)
                # Both kinds of kill, and work between them, each time round.
                wait_until(lambda killed=killed: engines.killed >= killed + 2, 60)
                scene.go_on()
                assert scene.violations == []
        wait_until(lambda: all(serves(scene, index) for index in range(WORKERS)), 60)
        with psycopg.connect(scene.dsn, autocommit=True) as conn:
            # Clients draw what they insert: until there was some of each.
            drawn = "select distinct fsm from chaos.log"
            wait_until(lambda: set(STEPS) <= {fsm for (fsm,) in conn.execute(drawn)}, 60)
        scene.calm()
        with psycopg.connect(scene.dsn, autocommit=True) as conn:
            repaired = gd.maintain(conn)["repaired"]
            record = gather(conn, scene.folder, scene.clients.told)
        print(f"{SERVER_KILLS} kills of the server, {engines.killed} of an engine, {len(record.rows)} instances,")
        print(f"{len(record.runs)} runs of a step, {taken_back(record)} claims taken back,")
        print(f"{longest_wait(record):.1f} s at most from a lost claim to the next, with leases of {LEASE:g} s")

        assert scene.violations == []
        # Nothing is stuck: every instance has completed, and no dispatcher ever found a key that waited for nobody.
        assert [row for row in record.rows.values() if not completed(row)] == []
        assert (repaired, record.repaired, record.signals_left) == (0, 0, 0)
        # Each transition is committed exactly once ...
        committed = committed_in(record)
        assert committed == Counter(itertools.chain.from_iterable(map(transitions_of, record.rows.values())))
        # ... and by the ledger that the steps write, which no rollback takes back, its step ran at least so often.
        ran = Counter((run["id"], run["step"]) for run in record.runs)
        assert Counter((id, step) for id, _, step in committed.elements()) - ran == Counter()
        # The ledger that is written in the transaction of a commit, and all the other invariants.
        assert check(record) == []
        # The kills did hit something.
        assert set(STEPS) <= {row.fsm for row in record.rows.values()}
        assert taken_back(record) > 0
