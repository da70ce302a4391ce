"""What one row holds costs that row: hostile values in every place, and a neighbour in the same batch that is done."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
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
    Insert,
    Next,
    Replay,
    ScheduleChilds,
    Send,
    Stop,
    job,
    step,
)
from gendurable_py.errors import InvalidArgument
from gendurable_py.testing import drain

Conn = psycopg.Connection[Any]

# What jsonb takes, and a client may not be able to read.
JSON = {
    "deep": "[" * 300 + "]" * 300,
    "deeper": '{"a":' * 2000 + "1" + "}" * 2000,
    "digits": "9" * 5000,
    "exponent": "1e400",
    "tiny": "-1e-400",
    "fraction": "1" + "0" * 400 + ".5",
    "long": '"' + "x" * 1_000_000 + '"',
    "planes": json.dumps("".join(chr(0x10000 * plane + 0x41) for plane in range(17)), ensure_ascii=False),
    "pair": '"\\ud83d\\ude00"',
    "edges": json.dumps("\x01\x7f\x80\ufffe\uffff\u2028\u202e\U0010ffff"),
    "keys": json.dumps({"": 1, "__class__": 2, "x" * 10_000: 3, "\U0001f4a5": 4}),
}
PLACES = ("state", "meta", "signal", "awaited signal", "child")


class Reader(FSM, name="rows.reader", abstract=True):
    """Goes through a step that looks at nothing, then reads all that it was given."""

    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("pass_on")

    @step
    def fan(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("read", [Child("rows.foreign", queue="foreign")])

    @step
    def park(self, ctx: Context[Any]) -> Await:
        return Await("x", step="read", timeout=60)

    @step
    def pass_on(self, ctx: Context[Any]) -> Next:
        return Next("read")


class Sync(Reader, name="rows.sync", run_ahead=False):
    @step
    def read(self, ctx: Context[Any]) -> Done:
        return Done([str(ctx.state)[:10], str(ctx.meta)[:10], len(ctx.signals), len(ctx.childs)])


class Async(Reader, name="rows.async", run_ahead=False):
    @step
    async def read(self, ctx: Context[Any]) -> Done:
        await asyncio.sleep(0)
        return Done([str(ctx.state)[:10], str(ctx.meta)[:10], len(ctx.signals), len(ctx.childs)])


class Ahead(Reader, name="rows.ahead", run_ahead=True):
    @step
    def read(self, ctx: Context[Any]) -> Done:
        return Done([str(ctx.state)[:10], str(ctx.meta)[:10], len(ctx.signals), len(ctx.childs)])


class Blind(Reader, name="rows.blind", run_ahead=True):
    """Looks at nothing of it."""

    @step
    def read(self, ctx: Context[Any]) -> Done:
        return Done("not looked at")


READERS = (Sync, Async, Ahead, Blind)


def put(conn: Conn, machine: str, place: str, value: str) -> int:
    """A row with the value in that place."""
    step = {"child": "fan", "awaited signal": "park"}.get(place, "start")
    state, meta = ('{"v":' + (value if place == each else "1") + "}" for each in ("state", "meta"))
    row = conn.execute(
        "select gd_insert(%s, p_state => %s::text::jsonb, p_meta => %s::text::jsonb, p_step => %s)",
        (machine, state, meta, step),
    ).fetchone()
    assert row is not None
    if place.endswith("signal"):
        conn.execute("select gd_signal(%s::bigint, 'x', %s::text::jsonb)", (row[0], value))
    return int(row[0])


def end_children(conn: Conn, value: str) -> int:
    """As a worker in another language might."""
    rows = conn.execute("select id, claim_no from gd_claim('foreign', 'foreign', 100)").fetchall()
    for id, claim_no in rows:
        outcome = f'[{{"id":{id},"claim_no":{claim_no},"kind":"done","result":{value}}}]'
        conn.execute("select gd_commit('foreign', %s::text::jsonb)", (outcome,))
    return len(rows)


@pytest.mark.parametrize("place", PLACES)
def test_hostile_json_costs_its_own_row(db: Any, conn: Conn, place: str) -> None:
    events = Events()
    with running(Engine(db.dsn, READERS, {"default": 8}, lease_ttl=600, on_event=events)):
        for value in JSON.values():
            with conn.transaction():
                hostile = [put(conn, f"rows.{kind}", place, value) for kind in ("sync", "async", "ahead", "blind")]
                neighbours = [gd.insert(conn, machine) for machine in READERS]
            if place == "child":
                wait_until(lambda rows=hostile: {field(conn, id, "status") for id in rows} == {"awaiting_children"})
                assert end_children(conn, value) == len(hostile)
            assert {result.status for result in ended(conn, *neighbours)} == {"done"}
            results = ended(conn, *hostile)
            assert {result.status for result in results} <= {"done", "failed"}
            assert results[-1].result == "not looked at", "and nobody else looks at it"
            assert all(result.last_error for result in results if result.status == "failed")
    assert events.count("stuck") == events.count("reconnect") == events.count("lost") == 0
    assert {about["reason"] for _, about in events.named("release")} == set()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_testing_kit_isolates_as_the_engine_does(db: Any, conn: Conn, place: str, autocommit: bool) -> None:
    mine = db.connect(autocommit=autocommit)
    for run_ahead in (False, True):
        for value in JSON.values():
            hostile = [put(mine, f"rows.{kind}", place, value) for kind in ("sync", "async", "ahead", "blind")]
            neighbours = [gd.insert(mine, machine) for machine in READERS]
            drain(mine, READERS, queues=["default"], run_ahead=run_ahead)
            if place == "child":
                end_children(mine, value)
                drain(mine, READERS, queues=["default"], run_ahead=run_ahead)
            assert {gd.result(mine, id or 0).status for id in neighbours} == {"done"}  # type: ignore[union-attr]
            assert {gd.result(mine, id).status for id in hostile} <= {"done", "failed"}  # type: ignore[union-attr]
            assert gd.result(mine, hostile[-1]).result == "not looked at"  # type: ignore[union-attr]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "digits": 10**4000,
    "more digits than Python writes": 10**5000,
    "more digits than the server keeps": 10**140_000,
    "deep": nested(200),
    "too deep": nested(100_000),
    "surrogate": "\ud800",
    "escaped surrogate": "\\ud800",
    "nothing": "\x00",
    "not a number": float("nan"),
    "infinite": float("-inf"),
    "bytes": b"\xff",
    "object": object(),
    "planes": "\U0001f4a5\U0010ffff\ufffe",
    "large": "x" * 3_000_000,
    "set": {1, 2},
    "keys": {1: 2, None: 3, "\ud800": 4},
}

OUTCOMES: dict[str, Callable[[Any], Any]] = {
    "done": lambda value: Done(value),
    "next": lambda value: Next("end", {"v": value}),
    "step": lambda value: Next(value),
    "key": lambda value: Next("end", partition_key=value),
    "queue": lambda value: Next("end", queue=value),
    "priority": lambda value: Next("end", priority=value),
    "delay": lambda value: Next("end", delay=value),
    "consume": lambda value: Next("end", consume=[value]),
    "replay": lambda value: Replay({"v": value}, delay=value),
    "close": lambda value: Replay({"v": value}, close=value),
    "bucket": lambda value: Next("end", rate_limit=value, weight=value, queue="bucket"),
    "closed": lambda value: Next("end", rate_limit="rows", close=value, queue="closed"),
    "await": lambda value: Await(value, {"v": value}, step="end", timeout=0.01),
    "names": lambda value: Await(["a", value], step="end", timeout=0.01),
    "children": lambda value: ScheduleChilds("end", [Child("rows.fine", {"v": value})]),
    "child's key": lambda value: ScheduleChilds("end", [Child("rows.fine", unique_key=value, meta={"v": value})]),
    "insert": lambda value: Next("end", insert=[Insert("rows.fine", {"v": value}, unique_key="rows:1")]),
    "inserted key": lambda value: Done(insert=[Insert("rows.fine", unique_key=value, priority=value)]),
    "send": lambda value: Next("end", signal=[Send("rows:1", "go", value), Send("rows:1", value)]),
    "target": lambda value: Done(signal=[Send(value, "go", dedup_key=value)]),
    "stop": lambda value: Stop(value),
    "itself": lambda value: value,
}


class Says(FSM, name="rows.says", rate_limits={"rows": (1000, 1)}):
    """Ends with what the table says; its handler tries to say it again."""

    @step
    def start(self, ctx: Context[Any]) -> Any:
        return OUTCOMES[ctx.state["kind"]](VALUES[ctx.state["value"]])

    @step
    def end(self, ctx: Context[Any]) -> Done:
        return Done("ended")

    def handle(self, error: Exception, ctx: Context[Any]) -> Any:
        return OUTCOMES[ctx.state["kind"]](VALUES[ctx.state["value"]])


class SaysAsync(FSM, name="rows.says_async", run_ahead=True):
    @step
    async def start(self, ctx: Context[Any]) -> Any:
        await asyncio.sleep(0)
        return OUTCOMES[ctx.state["kind"]](VALUES[ctx.state["value"]])

    @step
    async def end(self, ctx: Context[Any]) -> Done:
        return Done("ended")


@job(name="rows.fine")
def fine(args: dict[str, Any]) -> str:
    return "fine"


def settled(conn: Conn, ids: list[int]) -> bool:
    """Ended, or put where the outcome said: in another queue, or later."""
    row = conn.execute(
        "select count(*) from gd_instances where id = any(%s) and status not in ('done', 'failed') "
        "and queue = 'default' and (status = 'executing' or eligible_at <= now() or eligible_at is null)",
        (ids,),
    ).fetchone()
    return row == (0,)


@pytest.mark.parametrize("kind", OUTCOMES)
def test_a_hostile_outcome_costs_its_own_row(db: Any, conn: Conn, kind: str) -> None:
    events = Events()
    with running(Engine(db.dsn, [Says, SaysAsync, fine], {"default": 40}, lease_ttl=600, on_event=events)):
        states = [{"kind": kind, "value": value} for value in VALUES]
        rows = [Child(machine, state) for state in states for machine in (Says, fine, SaysAsync)]
        ids = [made.id for made in gd.insert_many(conn, rows)]
        assert {result.result for result in ended(conn, *ids[1::3], timeout=30)} == {"fine"}
        wait_until(lambda: settled(conn, ids), 30)
    assert events.count("stuck") == events.count("reconnect") == 0
    failed = conn.execute(
        "select id from gd_instances where id = any(%s) and status = 'failed' and last_error is null", (ids,)
    ).fetchall()
    assert failed == []


@pytest.mark.parametrize("kind", OUTCOMES)
def test_the_testing_kit_commits_the_neighbours_of_a_hostile_outcome(conn: Conn, kind: str) -> None:
    with conn.transaction(force_rollback=True):
        states = [{"kind": kind, "value": value} for value in VALUES]
        rows = [Child(machine, state) for state in states for machine in (Says, fine, SaysAsync)]
        ids = [made.id for made in gd.insert_many(conn, rows)]
        drain(conn, [Says, SaysAsync, fine], queues=["default"])
        assert {gd.result(conn, id).result for id in ids[1::3]} == {"fine"}  # type: ignore[union-attr]
        assert not [id for id in ids if field(conn, id, "status") == "executing"]


def test_the_testing_kit_names_the_row_that_it_cannot_run(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        stranger, neighbour = gd.insert(conn, "rows.stranger"), gd.insert(conn, fine)
        with pytest.raises(InvalidArgument, match=rf"instance {stranger} of rows\.stranger v1, in step 'start'"):
            drain(conn, [fine])
        assert gd.result(conn, neighbour or 0) == gd.Result("done", "fine", None)
        assert field(conn, stranger, "status") == "runnable"


def test_a_machine_that_cannot_be_built_is_told_and_given_back(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    # As under `if TYPE_CHECKING:` - no name that exists when the annotation is read.
    @job(name="rows.unbuilt")
    def unbuilt(args: "NoSuchType") -> int:  # type: ignore[name-defined]  # noqa: F821, UP037
        return 1

    class Exits(FSM, name="rows.exits"):
        def __init__(self) -> None:
            raise SystemExit(3)

        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    events = Events()
    with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [fine], on_event=events)):
        with conn.transaction():
            bad = [conn.execute("select gd_insert(%s)", (name,)).fetchone() for name in ("rows.unbuilt", "rows.exits")]
            good = [gd.insert(conn, fine) for _ in range(10)]
        assert {result.result for result in ended(conn, *good)} == {"fine"}
        wait_until(lambda: sum(numbers["rows"] for numbers, _ in events.named("release")) == 2)
        assert [field(conn, row[0], "attempt") for row in bad if row] == [0, 0]
    text = caplog.text
    assert "NoSuchType" in text and "SystemExit" in text


def test_a_handler_of_the_log_that_raises_stops_nothing(db: Any, conn: Conn) -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk of the log is full")

    @job(name="rows.fails", max_attempts=2, backoff=lambda attempt: 0.01)
    def fails(args: dict[str, Any], ctx: Context[Any]) -> int:
        if ctx.attempt == 0:
            raise ValueError("once")
        return 2

    handler = Raises()
    logger = logging.getLogger("gendurable")
    logger.addHandler(handler)
    try:
        with running(Engine(db.dsn, [fails])):
            gd.insert(conn, "rows.stranger")
            assert ended(conn, gd.insert(conn, fails))[0].result == 2
    finally:
        logger.removeHandler(handler)


def test_a_class_that_is_defined_again_takes_the_place_of_the_old_one(db: Any, conn: Conn) -> None:
    def define(answer: str) -> Any:
        class Again(FSM, name="rows.again"):
            @step
            def start(self, ctx: Context[Any]) -> Done:
                return Done(answer)

        return Again

    with running(Engine(db.dsn, [define("old")])):
        assert ended(conn, gd.insert(conn, "rows.again"))[0].result == "old"
        define("new")
        assert ended(conn, gd.insert(conn, "rows.again"))[0].result == "new"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_text_that_is_not_in_any_encoding_costs_its_own_row(server: Any, encoding: str) -> None:
    if not server.as_extension:
        pytest.skip("needs the extension's files on the server: GENDURABLE_TEST_SERVER=embedded")
    name = f"rows_{encoding.lower()}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"drop database if exists {name}")  # type: ignore[arg-type]
        admin.execute(f"create database {name} template template0 encoding '{encoding}' locale 'C'")  # type: ignore[arg-type]
    dsn = server.dsn_of(name)
    try:
        with psycopg.connect(dsn, autocommit=True, client_encoding="UTF8") as conn:
            conn.execute("create extension gendurable")
            with running(Engine(dsn, [fine])):
                with conn.transaction():
                    bad = [gd.insert(conn, fine, {"name": "Zo\xeb"})]
                    if encoding == "SQL_ASCII":
                        row = conn.execute(
                            "select gd_insert('rows.fine', p_state => "
                            "convert_from(decode('7b226e616d65223a2022ff227d', 'hex'), 'SQL_ASCII')::jsonb)"
                        ).fetchone()
                        bad.append(row[0] if row else None)
                    good = [gd.insert(conn, fine) for _ in range(5)]
                assert {result.result for result in ended(conn, *good)} == {"fine"}
                assert {result.status for result in ended(conn, *bad[:1])} == {"done"}
                wait_until(lambda: {field(conn, id, "status") for id in bad} <= {"done", "failed"}, 30)
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]
