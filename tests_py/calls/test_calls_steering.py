"""Calls by which operators steer, and what is kept of them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd

Conn = psycopg.Connection[Any]


def test_who_did_what_by_hand(conn: Conn) -> None:
    assert gd.audit(conn) == gd.Audit([], None)
    id = gd.insert(conn, "work") or 0
    conn.execute("set gendurable.actor = 'ada'")
    gd.cancel(conn, id, "enough")
    gd.pause_queue(conn, "default")
    gd.resume_queue(conn, "default")
    page = gd.audit(conn, limit=2)
    assert [one.call for one in page.calls] == ["gd_resume_queue", "gd_pause_queue"]
    assert page.calls[0].actor == "ada" and page.calls[0].what == {"queue": "default"} and page.calls[0].affected == 1
    page = gd.audit(conn, after=page.next)
    assert [(one.call, one.id, one.what) for one in page.calls] == [("gd_cancel", id, {"reason": "enough"})]
    assert page.next is None
    assert gd.audit(conn, {"id": id}).calls == page.calls
    page = gd.audit(conn, {"call": "gd_none"}, look=2)
    assert page.calls == [] and page.next is not None
    assert gd.audit(conn, {"call": "gd_none"}, page.next) == gd.Audit([], None)
    with pytest.raises(gd.InvalidArgument):
        gd.audit(conn, {"who": "ada"})


def test_editing_and_deleting(conn: Conn) -> None:
    id = gd.insert(conn, "work", {"n": 1}, meta={"by": "ada"}, delay=3600) or 0
    assert gd.edit(conn, id, "second", {"n": 2}, queue="other", priority=3, meta={"by": "bob"})
    shown = gd.get(conn, id)
    assert shown is not None
    assert {key: shown[key] for key in ("step", "state", "queue", "priority", "meta")} == {
        "step": "second",
        "state": {"n": 2},
        "queue": "other",
        "priority": 3,
        "meta": {"by": "bob"},
    }
    assert gd.edit(conn, id)
    assert not gd.delete(conn, id)
    gd.cancel(conn, id)
    assert gd.delete(conn, id)
    with pytest.raises(gd.UnknownInstance):
        gd.delete(conn, id)
    with pytest.raises(gd.UnknownInstance):
        gd.edit(conn, id)


def test_many_at_once(conn: Conn) -> None:
    ids = [gd.insert(conn, "work", delay=3600) or 0 for _ in range(3)]
    gd.cancel(conn, ids[0])
    sent = gd.signal_many(conn, [*ids, 10**9], "go", {"n": 1}, dedup_key="once")
    assert sent == {ids[0]: "no", ids[1]: "done", ids[2]: "done", 10**9: "none"}
    assert gd.signal_many(conn, ids[1:], "go", dedup_key="once") == {ids[1]: "no", ids[2]: "no"}
    assert [signal.payload for signal in gd.signals(conn, ids[1])] == [{"n": 1}]
    assert gd.delete_many(conn, ids) == {ids[0]: "done", ids[1]: "no", ids[2]: "no"}
