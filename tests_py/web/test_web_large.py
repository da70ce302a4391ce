"""Large values: a page costs by what it shows, counted in bytes that the database sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from psycopg.rows import tuple_row
from support.cli import commit_for
from support.web import Browser, browsing, learns, text_of

import gendurable_py as gd
from gendurable_py.calls import viewing
from gendurable_py.web import app
from gendurable_py.web.routes import instance as pages
from gendurable_py.web.shown import Shown

Conn = psycopg.Connection[Any]
MEGABYTE = 1_000_000


class Bytes:
    """Counts what the dashboard is sent for its pages; its sessions learn beside them."""

    sent = 0


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> type[Bytes]:
    execute = psycopg.AsyncCursor.execute

    async def counting(cursor: Any, *args: Any, **options: Any) -> Any:
        found = await execute(cursor, *args, **options)
        if (answer := cursor.pgresult) is not None and not learns():
            Bytes.sent += sum(
                len(answer.get_value(row, column) or b"")
                for row in range(answer.ntuples)
                for column in range(answer.nfields)
            )
        return found

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counting)
    return Bytes


@pytest.fixture
def large(conn: Conn) -> int:
    """An instance with megabytes of everything, stored as they are: state, meta, inbox, and a history of 40 states."""
    gd.register(conn, "m", version=1, initial_step="a", queue="q", options={"history": "states", "steps": ["a"]})
    id = gd.insert(conn, "m", {"first": "one", "n": 1}) or 0
    conn.execute(
        "alter table gendurable.instance alter state set storage external, alter meta set storage external;"
        "alter table gendurable.history alter state set storage external;"
        "alter table gendurable.signal alter payload set storage external;"
        "insert into gendurable.history (instance_id, no, at, attempt, kind, step, next_step, worker, state, detail)"
        " select i.id, g, now(), 0, 'next', 'a', 'a', 'w', jsonb_build_object('x', repeat('x', 1000000)), null"
        " from gendurable.instance i, generate_series(1, 40) g;"
        "insert into gendurable.signal (instance_id, name, payload)"
        " select i.id, 's' || g, jsonb_build_object('x', repeat('x', 1000000))"
        " from gendurable.instance i, generate_series(1, 25) g;"
        "update gendurable.instance set state = jsonb_build_object('first', 'one', 'x', repeat('x', 5000000)),"
        " meta = jsonb_build_object('x', repeat('x', 1000000)), last_error = repeat('x', 1000000)"
    )
    return id


@pytest.fixture
def browser(db: Database, count: type[Bytes]) -> Iterator[Browser]:
    with browsing(app(db.dsn)) as browser:
        browser.get("/")
        count.sent = 0
        yield browser


def test_a_page_of_an_instance_is_sent_a_part_of_what_is_large(browser: Browser, large: int) -> None:
    page = browser.get(f"/instances/{large}")
    # 71 MB stand there: three values and an error of 100 kB each, 20 payloads of at most 4 kB
    assert Bytes.sent < MEGABYTE / 2
    assert len(page.content) < MEGABYTE
    said = text_of(page)
    assert "5.0 MB in all, the rest is left out" in said
    assert "the rest is left out" in said.partition("last error")[2]
    assert said.partition("Inbox")[2].count("too large to be shown here") == 20
    # the last entries, each with the way to its state
    assert said.count("#") >= 30 and "#40" in said and "#10 " not in said
    assert f'href="/instances/{large}/history?after=39&amp;limit=1"' in page.text


def test_pages_of_a_history_share_what_they_may_be_sent(browser: Browser, large: int) -> None:
    page = browser.get(f"/instances/{large}/history")
    assert Bytes.sent < MEGABYTE / 10
    assert text_of(page).count("too large to be shown here") == 40
    Bytes.sent = 0
    browser.get(f"/instances/{large}/history?limit=200")
    assert Bytes.sent < MEGABYTE / 10
    # of one alone there is more
    Bytes.sent = 0
    page = browser.get(f"/instances/{large}/history?after=6&limit=1")
    assert MEGABYTE / 10 <= Bytes.sent < MEGABYTE / 5
    assert "#7" in text_of(page) and "MB in all, the rest is left out" in text_of(page)


def test_small_states_are_shown_as_trees(browser: Browser, conn: Conn) -> None:
    gd.register(conn, "m", version=1, initial_step="a", queue="default", options={"history": "states"})
    id = gd.insert(conn, "m", {"card": {"number": "4711"}}) or 0
    gd.signal(conn, id, "paid", {"sum": 30})
    commit_for(conn, id, "next", step="b", state={"card": {"number": "4712"}})
    page = text_of(browser.get(f"/instances/{id}/history"))
    assert "card { 1 key } number 4711" in page
    page = text_of(browser.get(f"/instances/{id}"))
    assert "card { 1 key } number 4712" in page and "4711" not in page
    assert "sum 30" in page


def test_raw_json_is_whole_or_refused(browser: Browser, conn: Conn, large: int, monkeypatch: Any) -> None:
    found = json.loads(browser.get(f"/instances/{large}/raw").text)
    assert found == gd.get(conn, large)
    monkeypatch.setattr(pages, "_RAW", 100_000)
    Bytes.sent = 0
    answer = browser.get(f"/instances/{large}/raw", 413)
    assert f"gendurable show {large} --json writes all of it" in text_of(answer)
    assert Bytes.sent < 1000
    browser.get("/instances/999999/raw", 404)


def test_what_cannot_be_redacted_is_not_shown(db: Database, conn: Conn, large: int, monkeypatch: Any) -> None:
    with browsing(app(db.dsn, redact=lambda what, machine, value: value)) as browser:
        for path in (f"/instances/{large}", f"/instances/{large}/history?after=6&limit=1"):
            page = browser.get(path)
            assert "too large to be shown here" in text_of(page)
            assert len(page.content) < 300_000
        monkeypatch.setattr(pages, "_REDACTED", 100_000)
        browser.get(f"/instances/{large}/raw", 413)


def test_forms_ask_for_no_states(db: Database, browser: Browser, large: int) -> None:
    for verb in ("signal", "cancel", "retry", "reschedule", "pause", "fork", "edit"):
        Bytes.sent = 0
        browser.get(f"/act/instance/{verb}?id={large}", 403)
        assert Bytes.sent < 1000
    with browsing(app(db.dsn, operate=True)) as other:
        for verb, most in (("signal", 10_000), ("cancel", 10_000), ("fork", 10_000), ("edit", MEGABYTE)):
            Bytes.sent = 0
            other.get(f"/act/instance/{verb}?id={large}")
            assert Bytes.sent < most, verb


def test_an_excerpt_is_a_tree_only_of_what_is_whole() -> None:
    shown = Shown(None)
    assert shown.excerpt("state", "m", '{"a": 1}', 100).twigs[0].text == "1"
    # as long as what was asked for: whole, or cut in a place where it is no JSON
    assert shown.excerpt("state", "m", '{"a": 1}', 8).kind == "object"
    cut = shown.excerpt("state", "m", '{"a": 12', 8, 2_000_000)
    assert (cut.kind, cut.text) == ("cut", '{"a": 12… [2.0 MB in all, the rest is left out]')
    # whole, and beyond what Python can read
    deep = "[" * 5000 + "]" * 5000
    assert shown.excerpt("state", "m", deep, 20_000).text == deep
    assert shown.excerpt("state", "m", None, 8, 2_000_000).text == "[2.0 MB in all, too large to be shown here]"


def test_latest_entries_are_found_without_their_states(conn: Conn) -> None:
    gd.register(conn, "m", version=1, initial_step="a", queue="q", options={"history": "states", "steps": ["a"]})
    id = gd.insert(conn, "m") or 0
    assert viewing.lately(conn, id, 5) == []
    for count in (1, 4, 1, 1, 1, 200):
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                "insert into gendurable.history (instance_id, no, at, attempt, kind, step, state)"
                " select %(id)s, g + coalesce((select max(no) from gendurable.history where instance_id = %(id)s), 0),"
                " now(), 0, 'next', 'a', '{}' from generate_series(1, %(count)s) g",
                {"id": id, "count": count},
            )
        last = conn.execute("select max(no) from gendurable.history where instance_id = %s", (id,)).fetchone()
        assert last is not None
        found = viewing.lately(conn, id, 5)
        assert [row["no"] for row in found] == list(range(max(1, last[0] - 4), last[0] + 1))
        assert [entry.no for entry in viewing.latest(conn, id, 5)] == [row["no"] for row in found]
        assert all(row["state"] is None and row["size"] is not None for row in found)
