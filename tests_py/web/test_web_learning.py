"""Sessions learn before pages use them: beside the pages, which wait for none, and no more of them than may be."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.looking import fill
from support.proxy import Proxy
from support.wait import wait_until
from support.web import browsing, text_of

from gendurable_py.web import app
from gendurable_py.web.application import _PAGES
from gendurable_py.web.source import Source
from gendurable_py.web.warm import to_be_seen

Conn = psycopg.Connection[Any]
AConn = psycopg.AsyncConnection[Any]
SESSIONS = "select count(*) from pg_stat_activity where application_name = 'gendurable dashboard' and datname = %s"


async def pid(conn: AConn) -> int:
    return conn.info.backend_pid


def test_a_page_gets_a_session_that_has_learned(db: Database) -> None:
    learned: list[int] = []

    async def lesson(conn: AConn) -> None:
        learned.append(await pid(conn))

    async def lessons(conn: AConn) -> list[Any]:
        return [lesson, lesson]

    async def run() -> None:
        source = Source(db.dsn, None, 5, lessons)
        source.prepare()
        assert source._learning is not None
        await source._learning
        assert len(learned) == 2
        # and the next one learns meanwhile: the one that is used goes first again
        assert await source.read(pid) == learned[0]
        await source._learning
        assert len(set(learned)) == 2
        assert await source.read(pid) in learned
        await source.close()

    asyncio.run(run())


def test_no_page_waits_for_what_a_session_learns(db: Database) -> None:
    async def run() -> None:
        begun, goes_on = asyncio.Event(), asyncio.Event()
        learns: list[int] = []

        async def lesson(conn: AConn) -> None:
            learns.append(await pid(conn))
            begun.set()
            await goes_on.wait()

        async def lessons(conn: AConn) -> list[Any]:
            return [lesson]

        async def slow(conn: AConn) -> int:
            await conn.execute("select pg_sleep(0.1)")
            return await pid(conn)

        source = Source(db.dsn, None, 20, lessons)
        source.prepare()
        await begun.wait()
        # four at a time, as without
        pages = await asyncio.gather(*(source.read(slow) for _ in range(4)))
        assert len(set(pages)) == 4 and learns[0] not in pages
        goes_on.set()
        assert source._learning is not None
        await source._learning
        # what is too many is ended
        assert len(source._idle) == 4
        await source.close()
        assert source._idle == []

    asyncio.run(run())


def test_lessons_that_fail_keep_no_session_from_its_pages(db: Database) -> None:
    seen: list[str] = []

    async def fails(conn: AConn) -> None:
        seen.append("fails")
        await conn.execute("select 1 / 0")

    async def breaks(conn: AConn) -> None:
        seen.append("breaks")
        await conn.execute("select pg_terminate_backend(pg_backend_pid())")

    async def lessons(conn: AConn) -> list[Any]:
        return [fails, fails, breaks, fails]

    async def run() -> None:
        source = Source(db.dsn, None, 5, lessons)
        source.prepare()
        assert source._learning is not None
        await source._learning
        assert seen == ["fails", "fails", "breaks"] and not source._idle
        assert await source.read(pid) > 0
        await source.close()
        silent = Source("host=127.0.0.1 port=1", None, 5, lessons)
        silent.prepare()
        assert silent._learning is not None
        await silent._learning
        with pytest.raises(psycopg.OperationalError):
            await silent.read(pid)
        await silent.close()

    asyncio.run(run())


def test_what_is_learned_is_every_page(db: Database, conn: Conn) -> None:
    fill(conn)

    async def run() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(db.dsn, autocommit=True) as other:
            return [handler for handler, _, _ in await to_be_seen(other, _PAGES)]

    seen = asyncio.run(run())
    assert set(seen) == set(_PAGES.values())


def test_a_dashboard_starts_without_its_server_and_keeps_few_sessions(db: Database, conn: Conn) -> None:
    with Proxy(db.dsn) as proxy:
        proxy.refusing = True
        with browsing(app(proxy.dsn, patience=1)) as browser:
            assert "does not answer" in text_of(browser.get("/", 503))
            proxy.refusing = False
            for _ in range(5):
                browser.get("/")

            def count() -> int:
                row = conn.execute(SESSIONS, (conn.info.dbname,)).fetchone()
                assert row is not None
                return int(row[0])

            wait_until(lambda: count() == 2)  # the one that is used, and one in reserve
            for path in ("/doctor", "/queues", "/machines"):
                browser.get(path)
            assert count() == 2
        wait_until(lambda: count() == 0)
