"""Putting work in: insert with its options, files of JSON lines with bad ones among them, signals, waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import call, program, terminal
from support.wait import run_in_thread, wait_until

import gendurable_py as gd

Conn = psycopg.Connection[Any]


def count(conn: Conn) -> int:
    row = conn.execute("select count(*) from gd_instances").fetchone()
    assert row is not None
    return int(row[0])


def test_insert_says_everything(db: Database, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"to": "ädä"}', encoding="utf-8")
    said = call(
        db.dsn, "insert", "mail", f"@{tmp_path / 'state.json'}", "--step", "go", "--version", 2, "--queue", "mails",
        "--priority", 3, "--key", "k", "--unique", "u", "--at", "1h", "--expires", "2h", "--max-attempts", 4,
        "--meta", '{"a": 1}',
    )  # fmt: skip
    row = conn.execute(
        "select fsm, state, step, fsm_version, queue, priority, partition_key, unique_key, meta, "
        "eligible_at > now(), expires_at > eligible_at from gd_instances where id = %s",
        (int(said.out),),
    ).fetchone()
    assert row == ("mail", {"to": "ädä"}, "go", 2, "mails", 3, "k", "u", {"a": 1}, True, True)


def test_a_unique_key_that_is_held_is_told(db: Database) -> None:
    id = int(call(db.dsn, "insert", "mail", "--unique", "u").out)
    said = call(db.dsn, "insert", "mail", "--unique", "u", code=1)
    assert f"held by instance {id}" in said.err
    assert call(db.dsn, "insert", "mail", "--json").json["id"] > id


def test_what_is_inserted_can_be_waited_for(db: Database, conn: Conn) -> None:
    def serve(kind: str, **keys: Any) -> None:
        [claim] = wait_until(lambda: gd.claim(conn, "w"))
        gd.commit(conn, "w", [{"id": claim.id, "claim_no": claim.claim_no, "kind": kind, **keys}])

    server = run_in_thread(serve, "done", result={"sent": True})
    said = call(db.dsn, "insert", "mail", "--wait", "30s", "--json")
    server.result()
    assert (said.json["status"], said.json["result"]) == ("done", {"sent": True})
    server = run_in_thread(serve, "stop", reason="no luck")
    said = call(db.dsn, "insert", "mail", "--wait", "30s", code=1)
    server.result()
    assert said.out == "failed: no luck\n"
    assert call(db.dsn, "wait", said.err.split()[1], "--json", code=1).json["last_error"] == "no luck"


def test_signals(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "mail", unique_key="7")
    assert call(db.dsn, "signal", id, "paid", '{"sum": 3}', "--dedup", "x").out == "delivered\n"
    assert call(db.dsn, "signal", "7", "paid", "--unique", "--dedup", "x", "--json").json == {"result": "duplicate"}
    assert call(db.dsn, "signal", 99, "paid", code=1).out == "no_target\n"
    assert "--unique" in call(db.dsn, "signal", "order:7", "paid", code=2).err
    assert [one.payload for one in gd.signals(conn, id or 0)] == [{"sum": 3}]
    # whose hand it was stands in the audit, as what is done in the dashboard does
    [told] = gd.audit(conn, {"id": id}).calls
    assert (told.call, told.what) == ("gd_signal", {"name": "paid", "dedup_key": "x"}) and told.actor


# -- many


def lines(*values: object) -> str:
    return "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)


def test_many_from_stdin_and_from_a_file(db: Database, conn: Conn, tmp_path: Path) -> None:
    text = lines({"fsm": "mail", "state": {"n": 1}, "queue": "mails"}, {"state": {"n": 2}}, "", {"fsm": "x"})
    assert call(db.dsn, "insert-many", "-", "-m", "mail", "--json", input=text).json == {
        "inserted": 3, "existing": 0, "rejected": [],
    }  # fmt: skip
    rows = conn.execute("select fsm, queue, state from gd_instances order by id").fetchall()
    assert rows == [("mail", "mails", {"n": 1}), ("mail", "default", {"n": 2}), ("x", "default", {})]
    (tmp_path / "f.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"n": 1}\r\n{"n": 2}')
    assert call(db.dsn, "insert-many", tmp_path / "f.jsonl", "-m", "mail", "--states").out == "inserted: 2\n"
    assert count(conn) == 5
    call(db.dsn, "insert-many", tmp_path / "none", code=2)
    call(db.dsn, "insert-many", "--states", code=2)


def test_a_bad_line_stops_and_what_precedes_its_batch_is_in(db: Database, conn: Conn) -> None:
    text = lines(*[{"fsm": "mail"}] * 25, {"fsm": "mail", "priority": "high"}, *[{"fsm": "mail"}] * 5)
    said = call(db.dsn, "insert-many", "--batch", 10, input=text, code=3)
    assert "stopped at line 26: priority must be a whole number" in said.err
    assert "what precedes line 21 is in" in said.err
    assert count(conn) == 20


BAD = [
    {"fsm": "mail", "priority": "high"},
    {"fsm": "mail", "bogus": 1},
    "no json",
    '{"fsm": "mail", "state": NaN}',
    '{"fsm": "mail", "state": {"a": "\\u0000"}}',
    [1],
    {"state": {}},
    {"fsm": "x" * 5000},
    "{" * 100000,
    b"\xff\xfe",
]


def test_bad_lines_are_skipped_and_reported(db: Database, conn: Conn, tmp_path: Path) -> None:
    made: list[bytes] = []
    for number, bad in enumerate(BAD):
        made += [json.dumps({"fsm": "mail", "state": {"n": number}}).encode()] * 3
        made.append(bad if isinstance(bad, bytes) else (bad if isinstance(bad, str) else json.dumps(bad)).encode())
    (tmp_path / "f").write_bytes(b"\n".join(made))
    said = call(
        db.dsn,
        "insert-many",
        tmp_path / "f",
        "--batch",
        7,
        "--skip-errors",
        "--rejects",
        tmp_path / "bad",
        "--json",
        code=1,
    )
    assert said.json["inserted"] == count(conn) == 3 * len(BAD)
    assert [one["line"] for one in said.json["rejected"]] == [4 * (n + 1) for n in range(len(BAD))]
    assert (tmp_path / "bad").read_bytes().split(b"\n")[:-1] == made[3::4]


def test_a_file_with_unique_keys_may_be_sent_again(db: Database, conn: Conn) -> None:
    text = lines(*[{"fsm": "mail", "unique_key": f"u{n}"} for n in range(20)])
    call(db.dsn, "insert-many", input=text)
    said = call(db.dsn, "insert-many", "--batch", 3, "--json", input=text)
    assert said.json == {"inserted": 0, "existing": 20, "rejected": []}
    assert count(conn) == 20


def test_what_is_nobodys_fault_is_no_bad_line(db: Database, conn: Conn) -> None:
    conn.execute("revoke all on function gd_insert_many from public")
    role = f"gd_cli_{conn.info.backend_pid}"
    conn.execute(f"create role {role}".encode())
    try:
        from psycopg.conninfo import make_conninfo

        as_role = make_conninfo(db.dsn, options=f"-c role={role}")
        said = call(as_role, "insert-many", "--skip-errors", input=lines({"fsm": "mail"}), code=3)
        assert "permission denied" in said.err
    finally:
        conn.execute(f"drop role {role}".encode())


def test_a_batch_is_bounded_in_bytes(db: Database, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    from gendurable_py.cli import inserting

    monkeypatch.setattr(inserting, "_LARGEST_BATCH", 1000)
    text = lines(*[{"fsm": "mail", "state": {"x": "y" * 400}}] * 9, {"fsm": "mail", "priority": "high"})
    said = call(db.dsn, "insert-many", input=text, code=3)
    assert "what precedes line 10 is in" in said.err
    assert count(conn) == 9


def test_a_progress_bar_on_a_terminal(db: Database, conn: Conn, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(lines(*[{"fsm": "mail"}] * 3000))
    with terminal(db.dsn, "insert-many", tmp_path / "f", "--batch", 100) as shown:
        assert shown.ends() == 0
        shown.shows("inserted: 3000")
        assert b"\xe2\x94\x81" in shown.raw or b"\xe2\x95\xb8" in shown.raw
    done = program(db.dsn, "insert-many", tmp_path / "f")
    assert (done.stdout, done.stderr) == ("inserted: 3000\n", "")
