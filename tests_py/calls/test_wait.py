"""`wait` with `listen=True`: no query while it waits, and nothing taken from others who listen on the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.wait import run_in_thread, wait_until

import gendurable_py as gd
from gendurable_py import job


@job(name="test_wait.work")
def work(args: dict[str, Any]) -> None: ...


class Counting(psycopg.Connection[Any]):
    """Counts its round trips; everything else is psycopg's."""

    trips = 0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.trips += 1
        return super().wait(*args, **kwargs)


class CountingAsync(psycopg.AsyncConnection[Any]):
    trips = 0

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        self.trips += 1
        return await super().wait(*args, **kwargs)


def finish(conn: psycopg.Connection[Any], count: int) -> None:
    outcomes = [
        {"id": claim.id, "claim_no": claim.claim_no, "kind": "done"} for claim in gd.claim(conn, "w", limit=count)
    ]
    assert [answer.result for answer in gd.commit(conn, "w", outcomes)] == ["ok"] * count


def listens(other: psycopg.Connection[Any], pid: int) -> Callable[[], bool]:
    """Whether that session has looked once, and waits."""

    def look() -> bool:
        [(state, query)] = other.execute("select state, query from pg_stat_activity where pid = %s", (pid,)).fetchall()
        return state == "idle" and "gd_result" in query

    return look


def trips_of_a_wait(conn: Counting, id: int, timeout: float, listen: bool) -> int:
    before = conn.trips
    with pytest.raises(TimeoutError):
        gd.wait(conn, id, timeout=timeout, listen=listen)
    return conn.trips - before


def test_listening_it_asks_nothing_while_it_waits(db: Any) -> None:
    with Counting.connect(db.dsn, autocommit=True) as conn:
        id = gd.insert(conn, work)
        assert id is not None
        # The same few statements however long it takes; the second look is the one after the time is over.
        assert trips_of_a_wait(conn, id, 0, True) + 1 == trips_of_a_wait(conn, id, 0.4, True)
        assert trips_of_a_wait(conn, id, 0.4, False) > 4


async def test_so_it_does_on_an_async_connection(db: Any) -> None:
    async with await CountingAsync.connect(db.dsn, autocommit=True) as conn:
        id = await gd.insert(conn, work)
        assert id is not None
        trips = []
        for timeout in (0, 0.4):
            before = conn.trips
            with pytest.raises(TimeoutError):
                await gd.wait(conn, id, timeout=timeout, listen=True)
            trips.append(conn.trips - before)
        assert trips[0] + 1 == trips[1]


def test_what_others_notify_is_handed_on_and_costs_no_query(db: Any) -> None:
    other = db.connect()
    heard: list[tuple[str, str]] = []
    all_heard = threading.Event()

    def hear(notify: psycopg.Notify) -> None:
        heard.append((notify.channel, notify.payload))
        if notify.payload == "49":
            all_heard.set()

    with Counting.connect(db.dsn, autocommit=True) as conn:
        id = gd.insert(conn, work)
        assert id is not None
        quiet = trips_of_a_wait(conn, id, 0, True)
        conn.add_notify_handler(hear)
        conn.execute("listen mine")
        before = conn.trips
        waiting = run_in_thread(gd.wait, conn, id, timeout=20, listen=True)
        wait_until(listens(other, conn.info.backend_pid))
        for n in range(50):
            other.execute("select pg_notify('mine', %s)", (str(n),))
            other.execute("select pg_notify('gendurable_done', %s)", (str(10**9 + n),))
        # They arrive while it waits, not once it has returned.
        assert all_heard.wait(10)
        assert not waiting.done
        finish(other, 1)
        assert waiting.result().status == "done"
        assert conn.trips - before == quiet + 1
    assert [payload for channel, payload in heard if channel == "mine"] == [str(n) for n in range(50)]
    done = [payload for channel, payload in heard if channel == "gendurable_done"]
    assert str(id) not in done
    assert len(done) >= 49


def test_many_can_wait_at_once(db: Any) -> None:
    """Each on its own connection, as the notifications of a connection are one stream."""
    other = db.connect()
    ids = [made.id for made in gd.insert_many(other, [work] * 20)]
    conns = [db.connect() for _ in ids]
    waiting = [run_in_thread(gd.wait, conn, id, timeout=20, listen=True) for conn, id in zip(conns, ids, strict=True)]
    for conn in conns:
        wait_until(listens(other, conn.info.backend_pid))
    finish(other, len(ids))
    assert {found.result().status for found in waiting} == {"done"}
