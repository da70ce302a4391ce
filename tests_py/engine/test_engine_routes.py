"""Engines and the queues that machines give to their steps."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest
from support.engine import ended, field, running
from support.people import People
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, InvalidArgument, Next, Replay, Retry, step

Conn = psycopg.Connection[Any]


class Render(FSM, name="routes.render"):
    @step
    def start(self, ctx: Context[dict[str, Any]]) -> Next:
        return Next(self.draw, {"seen": [ctx.queue]})

    @step(queue="gpu")
    def draw(self, ctx: Context[dict[str, Any]]) -> Next | Replay | Retry:
        seen = [*ctx.state["seen"], ctx.queue]
        if len(seen) == 2:
            return Replay({"seen": seen})
        if ctx.attempt == 1:
            return Retry("once more", delay=0)
        return Next(self.wait, {"seen": seen})

    @step
    def wait(self, ctx: Context[dict[str, Any]]) -> Await:
        return Await("go", {"seen": [*ctx.state["seen"], ctx.queue]}, step="send", timeout=0.01)

    @step("send", queue="net")
    async def send(self, ctx: Context[dict[str, Any]]) -> Next:
        return Next("end", {"seen": [*ctx.state["seen"], ctx.queue]})

    @step
    def end(self, ctx: Context[dict[str, Any]]) -> Done:
        return Done([*ctx.state["seen"], ctx.queue])


WHERE = ["default", "gpu", "gpu", "default", "net", "default"]


def queues(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute("select step, version, handler, queue from gd_steps order by 1, 2").fetchall()


@pytest.mark.parametrize("run_ahead", [False, True])
def test_steps_run_in_their_queues_on_whichever_engine_serves_them(db: Any, conn: Conn, run_ahead: bool) -> None:
    engines = [Engine(db.dsn, [Render], {name: 2}, run_ahead=run_ahead) for name in ("default", "gpu", "net")]
    with running(*engines):
        assert queues(conn) == [("draw", 1, None, "gpu"), ("send", 1, None, "net")]
        results = ended(conn, *(gd.insert(conn, Render) for _ in range(5)))
        assert [result.result for result in results] == [WHERE] * 5
        other = gd.insert(conn, Render, {"seen": []}, queue="default", step="draw")
        assert [result.result for result in ended(conn, other)] == [["gpu", "default", "net", "default"]]


def test_one_engine_serves_them_all(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gendurable"):
        with running(Engine(db.dsn, [Render], {"default": 2, "gpu": 1, "net": 3}, run_ahead=True)):
            assert [result.result for result in ended(conn, gd.insert(conn, Render))] == [WHERE]
        assert caplog.text == ""


def test_an_engine_says_which_queues_of_its_steps_it_does_not_serve(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [Render], {"default": 1, "net": 1})):
        pass
    assert caplog.text.count("which this engine does not serve") == 1
    assert (
        "the step 'draw' of routes.render v1 runs in the queue 'gpu', which this engine does not serve" in caplog.text
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [Render], {})):
        pass
    assert caplog.text == ""
    # what an operator has said counts, also for a step of which the code says nothing
    gd.define_step(conn, "routes.render", "end", queue="desk")
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [Render], {"default": 1, "gpu": 1, "net": 1})),
    ):
        pass
    assert "the step 'end' of routes.render v1 runs in the queue 'desk'" in caplog.text


def test_a_start_never_undoes_what_an_operator_has_said(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    gd.define_step(conn, "routes.render", "draw", queue="net")
    gd.define_step(conn, "routes.render", "send", version=1)
    before = queues(conn)
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [Render], {"default": 1, "net": 1})),
    ):
        assert queues(conn) == before
        seen = ["default", "net", "net", "default", "default", "default"]
        assert [result.result for result in ended(conn, gd.insert(conn, Render))] == [seen]
    assert (
        "the step 'draw' of routes.render v1 has the queue 'gpu' in the code, and 'net' in the database" in caplog.text
    )
    assert "for version null" in caplog.text
    assert (
        "the step 'send' of routes.render v1 has the queue 'net' in the code, and none in the database" in caplog.text
    )
    assert "for version 1" in caplog.text


def test_a_definition_in_an_open_transaction_is_not_overwritten(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    other = db.connect(autocommit=False)
    gd.define_step(other, "routes.render", "draw", queue="net")
    waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%gd_define_step%'"

    def commit() -> None:
        wait_until(lambda: conn.execute(waits).fetchone() is not None)
        other.commit()

    thread = threading.Thread(target=commit)
    thread.start()
    with (
        caplog.at_level(logging.WARNING, "gendurable"),
        running(Engine(db.dsn, [Render], {"default": 1, "net": 1})),
    ):
        thread.join()
        assert queues(conn) == [("draw", None, None, "net"), ("send", 1, None, "net")]
    assert "and 'net' in the database, which stays" in caplog.text


def test_one_that_stays_open_keeps_no_engine_from_starting(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    other = db.connect(autocommit=False)
    gd.define_step(other, "somebody", "else", queue="net")
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [Render], {"default": 1})):
        results = ended(conn, gd.insert(conn, Render))
        assert [result.result for result in results] == [["default"] * 6]
    other.rollback()
    assert "the queue 'gpu' of the step 'draw' of routes.render v1 could not be registered" in caplog.text


def test_each_version_has_its_own(db: Any, conn: Conn) -> None:
    class Second(FSM, name="routes.versions", version=2, initial="draw"):
        @step(queue="gpu2")
        def draw(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done(ctx.queue)

    class First(FSM, name="routes.versions", version=1, initial="draw"):
        @step(queue="gpu1")
        def draw(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done(ctx.queue)

    with running(Engine(db.dsn, [First], {"default": 1, "gpu1": 1}), Engine(db.dsn, [Second], {"gpu2": 1})):
        ids = [gd.insert(conn, First), gd.insert(conn, Second)]
        assert [result.result for result in ended(conn, *ids)] == ["gpu1", "gpu2"]


def test_a_worker_that_is_no_author_says_so_and_goes_on(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    people = People(server)
    try:
        database = people.database()
        with psycopg.connect(database, autocommit=True) as owner:
            owner.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
            engine = Engine(people.dsn(database, "worker"), [Render], {"default": 1})
            with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
                assert [result.result for result in ended(owner, gd.insert(owner, Render))] == [["default"] * 6]
            assert "the queue 'gpu' of the step 'draw' of routes.render v1 could not be registered" in caplog.text
            assert "gd_define_step" in caplog.text
            # defined by somebody else, it is served
            gd.define_step(owner, "routes.render", "draw", queue="gpu")
            gd.define_step(owner, "routes.render", "send", queue="net")
            caplog.clear()
            engine = Engine(people.dsn(database, "worker"), [Render], {"default": 1, "gpu": 1, "net": 1})
            with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
                assert [result.result for result in ended(owner, gd.insert(owner, Render))] == [WHERE]
            assert caplog.text == ""
            # an author is one who may not replace the definition of another
            owner.execute("select gd_grant(%s::text::regrole, 'author')", (people.role("worker"),))
            owner.execute("select gd_drop_step('routes.render', 'draw')")
            gd.define_step(owner, "routes.render", "draw", version=7, queue="gpu")
            engine = Engine(people.dsn(database, "worker"), [Render], {"default": 1, "net": 1})
            with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
                pass
            assert "somebody else's" in caplog.text
    finally:
        people.close()


def test_a_row_that_a_signal_wakes_goes_where_its_step_is_now(db: Any, conn: Conn) -> None:
    class Waits(FSM, name="routes.waits"):
        @step
        def start(self, ctx: Context[dict[str, Any]]) -> Await:
            return Await("go", step=self.then)

        @step
        def then(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done(ctx.queue)

    with running(Engine(db.dsn, [Waits], {"default": 1, "late": 1})):
        id = gd.insert(conn, Waits)
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        gd.define_step(conn, "routes.waits", "then", queue="late")
        gd.signal(conn, id, "go")
        assert [result.result for result in ended(conn, id)] == ["late"]


@pytest.mark.parametrize("queue", ["", 5, "\ud800", "q" * 2001, "a\x00b"])
def test_a_queue_that_is_no_name_is_refused_where_it_is_written(queue: Any) -> None:
    with pytest.raises(InvalidArgument, match="the queue of step 'draw'"):

        @step("draw", queue=queue)
        def draw(ctx: Any) -> Done:
            return Done()


def test_an_override_keeps_the_queue_or_says_another() -> None:
    class Base(FSM, abstract=True):
        @step(queue="a")
        def one(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done()

        @step(queue="a")
        def two(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done()

    class Derived(Base, name="routes.derived", initial="one"):
        @step
        def one(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done()

        @step(queue="b")
        def two(self, ctx: Context[dict[str, Any]]) -> Done:
            return Done()

    assert Derived.gendurable_spec.queues == {"one": "a", "two": "b"}
