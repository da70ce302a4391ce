"""Schedules from Python: the calls, and what `scheduled` declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, job, scheduled, step
from gendurable_py.machine.schedule import encode_schedules
from gendurable_py.machine.spec import spec_of

Conn = psycopg.Connection[Any]


@dataclass
class Mail:
    to: str
    copies: int = 1


@job(name="test_schedules.mail", queue="mails")
def mail(args: Mail) -> None: ...


class Report(FSM, name="test_schedules.report", initial="begin"):
    @step
    def begin(self, ctx: Context[Any]) -> Done:
        return Done()

    @step
    def again(self, ctx: Context[Any]) -> Done:
        return Done()


def schedules(conn: Conn) -> list[tuple[Any, ...]]:
    return conn.execute("select name, cron, timezone, fsm, options from gd_schedules order by name").fetchall()


def test_the_calls_on_both_kinds_of_connection(conn: Conn) -> None:
    gd.schedule(conn, "a", "0 6 * * *", mail, {"to": "ada"}, timezone="Europe/Berlin", overlap="skip", meta={"x": 1})
    gd.schedule(
        conn,
        "b",
        "@every 5 minutes",
        "elsewhere",
        catch_up="all",
        queue="q",
        priority=2,
        unique_scope=("done",),
        unique_key="k",
    )
    gd.schedule(conn, "c", "@daily", Report, step=Report.again)
    assert schedules(conn) == [
        (
            "a",
            "0 6 * * *",
            "Europe/Berlin",
            "test_schedules.mail",
            {"state": {"to": "ada", "copies": 1}, "overlap": "skip", "meta": {"x": 1}},
        ),
        (
            "b",
            "@every 5 minutes",
            "UTC",
            "elsewhere",
            {"catch_up": "all", "queue": "q", "priority": 2, "unique_key": "k", "unique_scope": ["done"]},
        ),
        ("c", "@daily", "UTC", "test_schedules.report", {"step": "again"}),
    ]
    id = gd.trigger(conn, "a")
    assert id is not None and gd.trigger(conn, "a") is None
    row = conn.execute("select meta, state, unique_key from gd_instances where id = %s", (id,)).fetchone()
    assert row is not None
    assert (row[0]["schedule"], row[0]["x"], row[1]["to"], row[2]) == ("a", 1, "ada", "schedule:a")
    assert (gd.pause_schedule(conn, "a"), gd.pause_schedule(conn, "a")) == (True, False)
    assert (gd.resume_schedule(conn, "a"), gd.resume_schedule(conn, "a")) == (True, False)
    assert (gd.unschedule(conn, "a"), gd.unschedule(conn, "a")) == (True, False)


async def test_the_calls_on_an_async_connection(db: Any) -> None:
    conn = await db.aconnect()
    await gd.schedule(conn, "a", "@daily", "m")
    assert await gd.trigger(conn, "a") is not None
    assert await gd.pause_schedule(conn, "a")
    assert await gd.resume_schedule(conn, "a")
    assert [row.result for row in await gd.announce_schedules(conn, [mail])] == []
    assert await gd.unschedule(conn, "a")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda conn: gd.schedule(conn, "x", "* * * *", "m"), gd.InvalidArgument),
        (lambda conn: gd.schedule(conn, "x", "@daily", "m", timezone="Mars"), gd.InvalidArgument),
        (lambda conn: gd.schedule(conn, "x", "@daily", "m", rate_limit="nowhere"), gd.UnknownName),
        (lambda conn: gd.schedule(conn, "x", "@daily", "m", eligible_at=None), gd.InvalidArgument),
        (lambda conn: gd.schedule(conn, "x", "@daily", mail), gd.InvalidArgument),
        (lambda conn: gd.schedule(conn, "x", "@daily", Report, step="nowhere"), gd.InvalidArgument),
        (lambda conn: gd.trigger(conn, "nobody"), gd.UnknownName),
        (lambda conn: gd.pause_schedule(conn, "nobody"), gd.UnknownName),
        (lambda conn: gd.resume_schedule(conn, "nobody"), gd.UnknownName),
    ],
)
def test_mistakes(conn: Conn, call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(conn)
    assert schedules(conn) == []


def test_what_is_declared_is_announced(conn: Conn) -> None:
    @scheduled("0 18 * * *", {"to": "bob"}, name="evening", timezone="Europe/Berlin", priority=1)
    @scheduled("0 6 * * *", {"to": "ada"})
    @job(name="test_schedules.twice")
    def twice(args: Mail) -> None: ...

    @scheduled("@daily", name="daily report")
    class Daily(Report, name="test_schedules.daily"):
        pass

    assert twice({"to": "x"}) is None  # type: ignore[func-returns-value, arg-type]
    answers = gd.announce_schedules(conn, [twice, Daily, mail])
    assert [(row.name, row.result) for row in answers] == [
        ("daily report", "made"),
        ("evening", "made"),
        ("test_schedules.twice", "made"),
    ]
    assert schedules(conn) == [
        ("daily report", "@daily", "UTC", "test_schedules.daily", {}),
        (
            "evening",
            "0 18 * * *",
            "Europe/Berlin",
            "test_schedules.twice",
            {"state": {"to": "bob", "copies": 1}, "priority": 1},
        ),
        ("test_schedules.twice", "0 6 * * *", "UTC", "test_schedules.twice", {"state": {"to": "ada", "copies": 1}}),
    ]
    assert {row.result for row in gd.announce_schedules(conn, [twice, Daily])} == {"same"}
    gd.schedule(conn, "evening", "0 19 * * *", twice, {"to": "bob"})
    found = {row.name: row for row in gd.announce_schedules(conn, [twice, Daily])}
    assert (found["evening"].result, found["evening"].cron) == ("differs", "0 19 * * *")
    # none of it was written for it by hand
    assert spec_of(Report).schedules == ()


def test_a_subclass_is_not_scheduled_with_its_base(conn: Conn) -> None:
    @scheduled("@daily")
    class Base(FSM, name="test_schedules.base"):
        @step
        def start(self, ctx: Context[Any]) -> Done:
            return Done()

    class Derived(Base, name="test_schedules.derived"):
        pass

    assert [row.name for row in gd.announce_schedules(conn, [Base, Derived])] == ["test_schedules.base"]


def test_what_cannot_be_declared() -> None:
    @job(name="test_schedules.bad")
    def bad(args: Mail) -> None: ...

    scheduled("@daily", {"to": "x"})(bad)
    with pytest.raises(gd.InvalidArgument, match="name"):
        scheduled("@hourly", {"to": "x"})(bad)
    with pytest.raises(gd.InvalidArgument, match="delay"):
        scheduled("@hourly", delay=3)  # type: ignore[call-arg]
    for cron, more in ((" ", {"name": ""}), ("", {}), (5, {}), ("@daily", {"timezone": ""})):
        with pytest.raises(gd.InvalidArgument):
            scheduled(cron, **more)  # type: ignore[arg-type]
    with pytest.raises(gd.InvalidArgument):
        scheduled("@daily")(len)

    @scheduled("@daily", {"to": "x"}, name="test_schedules.bad")
    @job(name="test_schedules.worse")
    def worse(args: Mail) -> None: ...

    with pytest.raises(gd.InvalidArgument, match=r"test_schedules\.bad"):
        encode_schedules([spec_of(bad), spec_of(worse)])

    @scheduled("@daily", {"nobody": "x"})
    @job(name="test_schedules.untyped")
    def untyped(args: Mail) -> None: ...

    with pytest.raises(gd.InvalidArgument):
        encode_schedules([spec_of(untyped)])
