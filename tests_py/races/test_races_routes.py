"""Queues of steps beside others: definitions in open transactions, who sleeps elsewhere, batches that fail in part."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from support.races import Session, outcome, three
from support.wait import wait_until


def route(session: Session, step: str = "far", queue: str | None = "there") -> None:
    session.rows("select gd_define_step('m', %s, p_options => %s)", step, Jsonb({"queue": queue}))


def where(session: Session, id: int) -> tuple[str, str, str | None]:
    row = session.look(id)
    return row["step"], row["queue"], row["home"]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_definition_in_an_open_transaction_stops_nobody_and_counts_from_its_commit_on(db: Any, how: str) -> None:
    a, b, c = three(db)
    moves, stays, waits = (b.insert() for _ in range(3))
    claims = {claim["id"]: claim for claim in b.claim(3)}
    assert b.commit(outcome(claims[waits], "await", signals="go", step="far")) == ["ok"]
    route(a.begin())
    b.conn.execute("set lock_timeout = '1s'")
    new = b.insert(step="far")
    assert b.commit(outcome(claims[stays], "next", step="far")) == ["ok"]
    b.commit_one(outcome(claims[moves], "next", step="far"))
    assert {where(c, id) for id in (moves, stays, new, waits)} == {("far", "default", None)}
    assert len(b.claim(1)) == 1
    a.end(how)
    after = ("far", "there", "default") if how == "commit" else ("far", "default", None)
    b.signal(waits)
    assert where(c, waits) == after
    assert where(c, b.insert(step="far")) == after
    claim = b.claim_one()
    assert b.commit(outcome(claim, "next", step="far")) == ["ok"]
    assert where(c, claim["id"]) == after


def test_two_definitions_wait_for_each_other_a_second_at_most(db: Any) -> None:
    a, b, c = three(db)
    route(a.begin())
    waiting = b.blocked(c, route, b, "other")
    a.commit_open()
    waiting.result()
    assert c.one("select count(*) from gd_steps") == 2


@pytest.mark.parametrize("way", ["insert", "commit", "commit_one", "signal", "retry", "release", "back"])
def test_who_sleeps_on_the_other_queue_is_told(db: Any, way: str) -> None:
    a, b, _ = three(db)
    if way in ("insert", "commit", "commit_one"):
        route(a)
    id = a.insert(step="far" if way in ("release", "retry") else "near") if way != "insert" else 0
    claim = a.claim_one() if id else {}
    if way == "signal":
        a.commit(outcome(claim, "await", signals="go", step="far"))
    if way == "retry":
        a.commit(outcome(claim, "stop", reason="x"))
    if way == "back":
        route(a)
        a.commit(outcome(claim, "next", step="far"))
        claim = a.claim_one("there")
        b.falls_asleep("default")
    else:
        b.falls_asleep("there")
        route(a)
    if way == "insert":
        id = a.insert(step="far")
    elif way == "commit":
        assert a.commit(outcome(claim, "next", step="far")) == ["ok"]
    elif way == "commit_one":
        a.commit_one(outcome(claim, "next", step="far"))
    elif way == "signal":
        a.signal(id)
    elif way == "retry":
        assert a.call("retry", id)
    elif way == "release":
        assert a.release(claim) == 1
    else:
        a.commit_one(outcome(claim, "next", step="near"))
    queue = "default" if way == "back" else "there"
    assert b.told() == [queue]
    assert [row["id"] for row in b.claim(10, queue)] == [id]


def test_of_a_batch_that_fails_in_part_the_others_are_placed(db: Any) -> None:
    a, b, _ = three(db)
    route(a)
    ids = [a.insert() for _ in range(9)]
    claims = {claim["id"]: claim for claim in a.claim(9)}
    outcomes = [outcome(claims[id], "next", step="far") for id in ids]
    outcomes[4]["insert"] = [{"fsm": ""}]
    outcomes[7] = outcome(claims[ids[7]], "next", step="near")
    assert a.commit(*outcomes) == ["ok"] * 4 + ["rejected"] + ["ok"] * 4
    there, here = ("far", "there", "default"), ("near", "default", None)
    assert [where(b, id) for id in ids if id != ids[4]] == [there] * 6 + [here] + [there]
    # and out of there, when nothing has a queue any more
    back = {claim["id"]: claim for claim in a.claim(9, "there")}
    a.rows("select gd_drop_step('m', 'far')")
    outcomes = [outcome(claim, "replay") for claim in back.values()]
    outcomes[2]["insert"] = [{"fsm": ""}]
    assert sorted(a.commit(*outcomes)) == ["ok"] * 6 + ["rejected"]
    assert sorted(where(b, id) for id in back) == [("far", "default", None)] * 6 + [there]


def test_a_key_keeps_its_order_over_two_queues(db: Any) -> None:
    a, b, c = three(db)
    route(a)
    ids = [a.insert(partition_key="k", unique_key=f"u{n}") for n in range(3)]
    first = a.claim_one()
    # its commit passes the key on while another session waits in it
    b.begin().insert(partition_key="k", step="far")
    assert a.commit(outcome(first, "next", step="far")) == ["ok"]
    b.commit_open()
    order = []
    for _ in range(4):
        [claim] = wait_until(lambda: c.claim(10) + c.claim(10, "there"))
        order.append(claim["unique_key"])
        c.finish(claim)
    # the insert of the open transaction became due before the commit did
    assert order == ["u1", "u2", None, "u0"]
    assert {c.status(id) for id in ids} == {"done"}
    assert c.maintain()["repaired"] == 0
