"""The code of a flow changes while it is parked: what is no continuation is a clear error, and the rest goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from support import flow_changed as code
from support.engine import ended, field, running
from support.flows import kinds_of
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine


@pytest.fixture(autouse=True)
def _fresh() -> None:
    code.ran.clear()


def parked(conn: psycopg.Connection[Any], id: int | None) -> bool:
    return bool(field(conn, id, "status") == "awaiting_signal")


def begin_all(db: Any, conn: psycopg.Connection[Any], names: list[str], body: code.Body, **more: Any) -> dict[str, int]:
    machines = [code.define(name, body, **more) for name in names]
    with running(Engine(db.dsn, machines=machines)):
        ids = {name: gd.insert(conn, name) or 0 for name in names}
        wait_until(lambda: all(parked(conn, id) for id in ids.values()))
    return ids


def test_what_is_no_continuation_is_a_clear_error(db: Any, conn: Any) -> None:
    names = {body.__name__: body for body in code.CONFLICTS}
    ids = begin_all(db, conn, list(names), code.first, max_attempts=2)
    before = {name: kinds_of(conn, id) for name, id in ids.items()}
    code.ran.clear()
    machines = [code.define(name, body, max_attempts=1) for name, body in names.items()]
    with running(Engine(db.dsn, machines=machines)):
        for id in ids.values():
            gd.signal(conn, id, "go")
        # The first time it is an error, and nothing has happened: a rollback would heal it.
        wait_until(lambda: all(field(conn, id, "last_error") for id in ids.values()))
        assert {name: kinds_of(conn, id)[: len(before[name])] for name, id in ids.items()} == before
        assert code.ran == []
        for id in ids.values():
            gd.reschedule(conn, id, datetime.now(UTC))
        results = dict(zip(ids, ended(conn, *ids.values()), strict=True))
    assert code.ran == []
    for body, words in code.CONFLICTS.items():
        result = results[body.__name__]
        assert result.status == "failed"
        assert words in (result.last_error or ""), body.__name__
        assert (result.last_error or "").startswith("NonDeterministic: "), body.__name__


def test_what_is_a_continuation_goes_on(db: Any, conn: Any) -> None:
    names = {body.__name__: body for body in code.GO_ON}
    ids = begin_all(db, conn, list(names), code.first)
    code.ran.clear()
    with running(Engine(db.dsn, machines=[code.define(name, body) for name, body in names.items()])):
        for id in ids.values():
            gd.signal(conn, id, "go")
        results = dict(zip(ids, ended(conn, *ids.values()), strict=True))
    assert {name: result.result for name, result in results.items()} == {
        body.__name__: done for body, done in code.GO_ON.items()
    }
    assert "a" not in code.ran
    assert "b" not in code.ran


def test_a_rollback_heals_it(db: Any, conn: Any) -> None:
    ids = begin_all(db, conn, ["rolled"], code.first)
    id = ids["rolled"]
    code.ran.clear()
    with running(Engine(db.dsn, machines=[code.define("rolled", code.renamed)])):
        gd.signal(conn, id, "go")
        wait_until(lambda: field(conn, id, "last_error"))
    assert "NonDeterministic" in field(conn, id, "last_error")
    with running(Engine(db.dsn, machines=[code.define("rolled", code.first)])):
        gd.reschedule(conn, id, datetime.now(UTC))
        [result] = ended(conn, id)
    assert result.result == ["a", "b", "c"]
    assert code.ran == ["c"]


def test_a_failed_one_goes_on_with_the_old_code_when_it_is_retried(db: Any, conn: Any) -> None:
    ids = begin_all(db, conn, ["retried"], code.first, max_attempts=1)
    id = ids["retried"]
    code.ran.clear()
    with running(Engine(db.dsn, machines=[code.define("retried", code.swapped, max_attempts=1)])):
        gd.signal(conn, id, "go")
        [result] = ended(conn, id)
    assert result.status == "failed"
    with running(Engine(db.dsn, machines=[code.define("retried", code.first)])):
        assert gd.retry(conn, id)
        [result] = ended(conn, id)
    assert result.result == ["a", "b", "c"]
    assert code.ran == ["c"]


def test_patched_in_a_loop_says_again_what_it_said_first(db: Any, conn: Any) -> None:
    """The first round was made by the old code: the others have what is new."""
    ids = begin_all(db, conn, ["rounds"], code.rounds)
    id = ids["rounds"]
    fresh = code.define("rounds", code.rounds_patched)
    with running(Engine(db.dsn, machines=[fresh])):
        begun = gd.insert(conn, "rounds")
        for _ in range(3):
            gd.signal(conn, id, "go")
            gd.signal(conn, begun or 0, "go")
        old, new = ended(conn, id, begun)
    assert old.result == ["work 0", "work 1", "work 2"]
    assert new.result == [f"{what} {turn}" for turn in range(3) for what in ("more", "work")]


def test_another_version_stands_beside_the_old_one(db: Any, conn: Any) -> None:
    ids = begin_all(db, conn, ["versions"], code.first)
    id = ids["versions"]
    machines = [code.define("versions", code.first), code.define("versions", code.swapped, version=2)]
    with running(Engine(db.dsn, machines=machines)):
        second = gd.insert(conn, "versions", version=2)
        gd.signal(conn, id, "go")
        gd.signal(conn, second or 0, "go")
        first, other = ended(conn, id, second)
    assert first.result == ["a", "b", "c"]
    assert (other.status, other.result) == ("done", None)
