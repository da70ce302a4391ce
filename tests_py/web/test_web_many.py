"""Pages over many queues, workers, machines, schedules and limits: a part of them at a time, and none left out."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.web import Browser, browsing, learns, text_in

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.web import app

Conn = psycopg.Connection[Any]
MANY = 250
NAMES = [f"n{n:03}" for n in range(MANY)]


class Counting:
    """Counts the rows of each answer that the dashboard gets."""

    answers: list[int] = []  # noqa: RUF012 - of one test at a time


@pytest.fixture
def browser(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    execute = psycopg.AsyncCursor.execute

    async def counting(cursor: Any, *args: Any, **options: Any) -> Any:
        found = await execute(cursor, *args, **options)
        if not learns():
            Counting.answers.append(max(cursor.rowcount, 0))
        return found

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counting)
    with browsing(app(db.dsn)) as browser:
        browser.get("/")
        Counting.answers = []
        yield browser


def walk(browser: Browser, path: str, rel: str = 'rel="next"') -> Iterator[str]:
    """A page and those that follow it."""
    while True:
        page = browser.get(path).text
        yield page
        link = re.search(rf'<a {rel} href="([^"]*)"', page)
        if link is None:
            return
        path = html.unescape(link[1])


def named(page: str, link: str) -> list[str]:
    """The names of those that a page has a row of."""
    return re.findall(rf'<tr><td><a href="/{link}\?name=([^"&]*)"', page)


def checked(pages: list[str], link: str) -> None:
    found = [named(page, link) for page in pages]
    assert [len(names) for names in found] == [100, 100, 50]
    assert [name for names in found for name in names] == NAMES
    assert max(Counting.answers) == 101
    assert [">Beginning<" in page for page in pages] == [False, True, True]


def test_queues(browser: Browser, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "m", "queue": name} for name in NAMES])
    checked(list(walk(browser, "/queues")), "queue")
    overview = text_in(browser.get("/").text)
    assert "All queues: these are of the first 200 by name" in overview
    assert "Due now 200+" in overview


def test_queues_that_nothing_stands_in(browser: Browser, conn: Conn) -> None:
    for n, name in enumerate(NAMES):
        if n % 3 == 0:
            calls.pause_queue(conn, name)
        elif n % 3 == 1:
            calls.set_queue(conn, name, concurrency=2)
        else:
            calls.hello(conn, f"w{n}", {"queues": {name: 1}})
    checked(list(walk(browser, "/queues")), "queue")


def test_limits_of_queues(browser: Browser, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "m", "queue": f"other{n}"} for n in range(20)])
    for name in NAMES:
        calls.set_queue(conn, name, limit=3)
    checked(list(walk(browser, "/limits")), "queue")


def test_workers(browser: Browser, conn: Conn) -> None:
    queues = {f"q{n}": 1 for n in range(60)}
    for name in NAMES:
        calls.hello(conn, name, {"queues": queues, "machines": [["m", 1, ["start"]], ["other", 1, ["m2"]]]})
    pages = list(walk(browser, "/workers"))
    checked(pages, "worker")
    assert pages[0].count("/queue?") == 20 * 100 and "and 40 more" in pages[0]
    Counting.answers = []
    assert "The first 50; there are more" in text_in(browser.get("/queue?name=q7").text)
    gd.insert(conn, "m")
    gd.insert(conn, "m2")
    assert browser.get("/machine?name=m").text.count("/worker?") == 20
    # what has a step of that name does not know a machine of it
    assert browser.get("/machine?name=m2").text.count("/worker?") == 0
    overview = text_in(browser.get("/").text)
    assert "Workers 50+" in overview and "All workers" in overview
    assert max(Counting.answers) <= 61  # the queues


def test_machines(browser: Browser, conn: Conn) -> None:
    for n, name in enumerate(NAMES[:-1]):
        calls.register(conn, name, version=1 + n % 2, initial_step="start", queue="q")
    # versions of one machine on two pages
    for version in range(3, 105):
        calls.register(conn, NAMES[-1], version=version, initial_step="start", queue="q")
    pages = [named(page, "machine") for page in walk(browser, "/machines")]
    assert [len(names) for names in pages] == [100, 100, 100, 51]
    assert [name for names in pages for name in names] == NAMES[:-1] + NAMES[-1:] * 102
    assert max(Counting.answers) == 101
    assert "249" in NAMES[-1] and browser.get(f"/machine?name={NAMES[-1]}").text.count('href="/queue?name=q"') >= 100


def test_schedules(browser: Browser, conn: Conn) -> None:
    for name in NAMES:
        calls.schedule(conn, name, "0 6 * * *", "mail")
    pages = [re.findall(r"<tr><td>(n\d+)</td>", page) for page in walk(browser, "/schedules")]
    assert [name for names in pages for name in names] == NAMES
    assert [len(names) for names in pages] == [100, 100, 50]
    assert max(Counting.answers) == 101


def test_buckets(browser: Browser, conn: Conn) -> None:
    # 40 limits without a bucket, 130 buckets of one, 30 with a line in two queues each
    for n in range(40):
        gd.set_rate_limit(conn, f"a{n:02}", 1, 3600)
    gd.set_rate_limit(conn, "mail", 1, 3600)
    conn.execute("select gd_close_rate_limit('mail:' || n, now() + interval '1 h') from generate_series(1, 130) n")
    gd.set_rate_limit(conn, "text", 1, 3600)
    lined = [{"fsm": "m", "queue": f"q{n % 2}", "rate_limit": f"text:{n // 4}"} for n in range(120)]
    gd.insert_many(conn, lined)
    for queue in ("q0", "q1"):
        gd.claim(conn, "w", queue, 200)
    Counting.answers = []
    pages = list(walk(browser, "/limits"))
    rows = [(name, bucket) for page in pages for name, bucket in re.findall(
        r'<tr><td>([a-z0-9]+)</td>.*?(?:bucket\?name=([^"]*)"|all are full)', page)]  # fmt: skip
    assert len(pages) == 3
    assert [name for name, bucket in rows if not bucket] == [f"a{n:02}" for n in range(40)]
    assert sorted(bucket for name, bucket in rows if name == "mail") == sorted(f"mail%3A{n}" for n in range(1, 131))
    assert sorted({bucket for name, bucket in rows if name == "text"}) == sorted(f"text%3A{n}" for n in range(30))
    known = conn.execute("select count(*) from gd_rate_limits").fetchone()
    assert known == (len(rows),)
    assert max(Counting.answers) == 101
    assert "They wait for more buckets: see Limits" in text_in(browser.get("/queue?name=q0").text)


def test_pauses(browser: Browser, conn: Conn) -> None:
    ids = gd.insert_many(conn, [{"fsm": "m"} for _ in range(510)])
    for one in ids:
        calls.pause(conn, one.id or 0)
    for n in range(30):
        calls.pause_queue(conn, f"q{n}")
    page = browser.get("/pauses").text
    assert page.count("<tr>") == 501 and "The first 500; there are more" in text_in(page)
    overview = browser.get("/").text
    assert overview.count("is paused since") == 20
    assert max(Counting.answers) == 501


def test_the_steps_of_a_machine_are_counted_in_one_query(browser: Browser, conn: Conn) -> None:
    gd.register(conn, "m", version=1, initial_step="a", queue="q", options={"history": "steps", "steps": ["a", "b"]})
    gd.insert_many(conn, [{"fsm": "m", "queue": "q"} for _ in range(60)])

    def go(count: int, **outcome: object) -> None:
        taken = conn.execute("select id, claim_no from gd_claim('w', 'q', %s)", (count,)).fetchall()
        assert len(taken) == count
        done = [{"id": id, "claim_no": no, **outcome} for id, no in taken]
        conn.execute("select gd_commit('w', %s)", (json.dumps(done),))

    go(60, kind="next", step="b")
    go(40, kind="next", step="a")
    go(15, kind="done")
    go(5, kind="stop", reason="no")
    Counting.answers = []
    page = browser.get("/machine?name=m").text
    asked = len(Counting.answers)
    told = re.search(r'aria-label="Steps: ([^"]*)"', page)
    assert told is not None
    moves = dict(re.findall(r"(\S+ to \S+) (\d+) times", told[1]))
    assert moves["a to b"] == "60" and moves["b to a"] == "40"
    assert sum(int(n) for move, n in moves.items() if move.endswith("(done)")) == 15
    assert sum(int(n) for move, n in moves.items() if move.endswith("(failed)")) == 5
    gd.insert_many(conn, [{"fsm": "m", "queue": "q"} for _ in range(40)])
    Counting.answers = []
    browser.get("/machine?name=m")
    assert len(Counting.answers) == asked <= 12
