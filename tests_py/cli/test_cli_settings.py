"""What holds for many: queues, pauses, holds, limits, schedules, steps in SQL; installation and upkeep."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import call, program

import gendurable_py as gd

Conn = psycopg.Connection[Any]


def test_queues(db: Database, conn: Conn) -> None:
    assert "no queue" in call(db.dsn, "queues").out
    gd.insert(conn, "mail", queue="mails")
    gd.insert(conn, "mail", queue="mails", partition_key="k")
    call(db.dsn, "queue", "set", "mails", "--limit", 3, "--concurrency", 2)
    [row] = call(db.dsn, "queues", "--json").json
    assert (row["queue"], row["due"], row["max_executing"], row["concurrency"]) == ("mails", 2, 3, 2)
    assert "limit 3, 2 a worker" in call(db.dsn, "queues").out
    assert call(db.dsn, "queue", "set", "mails", "--limit", "none", "--json").json == {"queue": "mails", "limit": None}
    assert call(db.dsn, "queues", "--json").json[0]["max_executing"] is None
    for wrong in ([], ["--limit", "many"], ["--limit", "-1"]):
        call(db.dsn, "queue", "set", "mails", *wrong, code=2)


def test_pauses_of_all_kinds(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail", queue="mails")
    assert id is not None
    assert "Nothing" in call(db.dsn, "pauses").out
    for what in (["queue", "mails"], ["instance", id], ["machine", "mail"], ["step", "mail", "send", "--version", 2]):
        call(db.dsn, "pause", *what)
        call(db.dsn, "pause", *what, code=0 if what[0] == "queue" else 1)
    rows = call(db.dsn, "pauses", "--json").json
    assert sorted((row["kind"], row["step"] or "") for row in rows) == [
        ("instance", "start"), ("machine", ""), ("queue", ""), ("step", "send"),
    ]  # fmt: skip
    assert {row["paused_by"] for row in rows} == {"ada"}
    assert "send" in call(db.dsn, "pauses").out
    assert call(db.dsn, "why", id, "--json").json[0]["cause"] in ("instance paused", "machine paused", "queue paused")
    for what in (["queue", "mails"], ["instance", id], ["machine", "mail"], ["step", "mail", "send", "--version", 2]):
        call(db.dsn, "resume", *what)
        call(db.dsn, "resume", *what, code=0 if what[0] == "queue" else 1)
    assert call(db.dsn, "pauses", "--json").json == []
    call(db.dsn, "pause", "instance", 99, code=1)
    assert [claim.id for claim in gd.claim(conn, "w", "mails")] == [id]


def test_holding_everything(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    assert call(db.dsn, "hold", "--json").json == []
    call(db.dsn, "hold", "a restored copy")
    assert "a restored copy" in call(db.dsn, "hold").out
    assert "Everything is held: a restored copy (ada" in call(db.dsn, "queues").err
    assert "Everything is held: a restored copy" in call(db.dsn, "top", "--once").out
    assert gd.claim(conn, "w") == []
    call(db.dsn, "hold", "why", "--release", code=2)
    call(db.dsn, "hold", "--release")
    call(db.dsn, "hold", "--release", code=1)
    assert len(gd.claim(conn, "w")) == 1


def test_workers(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    gd.claim(conn, "w7")
    [row] = call(db.dsn, "workers", "--json").json
    assert (row["worker"], row["executing"]) == ("w7", 1)
    assert "w7" in call(db.dsn, "workers").out


def test_rate_limits(db: Database, conn: Conn) -> None:
    call(db.dsn, "limit", "set", "mail", 5, "--per", "1m", "--burst", 2)
    [row] = call(db.dsn, "limits", "--json").json
    assert (row["name"], row["allowed"], row["period"], row["burst"]) == ("mail", 5, "00:01:00", 2)
    call(db.dsn, "limit", "close", "mail:eu", "10m")
    assert "closed until" in call(db.dsn, "limits").out
    call(db.dsn, "limit", "close", "mail:eu", "none")
    assert "closed until" not in call(db.dsn, "limits").out
    call(db.dsn, "limit", "close", "other", "10m", code=1)
    call(db.dsn, "limit", "set", "mail", "none")
    assert call(db.dsn, "limits", "--json").json == []
    call(db.dsn, "limit", "set", "mail", "many", code=2)
    call(db.dsn, "limit", "key", "customer", 3)
    gd.insert_many(conn, [{"fsm": "m", "partition_key": "customer:7"}] * 5)
    assert len(gd.claim(conn, "w", limit=5)) == 3
    call(db.dsn, "limit", "key", "customer", "x", code=2)


def test_schedules(db: Database, conn: Conn) -> None:
    call(
        db.dsn, "schedule", "nightly", "0 6 * * *", "report", '{"n": 1}', "--timezone", "Europe/Berlin",
        "--overlap", "skip", "--catch-up", "none", "--queue", "reports", "--key", "k",
    )  # fmt: skip
    [row] = call(db.dsn, "schedules", "--json").json
    assert (row["name"], row["cron"], row["timezone"], row["queue"]) == (
        "nightly",
        "0 6 * * *",
        "Europe/Berlin",
        "reports",
    )
    id = call(db.dsn, "trigger", "nightly", "--json").json["id"]
    found = conn.execute("select fsm, state, partition_key from gd_instances where id = %s", (id,)).fetchone()
    assert found == ("report", {"n": 1}, "k")
    assert call(db.dsn, "trigger", "nightly", code=1).out.startswith("held back")
    call(db.dsn, "pause", "schedule", "nightly")
    call(db.dsn, "pause", "schedule", "nightly", code=1)
    assert "paused" in call(db.dsn, "schedules").out
    call(db.dsn, "resume", "schedule", "nightly")
    call(db.dsn, "resume", "schedule", "nightly", code=1)
    call(db.dsn, "schedule", "nightly", "nonsense", "report", code=3)
    call(db.dsn, "unschedule", "nightly")
    call(db.dsn, "unschedule", "nightly", code=1)


def test_steps_in_sql(db: Database, conn: Conn) -> None:
    conn.execute(
        'create function app_go(ctx jsonb) returns jsonb language sql as $$ select \'{"kind": "done"}\'::jsonb $$'
    )
    assert "No step" in call(db.dsn, "steps").out
    gd.define_step(conn, "mail", "start", "app_go(jsonb)")
    [row] = call(db.dsn, "steps", "--json").json
    assert (row["fsm"], row["step"], row["problem"]) == ("mail", "start", None)
    assert "app_go" in call(db.dsn, "steps").out
    assert "Nothing is due" in call(db.dsn, "rehearse").out
    id = gd.insert(conn, "mail")
    for arguments in ([], [id]):
        [ran] = call(db.dsn, "rehearse", *arguments, "--json").json
        assert (ran["id"], ran["result"], ran["after"]["status"]) == (id, "ok", "done")
    conn.execute(
        "create or replace function app_go(ctx jsonb) returns jsonb language sql as $$ select to_jsonb(1 / 0) $$"
    )
    assert "division by zero" in call(db.dsn, "rehearse", code=1).out
    assert gd.result(conn, id or 0) == gd.Result("runnable", None, None)


# -- installation and upkeep


def test_installing_and_removing(empty_db: Database) -> None:
    assert "is installed" in call(empty_db.dsn, "install").out
    version = call(empty_db.dsn, "upgrade", "--json").json["version"]
    assert call(empty_db.dsn, "--version").out == f"{version}\n"
    call(empty_db.dsn, "insert", "mail")
    said = call(empty_db.dsn, "uninstall", code=2)
    assert "with 1 instances?" in " ".join(said.err.replace("│", " ").split())
    call(empty_db.dsn, "list")
    call(empty_db.dsn, "uninstall", "--yes")
    call(empty_db.dsn, "list", code=3)
    assert "not installed" in call(empty_db.dsn, "uninstall", "--yes", code=3).err
    assert "not installed" in call(empty_db.dsn, "upgrade", code=3).err


def test_an_extension_is_left_to_those_who_made_it(db: Database) -> None:
    if not db.server.as_extension:
        pytest.skip("needs a server with the extension's files: make install PG_CONFIG=...")
    assert "DROP EXTENSION" in call(db.dsn, "uninstall", "--yes", code=3).err
    assert "ALTER EXTENSION" in call(db.dsn, "upgrade", code=3).err


def test_grants(db: Database, conn: Conn) -> None:
    role = f"gd_cli_{conn.info.backend_pid}"
    conn.execute(f"create role {role}".encode())
    try:
        call(db.dsn, "grant", role, "reader")
        query = "select has_function_privilege(%s, 'gd_why(bigint)', 'execute')"
        assert conn.execute(query, (role,)).fetchone() == (True,)
        call(db.dsn, "grant", role, "king", code=1)
        call(db.dsn, "grant", "nobody_of_this_name", "reader", code=3)
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_maintenance_and_the_doctor(db: Database, conn: Conn) -> None:
    gd.insert(conn, "mail")
    # The server of the tests has settings that nobody should have: the code is 1 in any case.
    assert "upkeep: the upkeep has not run" in call(db.dsn, "doctor", code=None).out
    assert call(db.dsn, "maintain", "--retention", "1d", "--json").json["removed"] == 0
    levels = {row["check"]: row["level"] for row in call(db.dsn, "doctor", "--json", code=None).json}
    assert levels["upkeep"] == "ok"
    assert "upkeep" not in call(db.dsn, "doctor", code=None).out
    assert "ok  upkeep" in call(db.dsn, "doctor", "--all", code=None).out
    conn.execute("drop index gendurable.instance_due")
    assert "problem  indexes" in call(db.dsn, "doctor", code=1).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(db: Database, shell: str) -> None:
    said = call(db.dsn, "completion", shell)
    assert "gendurable" in said.out
    call(db.dsn, "completion", "tcsh", code=2)


def test_bash_completes_commands(db: Database) -> None:
    asked = {"_GENDURABLE_COMPLETE": "complete_bash", "COMP_WORDS": "gendurable resch", "COMP_CWORD": "1"}
    assert program(db.dsn, **asked).stdout.split() == ["reschedule"]
