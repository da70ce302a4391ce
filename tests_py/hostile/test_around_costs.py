"""What a claim costs: bounded by the batch, whatever clients once did; and fair with one slot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.races import Session, all_due, outcome


@pytest.fixture
def w(db: Any) -> Session:
    return Session(db)


# -- what a claim costs


def blocks(w: Session, queue: str) -> int:
    """Pages that an empty claim touches: its cost, as far as it is not a matter of the machine."""
    plan = w.one(f"explain (analyze, buffers, format json) select from gd_claim('w', '{queue}', 10)")
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


def used(w: Session, queue: str, priorities: int) -> None:
    """A queue that had rows of so many priorities, all of which have ended."""
    w.insert_many(*({"queue": queue, "priority": n - priorities // 2} for n in range(priorities)))
    seen = 0
    while claims := w.claim(1000, queue):
        assert set(w.finish(*claims)) == {"ok"}
        seen += len(claims)
    assert seen == priorities


def test_priorities_that_a_queue_once_had_cost_an_empty_claim_nothing(w: Session) -> None:
    used(w, "one", 1)
    used(w, "many", 2000)
    w.conn.execute("vacuum gendurable.instance")
    for queue in ("one", "many"):
        assert w.claim(10, queue) == []
    assert blocks(w, "many") <= 5 * max(blocks(w, "one"), 10)


def test_rows_of_many_priorities_are_found_in_order_also_behind_delayed_ones(w: Session) -> None:
    delayed = [{"queue": "q", "priority": n, "delay_ms": 3_600_000} for n in range(2500)]
    w.insert_many(*delayed)
    late = w.insert(queue="q", priority=9000)
    early = w.insert(queue="q", priority=3000)
    found = [claim["id"] for claim in w.claim_soon("q") + w.claim_soon("q")]
    assert found == [early, late]


def test_the_memory_of_a_session_is_bounded(w: Session) -> None:
    for n in range(1500):
        w.rows("select from gd_claim('w', %s)", f"queue {n} {'x' * 200}")
    assert w.one("select octet_length(current_setting('gendurable.floor'))") <= 100_100


UNREADABLE = [
    "x",
    "null",
    "1",
    "[]",
    '{"default": 5}',
    '{"default": {"0": 5}}',
    '{"default": {"0": []}}',
    '{"default": {"0": [[], [], "x"]}}',
    '{"default": {"0": [["x", {}], [null, []], {}, [], {}]}}',
    '{"default": {"0": [[1e400, 1], [1, 1e400], 1e400, 1e400, 1e400]}}',
    '{"default": {"0": [[9e15, 1], [9e15, 1], 9e15, 9e15, 0]}}',
    '{"default": {"0": [[-5, -5], [-5, -5], -5, -5, -5]}}',
    '{"default": {"": ["x", "y", "z", "w"]}}',
    '{"default": {"": [9e15, 9e15, 2147483646, [5, "x"]]}}',
    '{"default": {"x": [[0, 0], [0, 0], 0, 900, 1], "99999999999": []}}',
    '{"": "x", "default": "y"}',
    '{"": ["x"]}',
    '{"": [1e400]}',
    "[" * 10_000,
    '{"default": {"": [1, 900, null, [4, 4, 4, 99]]}}',
]


def test_names_of_queues_that_are_long_empty_are_forgotten_and_live_ones_are_seen(w: Session) -> None:
    for queue in ("due", "later", "parked"):
        w.insert(queue=queue, **({"delay": "1 hour"} if queue == "later" else {}))
    w.commit(outcome(w.claim_one("parked"), "await", signals="x"))
    w.conn.execute("insert into gendurable.queue_name select 'gone ' || n from generate_series(1, 15000) n")
    for _ in range(4):
        assert w.maintain()["errors"] == {}
    assert w.one("select count(*) from gendurable.queue_name") <= 10_000
    w.conn.execute("delete from gendurable.queue_name where queue = 'later'")
    found = {row["queue"]: row for row in w.rows("select * from gd_queues where queue not like 'gone %%'")}
    assert {name: (row["due"], row["delayed"], row["parked"]) for name, row in found.items()} == {
        "due": (1, 0, 0),
        "later": (0, 1, 0),
        "parked": (0, 0, 1),
    }


@pytest.mark.parametrize("memory", UNREADABLE, ids=lambda text: text[:40])
def test_a_memory_that_cannot_be_believed_is_none(w: Session, memory: str) -> None:
    id = w.insert()
    w.rows("select set_config('gendurable.floor', %s, false)", memory)
    claims = w.claim()
    assert [claim["id"] for claim in claims] == [id]
    assert w.rows("select * from gd_sleep('w', '{default}')") != []


# -- fair with one slot


def test_a_claim_of_one_serves_lifted_rows_and_free_rows_in_turn(w: Session) -> None:
    for _ in range(40):
        w.insert(partition_key="hot")
    w.claim_one()
    w.claim(40)  # parks what waits in the key
    w.rows(
        "select gd_commit('w', (select jsonb_agg(jsonb_build_object('id', id, 'claim_no', claim_no, 'kind', 'done'))"
        " from gendurable.instance where status = 'executing'))"
    )
    for _ in range(20):
        w.insert()
    kinds = []
    for _ in range(20):
        [claim] = w.claim(1)
        kinds.append(claim["partition_key"] is not None)
        w.commit(outcome(claim, "done"))
    # In turn: neither kind comes three times without the other.
    assert all(len(set(kinds[at : at + 3])) == 2 for at in range(len(kinds) - 2))


# -- limits of any size


def test_a_claim_of_all_there_are(w: Session) -> None:
    ids = [w.insert() for _ in range(3)]
    assert [claim["id"] for claim in w.claim(2147483647)] == ids
    more = w.insert(queue="more")
    rows = w.rows("select id from gd_claim_many('w', '{\"default\": 300000000, \"more\": 2147483647}')")
    assert [row["id"] for row in rows] == [more]


def test_the_largest_key_limit_is_no_limit(w: Session) -> None:
    w.rows("select gd_set_key_limit('t', 2147483647)")
    ids = [w.insert(partition_key="t:1") for _ in range(1200)]
    claims = all_due(w, limit=500)
    assert sorted(claim["id"] for claim in claims) == ids
    assert set(w.finish(*claims)) == {"ok"}


def test_two_queues_of_one_hash_are_slept_on_once(w: Session) -> None:
    assert w.one("select hashtext('q122757') = hashtext('q7169')")
    w.rows("select gd_sleep('w', '{q122757,q7169}')")
    w.rows("select gd_wake('w')")
    assert w.one("select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'") == 0


# -- rations


def test_a_scan_that_stalled_once_delays_nothing_for_longer_than_two_seconds(w: Session) -> None:
    now = w.one("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
    id = w.insert(eligible_at=w.one("select now() - interval '1 hour'"))
    for ago, found in ((1_000_000, []), (2_100_000, [id])):
        # It stands at now, its last full scan was so long ago and took a second.
        lane = [[now - 60_000, 0], [now - 60_000, 0], now - ago, 1_000_000, 1]
        memory = {"": [now], "default": {"0": lane, "": [now - ago, 0, None, "{0}"]}}
        w.rows("select set_config('gendurable.floor', gendurable._sealed(%s), false)", json.dumps(memory))
        assert [claim["id"] for claim in w.claim()] == found


def calls(w: Session, name: str) -> int:
    w.rows("select pg_stat_force_next_flush()")
    return int(w.one("select coalesce(max(calls), 0) from pg_stat_user_functions where funcname = %s", name))


@pytest.mark.parametrize("words", [400, 1500])
def test_states_that_the_server_compresses_are_not_weighed_one_by_one(w: Session, words: int) -> None:
    """A claim of states of 3 kB took three times as long as one of states that are stored as they are."""
    text = " ".join(f"word {n}" for n in range(words))
    w.insert_many(*({"state": {"n": n, "text": text}} for n in range(20)))
    assert w.one("select bool_and(pg_column_compression(state) is not null) from gendurable.instance")
    w.rows("select set_config('track_functions', 'all', false)")
    assert len(w.claim(20)) == 20
    assert (calls(w, "_weigh_plain"), calls(w, "_weigh_row")) == (1, 0)


def test_what_a_claim_has_no_room_for_is_not_even_weighed(w: Session) -> None:
    """A claim that turns all that was picked into text takes longer than its lease, and so for ever."""
    large = "(select jsonb_build_object('x', jsonb_agg(md5(n::text || m))) from generate_series(1, 60000) m)"
    w.rows(f"select gd_insert('m', {large}) from generate_series(1, 20) n")
    w.rows("select set_config('track_functions', 'all', false)")
    assert 4 <= len(w.claim(20)) <= 9
    assert calls(w, "_weigh_plain") <= 10
    assert calls(w, "_weigh_row") == 0
