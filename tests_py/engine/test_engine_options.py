"""What an engine cannot use is refused where it is given, by an error of this package that says what to give."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, job, step

Conn = psycopg.Connection[Any]

NAN, INFINITE = float("nan"), float("inf")


class Machine(FSM, name="options.machine"):
    @step
    def start(self, ctx: Context[Any]) -> Done:
        return Done()


class Abstract(Machine, abstract=True):
    pass


@job(name="options.elsewhere", queue="elsewhere")
def elsewhere(args: dict[str, Any]) -> None: ...


async def hears(name: str, measurements: Any, metadata: Any) -> None: ...


class Hears:
    async def __call__(self, name: str, measurements: Any, metadata: Any) -> None: ...


NUMBERS: tuple[Any, ...] = (0, -1, 1.5, 1.0, True, False, "1", None, NAN, 10**30)
DURATIONS: tuple[Any, ...] = (0, -1, -0.5, NAN, INFINITE, 1e300, "1", True, timedelta(0), timedelta(seconds=-1), [1])

WRONG: dict[str, tuple[Any, ...]] = {
    "queues": (
        *({"q": number} for number in NUMBERS),
        ["q"],
        "q",
        5,
        {"q"},
        {"": 1},
        {"a\x00b": 1},
        {"a\ud800": 1},
        {"q" * 2001: 1},
        {"ä" * 1001: 1},
        {1: 1},
        {None: 1},
        {b"q": 1},
        {"good": 1, "": 1},
    ),
    "machines": (
        Machine,
        Machine(),
        [Machine()],
        [Abstract],
        [FSM],
        [gd.Job],
        ["options.machine"],
        "options.machine",
        [None],
        None,
        5,
        {"options.machine": Machine},
        [lambda args: None],
        [[Machine]],
    ),
    "autoload": ("app", b"app", 5, ["app."], [""], [None], [5], ["a b"], ["app:Class"], {"app": 1}),
    "lease_ttl": (*DURATIONS, 0.01, None, timedelta(days=360_001), timedelta.max),
    "heartbeat_interval": (*DURATIONS, None, 60, 61, timedelta.max),
    "poll_interval": (*DURATIONS, None, 6),
    "max_poll_interval": (*DURATIONS, None, 0.5),
    "reap_interval": DURATIONS,
    "retention": (-1, NAN, INFINITE, "7 days", True, None, timedelta(seconds=-1), 1e300),
    "drain_timeout": (-1, NAN, INFINITE, "1", True, None, timedelta(seconds=-1)),
    "transactions": (0, -1, 1.5, True, "1", NAN, 10**30),
    "prefetch": (-1, 1.5, True, "1", "Auto", "", b"auto", None, NAN, 10**30, ["auto"]),
    "min_demand": (*NUMBERS, 11),
    "run_ahead": (0, 1, None, "yes", []),
    "notify": (0, 1, None, "no", []),
    "sql_steps": (0, 1, None, "no", []),
    "on_event": (5, "print", [], hears, Hears()),
    "dsn": (None, 5, b"dbname=x", object(), ["dbname=x"], "postgresql://[", "no_such_option=1", "dbname"),
}


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in WRONG.items() for value in values],
    ids=lambda value: repr(value)[:40].encode("ascii", "replace").decode(),
)
def test_what_cannot_work_is_refused_when_the_engine_is_made(option: str, value: Any) -> None:
    with pytest.raises(gd.InvalidArgument):
        Engine(**{"dsn": "", option: value})


def test_a_connection_or_a_pool_is_no_dsn(conn: Conn) -> None:
    with pytest.raises(gd.InvalidArgument, match="dsn is a Connection"):
        Engine(conn)  # type: ignore[arg-type]


def test_a_wrong_dsn_is_refused_without_its_password() -> None:
    with pytest.raises(gd.InvalidArgument) as caught:
        Engine("host=x password=geheim nothing")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"queues": {"ä" * 1000: 1, "a 'quoted' \"name\"": 100_000}, "reap_interval": 0.05},
        {"retention": timedelta.max, "reap_interval": 0.05},
        {"retention": timedelta(0), "reap_interval": 0.05},
        {"retention": 0, "reap_interval": timedelta(milliseconds=50)},
        {"lease_ttl": timedelta(days=360_000), "heartbeat_interval": 3600},
        {"lease_ttl": 0.3, "heartbeat_interval": 0.001, "poll_interval": 0.001},
        {"queues": {"default": 1}, "prefetch": 100_000, "min_demand": 1},
        {"queues": {"default": 2}, "prefetch": 3, "min_demand": 5},
        {"queues": {"default": 2}, "prefetch": "auto", "min_demand": 2},
        {"machines": (machine for machine in [Machine])},
        {"machines": {Machine, elsewhere}, "autoload": ()},
    ],
    ids=lambda options: ",".join(options),
)
def test_what_is_accepted_works(db: Any, conn: Conn, options: dict[str, Any]) -> None:
    events = Events()
    options = {"machines": [Machine], "reap_interval": None, **options}
    queues = list(options.get("queues", ["default"]))
    with running(Engine(db.dsn, on_event=events, **options)):
        id = gd.insert(conn, Machine, queue=queues[0])
        assert id is not None
        wait_until(lambda: gd.result(conn, id) in (None, gd.Result("done", None, None)))
        if options["reap_interval"] is not None:
            wait_until(lambda: events.count("maintain") >= 2)
    assert events.count("reconnect") == 0


def test_what_probably_does_not_work_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gendurable"):
        Engine("", [elsewhere], heartbeat_interval=30)
        Engine("", [elsewhere], queues={})
    assert [record.getMessage() for record in caplog.records if "third" in record.getMessage()]
    assert len([record for record in caplog.records if "elsewhere" in record.getMessage()]) == 1


async def test_an_engine_that_runs_cannot_be_started_again_and_loses_nothing_by_the_try(db: Any, conn: Conn) -> None:
    engine = Engine(db.dsn, [Machine])
    async with engine:
        with pytest.raises(RuntimeError, match="running already"):
            await engine.serve()
        with pytest.raises(RuntimeError, match="a loop runs in this thread"):
            engine.run()
        with pytest.raises(RuntimeError, match="main thread"):
            await asyncio.to_thread(engine.run)
        await asyncio.to_thread(ended, conn, gd.insert(conn, Machine))


@pytest.mark.parametrize("dsn", ["postgresql://nobody@/x?host=/nowhere", "host=/nowhere dbname=x", ""])
def test_any_connection_string_is_taken(dsn: str) -> None:
    Engine(dsn, [Machine])
