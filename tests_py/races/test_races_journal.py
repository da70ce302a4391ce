"""Journals, where two sessions meet at an instance: a commit of its worker, gd_retry, the retention, a fork."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.races import Row, Session, outcome, three


def append(claim: Row, kind: str, at: int, *entries: Row, **keys: Any) -> Row:
    return outcome(claim, kind, **keys, journal={"at": at, "add": [*entries]})


def kinds(session: Session, id: int) -> list[str]:
    return [row["kind"] for row in session.rows("select kind from gd_journal(%s)", id)]


STEP = {"k": "step", "name": "a"}


def failed(session: Session, other: Session) -> tuple[int, Row]:
    """A flow that its first checkpoint has failed, and the claim under which that was committed."""
    id = session.insert()
    claim = other.claim_one()
    end = {"k": "end", "failed": 2}
    stop = append(claim, "stop", 0, {"k": "start"}, STEP, end, reason="no")
    assert other.commit(stop) == ["ok"]
    return id, claim


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_late_commit_meets_a_retry(db, how):
    a, b, c = three(db)
    id, claim = failed(c, b)
    a.begin().call("retry", id)
    # the outcome of a worker that was thought lost: its claim is over, whatever becomes of the retry
    late = append(claim, "done", 3, STEP)
    assert b.commit(late) == ["stale"]
    a.end(how)
    assert b.commit(late) == ["stale"]
    assert kinds(c, id) == (["start", "retried"] if how == "commit" else ["start", "step", "end"])


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_retry_waits_for_the_commit_that_fails_its_flow(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    stop = append(claim, "stop", 0, {"k": "start"}, STEP, {"k": "end", "failed": 2}, reason="no")
    a.begin()
    assert a.commit(stop) == ["ok"]
    waiting = b.blocked(c, lambda: b.call("retry", id))
    a.end(how)
    # it sees the entries that it has waited for
    assert waiting.result() is (how == "commit")
    assert kinds(c, id) == (["start", "retried"] if how == "commit" else [])


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_that_meets_a_retry_of_many(db, how):
    a, b, c = three(db)
    id, _ = failed(c, b)
    a.begin().rows("select * from gd_retry_many(%s)", [id])
    assert b.rows("select result from gd_retry_many(%s)", [id]) == [{"result": "busy"}]
    assert b.claim() == []
    a.end(how)
    if how == "rollback":
        assert b.call("retry", id)
    [claim] = b.claim_soon()
    assert b.commit(append(claim, "next", 2, STEP, step="a")) == ["ok"]
    assert kinds(c, id) == ["start", "retried", "step"]


def test_a_worker_that_was_overtaken_appends_nothing(db):
    a, b, c = three(db)
    id = c.insert()
    first = a.claim_one(lease="1 microsecond")
    [second] = b.claim_soon()
    assert (first["id"], second["id"]) == (id, id)
    assert b.commit(append(second, "next", 0, {"k": "start"}, step="a", keep=True)) == ["ok"]
    assert a.commit(append(first, "next", 0, {"k": "other"}, step="b")) == ["stale"]
    assert a.commit(append(first, "next", 1, {"k": "other"}, step="b")) == ["stale"]
    assert kinds(c, id) == ["start"]


@pytest.mark.parametrize("call", ["gc", "delete"])
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_removal_meets_an_open_commit(db, call, how):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    a.begin()
    assert a.commit(append(claim, "done", 0, {"k": "start"}, STEP)) == ["ok"]
    removed = b.call("gc", "0") if call == "gc" else b.call("delete", id)
    assert not removed
    a.end(how)
    if how == "rollback":
        assert a.commit(append(claim, "done", 0, {"k": "start"})) == ["ok"]
    assert c.call("delete", id)
    assert c.rows("select from gendurable.journal") == []


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_commit_meets_the_removal_of_its_instance(db, how):
    a, b, c = three(db)
    id = c.insert()
    claim = b.claim_one()
    c.call("cancel", id)
    a.begin().call("delete", id)
    assert b.commit(append(claim, "next", 0, {"k": "start"}, step="a")) == ["stale"]
    a.end(how)
    assert b.commit(append(claim, "next", 0, {"k": "start"}, step="a")) == ["stale"]
    assert c.rows("select from gendurable.journal") == []


def test_a_retry_of_what_is_being_removed(db):
    a, b, c = three(db)
    id, _ = failed(c, b)
    a.begin().call("delete", id)
    waiting = b.blocked(c, lambda: b.call("retry", id))
    a.end("commit")
    assert waiting.result() is False
    assert c.rows("select from gendurable.journal") == []


def test_a_fork_takes_what_is_committed(db):
    a, b, c = three(db)
    id = c.insert()
    claim = a.claim_one()
    assert a.commit(append(claim, "next", 0, {"k": "start"}, STEP, step="a", keep=True)) == ["ok"]
    claim["claim_no"] = c.one("select claim_no from gendurable.instance where id = %s", id)
    a.begin()
    assert a.commit(append(claim, "next", 1, STEP, step="a", keep=True)) == ["rejected"]
    assert a.commit(append(claim, "next", 2, STEP, STEP, step="a", keep=True)) == ["ok"]
    fork = b.one("select gd_fork(%s)", id)
    a.end("commit")
    assert kinds(c, fork) == ["start", "step", "retried"]
    whole = b.one("select gd_fork(%s, p_options => %s)", id, Jsonb({"journal": 4}))
    assert kinds(c, whole) == ["start", "step", "step", "step", "retried"]
