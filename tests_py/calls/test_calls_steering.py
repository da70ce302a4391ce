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
    assert page.calls[0].actor == "ada" and page.calls[0].what == {"queue": "default"} and page.calls[0].count == 1
    page = gd.audit(conn, after=page.next)
    assert [(one.call, one.id, one.what) for one in page.calls] == [("gd_cancel", id, {"reason": "enough"})]
    assert page.next is None
    assert gd.audit(conn, {"id": id}).calls == page.calls
    page = gd.audit(conn, {"call": "gd_none"}, look=2)
    assert page.calls == [] and page.next is not None
    assert gd.audit(conn, {"call": "gd_none"}, page.next) == gd.Audit([], None)
    with pytest.raises(gd.InvalidArgument):
        gd.audit(conn, {"who": "ada"})
