"""Races of gd_commit_one, which waits: what it waited for counts, whichever way it takes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from support.races import Session, outcome


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_done_behind_a_signal_removes_it(db: Any, end: str) -> None:
    client, worker, other = Session(db, "c"), Session(db), Session(db)
    id = worker.insert()
    [claim] = worker.claim()
    client.begin().rows("select gd_signal(%s::bigint, 'late')", id)
    committing = worker.blocked(other, worker.commit_one, outcome(claim, "done", result=1))
    client.end(end)
    committing.result()
    assert other.one("select status from gd_instances where id = %s", id) == "done"
    assert other.one("select count(*) from gendurable.signal where instance_id = %s", id) == 0


def test_next_behind_a_cancel_is_lost(db: Any) -> None:
    client, worker, other = Session(db, "c"), Session(db), Session(db)
    id = worker.insert()
    [claim] = worker.claim()
    client.begin().rows("select gd_cancel(%s)", id)
    committing = worker.blocked(other, worker.commit_one, outcome(claim, "next", step="b"))
    client.commit_open()
    with pytest.raises(psycopg.Error) as lost:
        committing.result()
    assert lost.value.sqlstate == "GD505"
    assert other.one("select status from gd_instances where id = %s", id) == "cancelled"


def test_next_behind_a_lock_is_due_from_then_on(db: Any) -> None:
    # A claim that has passed the row's old time would not look there again.
    client, worker, other = Session(db, "c"), Session(db), Session(db)
    id = worker.insert()
    [claim] = worker.claim()
    client.begin().rows("select from gendurable.instance where id = %s for update", id)
    committing = worker.blocked(other, worker.commit_one, outcome(claim, "next", step="b"))
    began = client.one("select clock_timestamp()")
    client.roll_back()
    committing.result()
    assert other.one("select eligible_at > %s from gd_instances where id = %s", began, id)
    assert [row["id"] for row in other.claim()] == [id]


def test_next_behind_a_lock_that_outlasts_its_deadline_is_lost(db: Any) -> None:
    client, worker, other = Session(db, "c"), Session(db), Session(db)
    id = worker.insert(expires_at="2100-01-01")
    [claim] = worker.claim()
    client.begin().rows("select from gendurable.instance where id = %s for update", id)
    committing = worker.blocked(other, worker.commit_one, outcome(claim, "next", step="b"))
    client.conn.execute("update gendurable.instance set expires_at = clock_timestamp() where id = %s", (id,))
    client.commit_open()
    with pytest.raises(psycopg.Error) as lost:
        committing.result()
    assert lost.value.sqlstate == "GD505"
