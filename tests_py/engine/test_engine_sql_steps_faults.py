"""Steps in SQL that go wrong in the dispatcher: rights, settings, sessions that end, functions that never do."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.engine import Events, ended, field, running
from support.people import People
from support.server import Server
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Done, Engine, step

SETUP = """
create schema app;
create table app.account (id int primary key, n int not null default 0);
insert into app.account select g from generate_series(0, 100) g;
create table app.later (id int references app.account deferrable initially immediate);
create function app.pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update app.account set n = n + 1 where id = (ctx #>> '{state,n}')::int;
    return '{"kind": "done"}';
end $$;
create function app.hang(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform pg_advisory_xact_lock(4711);
    return '{"kind": "done"}';
end $$;
create function app.spin(ctx jsonb) returns jsonb language plpgsql as $$
begin
    loop
        perform pg_sleep(0.01);
    end loop;
end $$;
create function app.die(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform pg_terminate_backend(pg_backend_pid());
    return '{"kind": "done"}';
end $$;
create function app.owe(ctx jsonb) returns jsonb language plpgsql as $$
begin
    set constraints all deferred;
    insert into app.later values (-1);
    return '{"kind": "done"}';
end $$;
create function app.look(ctx jsonb) returns jsonb language plpgsql as $$
begin
    return jsonb_build_object('kind', 'done', 'result', jsonb_build_object(
        'path', current_setting('search_path'), 'zone', current_setting('TimeZone'), 'user', current_user,
        'level', current_setting('transaction_isolation'), 'read_only', current_setting('transaction_read_only')));
end $$;
create function app.lose(ctx jsonb) returns jsonb language plpgsql as $$
begin
    perform gd_cancel((ctx -> 'id')::bigint, 'by itself');
    return '{"kind": "done"}';
end $$;
"""
STEPS = ("pay", "hang", "spin", "die", "owe", "look", "lose")


@pytest.fixture(autouse=True)
def functions(conn: psycopg.Connection[Any]) -> None:
    conn.execute(SETUP)
    for name in STEPS:
        gd.define_step(conn, "m", name, f"app.{name}(jsonb)")


def insert(conn: psycopg.Connection[Any], step: str, count: int = 1, **options: Any) -> list[int]:
    made = gd.insert_many(conn, [{"fsm": "m", "step": step, "state": {"n": n}, **options} for n in range(1, count + 1)])
    return [one.id for one in made]


def paid(conn: psycopg.Connection[Any]) -> dict[int, int]:
    return dict(conn.execute("select id, n from app.account where n > 0").fetchall())


def set_for_role(conn: psycopg.Connection[Any], setting: str) -> None:
    conn.execute(f"alter role current_user in database {conn.info.dbname} set {setting}".encode())


def test_a_function_sees_the_settings_of_the_role(conn: psycopg.Connection[Any], db: Database) -> None:
    set_for_role(conn, "search_path = app, public")
    set_for_role(conn, "timezone = 'Asia/Tokyo'")
    set_for_role(conn, "default_transaction_isolation = 'serializable'")
    set_for_role(conn, "default_transaction_read_only = on")
    [id] = insert(conn, "look")
    with running(Engine(db.dsn)):
        [result] = ended(conn, id)
    assert result.result == {
        "path": "app, public",
        "zone": "Asia/Tokyo",
        "user": conn.info.user,
        "level": "read committed",
        "read_only": "off",
    }


def test_where_sessions_are_pooled_they_run_too(conn: psycopg.Connection[Any], db: Database) -> None:
    ids = insert(conn, "pay", 30)
    with running(Engine(db.dsn, notify=False, poll_interval=0.02)):
        ended(conn, *ids)
        [look] = insert(conn, "look")
        assert ended(conn, look)[0].result["path"] == '"$user", public'  # type: ignore[index, call-overload]
    assert paid(conn) == dict.fromkeys(range(1, 31), 1)


def test_one_that_takes_longer_than_the_role_may_is_an_error(conn: psycopg.Connection[Any], db: Database) -> None:
    set_for_role(conn, "statement_timeout = '300ms'")
    before, after = insert(conn, "pay", 20), None
    [slow] = insert(conn, "spin", max_attempts=1)
    after = insert(conn, "pay", 20)
    with running(Engine(db.dsn)):
        ended(conn, *before, slow, *after)
    assert field(conn, slow, "status") == "failed"
    assert "57014" in field(conn, slow, "last_error")
    assert paid(conn) == dict.fromkeys(range(1, 21), 2)


def test_one_that_ends_its_session_counts_as_a_crash_and_the_others_go_on(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    before = insert(conn, "pay", 5)
    [bad] = insert(conn, "die")
    after = insert(conn, "pay", 5)
    events = Events()
    with running(Engine(db.dsn, on_event=events)):
        ended(conn, *before, *after)
        wait_until(lambda: [about for _, about in events.named("release") if about["reason"] == "crashed"])
        gd.cancel(conn, bad)
    assert paid(conn) == dict.fromkeys(range(1, 6), 2)


def test_what_fails_at_the_end_of_the_transaction_is_its_own_error(conn: psycopg.Connection[Any], db: Database) -> None:
    before = insert(conn, "pay", 20)
    [bad] = insert(conn, "owe", max_attempts=1)
    after = insert(conn, "pay", 20)
    with running(Engine(db.dsn)):
        ended(conn, *before, bad, *after)
    assert field(conn, bad, "status") == "failed"
    assert "23503" in field(conn, bad, "last_error")
    assert paid(conn) == dict.fromkeys(range(1, 21), 2)


def test_one_whose_claim_is_gone_is_broken_off(conn: psycopg.Connection[Any], db: Database) -> None:
    [endless] = insert(conn, "spin")
    with running(Engine(db.dsn, lease_ttl=2, heartbeat_interval=0.3)):
        running_now = (
            "select from pg_stat_activity where query like '%gd_run_claims%' and wait_event = 'PgSleep' "
            "and datname = current_database()"
        )
        wait_until(lambda: conn.execute(running_now).fetchone() is not None)
        gd.cancel(conn, endless)
        ids = insert(conn, "pay", 5)
        ended(conn, *ids)
    assert paid(conn) == dict.fromkeys(range(1, 6), 1)


def test_a_timeout_of_the_machine_ends_one(conn: psycopg.Connection[Any], db: Database) -> None:
    conn.execute("""select gd_register('m', 1, 'pay', 'default', '{"timeouts": {"spin": 1000}, "max_attempts": 1}')""")
    [endless] = insert(conn, "spin")
    with running(Engine(db.dsn, lease_ttl=2, heartbeat_interval=0.3, reap_interval=0.2)):
        ended(conn, endless)
        ids = insert(conn, "pay", 5)
        ended(conn, *ids)
    assert field(conn, endless, "status") == "failed"
    assert paid(conn) == dict.fromkeys(range(1, 6), 1)


def test_one_that_ends_its_own_claim_is_an_error(conn: psycopg.Connection[Any], db: Database) -> None:
    [id] = insert(conn, "lose", max_attempts=1)
    with running(Engine(db.dsn)):
        ended(conn, id)
    assert "GD507" in field(conn, id, "last_error")


@pytest.mark.parametrize("profile", ["worker", None])
def test_a_role_without_the_rights_says_so_and_goes_on(
    server: Server, people: People, caplog: pytest.LogCaptureFixture, profile: str | None
) -> None:
    class Plain(FSM, name=f"plain_{profile}"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done()

    database, role = people.database(), people.role("runner")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(SETUP)
        owner.execute("select gd_define_step('m', 'pay', 'app.pay(jsonb)')")
        owner.execute("alter function app.pay(jsonb) security definer")
        owner.execute(f"grant usage on schema app to {role}".encode())
        owner.execute("select gd_grant(%s::text::regrole, 'worker')", (role,))
        if profile is None:
            # as grants that are older than steps in SQL
            owner.execute(f"revoke execute on function gd_run_claims(text, jsonb, jsonb) from {role}".encode())
        left = insert(owner, "pay")
        plain = [gd.insert(owner, Plain, {}) for _ in range(3)]
        with (
            caplog.at_level(logging.WARNING, "gendurable"),
            running(Engine(people.dsn(database, "runner"), [], reap_interval=None)),
        ):
            ended(owner, *plain)
            if profile:
                ended(owner, *left)
        said = [message for message in caplog.messages if "steps in SQL are not run here" in message]
        assert len(said) == (0 if profile else 1)
        assert paid(owner) == ({1: 1} if profile else {})


def test_rights_that_are_taken_away_leave_the_rest_running(
    server: Server, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    database, role = people.database(), people.role("runner")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(SETUP)
        owner.execute("select gd_define_step('m', 'pay', 'app.pay(jsonb)')")
        owner.execute("alter function app.pay(jsonb) security definer")
        owner.execute(f"grant usage on schema app to {role}".encode())
        owner.execute("select gd_grant(%s::text::regrole, 'worker')", (role,))
        events = Events()
        engine = Engine(people.dsn(database, "runner"), reap_interval=None, on_event=events)
        with caplog.at_level(logging.WARNING, "gendurable"), running(engine):
            ended(owner, *insert(owner, "pay"))
            owner.execute(f"revoke execute on function gd_run_claims(text, jsonb, jsonb) from {role}".encode())
            [id] = insert(owner, "pay")
            wait_until(lambda: events.count("release"))
            wait_until(lambda: field(owner, id, "status") == "runnable")
        assert [message for message in caplog.messages if "steps in SQL are not run here" in message]
        assert paid(owner) == {1: 1}


def test_a_refused_function_is_not_run_and_its_method_is_not_called(
    server: Server, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused(FSM, name="refused"):
        @step
        def start(self, ctx: gd.Context[dict[str, Any]]) -> Done:
            return Done("in Python")

    database, role = people.database(), people.role("runner")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(SETUP)
        # of an owner who could not act as the engine's role
        owner.execute("select gd_define_step('refused', 'start', 'app.pay(jsonb)')")
        owner.execute(f"alter function app.pay(jsonb) owner to {people.role('stranger')}".encode())
        owner.execute("select gd_grant(%s::text::regrole, 'worker')", (role,))
        id = gd.insert(owner, Refused, {"n": 1})
        events = Events()
        with (
            caplog.at_level(logging.WARNING, "gendurable"),
            running(Engine(people.dsn(database, "runner"), [], on_event=events)),
        ):
            wait_until(lambda: events.count("release"))
        assert field(owner, id, "status") == "runnable"
        assert [message for message in caplog.messages if "another owner" in message]
        assert paid(owner) == {}


def test_a_function_that_changes_how_transactions_begin_spoils_no_other(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    conn.execute(
        """create function app.twist(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            perform set_config(ctx #>> '{state,name}', ctx #>> '{state,value}', false);
            return '{"kind": "done"}';
        end $$"""
    )
    gd.define_step(conn, "m", "twist", "app.twist(jsonb)")
    with running(Engine(db.dsn)):
        for name, value in (
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_read_only", "on"),
            ("default_transaction_deferrable", "on"),
        ):
            bad = gd.insert(conn, "m", {"name": name, "value": value}, step="twist")
            ended(conn, bad)
            assert {result.status for result in ended(conn, *insert(conn, "pay", 10))} == {"done"}
    assert paid(conn) == dict.fromkeys(range(1, 11), 3)
    assert conn.execute("select max(attempt) from gd_instances").fetchone() == (0,)


@pytest.mark.parametrize("state", ["53100", "XX000", "55000"])
def test_what_the_server_cannot_commit_now_is_kept_and_the_others_go_on(
    conn: psycopg.Connection[Any], db: Database, state: str
) -> None:
    conn.execute(
        f"""create function app.full() returns trigger language plpgsql as $$
        begin
            if new.state ->> 'n' = '7' and new.status = 'done' then
                raise exception using errcode = '{state}', message = 'no room';
            end if;
            return new;
        end $$;
        create trigger full_disk before update on gendurable.instance
            for each row execute function app.full()""".encode()
    )
    ids = insert(conn, "pay", 30)
    events = Events()
    with running(Engine(db.dsn, on_event=events)):
        ended(conn, *ids[:6], *ids[7:])
        wait_until(lambda: events.count("stuck"))
        assert {about["id"] for _, about in events.named("stuck")} == {ids[6]}
        conn.execute("drop trigger full_disk on gendurable.instance")
        assert ended(conn, ids[6])[0].status == "done"
    assert paid(conn) == dict.fromkeys(range(1, 31), 1)
