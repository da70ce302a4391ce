"""What the engine says of errors, as it is kept, and the history that its machines ask for."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from support.engine import ended, running

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, Outcome, Retry, Stop, calls, job, step

Conn = psycopg.Connection[Any]


def only_error(conn: Conn, id: int | None) -> gd.Kept:
    assert id is not None
    [error] = calls.errors(conn, id)
    return error


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("transactional", [False, True])
def test_an_error_is_kept_with_where_it_was_raised(db: Any, conn: Conn, kind: str, transactional: bool) -> None:
    class Machine(FSM, name="records.raises", transactional=transactional, max_attempts=1):
        if kind == "sync":

            @step
            def start(self, ctx: Context[Any]) -> Outcome:
                raise LookupError("here it is")
        else:

            @step
            async def start(self, ctx: Context[Any]) -> Outcome:
                raise LookupError("here it is")

    with running(Engine(db.dsn, [Machine])):
        id = gd.insert(conn, Machine)
        ended(conn, id)
    error = only_error(conn, id)
    assert (error.kind, error.step, error.attempt, error.error) == ("error", "start", 0, "LookupError: here it is")
    assert error.worker is not None and error.traceback is not None
    # nothing of the engine stands before the step
    assert error.traceback.splitlines()[1].startswith(f'  File "{__file__}"')
    assert error.traceback.endswith("LookupError: here it is")


class Says(FSM, name="records.says"):
    """What `handle` and the step itself make of an error."""

    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        if ctx.state.get("returns"):
            try:
                raise LookupError("caught")
            except LookupError as error:
                return Stop(error)
        raise LookupError(ctx.state["message"])

    def handle(self, error: Exception, ctx: Context[Any]) -> Outcome:
        match str(error):
            case "fails":
                raise KeyError("of handle")
            case "stops":
                return Stop("in its own words")
            case "retries":
                return Retry("tried once", delay=0) if ctx.attempt == 0 else Stop(ValueError("never raised"))
            case _:
                return Done("all is well")


@pytest.mark.parametrize(
    ("state", "kinds", "named"),
    [
        ({"returns": 1}, ["stop"], "LookupError: caught"),
        ({"message": "fails"}, ["stop"], "KeyError: 'of handle'"),
        ({"message": "stops"}, ["stop"], "LookupError: stops"),
        ({"message": "retries"}, ["stop", "error"], "LookupError: retries"),
        ({"message": "fine"}, [], ""),
    ],
)
def test_whatever_is_made_of_an_error_it_is_known_where_it_was(
    db: Any, conn: Conn, state: dict[str, Any], kinds: list[str], named: str
) -> None:
    with running(Engine(db.dsn, [Says])):
        id = gd.insert(conn, Says, state)
        ended(conn, id)
    errors = calls.errors(conn, id or 0)
    assert [error.kind for error in errors] == kinds
    assert all(error.traceback is not None and named in error.traceback for error in errors)


def test_of_a_refused_outcome_there_is_no_traceback(db: Any, conn: Conn) -> None:
    @job(name="records.refused", max_attempts=1)
    def refused(args: dict[str, Any]) -> Outcome:
        return Next("start", rate_limit="nobody")

    with running(Engine(db.dsn, [refused])):
        id = gd.insert(conn, refused)
        ended(conn, id)
    assert only_error(conn, id).traceback is None


def test_of_an_async_step_whose_time_is_up_it_is_known_where_it_stood(db: Any, conn: Conn) -> None:
    async def deeper() -> None:
        await asyncio.Event().wait()

    @job(name="records.hangs", timeout=3, max_attempts=1)
    async def hangs(args: dict[str, Any]) -> None:
        await deeper()

    with running(Engine(db.dsn, [hangs])):
        id = gd.insert(conn, hangs)
        ended(conn, id)
    error = only_error(conn, id)
    assert error.error == "timed out after 3 s in step 'start'"
    assert error.traceback is not None and error.traceback.startswith("It stood here (most recent call last):\n")
    assert error.traceback.index("in hangs") < error.traceback.index("in deeper") < error.traceback.index("in wait")
    assert error.traceback.splitlines()[1].startswith(f'  File "{__file__}"')


def test_a_machine_keeps_its_history(db: Any, conn: Conn) -> None:
    class Two(FSM, name="records.two", history="states", run_ahead=True):
        @step
        def start(self, ctx: Context[Any]) -> Outcome:
            return Next(self.second, {"n": 2})

        @step
        def second(self, ctx: Context[Any]) -> Outcome:
            return Done(1)

    with running(Engine(db.dsn, [Two])):
        id = gd.insert(conn, Two, {"n": 1}) or 0
        ended(conn, id)
    assert [(entry.kind, entry.step, entry.next_step, entry.state) for entry in gd.history(conn, id)] == [
        ("next", "start", "second", {"n": 1}),
        ("done", "second", None, {"n": 2}),
    ]
    assert calls.errors(conn, id) == []
