"""What a claim hands out and what it costs: bounded in bytes and by the batch, whatever clients put in or once did."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from support.races import Session, all_due, ids, outcome
from support.wait import wait_until

MOST = 16_000_000
BIG = 9_000_000


@pytest.fixture
def w(db: Any) -> Session:
    return Session(db)


def send(w: Session, id: int, payload: str, name: str = "x", times: int = 1) -> None:
    """A payload that the server makes: it need not cross the wire."""
    w.rows(f"select gd_signal(%s::bigint, %s, {payload}) from generate_series(1, %s)", id, name, times)


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


def test_children_whose_results_are_short_but_for_their_text_are_cut(w: Session) -> None:
    """490 numbers of 131,000 digits: 1.7 kB compressed, 8 kB as they are, 64 MB as text."""
    parent = w.insert()
    w.commit(outcome(w.claim_one(), "schedule_childs", step="join", childs=[{"fsm": "c", "queue": "kids"}] * 20))
    w.rows(
        "select gd_commit_one('w', jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done', 'result',"
        " (select jsonb_agg(n * 1e131000::numeric) from generate_series(1, 490) n))) from gd_claim('w', 'kids', 20) c"
    )
    assert w.one("select max(pg_column_size(result)) from gendurable.instance") < 8000
    rows = w.rows("select id, pg_column_size(childs) as size, childs @> '[{\"cut\": true}]' as cut from gd_claim('w')")
    assert [(row["id"], row["cut"]) for row in rows] == [(parent, True)]
    assert rows[0]["size"] < 20_000


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


# -- a lease that ends within the claim: the clock stepped forward, or the claim took long

LIFTS_ANOTHER = """
create function public.lift_another() returns trigger language plpgsql as $$
begin
    if new.eligible_at is null and old.eligible_at is not null then
        update gendurable.instance set woken = 0, eligible_at = clock_timestamp() where unique_key = 'another';
    end if;
    return null;
end $$;
create trigger lift_another after update on gendurable.instance
for each row when (old.unique_key = 'baton') execute function public.lift_another();
"""


def test_a_row_is_handed_out_once_although_its_lease_ends_within_the_claim(
    w: Session, conn: psycopg.Connection[Any]
) -> None:
    # The key "held" has a row that runs, and one that waits.
    holder = w.insert(partition_key="held")
    assert w.claim_one()["id"] == holder
    another = w.insert(partition_key="held", unique_key="another")
    assert w.claim() == []
    # In the key "free" the first row is parked; the one behind it is due, as the baton.
    first = w.insert(partition_key="free")
    baton = w.insert(partition_key="free", unique_key="baton")
    conn.execute("update gendurable.instance set eligible_at = null where id = any(%s)", ([first, another],))
    # Each look of the claim parks a row and lifts another, so that it looks once more, by the clock of then.
    conn.execute(LIFTS_ANOTHER.encode())
    claims = w.rows("select * from gd_claim('w', 'default', 4, '1 microsecond')")
    assert ids(claims) == [first]
    assert w.status(baton) == w.status(another) == "runnable"
