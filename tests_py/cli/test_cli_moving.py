"""Deploys, forks and moves; workers that are known, drained and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
from conftest import Database
from support.cli import call
from support.engine import running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine, job

Conn = psycopg.Connection[Any]


@job(name="test_cli_moving.quick", queue="quick")
def quick(args: dict[str, Any]) -> int:
    return 1


def test_machines_and_their_migration(db: Database, conn: Conn) -> None:
    gd.register(conn, "order", version=1, options={"steps": ["start", "pay"]})
    gd.register(conn, "order", version=2, options={"steps": ["start", "charge"]})
    ids = [gd.insert(conn, "order", {"n": n}, step="pay", version=1) for n in range(3)]
    rows = {row["version"]: row for row in call(db.dsn, "machines", "--json").json}
    assert (rows[1]["runnable"], rows[2]["runnable"], rows[2]["steps"]) == (3, 0, ["charge", "start"])
    assert "charge, start" in call(db.dsn, "machines").out
    move = ("migrate", "order", 1, 2, "--step", "pay=charge")
    assert "would move: 3" in call(db.dsn, *move, "--dry-run").out
    said = call(db.dsn, *move, code=2)
    assert "Move 3 instances of order to version 2?" in " ".join(said.err.replace("│", " ").split())
    [claim] = gd.claim(conn, "w")
    said = call(db.dsn, *move, "--yes", "--json", code=1)
    assert (said.json["done"], [one["result"] for one in said.json["others"]]) == (2, ["executing"])
    gd.release(conn, "w", [(claim.id, claim.claim_no)])
    conn.execute(
        "create function app_up(s jsonb) returns jsonb language sql as $$ select s || '{\"up\": true}'::jsonb $$"
    )
    assert call(db.dsn, *move, "--state", "public.app_up(jsonb)", "--yes").out == "moved: 1\n"
    found = conn.execute("select id, step, fsm_version, state ? 'up' from gd_instances order by id").fetchall()
    assert found == [(id, "charge", 2, id == claim.id) for id in ids]
    call(db.dsn, "migrate", "order", 1, 2, "--step", "pay", code=2)
    call(db.dsn, "migrate", "order", 1, 9, "--yes", code=3)


def test_a_fork(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order", {"n": 1})
    made = int(call(db.dsn, "fork", id, "--step", "pay", "--state", '{"n": 2}', "--options", '{"unique_key": "u"}').out)
    found = conn.execute("select step, state, unique_key from gd_instances where id = %s", (made,)).fetchone()
    assert found == ("pay", {"n": 2}, "u")
    call(db.dsn, "fork", id, "--options", '{"unique_key": "u"}', code=1)
    call(db.dsn, "fork", 99, code=1)


def test_a_document_goes_from_one_database_to_another(db: Database, conn: Conn, tmp_path: Path) -> None:
    id = gd.insert(conn, "order", {"ü": 12345678901234567890123})
    document = call(db.dsn, "export", id).out
    assert json.loads(document)
    call(db.dsn, "export", id, tmp_path / "order.json")
    assert json.loads((tmp_path / "order.json").read_text(encoding="utf-8"))["format"] == json.loads(document)["format"]
    for made in (call(db.dsn, "import", tmp_path / "order.json").out, call(db.dsn, "import", "-", input=document).out):
        found = conn.execute("select state::text from gd_instances where id = %s", (int(made),)).fetchone()
        assert found == ('{"ü": 12345678901234567890123}',)
    call(db.dsn, "export", 99, code=1)
    call(db.dsn, "export", id, "/nowhere/x", code=2)
    call(db.dsn, "import", tmp_path / "none", code=2)
    call(db.dsn, "import", "-", input="{}", code=3)
    call(db.dsn, "import", "-", input=b"\xff", code=2)


def test_attributes_and_conflicts(db: Database, conn: Conn) -> None:
    id = int(call(db.dsn, "insert", "order", '{"n": 1}', "--unique", "u", "--attributes", '{"tenant": "acme"}').out)
    assert [
        row["id"] for row in call(db.dsn, "list", "--attributes", '{"tenant": "acme"}', "--json").json["instances"]
    ] == [id]
    assert call(db.dsn, "list", "--attributes", '{"tenant": "other"}', "--json").json["instances"] == []
    assert call(db.dsn, "insert", "order", "--unique", "u", "--on-conflict", "id").out == f"{id}\n"
    call(db.dsn, "insert", "order", '{"n": 2}', "--unique", "u", "--on-conflict", "replace")
    assert conn.execute("select state from gd_instances where id = %s", (id,)).fetchone() == ({"n": 2},)


def test_a_worker_is_known_drained_and_counted(db: Database, conn: Conn) -> None:
    engine = Engine(db.dsn, [quick], queues={"quick": 3}, heartbeat_interval=0.2)
    with running(engine):
        wait_until(lambda: call(db.dsn, "workers", "--json").json, 30)
        [row] = call(db.dsn, "workers", "--json").json
        assert (row["worker"], row["queues"], row["state"]) == (engine.worker, {"quick": 3}, "running")
        assert "quick=3" in call(db.dsn, "workers").out
        assert "quick=3" in call(db.dsn, "top", "--once").out
        ids = [gd.insert(conn, quick) for _ in range(5)]
        for id in ids:
            assert gd.wait(conn, id or 0, 30).status == "done"
        wait_until(lambda: sum(row["ended"] for row in call(db.dsn, "stats", "--json").json) == 5, 30)
        assert "test_cli_moving.quick" in call(db.dsn, "stats", "--minutes", 5).out

        call(db.dsn, "drain", engine.worker)
        wait_until(lambda: call(db.dsn, "workers", "--json").json[0]["state"] == "drained", 30)
        late = gd.insert(conn, quick)
        assert gd.result(conn, late or 0) == gd.Result("runnable", None, None)
        call(db.dsn, "drain", engine.worker, "--resume")
        assert gd.wait(conn, late or 0, 30).status == "done"
        call(db.dsn, "drain", engine.worker, "--resume", code=1)
        call(db.dsn, "drain", "nobody", code=1)
    assert call(db.dsn, "stats", "--minutes", 5, "--json").json
