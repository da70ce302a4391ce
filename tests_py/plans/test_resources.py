"""Steps that never end, that leak, and that poison a queue: bounded memory, clear events, everything else goes on."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel
from support.engine import Events, ended, field, running
from support.resources import ERRORS, Endless, Hears, Poison, PoisonTask, count, counted, insert_many
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Engine, Next, Stop, job, step

Conn = psycopg.Connection[Any]


# Endless steps


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_an_endless_step_keeps_its_slot_and_its_claim_and_everything_else_goes_on(
    db: Any, conn: Conn, kind: str
) -> None:
    endless = Endless(f"resources.one_{kind}")
    lock, now, most = threading.Lock(), 0, 0

    @job(name=f"resources.beside_{kind}")
    def beside(args: dict[str, Any]) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1

    machine = endless.thread if kind == "thread" else endless.task
    options: dict[str, Any] = {"lease_ttl": 0.6, "heartbeat_interval": 0.1}
    with running(Engine(db.dsn, [machine, beside], {"default": 2, "other": 1}, **options)):
        id = gd.insert(conn, machine)
        assert endless.entered.acquire(timeout=10)
        first = field(conn, id, "lease_expires_at")
        same = [m.id for m in gd.insert_many(conn, [beside] * 50)]
        other = [m.id for m in gd.insert_many(conn, [Child(beside, queue="other")] * 50)]
        assert {result.status for result in ended(conn, *same, *other)} == {"done"}
        assert most <= 2  # of the three slots one is taken
        # The lease is renewed for as long as it takes, and nobody else starts the step.
        wait_until(lambda: field(conn, id, "now()") > first)
        assert field(conn, id, "lease_expires_at > now() and status = 'executing' and crashes = 0 and attempt = 0")
        assert not endless.contexts[0].cancelled
        endless.gate.set()
        assert ended(conn, id) == [gd.Result("done", "through", None)]
    assert len(endless.contexts) == 1


def test_when_all_slots_are_taken_it_is_told_and_a_lost_claim_is_told_once(db: Any, conn: Conn) -> None:
    endless = Endless("resources.all")

    @job(name="resources.waits")
    def waits(args: dict[str, Any]) -> None: ...

    events = Events()
    with running(
        Engine(db.dsn, [endless.thread, endless.task], {"default": 2}, heartbeat_interval=0.05, on_event=events)
    ):
        try:
            stuck, task = gd.insert(conn, endless.thread), gd.insert(conn, endless.task)
            for _ in range(2):
                assert endless.entered.acquire(timeout=10)
            waiting = gd.insert(conn, waits)
            assert wait_until(lambda: events.named("saturation"))[-1] == ({"running": 2}, {})
            # The thread never looks at ctx.cancelled. Its claim is gone, its slot is not.
            assert gd.cancel(conn, stuck or 0)
            wait_until(lambda: events.count("lost"))
            assert [ctx.cancelled for ctx in endless.contexts if ctx.id == stuck] == [True]
            beats = events.count("heartbeat")
            wait_until(lambda: events.count("heartbeat") > beats + 5)
            assert [about for _, about in events.named("lost")] == [
                {"id": stuck, "fsm": "resources.all.thread", "step": "start"}
            ]
            assert field(conn, waiting, "status") == "runnable"
            # Another engine is free to take what this one cannot.
            with running(Engine(db.dsn, [waits])):
                ended(conn, waiting)
            # A task can be ended, and its slot is free again.
            assert gd.cancel(conn, task or 0)
            assert endless.cancelled.wait(10)
            ended(conn, gd.insert(conn, waits))
        finally:
            endless.gate.set()
    # What the thread came back with in the end was nobody's any more.
    assert gd.result(conn, stuck or 0) == gd.Result("cancelled", None, None)


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_a_claim_that_was_reaped_ends_its_step(db: Any, conn: Conn, kind: str) -> None:
    endless = Endless(f"resources.reaped_{kind}")
    machine = endless.thread if kind == "thread" else endless.task
    events = Events()
    with running(Engine(db.dsn, [machine], heartbeat_interval=0.05, on_event=events)):
        try:
            id = gd.insert(conn, machine)
            assert endless.entered.acquire(timeout=10)
            gd.pause_queue(conn, "default")
            with conn.transaction():
                conn.execute(
                    "update gendurable.instance set lease_expires_at = now() - interval '1 s' where id = %s", (id,)
                )
                assert gd.reap(conn) == 1
            wait_until(lambda: endless.contexts[0].cancelled and events.count("lost"))
            assert kind == "thread" or endless.cancelled.wait(10)
        finally:
            endless.gate.set()
        # Whatever it returns now is not committed.
        wait_until(lambda: events.count("step"))
    assert (field(conn, id, "status"), field(conn, id, "attempt"), field(conn, id, "crashes")) == ("runnable", 1, 1)
    assert gd.result(conn, id or 0) == gd.Result("runnable", None, None)


def test_the_end_does_not_wait_for_an_endless_thread_and_says_so(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless("resources.drain")
    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    before = set(threading.enumerate())
    id = gd.insert(conn, endless.thread)
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [endless.thread], drain_timeout=0.05)):
        assert endless.entered.acquire(timeout=10)
    assert "1 steps go on in their threads" in caplog.text
    assert field(conn, id, "status") == "executing"  # left to its lease
    assert endless.contexts[0].cancelled
    [thread] = set(threading.enumerate()) - before
    endless.gate.set()
    thread.join(10)
    # It ends long after the loop that would have heard of it, and quietly.
    assert not thread.is_alive() and failures == []


@pytest.mark.parametrize(
    ("kind", "says"), [("thread", "1 steps go on in their threads"), ("task", "1 steps do not end")]
)
def test_a_process_with_an_endless_step_ends_after_its_drain_timeout(db: Any, conn: Conn, kind: str, says: str) -> None:
    gd.insert(conn, f"resources.process_{kind}")
    program = "import sys; from support import resources as _resources; _resources.serve(sys.argv[1])"
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).resolve().parents[2])]
    with subprocess.Popen(
        [sys.executable, "-c", program, db.dsn],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None and worker.stderr is not None
        assert worker.stdout.readline() == "entered\n"
        worker.send_signal(signal.SIGTERM)
        try:
            assert worker.wait(20) == 0
        finally:
            worker.kill()
        assert says in worker.stderr.read()


def test_a_task_that_blocks_the_loop_loses_its_claims_to_others_and_breaks_nothing(db: Any, conn: Conn) -> None:
    opened, begun = threading.Event(), threading.Event()

    @job(name="resources.blocks")
    async def blocks(args: dict[str, Any], ctx: Context[Any]) -> str:
        if ctx.attempt == 0:
            begun.set()
            opened.wait(30)  # what an async step must never do
            return "late"
        return "in time"

    blocked, free = Events(), Events()
    options: dict[str, Any] = {"lease_ttl": 0.5, "heartbeat_interval": 0.15, "poll_interval": 0.1}
    with running(Engine(db.dsn, [blocks], on_event=blocked, **options)):
        id = gd.insert(conn, blocks)
        assert begun.wait(10)
        try:
            # Its heartbeats stand still with the loop, so the lease ends, and another engine runs the step.
            with running(Engine(db.dsn, [blocks], on_event=free, **options)):
                assert ended(conn, id) == [gd.Result("done", "in time", None)]
        finally:
            opened.set()
        wait_until(lambda: blocked.count("blocked") and blocked.count("stale") + blocked.count("lost"))
        assert ended(conn, gd.insert(conn, blocks, {}, delay=0.01), timeout=20)
    assert gd.result(conn, id or 0) == gd.Result("done", "in time", None)


# Leaking steps

SIZE, EACH = 100_000, 300


class Heavy(FSM, name="resources.heavy"):
    """Hands out weak references to all that the engine could forget to let go."""

    class State(BaseModel):
        text: str
        fails: bool

    refs: list[weakref.ref[Any]]

    class Failure(Exception):
        pass

    @step
    def start(self, ctx: Context[State]) -> Next:
        return Next("second", self.seen(ctx.state).model_copy(update={"text": "y" * SIZE}))

    @step
    async def second(self, ctx: Context[State]) -> Next:
        return Next("third", self.raises(ctx, "second"))

    @step
    def third(self, ctx: Context[State]) -> Done:
        return Done(self.raises(ctx, "third").text)

    def handle(self, error: Exception, ctx: Context[State]) -> Next | Stop:
        return Next("third") if ctx.step == "second" else Stop(error)

    def seen(self, what: Any) -> Any:
        self.refs.append(weakref.ref(what))
        return what

    def raises(self, ctx: Context[State], name: str) -> State:
        state: Heavy.State = self.seen(ctx.state)
        if state.fails:
            raise self.seen(self.Failure(name))
        return state


def test_nothing_of_a_step_is_kept_when_it_has_ended(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # what it logs would be kept for the report, exceptions and all
    Heavy.refs = []
    text = "x" * SIZE
    states = [Child(Heavy, {"text": text, "fails": n % 2 == 0}) for n in range(EACH)]
    with running(Engine(db.dsn, [Heavy], {"default": 4}, poll_interval=0.1)):
        ended(conn, gd.insert(conn, Heavy, {"text": "", "fails": True}))
        gc.collect()
        gc.disable()  # what only the collector would free counts as kept
        tracemalloc.start()
        try:
            insert_many(conn, states, 50)
            wait_until(lambda: count(conn, "finished_at is not null") == EACH + 1, 60)
            del states
            wait_until(lambda: sum(ref() is not None for ref in Heavy.refs) <= 4, 2)
            current, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert len(Heavy.refs) >= 3 * EACH
    # A hundred outcomes may wait for their commit, each with its row and its state; 270 MB came and went.
    assert current < 20 * SIZE
    assert peak < 1000 * SIZE


def test_an_outcome_that_is_too_large_fails_and_a_large_one_does_not(db: Any, conn: Conn) -> None:
    @job(name="resources.size", max_attempts=1)
    def size(args: dict[str, Any]) -> str:
        return "x" * int(args["size"])

    class Grows(FSM, name="resources.grows"):
        @step
        def start(self, ctx: Context[Any]) -> Next:
            return Next("start", {"text": "x" * (33 << 20)})

    with running(Engine(db.dsn, [size, Grows])):
        ids = [gd.insert(conn, size, {"size": n}) for n in (33 << 20, 3_000_000, 10)]
        ids.append(gd.insert(conn, Grows, {"kept": 1}))
        large, fits, small, grows = ended(conn, *ids)
    for failed in (large, grows):
        assert failed.status == "failed"
        assert "bytes" in (failed.last_error or "")
    assert field(conn, ids[-1], "state") == {"kept": 1}
    assert (fits.status, len(str(fits.result)), small.result) == ("done", 3_000_000, "x" * 10)


def test_threads_and_tasks_that_steps_leave_behind_are_theirs(db: Any, conn: Conn) -> None:
    gate, left = threading.Event(), []
    alive: list[Any] = []

    @job(name="resources.leaves_thread")
    def leaves_thread(args: dict[str, Any], ctx: Context[Any]) -> int:
        def goes_on() -> None:
            assert gate.wait(60)
            alive.append(ctx.state)

        thread = threading.Thread(target=goes_on, daemon=True)
        left.append(thread)
        thread.start()
        return ctx.id

    tasks: set[asyncio.Task[bool]] = set()

    @job(name="resources.leaves_task")
    async def leaves_task(args: dict[str, Any], ctx: Context[Any]) -> int:
        tasks.add(asyncio.create_task(asyncio.Event().wait()))
        return ctx.id

    before = set(threading.enumerate())
    with running(Engine(db.dsn, [leaves_thread, leaves_task], {"default": 3})):
        ids = insert_many(conn, [leaves_thread, leaves_task] * 20)
        assert [result.result for result in ended(conn, *ids)] == ids
    assert len(tasks) == len(left) == 20
    assert {thread.name for thread in set(threading.enumerate()) - before} == {thread.name for thread in left}
    gate.set()
    for thread in left:
        thread.join(10)
    assert len(alive) == 20


# Poison


def test_a_queue_of_poison_rows_fails_row_by_row_and_the_good_ones_are_done(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typed(FSM, name="resources.typed"):
        class State(BaseModel):
            number: int

        @step
        def start(self, ctx: Context[State]) -> Done:
            return Done(ctx.state.number)

    poison: list[Any] = [Child(Poison, {"how": how}) for how in ERRORS]
    poison += [Child(PoisonTask, {"how": how}) for how in ("mute", "handler exits", "raises", "cancels itself")]
    poison.append({"fsm": "resources.typed", "state": {"number": "many"}})
    poison += [{"fsm": "resources.nobody"}, {"fsm": "resources.typed", "version": 9}]
    poison.append({"fsm": "resources.typed", "state": {"number": "lost"}})
    distinct = [{"fsm": f"resources.nobody_{n}"} for n in range(200)]
    rounds = 50
    claims, commits = counted(monkeypatch, "claim_rows"), counted(monkeypatch, "commit_text")
    events = Hears("release")
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [Typed, Poison, PoisonTask], {"default": 20}, on_event=events)),
    ):
        with conn.transaction():
            bad = insert_many(conn, poison * rounds + distinct)
            # as before its deploy: a step that its version does not have is refused
            conn.execute("update gendurable.instance set step = 'nowhere' where state ->> 'number' = 'lost'")
        large = gd.insert(conn, Poison, {"how": "too large"})
        good = insert_many(conn, [Child(Typed, {"number": n}) for n in range(1000)])
        wait_until(lambda: count(conn, "id = any(%s) and status = 'done'", good) == 1000, 60)
        wait_until(lambda: count(conn, "id = any(%s) and status = 'runnable' and eligible_at < now()", bad) == 0, 60)
        wait_until(lambda: count(conn, "status = 'executing'") == 0 and events.counts["sleep"], 60)
        calls = claims.total(), commits.total()
    assert "bytes" in (gd.result(conn, large or 0) or gd.Result("", None, None)).last_error  # type: ignore[operator]

    ends = conn.execute(
        "select fsm, fsm_version, step, state ->> 'how', status, attempt, last_error "
        "from gd_instances where id = any(%s)",
        (bad,),
    ).fetchall()
    put_off = 0
    for fsm, version, step_name, how, status, attempt, error in ends:
        if fsm.startswith("resources.nobody") or version == 9 or step_name == "nowhere" or how == "cancels itself":
            put_off += 1
            assert (status, attempt, error) == ("runnable", 0, None)
        else:
            wanted = "number" if fsm == "resources.typed" else ERRORS[how].replace(" (raises)", "")
            assert status == "failed" and wanted in error, (how, status, error)
    assert put_off == 4 * rounds + 200
    assert sum(numbers["rows"] for _, numbers, _ in events.kept if numbers["delay"] == 10) == put_off

    # Each was claimed once and committed once at most, so nothing spins; and not every row is a line of the log.
    rows = len(bad) + len(good) + 1
    assert events.rows["claim"] == rows
    assert sum(calls) < 2 * rows
    messages = [record.getMessage() for record in caplog.records]
    unknown = [text for text in messages if "has no step" in text]
    assert len(unknown) == 100 and "no more of this kind" in unknown[-1]
    failing = len(bad) - put_off + 1
    assert len(messages) <= 2 * failing + len(unknown) + rounds + 10
    assert list(itertools.filterfalse(lambda text: len(text) < 3000, messages)) == []
