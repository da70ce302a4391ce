"""Calls that look at instances: one, what came out of it, and lists."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import gendurable_py as gd

Conn = psycopg.Connection[Any]


def test_looking_at_instances(conn: Conn) -> None:
    parent = gd.insert(conn, "work", meta={"by": "ada"}) or 0
    (claim,) = gd.claim(conn, "w", "default", limit=1)
    outcome = {"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "one"}, {"fsm": "two"}]}
    gd.commit(conn, "w", [{"id": claim.id, "claim_no": claim.claim_no} | outcome])
    tree = gd.tree(conn, parent)
    assert [(node.depth, node.fsm, node.parent_id) for node in tree] == [
        (0, claim.fsm, None),
        (1, "one", parent),
        (1, "two", parent),
    ]
    assert len(gd.tree(conn, parent, depth=0)) == len(gd.tree(conn, parent, limit=1)) == 1
    shown = gd.get(conn, parent)
    assert shown is not None and shown["meta"] == {"by": "ada"} and shown["children"] == {"runnable": 2}
    assert gd.get(conn, 10**9) is None
    page = gd.list(conn, {"parent_id": parent}, limit=1)
    assert [one.fsm for one in page.instances] == ["two"]
    page = gd.list(conn, {"parent_id": parent}, after=page.next, limit=5)
    assert [one.fsm for one in page.instances] == ["one"] and page.next is None
    assert page.instances[0].attributes == {} and page.instances[0].parent_id == parent
    assert gd.list(conn, {"id": 10**9}) == gd.Page([], None)
    page = gd.list(conn, {"fsm": "nobody"}, look=2)
    assert page.instances == [] and page.next is not None
    assert gd.count(conn, {"fsm": "one"}) == gd.Counted(1, True)
    assert gd.count(conn, look=2) == gd.Counted(2, False)
    with pytest.raises(gd.InvalidArgument):
        gd.list(conn, {"fsmm": "work"})


def test_the_doctor(conn: Conn) -> None:
    gd.hold_all(conn, "a test")
    found = {row.check: row for row in gd.doctor(conn)}
    assert found["functions"] == gd.Finding("functions", "ok", "every function is as it was made", None, {})
    assert found["hold"].level == "warning" and found["hold"].message.endswith("a test")
    assert found["hold"].hint == "gd_release_hold ends it."
    assert isinstance(found["hold"].detail, dict) and found["hold"].detail["reason"] == "a test"
    gd.release_hold(conn)
    assert {row.check: row.level for row in gd.doctor(conn)}["hold"] == "ok"


def test_why_something_does_not_run(conn: Conn) -> None:
    first = gd.insert(conn, "work", partition_key="k") or 0
    second = gd.insert(conn, "work", partition_key="k") or 0
    (claim,) = gd.claim(conn, "w", "default", limit=1)
    causes = gd.why(conn, second)
    assert [one.cause for one in causes] == ["key", "due"] and str(first) in causes[0].message
    assert causes[0].detail["instance"] == first and causes[0].since is not None and causes[0].until is None
    assert gd.why(conn, 10**9) == []
    assert [(one.place, one.id, one.standing) for one in gd.line(conn, "k")] == [
        (None, first, "holds"),
        (1, second, "waits"),
    ]
    assert [one.id for one in gd.line(conn, "k", limit=1)] == [first]
    gd.commit(conn, "w", [{"id": claim.id, "claim_no": claim.claim_no, "kind": "stop", "reason": "order 7"}])
    (failure,) = gd.failures(conn, "work")
    assert (failure.message, failure.instances, failure.last_id, failure.exact) == ("order #", 1, first, True)
    assert gd.failures(conn, since=failure.last_at, look=1)[0].exact is False
    assert gd.failures(conn, "nobody") == []
