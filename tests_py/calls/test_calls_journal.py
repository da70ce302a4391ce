"""The journal of a flow, as callers read it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd

Conn = psycopg.Connection[Any]
ENTRIES = [
    {"k": "start", "at": 1795727340.25, "seed": "s"},
    {"k": "step", "name": "pay", "n": 0, "at": 1795727341.5, "v": '{"paid": 1.50, "note": "\\u20ac"}'},
    {"k": "step", "name": "ship", "n": 1, "at": 1e11, "e": {"kinds": ["KeyError"], "message": "k", "attempts": 2}},
    {"k": "signal", "name": "go", "n": 0, "at": -1e11, "v": "null"},
    {"k": "retried"},
]


def written(conn: Conn) -> int:
    id = gd.insert(conn, "journal.story") or 0
    [claim] = gd.claim(conn, "w")
    outcome = {"id": claim.id, "claim_no": claim.claim_no, "kind": "next", "step": "go"}
    [answer] = gd.commit(conn, "w", [{**outcome, "journal": {"at": 0, "add": ENTRIES}}])
    assert (claim.id, answer.result) == (id, "ok")
    return id


def test_entries_are_read_with_their_values(conn: Conn) -> None:
    id = written(conn)
    start, pay, ship, go, retried = gd.journal(conn, id)
    assert (pay.kind, pay.name, pay.n, pay.value, pay.error) == ("step", "pay", 0, {"paid": 1.5, "note": "€"}, None)
    assert (ship.n, ship.value, ship.error) == (1, None, "k")
    assert (go.kind, go.name, go.value) == ("signal", "go", None)
    assert retried == gd.JournalEntry(5, "retried", None, None, None, None, None)
    assert start.at is not None and start.at.timestamp() == 1795727340.25
    # no year that Python has not costs the others their rows
    assert ship.at is not None and go.at is None


def test_pages(conn: Conn) -> None:
    id = written(conn)
    all_ = gd.journal(conn, id)
    assert gd.journal(conn, id, after=2, limit=2) == all_[2:4]
    assert gd.journal(conn, id, after=-2) == all_[3:]
    assert gd.journal(conn, id, after=5) == gd.journal(conn, id, limit=0) == gd.journal(conn, 10**9) == []
    assert [entry.value for entry in gd.journal(conn, id, values=False)] == [None] * 5
    with pytest.raises(gd.InvalidArgument):
        gd.journal(conn, id, limit=-1)


async def test_the_same_on_an_async_connection(db: Any) -> None:
    with db.connect() as conn:
        id = written(conn)
    async with await db.aconnect() as conn:
        assert [entry.kind for entry in await gd.journal(conn, id, after=-2)] == ["signal", "retried"]


def test_a_fork_takes_over_so_many_entries(conn: Conn) -> None:
    fork = gd.fork(conn, written(conn), options={"journal": 2})
    assert fork is not None
    assert [entry.kind for entry in gd.journal(conn, fork)] == ["start", "step", "retried"]
