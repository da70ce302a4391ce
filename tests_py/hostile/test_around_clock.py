"""The server's clock steps back and forth by an hour, while sessions are open and steps under way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.clock import Clock, Unavailable, stepping
from support.engine import ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, embedded, step
from gendurable_py.embedded.cluster import Cluster
from gendurable_py.install import extension_files

Conn = psycopg.Connection[Any]
HOUR = 3600.0


@pytest.fixture(scope="module")
def stepped() -> Iterator[tuple[Cluster, Clock]]:
    try:
        installation = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    try:
        with stepping(installation, extension_files=extension_files(), settings={"fsync": "off"}) as (server, clock):
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                conn.execute("create extension gendurable")
            yield server, clock
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def clock(stepped: tuple[Cluster, Clock]) -> Clock:
    """Each test finds an empty database and sessions of its own."""
    server, clock = stepped
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("drop extension gendurable")
        conn.execute("create extension gendurable")
    return clock


@pytest.fixture
def conn(stepped: tuple[Cluster, Clock], clock: Clock) -> Iterator[Conn]:
    with psycopg.connect(stepped[0].dsn, autocommit=True) as made:
        yield made


def one(conn: Conn, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return row and row[0]


def claim(conn: Conn, worker: str = "w", lease: float = 60) -> list[gd.Claim]:
    """Claims until there is something, as an engine does."""
    return wait_until(lambda: gd.claim(conn, worker, limit=10, lease=lease))


def commit(conn: Conn, claim: gd.Claim, kind: str = "done", worker: str = "w", **more: Any) -> str:
    [answer] = gd.commit(conn, worker, [{"id": claim.id, "claim_no": claim.claim_no, "kind": kind, **more}])
    return answer.result


def test_the_servers_clock_does_step(conn: Conn, clock: Clock) -> None:
    before = one(conn, "select extract(epoch from clock_timestamp())::float")
    clock.step(-HOUR)
    assert one(conn, "select extract(epoch from clock_timestamp())::float") < before - HOUR / 2


@pytest.mark.parametrize("key", [None, "k"])
def test_a_step_back_hides_no_new_row_from_who_claimed_before(conn: Conn, clock: Clock, key: str | None) -> None:
    # The session knows how far it has come, in both ranges of the index.
    left = {gd.insert(conn, "m", partition_key=key) for _ in range(3)}
    while left:
        for row in claim(conn):
            assert commit(conn, row) == "ok"
            left.discard(row.id)
    clock.step(-HOUR)
    for _ in range(3):
        id = gd.insert(conn, "m", partition_key=key)
        [row] = claim(conn)
        assert row.id == id
        assert commit(conn, row) == "ok"


def test_a_step_back_hides_no_next_step_signal_or_last_child(conn: Conn, clock: Clock) -> None:
    waiter, parent = (gd.insert(conn, name) for name in ("waiter", "parent"))
    for row in claim(conn):
        if row.id == waiter:
            assert commit(conn, row, "await", signals=["go"]) == "ok"
        else:
            assert commit(conn, row, "schedule_childs", step="join", childs=[{"fsm": "child"}]) == "ok"
    [child] = claim(conn)
    clock.step(-HOUR)
    assert commit(conn, child) == "ok"
    assert gd.signal(conn, waiter or 0, "go") == "delivered"
    left = {waiter, parent}
    while left:
        for row in claim(conn):
            left.discard(row.id)
            assert commit(conn, row, "next" if row.step != "more" else "done", step="more") == "ok"


@pytest.mark.parametrize("key", [None, "k"])
def test_what_was_due_before_a_step_back_stays_due(conn: Conn, clock: Clock, key: str | None) -> None:
    left = {gd.insert(conn, "m", partition_key=key) for _ in range(4)}
    [row] = wait_until(lambda: gd.claim(conn, "w", limit=1))
    clock.step(-HOUR)
    assert commit(conn, row) == "ok"
    left.discard(row.id)
    while left:
        for row in claim(conn):
            assert commit(conn, row) == "ok"
            left.discard(row.id)


def test_a_claim_number_never_comes_again(conn: Conn, clock: Clock) -> None:
    gd.insert(conn, "m")
    [row] = claim(conn)
    numbers = [row.claim_no]
    for seconds in (-HOUR, -HOUR, HOUR, 3 * HOUR, -2 * HOUR, -5.0, 5.0):
        clock.step(seconds)
        assert commit(conn, row, "next", step="start") == "ok"
        assert commit(conn, row) == "stale"
        [row] = claim(conn)
        numbers.append(row.claim_no)
    assert numbers == sorted(set(numbers))


def test_a_step_forward_lets_leases_end_and_delays_be_over(conn: Conn, clock: Clock) -> None:
    held, delayed = gd.insert(conn, "m"), gd.insert(conn, "m", delay=HOUR / 2)
    [row] = claim(conn, "slow")
    assert row.id == held
    clock.step(HOUR)
    found: dict[int, gd.Claim] = {}
    while len(found) < 2:
        found |= {row.id: row for row in claim(conn, "quick")}
    assert set(found) == {held, delayed}
    again = found[held or 0]
    assert again.attempt == 1 and again.claim_no > row.claim_no
    assert commit(conn, row, worker="slow") == "stale"
    assert commit(conn, again, worker="quick") == "ok"


def test_who_holds_a_lease_may_commit_after_any_step(conn: Conn, clock: Clock) -> None:
    for seconds in (-HOUR, HOUR, 2 * HOUR):
        gd.insert(conn, "m")
        [row] = claim(conn)
        clock.step(seconds)
        assert commit(conn, row) == "ok"


class Ticking(FSM, name="clock.ticking"):
    @step
    def start(self, ctx: Context[Any]) -> Next | Done:
        return Next("start", {"n": ctx.state["n"] + 1}) if ctx.state["n"] < 3 else Done()


@pytest.mark.parametrize("options", [{}, {"notify": False}, {"run_ahead": True, "prefetch": 4}])
def test_an_engine_serves_on_whatever_the_clock_does(
    stepped: tuple[Cluster, Clock], conn: Conn, clock: Clock, options: dict[str, Any]
) -> None:
    with running(Engine(stepped[0].dsn, [Ticking], {"default": 2}, max_poll_interval=1, **options)):
        for seconds in (0, -HOUR, -1.0, HOUR, -30.0, -HOUR, 2 * HOUR):
            clock.step(seconds)
            ids = [made.id for made in gd.insert_many(conn, [gd.Child(Ticking, {"n": 0})] * 5)]
            assert {result.status for result in ended(conn, *ids)} == {"done"}
