"""docs/wire.md says what a worker may say of itself and what it is told: tried here."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support.wire import examples, keys

Conn = psycopg.Connection[Any]


def hello(conn: Conn, about: dict[str, Any]) -> dict[str, Any]:
    row = conn.execute("select gd_hello('w', %s)", (Jsonb(about),)).fetchone()
    assert row is not None
    return dict(row[0])


def test_a_worker_says_what_is_listed_and_nothing_else(conn: Conn) -> None:
    minimal, full = examples("What a worker says")
    assert (minimal, list(full)) == ({}, keys("What a worker says"))
    assert hello(conn, full)["counted"] == full["counters"]["no"]
    for key, value in full.items():
        assert hello(conn, {key: value})["noted"] and hello(conn, {key: None})["noted"], key
        wrong = {"x": 1} if isinstance(value, list) else ["x"]
        with pytest.raises(psycopg.Error) as refused:
            hello(conn, {key: wrong})
        assert refused.value.sqlstate == "GD501", key
    with pytest.raises(psycopg.Error, match="unknown option"):
        hello(conn, {"surprise": 1})


def test_a_worker_is_told_what_is_listed(conn: Conn) -> None:
    conn.execute("select gd_pause_queue('mail')")
    told = hello(conn, {"queues": {"mail": 1, "other": 1}})
    assert set(told) == {*keys("What a worker is told")}
    assert told["queues"] == {"mail": {"concurrency": None, "paused": True}}
