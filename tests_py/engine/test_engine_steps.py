"""What the engine does with steps and their outcomes."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import (
    FSM,
    Await,
    Child,
    Context,
    Done,
    Engine,
    Job,
    Next,
    Replay,
    ScheduleChilds,
    Stop,
    job,
    step,
)

Conn = psycopg.Connection[Any]


class Checkout(FSM, name="checkout", queue="checkout", version=1):
    """The example of the README, as written there."""

    class State(BaseModel):
        order: int
        n: int = 0

    @step
    def start(self, ctx: Context[State]):  # type: ignore[no-untyped-def]
        return Next("await_pay", ctx.state.model_copy(update={"n": ctx.state.n + 1}))

    @step
    def await_pay(self, ctx: Context[State]):  # type: ignore[no-untyped-def]
        sig = ctx.signal("payment_confirmed")
        if sig is None:
            return Await("payment_confirmed", ctx.state, timeout=3600)
        return Next("ship", ctx.state)

    @step
    def ship(self, ctx: Context[State]):  # type: ignore[no-untyped-def]
        return Done({"shipped": True})

    def handle(self, error: Exception, ctx: Context[State]):  # type: ignore[no-untyped-def]
        return Replay(ctx.state, delay=ctx.attempt + 1) if ctx.attempt < 5 else Stop(error)


def engine(db: Any, *machines: Any, **options: Any) -> Engine:
    options.setdefault("queues", {"default": 10})
    return Engine(db.dsn, machines, **options)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_example_runs_as_written(db: Any, conn: Conn, when: str) -> None:
    with running(engine(db, Checkout, queues={"checkout": 5})):
        with conn.transaction():
            id = gd.insert(conn, Checkout, {"order": 42}, unique_key="order:42", delay=0)
            if when == "before":
                gd.signal(conn, "order:42", "payment_confirmed", {"amount": 100})
        if when == "after":
            wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
            assert field(conn, id, "state") == {"order": 42, "n": 1}
            gd.signal(conn, "order:42", "payment_confirmed", {"amount": 100})
        assert ended(conn, id) == [gd.Result("done", {"shipped": True}, None)]


def test_a_plain_insert_from_sql_uses_what_was_registered(db: Any, conn: Conn) -> None:
    with running(engine(db, Checkout, queues={"checkout": 5})):
        row = conn.execute("""select gd_insert('checkout', '{"order": 42}')""").fetchone()
        assert row is not None
        assert field(conn, row[0], "queue") == "checkout"
        gd.signal(conn, row[0], "payment_confirmed")
        assert ended(conn, row[0])[0].status == "done"


@job(name="steps.sync")
def sync_job(args: dict[str, Any], ctx: Context[dict[str, Any]]) -> list[Any]:
    return [args["n"], ctx.attempt, threading.current_thread() is threading.main_thread()]


@job(name="steps.async")
async def async_job(args: dict[str, Any]) -> list[Any]:
    await asyncio.sleep(0)
    return [args["n"], asyncio.get_running_loop() is not None]


class ClassJob(Job, name="steps.class"):
    class State(BaseModel):
        n: int

    def perform(self, args: State) -> int:
        return args.n


def test_jobs_of_every_kind_give_their_results(db: Any, conn: Conn) -> None:
    with running(engine(db, sync_job, async_job, ClassJob)):
        ids = [gd.insert(conn, machine, {"n": 1}) for machine in (sync_job, async_job, ClassJob)]
        assert [r.result for r in ended(conn, *ids)] == [[1, 0, False], [1, True], 1]


def test_many_steps_run_at_once_but_no_more_than_their_queue_allows(db: Any, conn: Conn) -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(5)

    @job(name="steps.together")
    def work(args: dict[str, Any]) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(10)
        with lock:
            now -= 1

    with running(engine(db, work, queues={"default": 5}, prefetch=20)):
        ids = [m.id for m in gd.insert_many(conn, [work] * 20)]
        assert {r.status for r in ended(conn, *ids)} == {"done"}
    assert most == 5


def test_a_fan_out_joins_with_every_result(db: Any, conn: Conn) -> None:
    class Parent(FSM, name="steps.parent"):
        @step
        def start(self, ctx: Context[Any]) -> ScheduleChilds:
            return ScheduleChilds("join", [Child(ClassJob, {"n": n}, queue="other") for n in range(25)])

        @step
        def join(self, ctx: Context[Any]) -> Done:
            return Done(sorted(child.result for child in ctx.childs))  # type: ignore[type-var]

    with running(engine(db, Parent, ClassJob, queues={"default": 2, "other": 10})):
        assert ended(conn, gd.insert(conn, Parent)) == [gd.Result("done", list(range(25)), None)]


def test_packs_of_signals_gather_until_all_are_there(db: Any, conn: Conn) -> None:
    looks: list[list[str]] = []

    class Pack(FSM, name="steps.pack"):
        @step
        def start(self, ctx: Context[Any]) -> Any:
            looks.append([signal.name for signal in ctx.awaited])
            if {"a", "b"} <= {signal.name for signal in ctx.awaited}:
                return Done([signal.payload for signal in ctx.awaited])
            return Await(["a", "b"])

    with running(engine(db, Pack)):
        id = gd.insert(conn, Pack)
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        gd.signal(conn, id or 0, "b", 2)
        wait_until(lambda: len(looks) == 2 and field(conn, id, "status") == "awaiting_signal")
        gd.signal(conn, id or 0, "a", 1)
        assert ended(conn, id) == [gd.Result("done", [2, 1], None)]
    assert looks == [[], ["b"], ["b", "a"]]


def test_a_deadline_runs_the_step_that_was_named_for_it(db: Any, conn: Conn) -> None:
    class Machine(FSM, name="steps.deadline"):
        @step
        def start(self, ctx: Context[Any]) -> Await:
            return Await("never", step="late", timeout=0.01)

        @step
        def late(self, ctx: Context[Any]) -> Done:
            return Done(ctx.timed_out)

    with running(engine(db, Machine)):
        assert ended(conn, gd.insert(conn, Machine)) == [gd.Result("done", True, None)]


def test_an_unknown_machine_is_given_back_with_a_delay_and_one_warning(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gendurable"), running(engine(db, ClassJob)):
        ids = [m.id for m in gd.insert_many(conn, [{"fsm": "os.path:join"}, {"fsm": "os.path:join"}])]
        newer = gd.insert(conn, ClassJob, {"n": 1}, version=9)
        lost = gd.insert(conn, "steps.class", {"n": 1}, delay=3600)
        conn.execute("update gendurable.instance set step = 'nowhere' where id = %s", (lost,))  # as before its deploy
        gd.reschedule(conn, lost, datetime.now(UTC))
        for id in (*ids, newer, lost):
            wait_until(lambda id=id: field(conn, id, "eligible_at > now() + interval '5 seconds'"))
            assert (field(conn, id, "status"), field(conn, id, "attempt")) == ("runnable", 0)
    assert [r.getMessage() for r in caplog.records if "os.path:join" in r.getMessage()][1:] == []
    assert any("'nowhere'" in r.getMessage() for r in caplog.records)
    assert any("v9" in r.getMessage() for r in caplog.records)


def test_a_machine_below_an_allowed_package_is_imported_when_it_is_needed(
    db: Any, conn: Conn, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "allowed_machines"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "late.py").write_text(
        "from gendurable_py import Job\nclass Late(Job):\n    def perform(self, args):\n        return 'imported'\n"
    )
    (package / "broken.py").write_text("raise ImportError('broken on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with running(engine(db, autoload=["allowed_machines"])):
        broken = gd.insert(conn, "allowed_machines.broken:Broken")
        id = gd.insert(conn, "allowed_machines.late:Late")
        assert ended(conn, id) == [gd.Result("done", "imported", None)]
        wait_until(lambda: field(conn, broken, "eligible_at > now() + interval '5 seconds'"))


def test_two_versions_run_side_by_side(db: Any, conn: Conn) -> None:
    class One(FSM, name="steps.versions"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done("one")

    class Two(FSM, name="steps.versions", version=2):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done("two")

    with running(engine(db, One, Two)):
        ids = [gd.insert(conn, One), gd.insert(conn, Two), gd.insert(conn, "steps.versions")]
        assert [r.result for r in ended(conn, *ids)] == ["one", "two", "two"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_run_ahead_keeps_the_claim_from_step_to_step(db: Any, conn: Conn, kind: str) -> None:
    class Machine(FSM, name="steps.ahead", run_ahead=True):
        @step
        def start(self, ctx: Context[Any]) -> Next:
            return Next("second", {"n": 1})

        @step
        def second(self, ctx: Context[Any]) -> Next:
            return Next("third", {"n": ctx.state["n"] + 1})

        @step
        def third(self, ctx: Context[Any]) -> Done:
            return Done(ctx.state["n"])

    if kind == "async":

        class Async(Machine, name="steps.ahead_async"):
            @step
            async def second(self, ctx: Context[Any]) -> Next:
                return Next("third", {"n": ctx.state["n"] + 1})

        machine: Any = Async
    else:
        machine = Machine
    events = Events()
    with running(engine(db, machine, on_event=events)):
        ids = [m.id for m in gd.insert_many(conn, [machine] * 10)]
        assert {r.result for r in ended(conn, *ids)} == {2}
    assert sum(numbers["rows"] for numbers, _ in events.named("claim")) == 10
    assert events.count("step") == 30


def test_run_ahead_commits_one_half_while_the_other_runs(db: Any, conn: Conn) -> None:
    started: list[int] = []
    all_are = asyncio.Event()

    class Machine(FSM, name="steps.halves", run_ahead=True):
        @step
        async def start(self, ctx: Context[Any]) -> Next:
            started.append(ctx.id)
            if len(started) == 300:
                all_are.set()
            await all_are.wait()  # they end together, and would all go into one commit
            return Next("end")

        @step
        async def end(self, ctx: Context[Any]) -> Done:
            return Done()

    events = Events()
    ids = [row.id for row in gd.insert_many(conn, [Child(Machine)] * 300)]
    with running(Engine(db.dsn, [Machine], {"default": 300}, on_event=events)):
        ended(conn, *ids)
    sizes = [measured["rows"] for measured, _ in events.named("commit")]
    assert sizes[0] == 150
    assert max(sizes) == 150
