"""What is longer than one call looks at: the end of a history, and what stands far behind in the audit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import call

import gendurable_py as gd
from gendurable_py.cli import looking

Conn = psycopg.Connection[Any]


@pytest.mark.parametrize("entries", [3, 20, 999, 1000, 1001, 1537, 4096])
def test_show_has_the_latest_of_a_history(db: Database, conn: Conn, entries: int) -> None:
    id = gd.insert(conn, "mail")
    conn.execute(
        "insert into gendurable.history (instance_id, no, at, attempt, kind, step) "
        "select %s, g, now(), 0, 'next', 's' from generate_series(1, %s) g",
        (id, entries),
    )
    shown = call(db.dsn, "show", id, "--json").json["history"]
    assert [one["no"] for one in shown] == list(range(1, entries + 1))[-20:]


def test_the_audit_is_looked_at_once_and_says_how_to_go_on(
    db: Database, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = gd.insert(conn, "mail")
    conn.execute("set gendurable.actor = 'bob'")
    gd.cancel(conn, id or 0)
    conn.execute(
        "insert into gendurable.audit (call, session_role, what, count) "
        "select 'gd_x', 'r', '{}', 1 from generate_series(1, 45000)"
    )
    found = call(db.dsn, "audit", "--actor", "bob", "--json").json
    assert [one["id"] for one in found["calls"]] == [id] and found["next"] is None
    first = call(db.dsn, "audit", "--call", "gd_x", "--limit", "2", "--json").json
    behind = call(db.dsn, "audit", "--call", "gd_x", "--limit", "2", "--json", "--after", first["next"]).json
    numbers = [one["no"] for one in (*first["calls"], *behind["calls"])]
    assert len(numbers) == 4 and numbers == list(range(numbers[0], numbers[0] - 4, -1))
    assert "There may be more: --after" in call(db.dsn, "audit", "--call", "gd_x", "--limit", "2").err
    monkeypatch.setattr(looking, "_LOOK_AT_CALLS", 20_000)
    found = call(db.dsn, "audit", "--actor", "bob", "--json").json
    assert found["calls"] == [] and found["next"] == numbers[0] - 20_000 + 1
    assert "Not one more of the 20,000 that were looked at fits" in call(db.dsn, "audit", "--actor", "bob").err
    monkeypatch.setattr(looking, "_LOOK_AT_CALLS", 100_000)
    again = call(db.dsn, "audit", "--actor", "bob", "--json", "--after", found["next"]).json
    assert [one["id"] for one in again["calls"]] == [id]
