"""A wait that cannot end says so; one that is broken off leaves its connection as it was; several share one."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import warnings
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from support.wait import run_in_thread, wait_until

import gendurable_py as gd
from gendurable_py import InvalidArgument, job
from gendurable_py._listen import Catch

Conn = psycopg.Connection[Any]
AsyncConn = psycopg.AsyncConnection[Any]


@job(name="around.waited")
def waited(args: dict[str, Any]) -> None: ...


def end(conn: Conn, *ids: int) -> None:
    for id in ids:
        assert gd.cancel(conn, id)


def new(conn: Conn) -> int:
    id = gd.insert(conn, waited)
    assert id is not None
    return id


CHANNELS = "select array(select pg_listening_channels())"


# What can never end


def test_what_only_its_own_transaction_sees_is_refused(db: Any, conn: Conn) -> None:
    committed = new(conn)
    with psycopg.connect(db.dsn) as mine:
        id = gd.insert(mine, waited)
        assert id is not None
        with pytest.raises(InvalidArgument, match=r"(?s)nobody sees.*commit first"):
            gd.wait(mine, id)
        mine.commit()
        with pytest.raises(TimeoutError):
            gd.wait(mine, id, timeout=0.01)
        end(conn, id)
        assert gd.wait(mine, id).status == "cancelled", "an open transaction that has only read sees the end"
        gd.cancel(mine, committed)
        assert gd.wait(mine, committed).status == "cancelled", "what has ended is answered anywhere"


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
@pytest.mark.parametrize("begun", [False, True])
def test_a_transaction_that_sees_nothing_new_is_refused(db: Any, conn: Conn, level: Any, begun: bool) -> None:
    id = new(conn)
    with psycopg.connect(db.dsn) as mine:
        mine.isolation_level = level
        if begun:
            mine.execute("select 1")
        with pytest.raises(InvalidArgument, match="sees nothing"):
            gd.wait(mine, id)
    with psycopg.connect(db.dsn, autocommit=True) as mine:
        mine.execute("select set_config('default_transaction_isolation', 'repeatable read', false)")
        waiting = run_in_thread(gd.wait, mine, id, timeout=20)
        end(conn, id)
        assert waiting.result().status == "cancelled", "each look is a transaction of its own"


async def test_so_it_is_on_an_async_connection(db: Any) -> None:
    async with await AsyncConn.connect(db.dsn) as mine:
        id = await gd.insert(mine, waited)
        assert id is not None
        with pytest.raises(InvalidArgument, match="nobody sees"):
            await gd.wait(mine, id)
        with pytest.raises(InvalidArgument, match="autocommit"):
            await gd.wait(mine, id, listen=True)


# Broken off


@pytest.fixture
async def aconn(db: Any) -> AsyncIterator[AsyncConn]:
    async with await AsyncConn.connect(db.dsn, autocommit=True) as conn:
        yield conn


async def is_clean(conn: AsyncConn) -> None:
    row = await (await conn.execute(CHANNELS)).fetchone()
    assert row == ([],)
    assert conn.pgconn.transaction_status == TransactionStatus.IDLE
    assert await gd.version(conn)


async def until_waiting(other: Conn, conn: AsyncConn, query: str = "gd_result") -> None:
    def look() -> bool:
        row = other.execute("select query from pg_stat_activity where pid = %s", (conn.info.backend_pid,)).fetchone()
        return row is not None and query in row[0]

    await asyncio.to_thread(wait_until, look)


@pytest.mark.parametrize("how", ["cancel", "timeout", "twice", "again and again"])
async def test_a_wait_that_is_cancelled_listens_no_more(conn: Conn, aconn: AsyncConn, how: str) -> None:
    id = new(conn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = asyncio.create_task(gd.wait(aconn, id, listen=True))
        await until_waiting(conn, aconn)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
        else:
            task.cancel()
            for _ in range({"cancel": 0, "twice": 1}.get(how, 50)):
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del task
        gc.collect()
    if how == "again and again" and aconn.closed:
        return  # psycopg gives a connection up where its own cancel is cancelled while it waits for the server
    await is_clean(aconn)


async def test_one_that_is_closed_raises_nothing_and_waits_no_more(conn: Conn, aconn: AsyncConn) -> None:
    id = new(conn)
    waiting = gd.wait(aconn, id, listen=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = asyncio.create_task(waiting)
        await until_waiting(conn, aconn)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        unstarted = gd.wait(aconn, id, listen=True)
        unstarted.close()
    await is_clean(aconn)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("turn", range(4))
def test_an_interrupt_between_a_statement_and_its_answer_leaves_the_connection_clean(
    db: Any, conn: Conn, turn: int
) -> None:
    """An exception of a signal handler comes where it likes: psycopg itself then leaves the statement under way."""
    id = new(conn)
    with psycopg.connect(db.dsn, autocommit=True) as mine:
        wait, turns = mine.wait, iter(range(100))

        def interrupted(gen: Any, *args: Any, **named: Any) -> Any:
            if next(turns) == turn:
                next(gen)  # it is sent
                raise Interrupted
            return wait(gen, *args, **named)

        mine.wait = interrupted  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            gd.wait(mine, id, timeout=60, listen=True)
        assert mine.execute(CHANNELS).fetchone() == ([],)


def test_an_interrupt_of_a_sync_wait_leaves_the_connection_clean(db: Any, conn: Conn) -> None:
    id = new(conn)
    with psycopg.connect(db.dsn, autocommit=True) as mine:

        def look() -> bool:
            row = conn.execute("select query from pg_stat_activity where pid = %s", (mine.info.backend_pid,)).fetchone()
            return row is not None and "gd_result" in row[0]

        def interrupt() -> None:
            wait_until(look)
            signal.raise_signal(signal.SIGUSR1)

        def handle(*_: object) -> None:
            raise Interrupted

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            helper = threading.Thread(target=interrupt)
            helper.start()
            with pytest.raises(Interrupted):
                gd.wait(mine, id, timeout=60, listen=True)
            helper.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert mine.execute(CHANNELS).fetchone() == ([],)
        assert mine.pgconn.notify_handler is not None
        assert gd.version(mine)


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("script", [gd.install, gd.upgrade, gd.uninstall])
async def test_a_script_that_is_broken_off_leaves_no_transaction(db: Any, conn: Conn, script: Any, how: str) -> None:
    async with await AsyncConn.connect(db.dsn, autocommit=True) as mine:
        with conn.transaction():
            conn.execute("select pg_advisory_xact_lock(hashtextextended('gendurable.install', 0::bigint))")
            coroutine = script(mine)
            task = asyncio.create_task(coroutine)

            def blocked() -> bool:
                row = conn.execute(
                    "select wait_event_type from pg_stat_activity where pid = %s", (mine.pgconn.backend_pid,)
                ).fetchone()
                return row == ("Lock",)

            await asyncio.to_thread(wait_until, blocked)
            task.cancel()
            if how == "close":
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await is_clean(mine)


def test_a_coroutine_that_is_closed_leaves_no_transaction_on_the_server(db: Any, conn: Conn) -> None:
    """Nothing can be sent any more: the connection is given up."""
    pids: list[int] = []

    async def main() -> None:
        mine = await AsyncConn.connect(db.dsn, autocommit=True)
        pids.append(mine.info.backend_pid)
        coroutine = gd.install(mine)
        # Driven by hand, as far as it goes without an answer of the server.
        coroutine.send(None)
        coroutine.close()
        assert mine.closed or mine.pgconn.transaction_status == TransactionStatus.IDLE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
    wait_until(lambda: conn.execute("select 1 from pg_stat_activity where pid = %s", (pids[0],)).fetchone() is None)


# Several on one connection


async def test_two_waits_share_a_connection_and_others_use_it_meanwhile(conn: Conn, aconn: AsyncConn) -> None:
    ids = [new(conn) for _ in range(3)]
    tasks = [asyncio.create_task(gd.wait(aconn, id, timeout=60, listen=True)) for id in ids]
    await until_waiting(conn, aconn)
    for _ in range(20):
        # Nobody holds the connection while it waits: this is a hang detector, and no measurement.
        assert await asyncio.wait_for(gd.version(aconn), 3)
    end(conn, ids[1])
    assert (await asyncio.wait_for(tasks[1], 30)).status == "cancelled"
    assert not tasks[0].done()
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    row = await (await aconn.execute(CHANNELS)).fetchone()
    assert row == (["gendurable_done"],), "the third still listens"
    end(conn, ids[2])
    assert (await asyncio.wait_for(tasks[2], 30)).status == "cancelled"
    await is_clean(aconn)


async def test_what_the_user_listens_to_stays(conn: Conn, aconn: AsyncConn) -> None:
    await aconn.execute("listen gendurable_done")
    heard: list[str] = []
    aconn.add_notify_handler(lambda notify: heard.append(notify.payload))
    ids = [new(conn) for _ in range(2)]
    tasks = [asyncio.create_task(gd.wait(aconn, id, timeout=60, listen=True)) for id in ids]
    await until_waiting(conn, aconn)
    end(conn, *ids)
    for task in tasks:
        await asyncio.wait_for(task, 30)
    row = await (await aconn.execute(CHANNELS)).fetchone()
    assert row == (["gendurable_done"],)
    conn.execute("select pg_notify('gendurable_done', '5')")
    await gd.version(aconn)
    assert "5" in heard


def test_threads_share_a_connection(db: Any, conn: Conn) -> None:
    ids = [new(conn) for _ in range(3)]
    with psycopg.connect(db.dsn, autocommit=True) as mine:
        handler = mine.pgconn.notify_handler
        waiting = [run_in_thread(gd.wait, mine, id, timeout=60, listen=True) for id in ids]
        wait_until(lambda: isinstance(mine.pgconn.notify_handler, Catch))
        for id in ids:
            assert run_in_thread(gd.version, mine).result()
            end(conn, id)
        assert {each.result().status for each in waiting} == {"cancelled"}
        assert mine.execute(CHANNELS).fetchone() == ([],)
        assert mine.pgconn.notify_handler == handler
