"""Pages by the batch and not by the table, with 1,000,000 due and 1,000,000 finished rows."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from support.plans import fresh, sessions, shared_buffers

Conn = psycopg.Connection[Any]

# Measured: 1,030 for the claim and 1,850 for the commit; a look at the whole table would be tens of thousands.
MOST_BUFFERS = 4000


def claimed(conn: Conn) -> list[tuple[int, int]]:
    return conn.execute("select id, claim_no from gd_claim('w', 'default', 100)").fetchall()


def commit_text(claims: list[tuple[int, int]]) -> str:
    kinds = ({"kind": "done"}, {"kind": "next", "step": "two"})
    return json.dumps([{"id": id, "claim_no": no} | kinds[at % 2] for at, (id, no) in enumerate(claims)])


def test_a_claim_and_a_commit_touch_pages_by_the_batch(conn: Conn) -> None:
    small = conn.execute("select gd_insert_many(%s)", (json.dumps([{"fsm": "m"}] * 200),)).rowcount
    assert small == 200
    # Plans are made and kept while the table is nearly empty: these are the plans that a long session goes on with.
    for _ in range(10):
        with conn.transaction(force_rollback=True):
            conn.execute("select count(*) from gd_commit('w', %s)", (commit_text(claimed(conn)),))
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, eligible_at, status, finished_at) "
        "select 'm', 'start', 'default', case when g % 2 = 0 then now() - interval '1 hour' + g * interval '1 ms' end, "
        "case when g % 2 = 0 then 'runnable' else 'done' end::gendurable.status, case when g % 2 = 1 then now() end "
        "from generate_series(1, 2000000) g"
    )
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance")
        for session in sessions(conn):
            claims = claimed(session)
            assert len(claims) == 100
            assert shared_buffers(session, "select * from gd_claim('w', 'default', 100)") <= MOST_BUFFERS
            assert shared_buffers(session, "select * from gd_commit('w', %s)", commit_text(claims)) <= MOST_BUFFERS


def ended(conn: Conn, count: int, what: str = "", *, value: str = "null") -> None:
    """Instances that ended an hour ago; of `what` each has a value."""
    conn.execute(
        f"insert into gendurable.instance (fsm, step, queue, status, finished_at, {what or 'result'}) "
        f"select 'm', 's', 'old', 'done', now() - interval '1 hour' + g * interval '1 us', {value} "
        f"from generate_series(1, {count}) g".encode()
    )


def test_a_batch_of_the_collector_touches_pages_by_the_batch(conn: Conn) -> None:
    ended(conn, 24_000)
    for _ in range(8):  # the plans are kept
        assert conn.execute("select gd_gc('0')").fetchone() == (2000,)
    small = shared_buffers(conn, "select gd_gc('0')")
    # a parent that lives over many children that have ended, many that their machine keeps, and many that are old
    parent = conn.execute("select gd_insert('m')").fetchone()
    assert parent is not None
    conn.execute("update gendurable.instance set children_pending = 0 where id = %s", parent)
    ended(conn, 100_000, "parent_id, barrier_no", value=f"{parent[0]}, 1")
    ended(conn, 100_000, "keep_until", value="now() + interval '1 day'")
    ended(conn, 1_000_000)
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance")
        for session in sessions(conn):
            # an index that is a level deeper, and pages that are half as full
            assert shared_buffers(session, "select gd_gc('0')") <= 2 * small, (analyzed, session is conn, small)
            assert shared_buffers(session, "select gd_gc('1 day')") <= small / 10
            assert shared_buffers(session, "select gendurable._find_overdue('0')") <= small / 10
    # the parent ends, and its children come in by the batch, too
    conn.execute("select gd_cancel(%s)", parent)
    assert shared_buffers(conn, "select gd_gc('1 day')") <= 60 * small
    assert conn.execute("select gd_gc('1 day')").fetchone() == (0,)
    free = conn.execute("select count(*) from gd_instances where parent_id = %s", parent).fetchone()
    assert free == (100_000,)
    freed = conn.execute("select count(*) from gendurable.instance where parent_id = %s and barrier_no is null", parent)
    assert freed.fetchone() == (20_000,)


def test_a_vacuum_of_an_emptied_table_does_not_make_the_collector_read_all_of_the_next_one(conn: Conn) -> None:
    # The statistics say then that there are no rows: every plan seems to cost the same.
    conn.execute("alter table gendurable.instance set (autovacuum_enabled = off)")

    def fill() -> None:
        ended(conn, 10_000)
        ended(conn, 10_000, "parent_id", value="(select min(id) from gendurable.instance)")
        ended(conn, 10_000, "keep_until", value="now() - interval '1 hour'")

    fill()
    small = shared_buffers(conn, "select gd_gc('0')")
    while conn.execute("select gd_gc('0')").fetchone() != (0,):
        pass
    conn.execute("vacuum gendurable.instance")
    assert conn.execute("select reltuples from pg_class where relname = 'instance'").fetchone() == (0,)
    fill()
    for _ in range(16):
        assert shared_buffers(conn, "select gd_gc('0')") <= 2 * small
        conn.execute("select gd_gc('0')")
    assert conn.execute("select count(*) from gd_instances").fetchone() == (0,)


def test_bulk_calls_touch_pages_by_the_page(conn: Conn) -> None:
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, partition_key, eligible_at, lane_at, meta) "
        "select 'm', 'start', 'default', case when g % 20 = 0 then 'k:' || g % 1000 end, now(), "
        "case when g % 20 = 0 then now() end, jsonb_build_object('g', g) from generate_series(1, 1000000) g"
    )
    filters: list[dict[str, Any]] = [
        {"fsm": "nobody"},
        {"partition_prefix": "nobody"},
        {"status": "failed", "error": "x", "meta": {"g": -1}, "stuck_for_ms": 0},
        {"id": [-1], "unique_key": "u", "parent_id": 1, "finished_after": "2020-01-01T00:00:00Z"},
    ]
    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance")
        for filter in filters:
            for after in (0, 500_000, 980_000):
                # 20,000 rows stand on some 900 pages, and the whole table on 45,000
                query = "select * from gd_match(%s, %s)"
                assert shared_buffers(conn, query, json.dumps(filter), after) <= MOST_BUFFERS
                assert conn.execute(query, (json.dumps(filter), after)).fetchone() == ([], after + 20_000)
        first = 300_000 * (1 + analyzed)
        ids = list(range(first, first + 1000))
        for call in ("gd_reschedule_many(%s, now())", "gd_cancel_many(%s)", "gd_retry_many(%s)"):
            # some 20 a row: the row, its entry in each index, and the lane of its key
            assert shared_buffers(conn, f"select * from {call}", ids) <= 60_000


def test_what_a_claim_does_not_want_is_walked_over_once(conn: Conn) -> None:
    """200,000 due rows of others before what is run here: for a claim, and as gd_run claims."""
    conn.execute(
        "create schema app; create function app.h(ctx jsonb) returns jsonb language sql as 'select null::jsonb';"
        "select gd_define_step('ours', 'start', 'app.h(jsonb)')"
    )
    conn.execute("select gd_insert_many(%s)", (json.dumps([{"fsm": "m"}] * 200),))
    run = (
        "select c.* from pg_roles r cross join lateral"
        " gendurable._claim_run('w', 'default', 10, '60 seconds', r.oid, r.oid) c where r.rolname = current_user"
    )
    claim = "select * from gd_claim('w', 'default', 10, p_options => '{\"steps\": \"sql\"}')"
    for query in (run, claim):
        for _ in range(10):  # the plans are kept
            assert len(conn.execute(query.encode()).fetchall()) == (query is run)
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, eligible_at) "
        "select 'm', 'start', 'default', now() - interval '1 hour' + g * interval '1 ms'"
        " from generate_series(1, 200000) g"
    )

    def walked(session: Conn, query: str) -> int:
        with session.transaction():
            before = session.execute("select gendurable._walked()").fetchone()
            session.execute(query.encode())
            after = session.execute("select gendurable._walked()").fetchone()
        assert before is not None and after is not None
        return int(after[0] - before[0])

    for analyzed in (False, True):
        if analyzed:
            conn.execute("analyze gendurable.instance")
        for query in (run, claim):
            with fresh(conn) as session:
                first = walked(session, query)
                assert 200_000 <= first <= 450_000, (analyzed, query, first)
                # one of them may be a full scan
                assert min(walked(session, query) for _ in range(3)) <= 2000, (analyzed, query)
                assert min(shared_buffers(session, query) for _ in range(3)) <= MOST_BUFFERS
                ids = conn.execute("select array_agg(x) from (select gd_insert('ours') x from generate_series(1, 3)) y")
                wanted = ids.fetchone()
                assert wanted is not None
                found = session.execute(query.encode()).fetchall()
                assert {id for row in found for id in (row[0] if query is run else [row[0]])} == set(wanted[0])
                # and one that takes all takes the first
                plain = session.execute("select fsm from gd_claim('w', 'default', 1)").fetchall()
                assert plain == [("m",)]
