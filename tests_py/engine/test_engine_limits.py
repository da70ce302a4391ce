"""An engine and the rate limits that its machines declare."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.people import People
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Child, Context, Engine, RateLimit, Replay, job

Conn = psycopg.Connection[Any]


@job(name="engine_limits.mail", rate_limits={"mail": RateLimit(50, 1, burst=10), "fax": (1, 1)})
def mail(args: dict[str, Any]) -> str:
    return "sent"


def test_limits_are_registered_at_start_and_never_over_what_is_there(
    db: Any, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    gd.set_rate_limit(conn, "fax", 7, 1)
    for first in (True, False):
        events = Events()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gendurable"), running(Engine(db.dsn, [mail], on_event=events)):
            ended(conn, gd.insert(conn, mail, rate_limit="mail:eu"), gd.insert(conn, mail, rate_limit="fax"))
        assert events.named("rate_limit") == [
            (
                {"allowed": 50, "period": 1, "burst": 10},
                {"limit": "mail", "result": "created" if first else "same", "error": None},
            ),
            ({"allowed": 1, "period": 1, "burst": 1}, {"limit": "fax", "result": "different", "error": None}),
        ]
        assert caplog.text.count("rate limit") == 1
        assert "the rate limit 'fax' is 1 in 1 s, burst 1 in the code" in caplog.text
    rows = conn.execute("select name, allowed, period, burst from gd_rate_limits order by name").fetchall()
    second = timedelta(seconds=1)
    assert sorted({row[:4] for row in rows}) == [("fax", 7, second, 7), ("mail", 50, second, 10)]


@pytest.mark.parametrize("lost", ["right", "function"])
def test_an_engine_without_the_right_or_the_function_says_so_and_goes_on(
    server: Any, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    people = People(server)
    try:
        database = people.database()
        with psycopg.connect(database, autocommit=True) as owner:
            role = people.role("worker")
            owner.execute("select gd_grant(%s::text::regrole, 'worker')", (role,))
            if lost == "right":
                owner.execute(
                    f"revoke all on function gd_ensure_rate_limit(text, float8, interval, float8) from {role}".encode()
                )
            else:
                owner.execute("alter function gd_ensure_rate_limit(text, float8, interval, float8) rename to gone")
            events = Events()
            engine = Engine(people.dsn(database, "worker"), [mail], on_event=events)
            with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
                assert [result.result for result in ended(owner, gd.insert(owner, mail))] == ["sent"]
            told = events.named("rate_limit")
            assert [about["result"] for _, about in told] == ["failed", "failed"]
            assert all("gd_ensure_rate_limit" in about["error"] for _, about in told)
            assert "the rate limit 'mail' (50 in 1 s, burst 10) could not be registered" in caplog.text
    finally:
        people.close()


def test_an_open_transaction_that_sets_this_limit_keeps_no_engine_from_starting(db: Any, conn: Conn) -> None:
    events, other = Events(), db.connect(autocommit=False)
    gd.set_rate_limit(other, "mail", 1, 3600)
    with running(Engine(db.dsn, [mail], on_event=events)):
        assert [result.result for result in ended(conn, gd.insert(conn, mail))] == ["sent"]
    other.rollback()
    assert [about["result"] for _, about in events.named("rate_limit")] == ["failed", "created"]


def test_a_limit_that_the_server_refuses_fails_the_start(db: Any) -> None:
    @job(name="engine_limits.never", rate_limits={"never": (1e-9, 1e9)})
    def never(args: dict[str, Any]) -> None: ...

    with pytest.raises(gd.InvalidArgument, match="1,000 years"), running(Engine(db.dsn, [never])):
        pass


def test_a_throttled_step_stops_its_limit_for_all_engines(db: Any, conn: Conn) -> None:
    runs: list[str] = []

    @job(name="engine_limits.throttled", rate_limits={"api": (1000, 1)})
    def throttled(args: dict[str, Any], ctx: Context[Any]) -> Any:
        runs.append(args["n"])
        return Replay(close=3600) if ctx.attempt == 0 and args["n"] == "first" else "through"

    engines = [Engine(db.dsn, [throttled], {"default": 2}) for _ in range(2)]
    with running(*engines):
        first = gd.insert(conn, throttled, {"n": "first"}, rate_limit="api")
        wait_until(lambda: field(conn, first, "attempt") == 1)
        rest = gd.insert_many(conn, [Child(throttled, {"n": "rest"}, rate_limit="api")] * 6)
        free = gd.insert(conn, throttled, {"n": "free"})
        ended(conn, free)
        wait_until(lambda: conn.execute("select limited from gd_queues where queue = 'default'").fetchone() == (7,))
        assert set(runs) == {"first", "free"}
        gd.close_rate_limit(conn, "api", None)
        results = ended(conn, first, *(made.id for made in rest))
    assert [result.result for result in results] == ["through"] * 7


def test_a_closed_limit_opens_by_itself_for_an_engine_that_sleeps(db: Any, conn: Conn) -> None:
    @job(name="engine_limits.pauses", rate_limits={"pauses": (1000, 1)})
    async def pauses(args: dict[str, Any], ctx: Context[Any]) -> Any:
        return Replay(close=0.5) if ctx.attempt == 0 else "through"

    engine = Engine(db.dsn, [pauses], poll_interval=600, max_poll_interval=600, reap_interval=None)
    with running(engine):
        [result] = ended(conn, gd.insert(conn, pauses, rate_limit="pauses"))
    assert result.result == "through"
