"""Rate limits: the calls, what machines declare, and outcomes that close a bucket."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.engine import field

import gendurable_py as gd
from gendurable_py import (
    FSM,
    Child,
    Context,
    InvalidArgument,
    Job,
    Next,
    RateLimit,
    Replay,
    Retry,
    UnknownName,
    errors,
    job,
    step,
)
from gendurable_py.fsm import spec_of
from gendurable_py.testing import assert_done, assert_failed, drain

Conn = psycopg.Connection[Any]


def limit(conn: Conn, name: str) -> tuple[Any, ...] | None:
    return conn.execute("select allowed, period, burst from gd_rate_limits where name = %s", (name,)).fetchone()


def closed_until(conn: Conn, bucket: str) -> datetime | None:
    row = conn.execute("select closed_until from gd_rate_limits where bucket = %s", (bucket,)).fetchone()
    return None if row is None else row[0]


# -- the calls


def test_a_limit_is_set_changed_and_removed(conn: Conn) -> None:
    with pytest.raises(UnknownName):
        gd.insert(conn, "mail", rate_limit="mail")
    gd.set_rate_limit(conn, "mail", 2, timedelta(hours=1))
    assert limit(conn, "mail") == (2, timedelta(hours=1), 2)
    ids = [made.id for made in gd.insert_many(conn, [Child("mail", rate_limit="mail:eu", weight=0.5)] * 5)]
    assert [claim.id for claim in gd.claim(conn, "w", limit=10)] == ids[:4]
    assert gd.claim(conn, "w", limit=10) == []
    gd.set_rate_limit(conn, "mail", 0.5, period=0.25, burst=3)
    assert limit(conn, "mail") == (0.5, timedelta(milliseconds=250), 3)
    gd.set_rate_limit(conn, "mail", 0)
    assert limit(conn, "mail") == (0, None, 1)
    gd.set_rate_limit(conn, "mail", None)
    assert limit(conn, "mail") is None
    assert [claim.id for claim in gd.claim(conn, "w", limit=10)] == ids[4:]
    for wrong in ((-1, 1), (float("nan"), 1), (1, None), (1, 0), (1, 1, 0)):
        with pytest.raises(InvalidArgument):
            gd.set_rate_limit(conn, "mail", *wrong)
    for period in (-1, float("inf"), "1 second"):
        with pytest.raises(InvalidArgument):
            gd.set_rate_limit(conn, "mail", 1, period)  # type: ignore[arg-type]


def test_a_limit_that_is_there_is_not_overwritten(conn: Conn) -> None:
    assert gd.ensure_rate_limit(conn, "mail", 50, 1) == "created"
    assert gd.ensure_rate_limit(conn, "mail", 50, timedelta(seconds=1), 50) == "same"
    assert gd.ensure_rate_limit(conn, "mail", 50, 1, 10) == "different"
    assert gd.ensure_rate_limit(conn, "mail", 0) == "different"
    assert limit(conn, "mail") == (50, timedelta(seconds=1), 50)
    assert gd.ensure_rate_limit(conn, "stop", 0) == "created"
    assert gd.ensure_rate_limit(conn, "stop", 0) == "same"
    with pytest.raises(InvalidArgument):
        gd.ensure_rate_limit(conn, "mail", None)  # type: ignore[arg-type]


def test_a_bucket_is_closed_and_opened(conn: Conn) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(UnknownName):
        gd.close_rate_limit(conn, "mail:eu", until)
    gd.set_rate_limit(conn, "mail", 100, 1)
    gd.close_rate_limit(conn, "mail:eu", until)
    assert closed_until(conn, "mail:eu") == until
    eu, us = (gd.insert(conn, "mail", rate_limit=f"mail:{part}") for part in ("eu", "us"))
    assert [claim.id for claim in gd.claim(conn, "w", limit=10)] == [us]
    gd.close_rate_limit(conn, "mail:eu", None)
    assert closed_until(conn, "mail:eu") is None
    assert [claim.id for claim in gd.claim(conn, "w", limit=10)] == [eu]
    with pytest.raises(InvalidArgument):
        gd.close_rate_limit(conn, "mail", datetime(2030, 1, 1))


def test_the_calls_are_awaited_on_an_async_connection(db: Any, conn: Conn) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(db.dsn, autocommit=True) as aconn:
            await gd.set_rate_limit(aconn, "mail", 1, 1)
            assert await gd.ensure_rate_limit(aconn, "mail", 1, 1) == "same"
            await gd.close_rate_limit(aconn, "mail", datetime.now(UTC) + timedelta(minutes=1))

    asyncio.run(main())
    assert closed_until(conn, "mail") is not None


# -- what machines declare


class Mail(FSM, name="limits.mail", rate_limits={"mail": (50, 1), "slow": RateLimit(1, timedelta(minutes=1), burst=3)}):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next("end", rate_limit="mail")

    @step
    def end(self, ctx: Context[Any]) -> gd.Done:
        return gd.Done("sent")


class Letters(Mail, name="limits.letters"):
    """Inherits what Mail declares."""


class Parcels(Mail, name="limits.parcels", rate_limits={"mail": (50, timedelta(seconds=1), 50)}):
    """Declares its own, of which one is the same."""


def test_a_machine_a_job_and_a_job_class_declare_limits() -> None:
    @job(name="limits.job", rate_limits={"mail": (0.1, 60, 7)})
    def sends(args: dict[str, Any]) -> None: ...

    class Sends(Job, name="limits.class", rate_limits={"mail": (0.1, 60, 7)}):
        def perform(self, args: dict[str, Any]) -> None: ...

    assert spec_of(Mail).rate_limits == {"mail": RateLimit(50), "slow": RateLimit(1, timedelta(minutes=1), 3)}
    assert spec_of(Letters).rate_limits == spec_of(Mail).rate_limits
    assert spec_of(Parcels).rate_limits["mail"].stored == RateLimit(50).stored == (50, 1, 50)
    assert spec_of(sends).rate_limits == spec_of(Sends).rate_limits == {"mail": RateLimit(0.1, 60, 7)}
    assert RateLimit(0.1, 60).stored == (0.1, 60, 1)
    assert str(RateLimit(50, timedelta(minutes=1))) == "50 in 60 s, burst 50"


@pytest.mark.parametrize(
    "bad",
    [
        "mail",
        ["mail"],
        {"": (1, 1)},
        {1: (1, 1)},
        {"m\x00": (1, 1)},
        {"x" * 2001: (1, 1)},
        {"mail": 50},
        {"mail": None},
        {"mail": ()},
        {"mail": (50,)},
        {"mail": (50, 1, 1, 1)},
        {"mail": "50"},
        {"mail": (-1, 1)},
        {"mail": (True, 1)},
        {"mail": ("50", 1)},
        {"mail": (float("nan"), 1)},
        {"mail": (10**400, 1)},
        {"mail": (50, 0)},
        {"mail": (50, 1e-7)},
        {"mail": (50, None)},
        {"mail": (50, timedelta(-1))},
        {"mail": (50, float("nan"))},
        {"mail": (50, 1e300)},
        {"mail": (50, timedelta.max)},
        {"mail": (50, "1 second")},
        {"mail": (50, 1, 0)},
        {"mail": (50, 1, float("inf"))},
        {"mail": (50, 1, float("nan"))},
    ],
    ids=repr,
)
def test_what_is_no_limit_is_refused_when_the_machine_is_defined(bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        type("Bad", (Job,), {"perform": lambda self, args: None}, name="limits.bad", rate_limits=bad)


def test_two_definitions_of_one_limit_are_refused_where_they_meet(conn: Conn) -> None:
    class Other(Mail, name="limits.other", rate_limits={"mail": (50, 2)}):
        pass

    gd.Engine("", [Mail, Letters, Parcels])
    with pytest.raises(InvalidArgument, match=r"'mail' is 50 in 1 s, burst 50 in limits.mail v1, and 50 in 2 s"):
        gd.Engine("", [Mail, Other])
    with pytest.raises(InvalidArgument, match="define it once"):
        drain(conn, [Mail, Other])


def test_the_testing_kit_registers_them_and_changes_none(conn: Conn) -> None:
    gd.set_rate_limit(conn, "slow", 7, 1)
    with conn.transaction(force_rollback=True):
        drain(conn, [Mail])
        assert limit(conn, "mail") == (50, timedelta(seconds=1), 50)
        assert limit(conn, "slow") == (7, timedelta(seconds=1), 7)
        done = gd.insert(conn, Mail, rate_limit="slow")
        drain(conn)
        assert assert_done(conn, done or 0) == "sent"
    assert limit(conn, "mail") is None


def test_a_test_sets_a_wider_limit_than_its_machine(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        gd.set_rate_limit(conn, "slow", 1000, 1)
        ids = [made.id for made in gd.insert_many(conn, [Child(Mail, rate_limit="slow")] * 20)]
        drain(conn, [Mail], advance=True)
        assert [assert_done(conn, id) for id in ids] == ["sent"] * 20


# -- outcomes that close


CLOSING = {
    "Replay": lambda: Replay(close=3600),
    "Retry": lambda: Retry("429", 0, close=timedelta(hours=1)),
    "Next": lambda: Next("end", rate_limit="mail", close=3600),
}


class Throttled(FSM, name="limits.throttled", rate_limits={"mail": (1000, 1)}):
    @step
    def start(self, ctx: Context[Any]) -> Any:
        return CLOSING[ctx.state["how"]]()

    @step
    def end(self, ctx: Context[Any]) -> gd.Done:
        return gd.Done()


@job(name="limits.throttled_job")
def throttled(args: dict[str, Any]) -> Any:
    return CLOSING[args["how"]]()


def test_a_closing_outcome_stops_all_of_its_bucket(conn: Conn) -> None:
    for machine, how in ((Throttled, "Replay"), (Throttled, "Retry"), (Throttled, "Next"), (throttled, "Retry")):
        with conn.transaction(force_rollback=True):
            before = datetime.now(UTC)
            limited = None if how == "Next" else "mail"
            drain(conn, [Throttled])
            first = gd.insert(conn, machine, {"how": how}, rate_limit=limited)
            assert drain(conn) == 1
            until = closed_until(conn, "mail")
            assert until is not None
            assert before + timedelta(hours=1) <= until <= datetime.now(UTC) + timedelta(hours=1)
            second = gd.insert(conn, machine, {"how": how}, rate_limit="mail")
            other = gd.insert(conn, Mail)
            assert drain(conn) == 1  # the first step of the other; its second one needs a token, too
            assert [field(conn, id, "status") for id in (first, second, other)] == ["runnable"] * 3
            gd.close_rate_limit(conn, "mail", None)
            assert drain(conn) > 0


def test_closing_without_a_limit_is_refused(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        id = gd.insert(conn, Throttled, {"how": "Replay"})
        drain(conn, [Throttled])
        assert "close_ms needs a rate limit" in assert_failed(conn, id or 0)


def test_limits_need_read_committed(db: Any) -> None:
    other = db.connect()
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    for call, arguments in (
        (gd.set_rate_limit, ("mail", 1, 1)),
        (gd.ensure_rate_limit, ("mail", 1, 1)),
        (gd.close_rate_limit, ("mail", None)),
    ):
        with pytest.raises(errors.WrongIsolation), other.transaction():
            call(other, *arguments)
