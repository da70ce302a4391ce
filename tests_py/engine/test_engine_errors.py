"""What the engine does with steps that fail, and with outcomes that cannot be."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import (
    FSM,
    Cancel,
    Child,
    Context,
    Done,
    Engine,
    Next,
    Replay,
    Stop,
    job,
    step,
)

Conn = psycopg.Connection[Any]


def engine(db: Any, *machines: Any, **options: Any) -> Engine:
    options.setdefault("queues", {"default": 10})
    return Engine(db.dsn, machines, **options)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_step_raises_goes_to_handle(db: Any, conn: Conn, kind: str) -> None:
    class Machine(FSM, name="steps.handled"):
        if kind == "sync":

            @step
            def start(self, ctx: Context[Any]) -> Done:
                if ctx.attempt < 2:
                    raise ValueError("not yet")
                return Done(ctx.attempt)

            def handle(self, error: Exception, ctx: Context[Any]) -> Any:
                return Replay({"seen": str(error)})
        else:

            @step
            async def start(self, ctx: Context[Any]) -> Done:
                if ctx.attempt < 2:
                    raise ValueError("not yet")
                return Done(ctx.attempt)

            async def handle(self, error: Exception, ctx: Context[Any]) -> Any:
                await asyncio.sleep(0)
                return Replay({"seen": str(error)})

    with running(engine(db, Machine)):
        id = gd.insert(conn, Machine)
        assert ended(conn, id) == [gd.Result("done", 2, None)]
        assert field(conn, id, "state") == {"seen": "not yet"}


def test_a_sync_step_may_have_an_async_handler(db: Any, conn: Conn) -> None:
    class Machine(FSM, name="steps.mixed"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            raise ValueError("no")

        async def handle(self, error: Exception, ctx: Context[Any]) -> Any:
            await asyncio.sleep(0)
            return Done(str(error))

    with running(engine(db, Machine)):
        assert ended(conn, gd.insert(conn, Machine)) == [gd.Result("done", "no", None)]


class Bad(FSM, name="steps.bad"):
    """Each step fails in its own way; the handler stops it and says what it was told."""

    @step
    def start(self, ctx: Context[Any]) -> Any:
        kind = ctx.state["kind"]
        if kind == "fine":
            return Done()
        if kind == "none":
            return None
        if kind == "unknown step":
            return Next("nowhere")
        if kind == "not a number":
            return Next("start", {"x": float("nan")})
        if kind == "null character":
            return Done("a\x00b")
        if kind == "surrogate":
            return Done("\ud800")
        if kind == "huge number":
            return Done(10**140_000)  # valid JSON, and more digits than the server's numbers have
        if kind == "exit":
            sys.exit(3)
        if kind == "cancelled":
            raise asyncio.CancelledError
        if kind == "rejected by the server":
            return Next("start", rate_limit="no such limit")
        raise AssertionError(kind)

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return Stop(f"handled {type(error).__name__}: {ctx.state['kind']}")


def test_an_outcome_that_cannot_be_goes_to_handle_and_takes_nobody_with_it(db: Any, conn: Conn) -> None:
    bad = {
        "none": "InvalidArgument",
        "unknown step": "InvalidArgument",
        "not a number": "InvalidArgument",
        "null character": "InvalidArgument",
        "surrogate": "InvalidArgument",
        "huge number": "GendurableError",
        "exit": "RuntimeError",
        "cancelled": "RuntimeError",
        "rejected by the server": "UnknownName",
    }
    events = Events()
    with running(engine(db, Bad, queues={"default": 100}, on_event=events)):
        kinds = [*bad, *["fine"] * 30]
        ids = [m.id for m in gd.insert_many(conn, [Child(Bad, {"kind": kind}) for kind in kinds])]
        results = dict(zip(kinds, ended(conn, *ids), strict=True))
    assert results.pop("fine").status == "done"
    assert {kind: r.last_error for kind, r in results.items()} == {
        kind: f"handled {error}: {kind}" for kind, error in bad.items()
    }
    rejected = {about["sqlstate"] for _, about in events.named("rejected")}
    assert rejected == {"22003", "GD502"}


@pytest.mark.parametrize("how", ["raises", "returns nothing", "is rejected", "cannot be encoded"])
def test_a_handler_that_fails_ends_the_instance(db: Any, conn: Conn, how: str) -> None:
    class Machine(FSM, name="steps.bad_handler"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            raise ValueError("first")

        def handle(self, error: Exception, ctx: Context[Any]) -> Any:
            if how == "raises":
                raise KeyError("second")
            if how == "is rejected":
                return Next("start", rate_limit="nowhere")
            return None if how == "returns nothing" else Done(float("inf"))

    with running(engine(db, Machine)):
        [found] = ended(conn, gd.insert(conn, Machine))
    assert found.status == "failed"
    assert found.last_error


def test_jobs_are_tried_again_by_their_own_rule(db: Any, conn: Conn) -> None:
    attempts: list[int] = []
    asked: list[int] = []

    def pause(attempt: int) -> float:
        asked.append(attempt)
        return 0.001

    @job(name="steps.retry", max_attempts=3, backoff=pause)
    def fails(args: dict[str, Any], ctx: Context[Any]) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("boom")

    @job(name="steps.cancel")
    def cancels(args: dict[str, Any]) -> None:
        raise Cancel("not wanted")

    with running(engine(db, fails, cancels)):
        ids = [gd.insert(conn, fails), gd.insert(conn, cancels)]
        results = ended(conn, *ids)
    assert [(r.status, r.last_error) for r in results] == [("failed", "ValueError: boom"), ("failed", "not wanted")]
    assert attempts == [0, 1, 2]
    assert asked == [0, 1, 2]


def test_without_a_rule_of_its_own_the_server_spaces_the_attempts(db: Any, conn: Conn) -> None:
    @job(name="steps.default_backoff")
    def fails(args: dict[str, Any]) -> None:
        raise ValueError("boom")

    with running(engine(db, fails)):
        id = gd.insert(conn, fails)
        wait_until(lambda: field(conn, id, "attempt") == 1)
        assert field(conn, id, "status") == "runnable"
        assert field(conn, id, "last_error") == "ValueError: boom"
