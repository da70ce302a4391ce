"""Plain calls on anybody's connection: its settings, its pipeline, and what is given in its place."""

from __future__ import annotations

import asyncio
import decimal
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import ConnectionPool

import gendurable_py as gd
from gendurable_py import Child, Engine, InvalidArgument, job
from gendurable_py.calls import when

Conn = psycopg.Connection[Any]


@job(name="around.called", queue="called")
def called(args: dict[str, Any]) -> None: ...


SETTINGS = [
    *(("datestyle", value) for value in ("SQL, DMY", "Postgres, MDY", "German", "ISO, YMD")),
    *(("intervalstyle", value) for value in ("sql_standard", "iso_8601", "postgres_verbose")),
    *(("timezone", value) for value in ("Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "+13:45", "xyz+25")),
    *(("client_encoding", value) for value in ("LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252")),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "-15"),
    ("bytea_output", "escape"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("row_security", "off"),
    ("plpgsql.extra_errors", "all"),
    ("plpgsql.extra_warnings", "all"),
    ("plpgsql.check_asserts", "off"),
    ("plpgsql.variable_conflict", "use_column"),
    ("plpgsql.variable_conflict", "use_variable"),
    ("plan_cache_mode", "force_custom_plan"),
    ("plan_cache_mode", "force_generic_plan"),
    ("work_mem", "64kB"),
    ("temp_buffers", "800kB"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("check_function_bodies", "off"),
    ("array_nulls", "off"),
    ("xmlbinary", "hex"),
    ("lc_numeric", "C"),
    ("search_path", "public, pg_catalog"),
    ("jit_above_cost", "0"),
    ("from_collapse_limit", "1"),
    ("join_collapse_limit", "1"),
    ("geqo_threshold", "2"),
    ("synchronous_commit", "off"),
    ("client_min_messages", "debug1"),
    ("max_parallel_workers_per_gather", "8"),
    ("cursor_tuple_fraction", "0"),
    ("constraint_exclusion", "on"),
    *((f"enable_{node}", "off") for node in ("hashagg", "hashjoin", "indexscan", "indexonlyscan", "bitmapscan")),
    *((f"enable_{node}", "off") for node in ("material", "mergejoin", "nestloop", "seqscan", "sort", "tidscan")),
]


DAYS = timedelta(days=90)


def every_call(conn: Conn) -> None:
    """All calls of a client, a worker and an operator, with the answers that they must have."""
    first = gd.insert(conn, called, {"n": 1}, unique_key="one", delay=90 * 86400, meta={"a": "b"})
    assert first is not None
    assert gd.insert(conn, called, {"n": 1}, unique_key="one") is None
    when = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    made = gd.insert_many(
        conn,
        [
            Child(called, {"n": 2}, eligible_at=when),
            {"fsm": "x", "eligible_at": when},
            Child("y", delay=DAYS),
        ],
    )
    assert [each.created for each in made] == [True] * 3
    times = conn.execute(
        "select extract(epoch from eligible_at)::bigint, extract(epoch from eligible_at - inserted_at)::int "
        "from gd_instances where id = any(%s) order by id",
        ([first, *(each.id for each in made)],),
    ).fetchall()
    assert [times[0][1], times[1][0], times[2][0], times[3][1]] == [
        *(DAYS.total_seconds(), when.timestamp()),
        *(when.timestamp(), DAYS.total_seconds()),
    ]
    gd.register(conn, called)
    assert gd.find(conn, "one") == first
    assert gd.signal(conn, first, "s", {"text": "a"}, dedup_key="d") == "delivered"
    assert gd.signal(conn, "one", "s", dedup_key="d") == "duplicate"
    assert gd.signal(conn, 10**12, "s") == "no_target"
    [found] = gd.signals(conn, first)
    assert (found.name, found.payload) == ("s", {"text": "a"})
    assert abs(found.inserted_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert gd.watch(conn, first) == "runnable"
    result = gd.result(conn, first)
    assert result is not None
    assert result.status == "runnable"
    assert gd.reschedule(conn, first, datetime.now(UTC) - timedelta(seconds=1)) is True
    [row] = gd.claim(conn, "w", "called", lease=timedelta(days=2))
    assert (row.id, row.state, row.meta) == (first, {"n": 1}, {"a": "b"})
    assert gd.heartbeat(conn, "w", [(row.id, row.claim_no)], 90000) == []
    children = [{"fsm": "c", "queue": "kids", "delay_ms": 0}]
    fan = {"id": row.id, "claim_no": row.claim_no, "kind": "schedule_childs", "step": "start", "childs": children}
    [answer] = gd.commit(conn, "w", [fan], 90000)
    assert answer.result == "ok", answer
    [child] = gd.claim_many(conn, "w", {"kids": 1, "called": 1})
    gd.commit_one(conn, "w", {"id": child.id, "claim_no": child.claim_no, "kind": "done", "result": {"r": [1.5, None]}})
    assert [each.result for each in gd.childs(conn, first)] == [{"r": [1.5, None]}]
    [row] = gd.claim(conn, "w", "called")
    assert gd.release(conn, "w", [(row.id, row.claim_no)], 86400) == 1
    assert gd.reap(conn) == 0
    for far in ("9999-12-31 23:59:59.999999+00", "20000-01-01 00:00:00+00"):
        assert conn.execute("select gd_reschedule(%s, %s::timestamptz)", (first, far)).fetchone() == (True,)
        slept = gd.sleep(conn, "w", ["called"])
        assert slept.next_due is not None
        gd.wake(conn, "w")
    gd.pause_queue(conn, "called")
    gd.resume_queue(conn, "called")
    gd.set_key_limit(conn, "k", 2)
    assert gd.cancel(conn, first, "enough", cascade=True) is True
    assert gd.wait(conn, first, timeout=5).last_error == "enough"
    assert gd.wait(conn, first, timeout=5, listen=True).status == "cancelled"
    assert gd.retry(conn, first, state={"n": 3}) is True
    assert gd.cancel(conn, first) is True
    assert gd.gc(conn, timedelta(days=400)) == 0
    assert isinstance(gd.maintain(conn), dict)
    assert gd.version(conn)


@pytest.mark.parametrize(("name", "value"), SETTINGS, ids=lambda text: text.replace("/", "-"))
def test_no_setting_of_a_connection_matters(db: Any, name: str, value: str) -> None:
    with psycopg.connect(db.dsn, autocommit=True) as conn:
        if name == "default_transaction_isolation":  # it decides what is allowed, and is told
            conn.execute("select set_config(%s, %s, false)", (name, value))
            assert gd.insert(conn, called) is not None
            with pytest.raises(gd.WrongIsolation):
                gd.claim(conn, "w")
            return
        try:
            conn.execute("select set_config(%s, %s, false)", (name, value))
        except psycopg.errors.UndefinedObject:
            pytest.skip(f"this server has no {name}")
        every_call(conn)


def test_no_decimal_context_of_the_program_matters(conn: psycopg.Connection[Any]) -> None:
    with decimal.localcontext(decimal.Context(prec=1, traps=[decimal.Inexact, decimal.Rounded])):
        every_call(conn)


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        ("9999-12-31 23:59:59+00", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("10000-01-01 00:00:00+00", datetime.max.replace(tzinfo=UTC)),
        ("200000-01-01", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_a_worker_sleeps_whatever_is_due_next(conn: Conn, due: str, expected: datetime) -> None:
    conn.execute("set datestyle = 'SQL, DMY'")
    conn.execute("select gd_insert('m', p_queue => 'far', p_eligible_at => %s::timestamptz)", (due,))
    slept = gd.sleep(conn, "w", ["far"])
    assert slept.next_due == expected
    assert slept.due_in is not None
    assert slept.due_in > 0


def test_times_that_python_has_no_year_for_are_its_first_and_last() -> None:
    assert when(Decimal("-62167305600")).year == 1
    assert when(Decimal("253402300800")).year == 9999
    assert when(Decimal("1.000001")) == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)


# Times and durations


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), 10**400, 1e300, timedelta(-1), True, "5"])
@pytest.mark.parametrize(
    "use",
    [
        lambda conn, bad: gd.claim(conn, "w", lease=bad),
        lambda conn, bad: gd.release(conn, "w", None, bad),
        lambda conn, bad: gd.gc(conn, bad),
        lambda conn, bad: gd.wait(conn, 1, timeout=bad),
        lambda conn, bad: gd.insert(conn, "m", delay=bad),
        lambda conn, bad: gd.insert_many(conn, [Child("m", delay=bad)]),
    ],
)
def test_a_duration_that_is_none_is_refused_before_any_sql(conn: Conn, use: Callable[..., object], bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        use(conn, bad)


@pytest.mark.parametrize("naive", [datetime(2026, 1, 1), date(2026, 1, 1), 5, "2026-01-01"])
def test_a_time_without_its_zone_is_refused_everywhere(conn: Conn, naive: Any) -> None:
    id = gd.insert(conn, "m")
    assert id is not None
    for use in (
        lambda: gd.insert(conn, "m", eligible_at=naive),
        lambda: gd.insert_many(conn, [Child("m", eligible_at=naive)]),
        lambda: gd.insert_many(conn, [{"fsm": "m", "eligible_at": naive}]),
        lambda: gd.reschedule(conn, id, naive),
    ):
        with pytest.raises(InvalidArgument):
            use()


# Addresses


@pytest.mark.parametrize("wrong", [None, 1.0, True, uuid4(), Decimal(1), b"1", ["a"]])
def test_a_signal_has_an_id_or_a_key(conn: Conn, wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="is no instance"):
        gd.signal(conn, wrong, "go")


def test_an_id_that_came_as_a_text_is_told(conn: Conn) -> None:
    id = gd.insert(conn, "m")
    with pytest.raises(InvalidArgument, match="id of an instance") as told:
        gd.signal(conn, str(id), "go")
    assert f"{id}::bigint" in str(told.value.hint)
    assert gd.signal(conn, str(10**9), "go") == "no_target"


def test_an_inbox_is_read_in_pages(conn: Conn) -> None:
    id = gd.insert(conn, "m")
    assert id is not None
    for n in range(5):
        gd.signal(conn, id, "s", n)
    pages, after = [], 0
    while page := gd.signals(conn, id, after, 2):
        pages.append([each.payload for each in page])
        after = page[-1].id
    assert pages == [[0, 1], [2, 3], [4]]


# In the place of a connection


@pytest.mark.parametrize("named", ["pool", "cursor", "async cursor", "engine", "dsn", "none"])
def test_what_is_no_connection_is_told_what_to_give(db: Any, conn: Conn, named: str) -> None:
    given: dict[str, Callable[[], object]] = {
        "pool": lambda: ConnectionPool(db.dsn, open=False),
        "cursor": conn.cursor,
        "async cursor": lambda: psycopg.AsyncCursor.__new__(psycopg.AsyncCursor),
        "engine": lambda: Engine(db.dsn),
        "dsn": lambda: db.dsn,
        "none": lambda: None,
    }
    for use in (gd.version, lambda conn: gd.wait(conn, 1), lambda conn: gd.insert(conn, called), gd.install):
        with pytest.raises(InvalidArgument, match=r"(?s)no psycopg connection.*HINT"):
            use(given[named]())  # type: ignore[operator]


# Pipelines


def test_calls_in_a_pipeline_answer_what_they_answer_outside(db: Any, conn: Conn) -> None:
    with conn.pipeline():
        id = gd.insert(conn, called, unique_key="k")
        assert isinstance(id, int)
        assert gd.insert(conn, called, unique_key="k") is None
        assert gd.find(conn, "k") == id
        assert gd.result(conn, 10**9) is None
        assert [each.id for each in gd.insert_many(conn, [called])] == [id + 2]
        assert len(gd.claim(conn, "w", "called", 5)) == 2
        assert gd.pause_queue(conn, "q") is None
        with pytest.raises(InvalidArgument, match="pipeline"):
            gd.wait(conn, id, timeout=1)
        with pytest.raises(InvalidArgument, match="pipeline"):
            gd.install(conn)
    with pytest.raises(InvalidArgument, match="empty"), conn.pipeline():
        gd.pause_queue(conn, "")
    assert gd.version(conn), "the connection is usable again"


async def test_and_on_an_async_connection(db: Any) -> None:
    async with await psycopg.AsyncConnection.connect(db.dsn, autocommit=True) as conn:
        async with conn.pipeline():
            ids = await asyncio.gather(*(gd.insert(conn, called) for _ in range(3)))
            assert all(isinstance(id, int) for id in ids)
            assert len(await gd.claim(conn, "w", "called", 5)) == 3
            with pytest.raises(InvalidArgument, match="pipeline"):
                await gd.wait(conn, 1)
        with pytest.raises(gd.UnknownInstance):
            async with conn.pipeline():
                await gd.cancel(conn, 10**9)
        assert await gd.version(conn)


def test_a_time_that_python_has_no_year_for_costs_no_other_row(conn: Conn) -> None:
    far = "20000-01-01 00:00:00+00"
    ids = [gd.insert(conn, "order", partition_key="k") for _ in range(2)]
    conn.execute("select gd_reschedule(%s, %s::timestamptz)", (ids[0], far))
    conn.execute("select gd_insert('order', p_expires_at => %s::timestamptz)", (far,))
    last, _, first = gd.list(conn).instances
    assert (last.expires_at.year, first.eligible_at.year) == (9999, 9999)  # type: ignore[union-attr]
    for id in ids:
        assert gd.why(conn, id)
        assert gd.get(conn, id)
        assert gd.tree(conn, id)
    assert len(gd.line(conn, "k")) == 2
