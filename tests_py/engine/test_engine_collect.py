"""The collector of the engine: what is removed, when, and in which share of the time; what a machine says of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.engine import Events, ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine
from gendurable_py.dispatch.collect import Collector
from gendurable_py.machine.spec import spec_of

Conn = psycopg.Connection[Any]


def old(conn: Conn, count: int, status: str = "done") -> None:
    """Instances that ended a month ago."""
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, finished_at) "
        "select 'm', 's', 'old', %s::gendurable.status, now() - interval '30 days' from generate_series(1, %s)",
        (status, count),
    )


def left(conn: Conn, fsm: str = "m") -> int:
    row = conn.execute("select count(*) from gd_instances where fsm = %s", (fsm,)).fetchone()
    assert row is not None
    return int(row[0])


def test_a_backlog_is_collected_batch_after_batch(db: Any, conn: Conn) -> None:
    old(conn, 9000)
    events = Events()
    with running(Engine(db.dsn, queues={}, reap_interval=1, on_event=events)):
        wait_until(lambda: left(conn) == 0)
        wait_until(lambda: sum(numbers["removed"] for numbers, _ in events.named("collect")) >= 7000)
    removed = [numbers["removed"] for numbers, _ in events.named("collect")]
    # what gd_maintain took away is its own
    assert sum(removed) + sum(numbers["removed"] for numbers, _ in events.named("maintain")) == 9000
    assert removed.count(2000) >= 3


def test_a_node_without_maintenance_collects_nothing(db: Any, conn: Conn) -> None:
    old(conn, 10)
    events = Events()

    @gd.job(name="collect.quick")
    def quick(args: dict[str, Any]) -> None:
        return None

    with running(Engine(db.dsn, [quick], reap_interval=None, on_event=events)):
        ended(conn, *(gd.insert(conn, quick) for _ in range(20)))
    assert (events.count("collect"), left(conn)) == (0, 10)


@pytest.mark.parametrize(("overdue", "times"), [(0.0, 9), (15.0, 4), (60.0, 1), (3600.0, 1)])
async def test_the_pauses_leave_it_its_share_of_the_time(overdue: float, times: int) -> None:
    seen: list[Any] = []
    answers = [2000, 1000, 999, 0]

    async def remove() -> int:
        await asyncio.sleep(0.01)
        return answers.pop(0)

    collector = Collector(remove, seen.append)
    collector.overdue = overdue
    for _ in range(2):
        pause = await collector.collect()
        assert pause == pytest.approx(seen[-1].seconds * times)
    # there is no more for now, so nothing is overdue
    assert (await collector.collect(), collector.overdue) == (None, 0)
    assert await collector.collect() is None
    assert [event.removed for event in seen] == [2000, 1000, 999, 0]


def test_how_much_is_overdue_is_told_by_gd_maintain(db: Any, conn: Conn) -> None:
    old(conn, 5000)
    events = Events()
    with running(Engine(db.dsn, queues={}, reap_interval=0.05, on_event=events)):
        wait_until(lambda: left(conn) == 0 and events.count("maintain") >= 3)
    told = [said["overdue"] for _, said in events.named("maintain")]
    assert max(told) > timedelta(days=22).total_seconds()
    assert told[-1] == 0


# -- what a machine says


def test_a_machine_says_how_long_its_instances_are_kept(db: Any, conn: Conn) -> None:
    @gd.job(name="collect.fleeting", retain={"done": 0, "failed": timedelta(hours=1)}, max_attempts=1)
    def fleeting(args: dict[str, Any]) -> int:
        if args:
            raise ValueError("no")
        return 7

    class Derived(fleeting.machine, name="collect.derived"):  # type: ignore[name-defined,misc]
        pass

    assert spec_of(Derived).options() == spec_of(fleeting).options()
    with running(Engine(db.dsn, [fleeting], poll_interval=0.02)):
        done, failed = gd.insert(conn, fleeting), gd.insert(conn, fleeting, {"a": 1})
        assert done is not None and failed is not None
        wait_until(lambda: gd.result(conn, done) is None and gd.wait(conn, failed, 10).status == "failed")
    row = conn.execute("select keep_until - finished_at from gendurable.instance where id = %s", (failed,)).fetchone()
    assert row == (timedelta(hours=1),)
    row = conn.execute("select retain from gendurable.machine where fsm = 'collect.fleeting'").fetchone()
    assert row == ({"done": 0, "failed": 3_600_000},)


def test_a_machine_that_says_nothing_leaves_what_was_said(conn: Conn) -> None:
    @gd.job(name="collect.said")
    def said(args: dict[str, Any]) -> None:
        return None

    gd.register(conn, "collect.said", options={"retain": {"done": 5}, "max_attempts": 3})
    conn.execute("update gendurable.machine set max_attempts = null where fsm = 'collect.said'")
    gd.register(conn, said)
    row = conn.execute("select retain, max_attempts from gendurable.machine where fsm = 'collect.said'").fetchone()
    assert row == ({"done": 5}, 20)

    # but a class that says something says all
    @gd.job(name="collect.all", retain={"failed": timedelta.max})
    def says_all(args: dict[str, Any]) -> None:
        return None

    gd.register(conn, "collect.all", options={"retain": {"done": 5, "cancelled": 5}})
    gd.register(conn, says_all)
    row = conn.execute("select retain from gendurable.machine where fsm = 'collect.all'").fetchone()
    assert row == ({"failed": 9_000_000_000_000_000},)


@pytest.mark.parametrize(
    "retain",
    [
        5, "done", ["done"], {"ended": 1}, {"done": -1}, {"done": "1"}, {"done": None}, {"failed": float("nan")},
        {"cancelled": timedelta(seconds=-1)}, {"done": True}, {1: 1}, {"done": float("inf")},
    ],
)  # fmt: skip
def test_what_cannot_be_kept_so_long_is_refused(retain: Any) -> None:
    with pytest.raises(gd.InvalidArgument, match="retain"):

        @gd.job(name="collect.refused", retain=retain)
        def refused(args: dict[str, Any]) -> None:
            return None


# -- waiting for what is not kept


@pytest.mark.parametrize("listen", [False, True])
def test_who_waits_for_a_fleeting_instance_gets_its_result(db: Any, conn: Conn, listen: bool) -> None:
    @gd.job(name="collect.awaited", retain={"done": 0})
    def awaited(args: dict[str, Any]) -> int:
        return 7

    with running(Engine(db.dsn, [awaited], reap_interval=0.05, retention=0, poll_interval=0.02)):
        for _ in range(20):
            id = gd.insert(conn, awaited, delay=0.02)
            assert id is not None
            assert gd.wait(conn, id, 10, listen=listen) == gd.Result("done", 7, None)
            with pytest.raises(gd.UnknownInstance):
                gd.wait(conn, 1 << 60, listen=listen)
        # the collector takes them when those who waited have had their time
        conn.execute("update gendurable.instance set keep_until = keep_until - interval '1 minute'")
        wait_until(lambda: left(conn, "collect.awaited") == 0)
    row = conn.execute("select count(*) from gendurable.watch").fetchone()
    assert row == (0,)


@pytest.mark.parametrize("listen", [False, True])
def test_who_comes_too_late_is_told(db: Any, conn: Conn, listen: bool) -> None:
    @gd.job(name="collect.late", retain={"done": 0})
    def late(args: dict[str, Any]) -> None:
        return None

    with running(Engine(db.dsn, [late], poll_interval=0.02)):
        id = gd.insert(conn, late)
        assert id is not None
        wait_until(lambda: gd.result(conn, id) is None)
    with pytest.raises(gd.UnknownInstance):
        gd.wait(conn, id, 1, listen=listen)


def test_a_wait_works_where_nothing_may_be_watched(conn: Conn) -> None:
    id = gd.insert(conn, "m")
    assert id is not None
    conn.execute("set default_transaction_read_only = on")
    try:
        with pytest.raises(TimeoutError):
            gd.wait(conn, id, 0.05)
    finally:
        conn.execute("set default_transaction_read_only = off")
