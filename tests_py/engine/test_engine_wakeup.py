"""An idle engine sleeps, and no wake-up is lost: with these poll intervals only a wake-up can explain success."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Notify
from support.engine import Events, asleep, ended, field, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Child, Context, Done, Engine, ScheduleChilds, job, step
from gendurable_py.calls import dispatching
from gendurable_py.dispatch.dial import Dialer
from gendurable_py.dispatch.link import Link
from gendurable_py.dispatch.sleeper import Announcement, Sleeper
from gendurable_py.telemetry.events import Awake, Event

Conn = psycopg.Connection[Any]


@job(name="wakeup.work")
def work(args: dict[str, Any]) -> Any:
    return args.get("n")


class Waiter(FSM, name="wakeup.waiter"):
    @step
    def start(self, ctx: Context[Any]) -> Any:
        found = ctx.signal("go")
        return Await("go") if found is None else Done(found.payload)


class Parent(FSM, name="wakeup.parent"):
    @step
    def start(self, ctx: Context[Any]) -> ScheduleChilds:
        return ScheduleChilds("join", [Child(work, {"n": 1}, queue="childs")])

    @step
    def join(self, ctx: Context[Any]) -> Done:
        return Done([child.result for child in ctx.childs])


def sleeper(db: Any, *queues: str, **options: Any) -> Engine:
    options = {"poll_interval": 600, "max_poll_interval": 600, "reap_interval": None} | options
    return Engine(db.dsn, [work, Waiter, Parent], dict.fromkeys(queues or ("default",), 5), **options)


def settled(conn: Conn, count: int = 1) -> None:
    """Wait until the engines sleep, and nobody looks any more for what an older writer may have left."""

    def quiet() -> bool:
        row = conn.execute(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name like 'gendurable %%' and query like '%%pg_snapshot_xmin%%' "
            "or application_name like 'gendurable %%' and query like '%%gd_claim_many%%'",
        ).fetchone()
        return asleep(conn, count) and row is not None and row[0] >= count

    wait_until(quiet)


def test_an_insert_wakes_it(db: Any, conn: Conn) -> None:
    with running(sleeper(db)):
        for n in range(5):
            settled(conn)
            assert ended(conn, gd.insert(conn, work, {"n": n})) == [gd.Result("done", n, None)]


def test_a_signal_wakes_the_one_who_awaits_it(db: Any, conn: Conn) -> None:
    with running(sleeper(db)):
        id = gd.insert(conn, Waiter)
        assert id is not None
        wait_until(lambda: field(conn, id, "status") == "awaiting_signal")
        settled(conn)
        gd.signal(conn, id, "go", 7)
        assert ended(conn, id) == [gd.Result("done", 7, None)]


def test_childs_and_their_parent_wake_each_other_across_engines(db: Any, conn: Conn) -> None:
    with running(sleeper(db), sleeper(db, "childs")):
        settled(conn, 2)
        assert ended(conn, gd.insert(conn, Parent)) == [gd.Result("done", [1], None)]


def test_it_sleeps_exactly_until_the_next_row_is_due(db: Any, conn: Conn) -> None:
    with running(sleeper(db)):
        settled(conn)
        late = gd.insert(conn, work, {"n": 1}, delay=0.2)
        assert ended(conn, late)[0].status == "done"
        far = gd.insert(conn, work, {"n": 2}, delay=3600)
        settled(conn)
        gd.reschedule(conn, far or 0, datetime.now(UTC) + timedelta(milliseconds=100))
        assert ended(conn, far)[0].status == "done"


def idling(db: Any, scene: Callable[[Sleeper, Link], Awaitable[None]]) -> None:
    """A sleeper without an engine around it."""

    async def main() -> None:
        link = Link(Dialer(db.dsn, "w"), "claims", lambda *_: None)
        await link.open()
        async with asyncio.timeout(60):
            await scene(Sleeper(link, lambda *_: None, sleeper(db)._options), link)
        await link.drop()

    asyncio.run(main())


def announced(idle: Sleeper) -> Announcement:
    assert idle._announced is not None
    return idle._announced


async def until_settled(idle: Sleeper) -> None:
    await idle.idle("w", {"default"})
    while announced(idle).horizon is not None:
        await idle.idle("w", {"default"})


def test_a_row_that_becomes_due_between_a_claim_and_the_question_for_the_next_one_is_claimed(
    db: Any, conn: Conn
) -> None:
    async def scene(idle: Sleeper, link: Link) -> None:
        await until_settled(idle)
        gd.insert(conn, work, delay=0.5)
        await idle.idle("w", {"default"})  # told
        idle.claiming()
        await idle.idle("w", {"default"})  # asks when the row will be due, and looks once more
        due_at = announced(idle).due_at
        assert due_at is not None
        # the claim that follows comes a moment too early, and takes its time
        wait_until(lambda: time.monotonic() > due_at)
        await idle.idle("w", {"default"})

    idling(db, scene)


def test_what_an_older_writer_left_for_later_counts(db: Any, conn: Conn) -> None:
    async def scene(idle: Sleeper, link: Link) -> None:
        writer = db.connect(autocommit=False)
        gd.insert(writer, work, delay=300)  # nobody sleeps yet
        await idle.idle("w", {"default"})
        due_at = announced(idle).due_at
        assert due_at is None or due_at > time.monotonic() + 1000
        writer.commit()
        await until_settled(idle)
        due_at = announced(idle).due_at
        assert due_at is not None
        assert due_at < time.monotonic() + 1000

    idling(db, scene)


def test_nothing_is_locked_behind_a_proxy_that_is_found_out_while_it_sleeps(db: Any, conn: Conn) -> None:
    """A session-level lock on a connection that is shared would stay there, and nobody could wake it."""

    async def scene(idle: Sleeper, link: Link) -> None:
        writer = db.connect(autocommit=False)
        gd.insert(writer, work)
        await idle.idle("w", {"default"})
        assert announced(idle).horizon is not None
        wait, asked = idle._bell.wait, []

        async def found_out(seconds: float, conn: Any) -> bool:
            link._shared.pooled = True
            return await wait(0.001, conn)

        idle._bell.wait = found_out  # type: ignore[method-assign]
        link.attempt = lambda *args: asked.append(args)  # type: ignore[assignment, return-value]
        await idle.idle("w", {"default"})
        assert asked == []
        writer.rollback()

    idling(db, scene)


def test_what_was_told_while_it_was_busy_makes_no_later_wake_late(db: Any, conn: Conn) -> None:
    async def scene(idle: Sleeper, link: Link) -> None:
        told: list[Event] = []
        idle._emit = told.append
        idle._bell.concern = {"default"}
        idle._bell.hear(Notify("gendurable", "default", 0))  # all slots are taken
        idle.claiming()
        await idle.idle("w", {"default"})  # and after a while nothing is there
        await idle.busy("w", Counter({"default": 1}))
        assert [event.late for event in told if isinstance(event, Awake)] == [None]

    idling(db, scene)


def test_when_nothing_is_due_the_event_says_nothing_of_a_time(db: Any, conn: Conn) -> None:
    events = Events()
    with running(sleeper(db, on_event=events)):
        settled(conn)
    assert [measured for measured, _ in events.named("sleep")] == [{}]


def test_what_is_told_while_it_falls_asleep_counts(db: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(idle: Sleeper, link: Link) -> None:
        attempt = link.attempt

        async def slow(call: Any, *args: Any) -> Any:
            answer = await attempt(call, *args)
            if call is dispatching.sleep and link.conn is not None:
                gd.insert(conn, work, delay=30)  # one for later than it sleeps at most is not told
                await link.conn.execute("select")  # reads what was told meanwhile
            return answer

        monkeypatch.setattr(link, "attempt", slow)
        await idle.idle("w", {"default"})
        monkeypatch.undo()
        idle.claiming()
        await idle.idle("w", {"default"})
        due_at = announced(idle).due_at
        assert due_at is not None
        assert due_at < time.monotonic() + 100

    idling(db, scene)


def test_where_nobody_writes_it_is_settled_at_once(db: Any, conn: Conn) -> None:
    async def scene(idle: Sleeper, link: Link) -> None:
        async with asyncio.timeout(30):
            await idle.idle("w", {"default"})
            while announced(idle).horizon is not None:  # another database has a transaction: each answer is a new try
                await idle.withdraw("w")
                await idle.idle("w", {"default"})

    idling(db, scene)


def test_what_woke_it_is_looked_for_once_more(db: Any, conn: Conn) -> None:
    """The claim found something, but of two rows one may have been locked: its writer does not tell again."""

    async def scene(idle: Sleeper, link: Link) -> None:
        await until_settled(idle)
        gd.insert(conn, work)
        await idle.idle("w", {"default"})  # told
        idle.claiming()
        await idle.busy("w", Counter({"default": 1}))
        await idle.idle("w", {"default"})
        assert announced(idle).look_again
        asked: list[object] = []
        attempt = link.attempt

        async def count(call: Any, *args: Any) -> Any:
            asked.append(call)
            return await attempt(call, *args)

        link.attempt = count  # type: ignore[method-assign]
        idle.claiming()
        await idle.idle("w", {"default"})  # not until it is told, and without a question
        assert dispatching.sleep not in asked

    idling(db, scene)


def test_a_delayed_row_that_was_there_before_it_started_is_on_time(db: Any, conn: Conn) -> None:
    id = gd.insert(conn, work, delay=0.3)
    with running(sleeper(db)):
        assert ended(conn, id)[0].status == "done"


def test_a_writer_that_looked_before_it_slept_is_not_missed(db: Any, conn: Conn) -> None:
    writer = db.connect(autocommit=False)
    id = gd.insert(writer, work)  # nobody sleeps yet, so this transaction notifies nobody
    with running(sleeper(db)):
        wait_until(lambda: asleep(conn))
        assert gd.result(conn, id or 0) is None
        writer.commit()
        assert ended(conn, id)[0].status == "done"


def test_a_writer_under_a_fixed_snapshot_is_not_missed(db: Any, conn: Conn) -> None:
    writer = db.connect(autocommit=False)
    writer.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    writer.execute("select count(*) from gd_instances")
    with running(sleeper(db)):
        settled(conn)
        id = gd.insert(writer, work)
        writer.commit()
        assert ended(conn, id)[0].status == "done"


def test_resuming_a_queue_wakes_it(db: Any, conn: Conn) -> None:
    gd.pause_queue(conn, "default")
    with running(sleeper(db)):
        settled(conn)
        id = gd.insert(conn, work)
        settled(conn)
        assert field(conn, id, "status") == "runnable"
        gd.resume_queue(conn, "default")
        assert ended(conn, id)[0].status == "done"


def test_a_free_slot_of_a_full_queue_is_filled_at_once(db: Any, conn: Conn) -> None:
    with running(sleeper(db, "default", "idle")):
        ids = [m.id for m in gd.insert_many(conn, [Child(work, {"n": n}) for n in range(50)])]
        assert [r.result for r in ended(conn, *ids)] == list(range(50))


def test_an_engine_that_has_work_does_not_ask_to_be_notified(db: Any, conn: Conn) -> None:
    release = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    @job(name="wakeup.held")
    async def held(args: dict[str, Any]) -> None:
        loops.append(asyncio.get_running_loop())
        await release.wait()

    engine = Engine(db.dsn, [held], {"default": 1}, poll_interval=600, max_poll_interval=600)
    with running(engine):
        settled(conn)
        ids = [m.id for m in gd.insert_many(conn, [held, held])]
        wait_until(lambda: loops)
        wait_until(lambda: not asleep(conn))
        conn.execute("listen gendurable")
        gd.insert(conn, work)
        assert list(conn.notifies(timeout=0.05)) == []
        loops[0].call_soon_threadsafe(release.set)
        ended(conn, *ids)


def test_behind_a_proxy_it_only_polls(db: Any, conn: Conn) -> None:
    events = Events()
    with running(sleeper(db, notify=False, poll_interval=0.02, max_poll_interval=0.05, on_event=events)):
        ids = [m.id for m in gd.insert_many(conn, [work] * 20)]
        ended(conn, *ids)
        parent = sleeper(db, "childs", notify=False, poll_interval=0.02, max_poll_interval=0.05)
        with running(parent):
            assert ended(conn, gd.insert(conn, Parent)) == [gd.Result("done", [1], None)]
        [row] = conn.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ShareLock'"
        ).fetchall()
        assert row[0] == 0
    assert events.count("sleep") == 0


@pytest.mark.parametrize("payload", ["other", ""])
def test_a_notification_for_another_queue_is_no_reason_to_claim(db: Any, conn: Conn, payload: str) -> None:
    events = Events()
    with running(sleeper(db, on_event=events)):
        settled(conn)
        conn.execute("select pg_notify('gendurable', %s)", (payload,))
        id = gd.insert(conn, work)
        ended(conn, id)
    assert events.count("claim") == 1


@pytest.mark.parametrize(("rows", "looks"), [(1, 0), (3, 0), (4, 3), (100, 3)])
def test_after_several_rows_it_looks_a_few_times_more_before_it_sleeps(
    db: Any, conn: Conn, rows: int, looks: int
) -> None:
    """Writers that find it asleep notify, and wait for each other's commits: a steady flow must not meet a sleeper."""

    async def scene(idle: Sleeper, link: Link) -> None:
        await idle.busy("w", Counter(default=rows))
        for _ in range(looks):
            await idle.idle("w", {"default"})
            assert not asleep(conn)
        await idle.idle("w", {"default"})
        assert asleep(conn)
        # what came before is forgotten: a single row later is followed by sleep
        await idle.busy("w", Counter(default=1))
        assert not asleep(conn)
        await idle.idle("w", {"default"})
        assert asleep(conn)

    idling(db, scene)
