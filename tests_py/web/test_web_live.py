"""Live parts; the server goes away and comes back; many watch at once; what is locked or slow."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.cli import commit_for
from support.proxy import Proxy
from support.wait import wait_until
from support.web import Browser, browsing, serving, text_in, text_of

import gendurable_py as gd
from gendurable_py.web import app, stream
from gendurable_py.web.look import Page
from gendurable_py.web.stream import Events, Streams

Conn = psycopg.Connection[Any]


def test_a_stream_sends_what_changes_and_only_that(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order", {"n": 1})
    with browsing(app(db.dsn, refresh=0.1)) as browser:
        events = browser.events(f"/instances/{id}")
        name, parts = next(events)
        assert name == "parts"
        assert {"live_head", "live_why", "live_values", "live_history", "live_held"} <= set(parts)
        commit_for(conn, id, "done", result={"sent": True})
        for name, changed in events:
            assert name == "parts"
            if "live_head" in changed:
                assert "done" in text_in(changed["live_head"])
                assert "sent" in text_in(changed["live_values"])
                assert "live_held" not in changed
                break
        gd.delete(conn, id or 0)
        assert next(event for event in events if event[0] == "away")[1]["title"] == "Not there"
        assert list(events) == []


def test_a_server_that_goes_away_is_told_and_found_again(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order", {"n": 1})
    with Proxy(db.dsn) as proxy, browsing(app(proxy.dsn, refresh=0.1, patience=1, operate=True)) as browser:
        form = browser.form(f"/act/instance/cancel?id={id}")
        events = browser.events("/queues")
        assert next(events)[0] == "parts"
        proxy.refusing = True
        proxy.cut()
        name, said = next(event for event in events if event[0] != "parts")
        assert (name, said["title"], said["again"]) == ("away", "The database does not answer", True)
        answer = browser.get("/", 503)
        assert "The database does not answer" in text_of(answer)
        assert answer.headers["refresh"] == "5"
        assert browser.client.post(f"/act/instance/cancel?id={id}", data=form).status_code == 503
        proxy.refusing = False
        assert next(event for event in events if event[0] != "away")[0] == "back"
        gd.insert(conn, "order", queue="another")
        assert "another" in next(events)[1]["live_queues"]
        browser.get("/")
        # a session that broke while nobody asked is no reason to say so
        proxy.cut()
        browser.get("/")
        gd.insert(conn, "order")
        proxy.cut()
        assert browser.client.post(f"/act/instance/cancel?id={id}", data=form).status_code == 303


def test_a_server_that_is_silent_is_given_up(db: Database, conn: Conn) -> None:
    with Proxy(db.dsn) as proxy, browsing(app(proxy.dsn, patience=0.3)) as browser:
        browser.get("/")
        proxy.silence()
        answer = browser.get("/", 503)
        assert "took too long" in text_of(answer)
        proxy.heal()
        browser.get("/")


def test_a_deed_whose_answer_is_lost_is_not_done_again(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    with Proxy(db.dsn) as proxy, browsing(app(proxy.dsn, operate=True, patience=2)) as browser:
        gd.schedule(conn, "nightly", "0 6 * * *", "mail")
        form = browser.form("/act/schedule/trigger?name=nightly")
        proxy.lose_answer_to(b"gd_trigger")
        answer = browser.client.post("/act/schedule/trigger?name=nightly", data=form)
        assert answer.status_code == 503
        assert gd.count(conn, {"fsm": "mail"}).instances <= 1


def test_what_takes_too_long_is_ended_on_the_server(db: Database, conn: Conn) -> None:
    with db.connect(autocommit=False) as other, browsing(app(db.dsn, patience=0.3)) as browser:
        other.execute("lock table gendurable.instance in access exclusive mode")
        assert "took too long" in text_of(browser.get("/instances", 503))
        other.rollback()
        browser.get("/instances")
        active = (
            "select count(*) from pg_stat_activity where application_name = 'gendurable dashboard' "
            "and state <> 'idle' and datname = current_database()"
        )
        # also what a session was to learn from
        wait_until(lambda: conn.execute(active).fetchone() == (0,))


def test_nothing_here_without_gendurable(empty_db: Database) -> None:
    with browsing(app(empty_db.dsn)) as browser:
        assert "gendurable is not here" in text_of(browser.get("/", 503))


def test_looking_only_reads(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    conn.execute("alter database " + conn.info.dbname + " set log_statement = 'none'")
    before = conn.execute("select xmin::text, xmax::text from gendurable.instance").fetchall()
    with browsing(app(db.dsn, operate=True)) as browser:
        for path in ("/", "/instances", "/instances/1", "/act/instance/cancel?id=1", "/act/many/cancel?fsm=order"):
            browser.get(path)
    assert conn.execute("select xmin::text, xmax::text from gendurable.instance").fetchall() == before


def test_many_who_watch_ask_the_server_once(db: Database, conn: Conn) -> None:
    looks = renders = 0

    async def many() -> list[str]:

        async def make() -> Page:
            nonlocal looks
            looks += 1
            await asyncio.sleep(0)
            return Page("x", "x", {"n": looks})

        streams = Streams(3600)

        def render(page: Page) -> dict[str, str]:
            nonlocal renders
            renders += 1
            return {"live_x": str(page.data["n"])}

        async def first(number: int) -> str:
            events = streams.events("key", make, render, number % 2)
            async for text in events:
                if text.startswith("event"):
                    await events.aclose()  # type: ignore[attr-defined]
                    return text
            raise AssertionError

        return await asyncio.gather(*(first(number) for number in range(50)))

    said = asyncio.run(many())
    # and is rendered once for all who see the same of it
    assert (looks, renders) == (1, 2)
    assert set(said) == {'event: parts\ndata: {"live_x": "1"}\n\n'}


def test_a_page_that_costs_much_is_looked_at_less_often() -> None:
    times: list[float] = []

    async def watch() -> None:
        async def make() -> Page:
            times.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)
            return Page("x", "x", {})

        seen = 0
        async for text in Streams(0.001).events("key", make, lambda page: {"live_x": str(len(times))}):
            seen += text.startswith("event")
            if seen == 2:
                return

    asyncio.run(watch())
    # twenty milliseconds of work, and then a fiftieth of the time
    assert times[1] - times[0] >= 0.9


def test_pages_that_are_watched_share_what_looks_may_take() -> None:
    async def watch(pages: int) -> float:
        async def make() -> Page:
            await asyncio.sleep(0.01)
            return Page("x", "x", {})

        streams = Streams(0.001)
        held = [streams.events(number, make, lambda page: {"live_x": "x"}) for number in range(pages) for _ in range(3)]
        for events in held:
            await anext(events)
        # each page is watched by three: it is what they watch that counts
        await asyncio.gather(*(anext(events) for events in held))
        pause = min(look.pause for look in streams._looks.values())
        for events in held:
            await events.aclose()  # type: ignore[attr-defined]
        assert not streams._watched
        return pause

    assert asyncio.run(watch(1)) >= 50 * 0.01
    assert asyncio.run(watch(4)) >= 4 * 50 * 0.01


def test_pages_that_nobody_watches_any_more_are_not_kept() -> None:
    async def watch() -> None:
        async def make() -> Page:
            return Page("x", "x", {})

        streams = Streams(0.001)
        for number in range(5):
            events = streams.events(number, make, lambda page: {"live_x": "x"})
            async for text in events:
                if text.startswith("event"):
                    await events.aclose()  # type: ignore[attr-defined]
                    break
            while not streams._looks[number].is_old:  # noqa: ASYNC110 - it is time that makes it old
                await asyncio.sleep(0)
            assert len(streams._looks) == 1

    asyncio.run(watch())


HTTP = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}


async def _never() -> Any:
    await asyncio.Event().wait()


def _answer(streams: Streams, make: Any) -> Events:
    seat = streams.sit()
    assert seat is not None
    return Events(streams.events("key", make, lambda page: {"live_x": "x"}), seat, reads=0.05)


def test_a_reader_that_does_not_read_holds_no_stream() -> None:
    reads: list[str] = []

    async def watch() -> None:
        async def make() -> Page:
            return Page("x", "x", {})

        streams = Streams(0.001)

        async def send(message: Any) -> None:
            reads.append(message["type"])
            if len(reads) > 3:
                await asyncio.Event().wait()  # its buffers are full

        await asyncio.wait_for(_answer(streams, make)(HTTP, _never, send), 30)
        assert streams._running == 0

    asyncio.run(watch())
    # it was not completed, so that the server closes the connection
    assert reads == ["http.response.start", *["http.response.body"] * 3]


def test_a_reader_that_waits_for_changes_is_not_a_slow_one() -> None:
    async def watch() -> int:
        async def make() -> Page:
            await asyncio.sleep(0.1)  # longer than a message may take
            return Page("x", "x", {})

        bodies: list[bytes] = []

        async def send(message: Any) -> None:
            bodies.append(message.get("body", b""))
            if sum(body.startswith(b"event: parts") or body == b": same\n\n" for body in bodies) == 2:
                streams.end()

        streams = Streams(0.001)
        await _answer(streams, make)(HTTP, _never, send)
        assert bodies[-2:] == [b"event: ends\ndata: {}\n\n", b""]
        return streams._running

    assert asyncio.run(watch()) == 0


def test_a_stream_that_ends_by_plan_says_so(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LASTS", 0.3)
    with browsing(app(db.dsn, refresh=0.1)) as browser:
        assert [name for name, _ in browser.events("/queues")][-1] == "ends"


def test_times_that_go_on_are_no_change(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order", queue="a")
    with browsing(app(db.dsn, refresh=0.1)) as browser:
        lines = browser.lines("/instances")
        first = next(line for line in lines if line.startswith("data: "))
        assert "ago" in first
        assert next(line for line in lines if line and not line.startswith("event")) == ": same"


def test_streams_end_with_their_readers_and_there_are_not_too_many(db: Database) -> None:
    with serving(app(db.dsn, refresh=0.1)) as address:
        with Browser(address) as browser:
            held = [browser.events("/queues") for _ in range(64)]
            for events in held[:32]:
                next(events)
            browsers = [Browser(address) for _ in range(40)]
            opened = sum(_opens(one, one.events("/queues")) for one in browsers)
            assert opened == 32
            for events in held[:32]:
                events.close()  # type: ignore[attr-defined]
        with Browser(address) as browser:
            # those who have gone are noticed
            wait_until(lambda: _opens(browser, browser.events("/workers")), 20)
        for one in browsers:
            one.client.close()


def test_many_that_come_at_once_get_no_more_places_than_there_are(db: Database) -> None:
    async def status(port: int) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /queues HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        return (await asyncio.wait_for(reader.readline(), 60)).split()[1], writer

    async def all_at_once(port: int) -> list[bytes]:
        answers = await asyncio.gather(*(status(port) for _ in range(150)))
        for _, writer in answers:
            writer.close()
        return [code for code, _ in answers]

    with serving(app(db.dsn)) as address:
        codes = asyncio.run(all_at_once(int(address.rpartition(":")[2])))
        assert (codes.count(b"200"), codes.count(b"503")) == (64, 86)


def test_a_place_is_given_back_where_a_stream_never_began() -> None:
    async def watch() -> None:
        async def make() -> Page:
            return Page("x", "x", {})

        streams = Streams(0.001)

        async def send(message: Any) -> None:
            raise OSError  # whoever asked is gone

        with contextlib.suppress(Exception):
            await _answer(streams, make)(HTTP, _never, send)
        assert streams._running == 0
        assert sum(streams.sit() is not None for _ in range(100)) == 64

    asyncio.run(watch())


def _opens(browser: Browser, events: Any) -> bool:
    """Whether a stream begins; it is left open, for as long as somebody has it."""
    try:
        next(events)
    except AssertionError as refused:
        assert "503" in str(refused)  # noqa: PT017
        return False
    browser.kept.append(events)
    return True
