"""The engine: it fires, it schedules what its machines declare, and it changes nothing that is there."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, running
from support.people import People
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job, scheduled

Conn = psycopg.Connection[Any]


def one(conn: Conn, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def results(events: Events) -> list[tuple[str, str]]:
    return [(about["schedule"], about["result"]) for _, about in events.named("schedule")]


def test_ticks_run_one_after_the_other_while_the_engine_is_idle(db: Any, conn: Conn) -> None:
    seen: list[Any] = []

    # Only by being told: it looks by itself once a minute.
    @scheduled("@every 1 second", {"n": 1}, name="tick", catch_up="all")
    @job(name="engine_schedules.tick")
    def tick(args: dict[str, int], ctx: gd.Context[Any]) -> None:
        seen.append((args["n"], ctx.meta["schedule"], ctx.meta["tick"]))

    with running(Engine(db.dsn, [tick], poll_interval=30, max_poll_interval=60)):
        wait_until(lambda: len(seen) >= 4)
    assert {(n, name) for n, name, _ in seen} == {(1, "tick")}
    assert len({at for _, _, at in seen}) == len(seen)


def test_what_an_operator_changed_stays_and_is_told(db: Any, conn: Conn, caplog: pytest.LogCaptureFixture) -> None:
    @scheduled("0 6 * * *", name="morning")
    @scheduled("0 18 * * *", name="evening")
    @job(name="engine_schedules.mail")
    def mail(args: dict[str, Any]) -> None: ...

    first, second, third = Events(), Events(), Events()
    with running(Engine(db.dsn, [mail], on_event=first)):
        assert sorted(results(first)) == [("evening", "made"), ("morning", "made")]
    gd.pause_schedule(conn, "morning")
    gd.schedule(conn, "evening", "0 20 * * *", mail, timezone="Europe/Berlin")
    gd.schedule(conn, "by hand", "@weekly", mail)
    conn.execute("update gendurable.schedule set seen_at = now() - interval '2 hours'")
    with caplog.at_level(logging.WARNING), running(Engine(db.dsn, [mail], on_event=second)):
        assert results(second) == [("evening", "differs")]
    # both are named
    assert "'0 20 * * *' in Europe/Berlin" in caplog.text and "'0 18 * * *' in UTC" in caplog.text
    assert one(conn, "select paused_at is not null from gd_schedules where name = 'morning'")
    assert one(conn, "select cron from gd_schedules where name = 'evening'") == "0 20 * * *"
    assert one(
        conn, "select array_agg(name order by name) from gd_schedules where seen_at > now() - interval '1 hour'"
    ) == [
        "evening",
        "morning",
    ]

    @job(name="engine_schedules.mail", version=2)
    def mail_of_the_next_release(args: dict[str, Any]) -> None: ...

    caplog.clear()
    with caplog.at_level(logging.WARNING), running(Engine(db.dsn, [mail_of_the_next_release], on_event=third)):
        assert sorted(results(third)) == [("evening", "gone"), ("morning", "gone")]
    assert "no longer in the code" in caplog.text
    assert one(conn, "select count(*) from gd_schedules") == 3


def test_the_code_takes_over_what_was_unscheduled(db: Any, conn: Conn) -> None:
    @scheduled("0 6 * * *")
    @job(name="engine_schedules.takes")
    def takes(args: dict[str, Any]) -> None: ...

    gd.schedule(conn, "engine_schedules.takes", "0 5 * * *", takes)
    gd.unschedule(conn, "engine_schedules.takes")
    with running(Engine(db.dsn, [takes])):
        assert one(conn, "select cron from gd_schedules") == "0 6 * * *"


def test_a_schedule_that_is_not_valid_fails_the_start(db: Any, conn: Conn) -> None:
    @scheduled("0 25 * * *")
    @job(name="engine_schedules.never")
    def never(args: dict[str, Any]) -> None: ...

    with pytest.raises(gd.InvalidArgument, match="hour"), running(Engine(db.dsn, [never])):
        pass
    assert one(conn, "select count(*) from gd_schedules") == 0


def test_a_role_that_may_not_schedule_goes_on_without(server: Any) -> None:
    @scheduled("@hourly")
    @job(name="engine_schedules.unheard")
    def unheard(args: dict[str, Any]) -> str:
        return "ran"

    people = People(server)
    try:
        role, database = people.role("worker"), people.database()
        conn = psycopg.connect(database, autocommit=True)
        conn.execute(f"select gd_grant('\"{role}\"', 'worker')".encode())
        conn.execute(f'revoke execute on function gd_announce_schedules(jsonb, text[]) from "{role}"'.encode())
        events = Events()
        with running(Engine(people.dsn(database, "worker"), [unheard], on_event=events)):
            [(_, about)] = events.named("schedule")
            assert (about["result"], about["schedule"]) == ("refused", None)
            [result] = ended(conn, gd.insert(conn, unheard))
            assert result.result == "ran"
        conn.close()
    finally:
        people.close()


def test_a_database_without_the_function_is_served_all_the_same(db: Any, conn: Conn) -> None:
    @scheduled("@hourly")
    @job(name="engine_schedules.older")
    def older(args: dict[str, Any]) -> str:
        return "ran"

    conn.execute("alter function gd_announce_schedules(jsonb, text[]) rename to announce")
    events = Events()
    with running(Engine(db.dsn, [older], on_event=events)):
        assert results(events) == [(None, "refused")]
        [result] = ended(conn, gd.insert(conn, older))
        assert result.result == "ran"


def test_it_is_announced_now_and_then(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    @scheduled("@hourly")
    @job(name="engine_schedules.again")
    def again(args: dict[str, Any]) -> None: ...

    monkeypatch.setattr("gendurable_py.dispatch.schedules._EVERY", 0.05)
    with running(Engine(db.dsn, [again])):
        conn.execute("update gendurable.schedule set seen_at = now() - interval '2 hours'")
        wait_until(lambda: one(conn, "select seen_at > now() - interval '1 hour' from gd_schedules"))
