"""The server restarts, connections end, answers are lost, rows are locked: no instance suffers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import psycopg
import pytest
from support.engine import Events, asleep, ended, field, running
from support.proxy import Proxy
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, Next, job, step

Conn = psycopg.Connection[Any]


@pytest.fixture
def proxy(db: Any) -> Any:
    with Proxy(db.dsn) as made:
        yield made


class Ledger:
    """A machine of three steps that writes down which runs there were, and what each had for its state."""

    def __init__(self, name: str) -> None:
        self.runs: Counter[tuple[int, str]] = Counter()
        ledger = self

        class Machine(FSM, name=name):
            @step
            def start(self, ctx: Context[Any]) -> Next:
                ledger.runs[ctx.id, "start"] += 1
                return Next("second", {"n": ctx.state["n"] + 1})

            @step
            async def second(self, ctx: Context[Any]) -> Next:
                ledger.runs[ctx.id, "second"] += 1
                await asyncio.sleep(0)
                return Next("third", {"n": ctx.state["n"] + 1})

            @step
            def third(self, ctx: Context[Any]) -> Done:
                ledger.runs[ctx.id, "third"] += 1
                return Done(ctx.state["n"] + 1)

        self.machine = Machine


def engine(dsn: str, *machines: Any, **options: Any) -> Engine:
    options = {"queues": {"default": 20}, "poll_interval": 0.5, "max_poll_interval": 0.5} | options
    return Engine(dsn, machines, **options)


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("lost", [b"gd_commit", b"gd_claim_many", b"gd_sleep", b"gd_wake", b"pg_snapshot_xmin"])
def test_a_lost_answer_costs_nothing_but_time(db: Any, conn: Conn, proxy: Proxy, lost: bytes, run_ahead: bool) -> None:
    ledger = Ledger("server.lost")
    events = Events()
    with running(engine(proxy.dsn, ledger.machine, on_event=events, run_ahead=run_ahead, lease_ttl=600)):
        wait_until(lambda: asleep(conn))
        proxy.lose_answer_to(lost)
        ids = [m.id for m in gd.insert_many(conn, [Child(ledger.machine, {"n": 0})] * 20)]
        wait_until(lambda: proxy.answers_lost)
        # The lease is ten minutes: nothing here waits for it to end, rows of a lost claim are given back.
        assert [r.result for r in ended(conn, *ids, timeout=30)] == [3] * 20
    if lost == b"gd_commit":
        # Committed before the answer was lost: no step ran twice.
        assert set(ledger.runs.values()) == {1}
    assert events.count("reconnect") >= 1
    assert events.count("stale") == 0


def test_a_commit_that_did_happen_is_settled_by_asking(db: Any, conn: Conn, proxy: Proxy) -> None:
    runs: list[int] = []

    @job(name="server.once")
    def once(args: dict[str, Any], ctx: Context[Any]) -> int:
        runs.append(ctx.id)
        return len(runs)

    events = Events()
    with running(engine(proxy.dsn, once, on_event=events)):
        wait_until(lambda: asleep(conn))
        proxy.lose_answer_to(b"gd_commit")
        id = gd.insert(conn, once)
        assert ended(conn, id) == [gd.Result("done", 1, None)]
        wait_until(lambda: any(numbers["stale"] for numbers, _ in events.named("commit")))
    assert runs == [id]
    assert events.count("stale") == 0


def test_connections_that_are_terminated_again_and_again_lose_nothing(db: Any, conn: Conn) -> None:
    ledger = Ledger("server.terminated")
    events = Events()
    with running(engine(db.dsn, ledger.machine, on_event=events)):
        ids = []
        for _ in range(5):
            ids += [m.id for m in gd.insert_many(conn, [Child(ledger.machine, {"n": 0})] * 100)]
            done = len(ledger.runs)
            wait_until(lambda done=done: len(ledger.runs) > done)
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'gendurable %'"
            )
        assert {r.result for r in ended(conn, *ids, timeout=60)} == {3}
    assert {step for _, step in ledger.runs} == {"start", "second", "third"}
    assert len(ledger.runs) == 3 * len(ids)


def test_a_server_that_is_away_is_waited_for(db: Any, conn: Conn, proxy: Proxy) -> None:
    ledger = Ledger("server.away")
    events = Events()
    with running(engine(proxy.dsn, ledger.machine, on_event=events)):
        wait_until(lambda: asleep(conn))
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: events.count("reconnect") >= 3)
        ids = [m.id for m in gd.insert_many(conn, [Child(ledger.machine, {"n": 0})] * 10)]
        assert not ledger.runs
        proxy.refusing = False
        assert {r.result for r in ended(conn, *ids, timeout=30)} == {3}
    # Pauses grow: no busy loop while nobody answers.
    pauses = [numbers["pause"] for numbers, about in events.named("reconnect") if about["link"] == "claims"]
    assert len(pauses) < 20


@pytest.mark.parametrize("how", ["refused", "silent"])
def test_it_stops_in_peace_while_the_server_is_away(db: Any, conn: Conn, proxy: Proxy, how: str) -> None:
    events = Events()
    with running(engine(proxy.dsn, Ledger("server.gone").machine, on_event=events, drain_timeout=1)):
        wait_until(lambda: asleep(conn))
        if how == "refused":
            proxy.refusing = True
            proxy.cut()
            # It pauses for longer than the end waits for a claim that is under way.
            wait_until(lambda: any(numbers["pause"] > 1 for numbers, _ in events.named("reconnect")), 30)
        else:
            proxy.silence()
            gd.insert(conn, "server.gone", {"n": 0})
    proxy.heal()


def test_a_silent_network_is_given_up_and_replaced(db: Any, conn: Conn, proxy: Proxy) -> None:
    gate = threading.Event()
    entered = threading.Event()

    @job(name="server.silent")
    def silent(args: dict[str, Any]) -> str:
        entered.set()
        gate.wait(20)
        return "done"

    events = Events()
    with running(engine(proxy.dsn, silent, on_event=events, lease_ttl=1, heartbeat_interval=0.3)):
        id = gd.insert(conn, silent)
        assert entered.wait(10)
        proxy.silence()
        gate.set()
        wait_until(lambda: events.count("reconnect"), 30)
        proxy.cut()
        proxy.heal()
        assert ended(conn, id, timeout=30) == [gd.Result("done", "done", None)]


def test_a_row_that_somebody_has_locked_stops_nobody_else(db: Any, conn: Conn) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    @job(name="server.locked")
    def locked(args: dict[str, Any]) -> str:
        entered.release()
        assert gate.wait(20)
        return "through"

    client = db.connect(autocommit=False)
    events = Events()
    with running(engine(db.dsn, locked, on_event=events)):
        ids = [m.id for m in gd.insert_many(conn, [locked] * 5)]
        for _ in ids:
            assert entered.acquire(timeout=10)
        gd.signal(client, ids[0], "hello")  # its transaction stays open
        gate.set()
        assert {r.status for r in ended(conn, *ids[1:])} == {"done"}
        wait_until(lambda: events.count("busy") >= 2)
        assert field(conn, ids[0], "status") == "executing"
        client.commit()
        assert ended(conn, ids[0]) == [gd.Result("done", "through", None)]


def test_a_stale_outcome_is_dropped_and_its_step_not_run_again(db: Any, conn: Conn) -> None:
    gate, entered = threading.Event(), threading.Event()
    runs: list[int] = []

    @job(name="server.stale")
    def stale(args: dict[str, Any], ctx: Context[Any]) -> str:
        runs.append(ctx.id)
        entered.set()
        assert gate.wait(20)
        return "too late"

    events = Events()
    with running(engine(db.dsn, stale, on_event=events)):
        id = gd.insert(conn, stale)
        assert id is not None
        assert entered.wait(10)
        gd.cancel(conn, id, "meanwhile")
        gate.set()
        # A worker is told of a cancel at once: its heartbeat may be quicker than the commit.
        wait_until(lambda: events.count("stale") + events.count("lost"))
    assert gd.result(conn, id) == gd.Result("cancelled", None, "meanwhile")
    assert runs == [id]


def test_a_server_that_is_killed_again_and_again_loses_nothing(server: Any, db: Any) -> None:
    if server.cluster is None:
        pytest.skip("needs a server that it may kill: GENDURABLE_TEST_SERVER=embedded, with gendurable_py[embedded]")
    ledger = Ledger("server.killed")
    with running(engine(db.dsn, ledger.machine, queues={"default": 5}, lease_ttl=2, heartbeat_interval=0.5)):
        with psycopg.connect(db.dsn, autocommit=True) as conn:
            ids = [m.id for m in gd.insert_many(conn, [Child(ledger.machine, {"n": 0})] * 1500)]
        for _ in range(3):
            before = len(ledger.runs)
            wait_until(lambda before=before: len(ledger.runs) > before + 100, 30)
            server.cluster.kill()
            server.cluster.restart()
        with psycopg.connect(db.dsn, autocommit=True) as conn:
            # Each transition adds one, so it was committed exactly once.
            assert {r.result for r in ended(conn, *ids, timeout=60)} == {3}
    assert len(ledger.runs) == 3 * len(ids)
