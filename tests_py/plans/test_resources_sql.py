"""100,000 rows parked behind one key and a million signals for one instance: costs by the batch, nothing else waits.

GENDURABLE_TEST_SIGNALS=1000000 sends that many (30 s); the costs are compared, so fewer show the same.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, field, running
from support.plans import shared_buffers
from support.resources import Hears, count, counted, insert_many
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Engine, Next, job, step

Conn = psycopg.Connection[Any]

PARKED = 100_000
SIGNALS = int(os.environ.get("GENDURABLE_TEST_SIGNALS", "150000"))
FEW = 5_000


def one(conn: Conn, query: str, *params: object) -> Any:
    row = conn.execute(query, params).fetchone()
    assert row is not None
    return row[0]


# A hundred thousand rows behind one key


@pytest.fixture
def turns() -> Iterator[threading.Semaphore]:
    """Each instance of the key goes on when it gets a turn; at the end all do."""
    turns = threading.Semaphore(0)
    yield turns
    turns.release(PARKED)


def test_a_hundred_thousand_parked_rows_cost_the_others_nothing(
    db: Any, conn: Conn, turns: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []

    @job(name="resources.in_line")
    def in_line(args: dict[str, Any], ctx: Context[Any]) -> None:
        order.append(ctx.id)
        assert turns.acquire(timeout=60)

    @job(name="resources.free")
    def free(args: dict[str, Any]) -> None: ...

    def has_started(n: int) -> bool:
        return len(order) == n + 1

    line = insert_many(conn, [Child(in_line, partition_key="k")] * PARKED)
    before = insert_many(conn, [free] * 100)
    claims = counted(monkeypatch, "claim_rows")
    events = Hears()
    with running(Engine(db.dsn, [in_line, free], {"default": 4}, on_event=events, drain_timeout=0)):
        # The rows inserted after the line are done although only one of the line has started.
        wait_until(lambda: count(conn, "id = any(%s) and status = 'done'", before) == 100, 60)
        wait_until(lambda: events.counts["sleep"] and parked(conn) == PARKED - 1, 60)
        assert (order, count(conn, "status = 'executing'")) == (line[:1], 1)
        assert events.rows["claim"] == 101  # no more of them were handed out, to be kept or given back
        # A claim that finds nothing but the line is made a few times at most for each 1,000 rows that it parks.
        assert claims.total() < 100 + 5 * PARKED / 1000

        # Each commit of the holder admits the next one, and one only.
        for n in range(1, 20):
            turns.release()
            wait_until(partial(has_started, n))
            assert count(conn, "partition_key = 'k' and status = 'executing'") == 1
        assert order == line[:20]

        # A pause stops it behind the holder; resuming goes on with the next.
        gd.pause_queue(conn, "default")
        turns.release()
        wait_until(lambda: field(conn, line[19], "status") == "done")
        assert (len(order), count(conn, "status = 'executing'")) == (20, 0)
        gd.resume_queue(conn, "default")
        wait_until(lambda: len(order) == 21)
        assert order == line[:21]
        ended(conn, *insert_many(conn, [free] * 100))
    assert one(conn, "select gd_maintain()")["repaired"] == 0


def parked(conn: Conn) -> int:
    return int(one(conn, "select count(*) from gendurable.instance where eligible_at is null and finished_at is null"))


def test_pages_that_a_key_costs_do_not_grow_with_its_line(conn: Conn) -> None:
    def costs(length: int) -> dict[str, int]:
        key = f"k{length}"
        made = insert_many(conn, [{"fsm": "m", "queue": key, "partition_key": key}] * length)
        wait_until(lambda: [claim(conn, key, 1000), parked_in(conn, key) == length - 1][1], 60)
        conn.execute("vacuum analyze gendurable.instance")
        [(claim_no,)] = conn.execute("select claim_no from gendurable.instance where id = %s", (made[0],))
        done = json.dumps([{"id": made[0], "claim_no": claim_no, "kind": "done"}])
        asked = {
            "claim": ("select * from gd_claim('w', %s, 10)", key),
            "commit": ("select * from gd_commit('w', %s)", done),
            "cancel": ("select gd_cancel(%s)", made[length // 2]),
            "cancel the holder": ("select gd_cancel(%s)", made[0]),
            "reschedule": ("select gd_reschedule(%s, now())", made[length // 2]),
            "signal": ("select gd_signal(%s::bigint, 'x')", made[length // 2]),
            "heartbeat": ("select * from gd_heartbeat('w', %s)", json.dumps([[made[0], claim_no]])),
        }
        for query in asked.values():
            shared_buffers(conn, *query)  # the session's caches fill
        return {name: shared_buffers(conn, *query) for name, query in asked.items()}

    few, many = costs(1_000), costs(PARKED // 2)
    for name, pages in many.items():
        # Two levels more of an index, or a page that was written and is not yet clean; a walk would be hundreds.
        assert pages <= 2 * few[name] + 30, (name, few, many)


def claim(conn: Conn, queue: str, limit: int) -> list[tuple[Any, ...]]:
    return conn.execute("select id, claim_no from gd_claim('w', %s, %s, '1 hour')", (queue, limit)).fetchall()


def parked_in(conn: Conn, queue: str) -> int:
    count = "select count(*) from gendurable.instance where eligible_at is null and finished_at is null and queue = %s"
    return int(one(conn, count, queue))


def test_a_long_line_is_cancelled_row_by_row_and_removed_in_batches(conn: Conn) -> None:
    insert_many(conn, [{"fsm": "m", "partition_key": "k"}] * 1_500)
    [first] = claim(conn, "default", 10)
    assert one(conn, "select bool_and(gd_cancel(id)) from gd_instances") is True
    assert claim(conn, "default", 10) == []
    assert one(conn, "select gd_gc('0', 1000)") == 1_000
    upkeep = one(conn, "select gd_maintain('0')")
    assert (upkeep["ran"], upkeep["reaped"], upkeep["repaired"], upkeep["removed"]) == (True, 0, 0, 500)
    result = one(conn, "select result from gd_commit('w', %s)", outcome(first, "done"))
    assert (result, count(conn, "true")) == ("stale", 0)


def outcome(claimed: tuple[Any, ...], kind: str, **more: Any) -> str:
    return json.dumps([{"id": claimed[0], "claim_no": claimed[1], "kind": kind, **more}])


# A row that kills whoever runs it


def test_a_row_that_kills_its_worker_does_not_fail_those_that_run_beside_it(db: Any, conn: Conn) -> None:
    ids = insert_many(conn, [{"fsm": "m"}] * 30)
    killer, deaths = ids[4], 0

    rows: list[tuple[Any, ...]] = []

    def claims() -> bool:
        with psycopg.connect(db.dsn, autocommit=True) as session:  # a worker that has just been started
            rows[:] = session.execute("select id, claim_no from gd_claim('w', 'default', 10, '30 ms')").fetchall()
        # The last claim of all finds nothing: it ends the killer at the crash cap.
        return bool(rows) or not count(conn, "finished_at is null")

    while wait_until(claims) and rows:
        if any(id == killer for id, _ in rows):
            deaths += 1  # and nothing of the ten is committed
        else:
            outcomes = [{"id": id, "claim_no": claim_no, "kind": "done"} for id, claim_no in rows]
            conn.execute("select * from gd_commit('w', %s)", (json.dumps(outcomes),))
    assert deaths == 20
    assert conn.execute("select id from gd_instances where status <> 'done'").fetchall() == [(killer,)]
    assert "crash cap" in field(conn, killer, "last_error")


# A million signals for one instance


class Counter(FSM, name="resources.counter"):
    """Takes ten ticks in each step, as long as it is told to."""

    @step
    def start(self, ctx: Context[Any]) -> Any:
        taken = [ctx.signal("tick") for _ in range(10)]
        assert None not in taken
        seen.append((len(ctx.signals), [signal.payload for signal in taken if signal]))
        return Next("start") if len(seen) < 5 else Await("never")


seen: list[tuple[int, Any]] = []


def flood(conn: Conn, id: int, name: str, signals: int) -> None:
    assert one(
        conn,
        "select count(*) filter (where gd_signal(%s::bigint, %s, to_jsonb(g)) = 'delivered') "
        "from generate_series(1, %s) g",
        id,
        name,
        signals,
    ) == signals  # fmt: skip


def test_a_flooded_instance_gets_a_thousand_at_a_time_and_the_others_go_on(db: Any, conn: Conn) -> None:
    @job(name="resources.unsignalled")
    def unsignalled(args: dict[str, Any], ctx: Context[Any]) -> int:
        return len(ctx.signals)

    seen.clear()
    id = gd.insert(conn, Counter)
    assert id is not None
    flood(conn, id, "tick", FEW)
    events = Events()
    with running(Engine(db.dsn, [Counter, unsignalled], on_event=events)):
        others = insert_many(conn, [unsignalled] * 200)
        assert {result.result for result in ended(conn, *others)} == {0}
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        # It is asleep, and is signalled on; nobody is woken by what it does not await.
        claimed = events.count("claim")
        flood(conn, id, "tick", 1_000)
        ended(conn, *insert_many(conn, [unsignalled] * 20))
        assert events.count("claim") <= claimed + 20
    assert [size for size, _ in seen] == [1_000] * 5
    assert [payload for _, taken in seen for payload in taken] == list(range(1, 51))
    assert one(conn, "select count(*) from gendurable.signal") == FEW + 1_000 - 50
    assert gd.cancel(conn, id)
    # gd_retry would present it again: the inbox goes with the row.
    assert one(conn, "select count(*) from gendurable.signal") == FEW + 1_000 - 50
    assert gd.gc(conn, 0) == 221
    assert one(conn, "select count(*) from gendurable.signal") == 0


def test_pages_that_a_claim_and_a_commit_touch_do_not_grow_with_the_inbox(db: Any, conn: Conn) -> None:
    def costs(signals: int, session: Conn) -> dict[str, int]:
        found: dict[str, int] = {}
        queue = f"signals {signals} {one(conn, 'select count(*) from gd_instances')}"
        id = one(conn, "select gd_insert('m', p_queue => %s)", queue)
        flood(conn, id, "tick", signals)
        flood(conn, id, "rare", 1)
        [claimed] = claim(session, queue, 1)
        for name, awaited in (("flooded", "tick"), ("rare", "rare"), ("both", ["rare", "tick"])):
            awaits = outcome(claimed, "await", signals=awaited, step="start", consume=[])
            found[f"await {name}"] = shared_buffers(session, "select * from gd_commit('w', %s)", awaits)
            assert one(session, "select result from gd_commit('w', %s)", awaits) == "ok"
            found[f"claim {name}"] = shared_buffers(session, "select * from gd_claim('w', %s, 2)", queue)
            [row] = session.execute("select * from gd_claim('w', %s, 2)", (queue,)).fetchall()
            claimed, inbox = row[:2], row[13]
            if signals >= FEW:
                assert len(inbox) == 1_000
                assert sum(signal["name"] == "tick" for signal in inbox) == (999 if name == "rare" else 1_000)
            used = [signal["id"] for signal in inbox[:10]]
            goes = outcome(claimed, "next", step="start", consume=used)
            found[f"consume {name}"] = shared_buffers(session, "select * from gd_commit('w', %s)", goes)
        # A neighbour in the same claim has nothing to do with it.
        conn.execute("select gd_insert('m', p_queue => %s)", (queue,))
        [neighbour] = session.execute("select * from gd_claim('w', %s, 2)", (queue,)).fetchall()
        assert neighbour[13] == []
        return found

    session = db.connect()
    for _ in range(3):
        costs(1, session)  # plans are made while the inboxes are empty, and kept: a long session goes on with these
    few, many = costs(FEW, session), costs(SIGNALS, session)
    for name, pages in many.items():
        assert pages <= 1.5 * few[name] + 100, (name, few, many)
    # The end of a done one is one delete of its own rows; of one that is cancelled all goes with the row.
    left = one(conn, "select count(*) from gendurable.signal")
    [(id,)] = conn.execute("select min(id) from gd_instances where queue like %s", (f"signals {SIGNALS} %",))
    assert gd.cancel(conn, id)
    assert one(conn, "select count(*) from gendurable.signal") == left
    assert gd.gc(conn, 0) == 1
    assert one(conn, "select count(*) from gendurable.signal") == left - SIGNALS - 1
