"""What a claim hands out and what it costs: bounded in bytes and by the batch, whatever clients put in or once did."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from _races import Session, ids, outcome
from _wait import wait_until

MOST = 16_000_000
BIG = 9_000_000


@pytest.fixture
def w(db: Any) -> Session:
    return Session(db)


def send(w: Session, id: int, payload: str, name: str = "x", times: int = 1) -> None:
    """A payload that the server makes: it need not cross the wire."""
    w.rows(f"select gd_signal(%s::bigint, %s, {payload}) from generate_series(1, %s)", id, name, times)


def all_due(w: Session, *, limit: int = 10) -> list[dict[str, Any]]:
    """Everything that is due, over as many claims as that takes."""
    claims: list[dict[str, Any]] = []
    while some := w.claim(limit):
        claims += some
    return claims


# -- inboxes


def test_an_inbox_beyond_the_bound_is_cut_and_its_neighbours_run(w: Session) -> None:
    big = w.insert()
    send(w, big, f"to_jsonb(repeat('x', {BIG}))", times=4)
    neighbour, other = w.insert(), w.insert(queue="other")
    claims = {claim["id"]: claim for claim in all_due(w) + w.claim(1, "other")}
    assert set(claims) == {big, neighbour, other}
    inbox = claims[big]["signals"]
    assert len(inbox) == 4 and sum(len(json.dumps(one["payload"])) for one in inbox) <= MOST
    assert [one.get("cut", False) for one in inbox] == [False, True, True, True]
    assert [len(one["payload"] or "") for one in inbox] == [BIG, 0, 0, 0]
    # What was cut is there, page by page.
    pages = [w.rows("select * from gd_signals(%s, %s, 1)", big, one["id"] - 1) for one in inbox]
    assert [len(page[0]["payload"]) for page in pages] == [BIG] * 4
    assert w.rows("select * from gd_signals(%s, %s)", big, inbox[-1]["id"]) == []
    # And it can be used up without having been read.
    assert w.commit(outcome(claims[big], "next", step="go", consume=[one["id"] for one in inbox])) == ["ok"]
    assert w.rows("select * from gd_signals(%s)", big) == []


def test_what_is_awaited_is_handed_out_before_what_is_not(w: Session) -> None:
    id = w.insert()
    claim = w.claim_one()
    send(w, id, f"to_jsonb(repeat('x', {BIG}))", "noise", 2)
    w.commit(outcome(claim, "await", signals="wanted"))
    send(w, id, f"to_jsonb(repeat('y', {BIG}))", "wanted")
    inbox = w.claim_one()["signals"]
    assert [one["name"] for one in inbox] == ["noise", "noise", "wanted"]
    assert [one["payload"] is None for one in inbox] == [True, True, False]


def test_an_awaited_signal_that_is_too_large_does_not_make_the_row_spin(w: Session) -> None:
    id = w.insert()
    w.commit(outcome(w.claim_one(), "await", signals="huge"))
    send(w, id, "to_jsonb(repeat('x', 20000000))", "huge")
    claim = w.claim_one()
    assert claim["signals"][0]["cut"] is True and claim["signals"][0]["payload"] is None
    w.commit(outcome(claim, "await", signals="huge"))
    # It was shown, if not its payload: the next await waits for another one.
    assert w.claim() == []
    assert w.one("select status from gd_instances where id = %s", id) == "awaiting_signal"


# -- children


def test_children_beyond_the_bound_are_cut_and_other_rows_run(w: Session) -> None:
    parent = w.insert()
    w.commit(outcome(w.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "kids"}] * 5))
    kids = w.claim(5, "kids")
    for kid in kids:
        w.rows(
            "select gd_commit_one('w', jsonb_build_object('id', %s::bigint, 'claim_no', %s::bigint, 'kind', 'done',"
            f" 'result', repeat('r', {BIG})))",
            kid["id"],
            kid["claim_no"],
        )
    other = w.insert()
    claims = {claim["id"]: claim for claim in all_due(w)}
    assert set(claims) == {parent, other}
    childs = claims[parent]["childs"]
    assert [child["id"] for child in childs] == [kid["id"] for kid in kids]
    assert [child["status"] for child in childs] == ["done"] * 5
    assert [child.get("cut", False) for child in childs] == [False, True, True, True, True]
    assert all(child["result"] is None and child["state"] is None for child in childs[1:])
    page = w.rows("select length(result::text) as length from gd_childs(%s, %s)", parent, childs[0]["id"])
    assert [row["length"] for row in page] == [BIG + 2] * 4


def test_a_reason_of_any_length_in_a_child_is_short_in_its_parent(w: Session) -> None:
    w.insert()
    w.commit(outcome(w.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "kids"}] * 3))
    w.commit(*(outcome(kid, "stop", reason="x" * 900_000) for kid in w.claim(3, "kids")))
    assert all(len(child["last_error"]) < 10_000 for child in w.claim_one()["childs"])


# -- states


def test_a_claim_ends_when_it_holds_enough_and_the_rest_stays_due(w: Session) -> None:
    for _ in range(5):
        w.rows("select gd_insert('m', jsonb_build_object('s', repeat('x', 7000000)))")
    small = [w.insert() for _ in range(3)]
    first = w.claim(100)
    assert 2 <= len(first) < 8
    assert len(first) + len(all_due(w, limit=100)) == 8
    assert w.one("select count(*) from gd_instances where id = any(%s) and status = 'executing'", small) == 3


def test_a_row_larger_than_a_whole_claim_is_handed_out_alone(w: Session) -> None:
    before = w.insert()
    w.rows("select gd_insert('big', jsonb_build_object('s', repeat('x', 40000000)))")
    after = w.insert()
    sizes = []
    while claims := w.rows("select id, fsm, length(state::text) as size from gd_claim('w', p_limit => 10)"):
        sizes.append([(row["fsm"], row["size"] > MOST) for row in claims])
    assert [("big", True)] in sizes
    assert w.one("select count(*) from gd_instances where id in (%s, %s) and status = 'executing'", before, after) == 2


def test_numbers_that_are_short_in_jsonb_and_endless_in_text_end_the_row_alone(w: Session) -> None:
    # 12,000 numbers of 131,072 digits: 200 kB stored, 1.6 GB of text, which no statement can send.
    numbers = "select jsonb_agg(1e131071::numeric) from generate_series(1, 12000)"
    bomb = w.one(f"select gd_insert('bomb', jsonb_build_object('n', ({numbers})))")
    neighbours = [w.insert() for _ in range(3)]
    assert ids(w.claim(10)) == neighbours
    [found] = w.rows("select status, last_error from gd_instances where id = %s", bomb)
    assert found["status"] == "failed" and "too large to be handed out" in found["last_error"]


def test_what_cannot_be_handed_out_waits_for_its_locked_parent_aside(db: Any, w: Session) -> None:
    parent = w.insert()
    w.commit(outcome(w.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "kids"}]))
    numbers = "select jsonb_agg(1e131071::numeric) from generate_series(1, 12000)"
    w.conn.execute(
        f"update gendurable.instance set state = jsonb_build_object('n', ({numbers})) where queue = 'kids'".encode()
    )
    other = Session(db, "other")
    other.begin().signal(parent)
    neighbour = w.insert(queue="kids")
    assert ids(w.claim(5, "kids")) == [neighbour]
    other.roll_back()
    w.conn.execute("update gendurable.instance set eligible_at = now() where queue = 'kids' and status = 'runnable'")

    def is_released() -> bool:
        assert w.claim(5, "kids") == []
        return w.status(parent) == "runnable"

    wait_until(is_released)
    assert w.claim_soon()[0]["childs"][0]["status"] == "failed"


# -- text that a session cannot carry


@pytest.fixture
def latin(db: Any) -> psycopg.Connection[Any]:
    conn: psycopg.Connection[Any] = db.connect(client_encoding="latin1")
    return conn


HOSTILE = {
    "state": "select gd_insert('bad', '{\"name\": \"\u65e5\u672c\"}')",
    "meta": "select gd_insert('bad', p_meta => '{\"name\": \"\u65e5\u672c\"}')",
    "fsm": "select gd_insert('bad \u65e5\u672c')",
    "step": "select gd_insert('bad', p_step => '\u65e5\u672c')",
    "partition_key": "select gd_insert('bad', p_partition_key => '\u65e5\u672c')",
    "unique_key": "select gd_insert('bad', p_unique_key => '\u65e5\u672c')",
    "signal": "select gd_signal(gd_insert('bad'), 'x', '\"\u65e5\u672c\"')",
    "signal name": "select gd_signal(gd_insert('bad'), '\u65e5\u672c')",
}


@pytest.mark.parametrize("place", HOSTILE)
def test_what_a_session_cannot_carry_is_left_to_others_and_its_neighbours_run(
    w: Session, latin: psycopg.Connection[Any], place: str
) -> None:
    first = w.insert()
    w.rows(HOSTILE[place].replace("%", "%%"))
    last = w.insert()
    got = latin.execute("select id from gd_claim('latin', p_limit => 10)").fetchall()
    assert [row[0] for row in got] == [first, last]
    assert latin.execute("select id from gd_claim('latin', p_limit => 10)").fetchall() == []
    # A session that can carry it gets it as it is: nothing was burnt.
    [claim] = wait_until(lambda: w.claim(10))
    assert claim["fsm"].startswith("bad") and claim["attempt"] == 0


def test_a_kept_claim_is_not_answered_where_it_could_not_be_carried(w: Session, latin: psycopg.Connection[Any]) -> None:
    id = w.insert()
    row = latin.execute("select id, claim_no from gd_claim('latin')").fetchone()
    assert row is not None
    w.rows("select gd_signal(%s::bigint, 'x', '\"\u65e5\u672c\"')", id)
    answer = latin.execute(
        "select result, detail from gd_commit('latin', %s::jsonb)",
        (json.dumps([{"id": row[0], "claim_no": row[1], "kind": "next", "step": "go", "keep": True}]),),
    ).fetchall()
    assert answer == [("ok", None)]
    assert w.claim_soon()[0]["step"] == "go"


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


# -- claims that are kept


def test_a_kept_claim_carries_no_large_inbox_and_no_children(w: Session) -> None:
    plain, large, parent = w.insert(), w.insert(), w.insert()
    claims = {claim["id"]: claim for claim in w.claim(3)}
    w.commit(outcome(claims[parent], "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "kids"}]))
    w.finish(*w.claim(1, "kids"))
    [joined] = w.claim_soon()
    send(w, plain, "'1'")
    send(w, large, f"to_jsonb(repeat('x', {BIG}))")
    answers = w.answers(*(outcome(c, "next", step="go", keep=True) for c in (claims[plain], claims[large], joined)))
    assert [answer["result"] for answer in answers] == ["ok"] * 3
    # Kept, or given back: then a claim hands it out, which is bounded in bytes.
    assert [answer["detail"] is not None for answer in answers] == [True, False, False]
    assert sorted(ids(all_due(w))) == [large, parent]


def test_a_claim_that_ends_an_instance_is_durable(w: Session) -> None:
    """What watchers are told of must not be taken back by a crash of the server."""
    id = w.insert()
    w.claim_one(lease="1 microsecond")
    w.conn.execute("update gendurable.instance set crashes = 19 where id = %s", (id,))
    w.conn.execute("set synchronous_commit = off")
    w.conn.execute("set gendurable.floor = ''")
    w.begin()
    assert w.claim() == [] and w.status(id) == "failed"
    assert w.one("show synchronous_commit") == "on"
    w.commit_open()
    assert w.one("show synchronous_commit") == "off"
    w.insert()
    w.begin().claim_one()
    assert w.one("show synchronous_commit") == "off"
    w.commit_open()
