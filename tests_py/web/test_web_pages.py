"""Every page of the dashboard, over a database with something of everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import Database
from starlette.datastructures import QueryParams
from support.cli import commit_for
from support.web import Browser, browsing, text_in, text_of

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.flow import FlowContext, flow
from gendurable_py.testing import drain
from gendurable_py.web import app
from gendurable_py.web.application import _PAGES
from gendurable_py.web.query import asked_by, filter_of, query

Conn = psycopg.Connection[Any]


@pytest.fixture
def ids(conn: Conn) -> dict[str, int]:
    """Instances of all kinds, queues, limits, schedules, workers, pauses."""
    gd.register(
        conn,
        "order",
        version=1,
        initial_step="start",
        queue="default",
        options={"history": "states", "steps": ["start", "pay", "ship"]},
    )
    found: dict[str, int | None] = {}
    found["done"] = gd.insert(conn, "order", {"n": 1})
    commit_for(conn, found["done"], "next", step="ship", state={"n": 2})
    commit_for(conn, found["done"], "done", result={"sent": True})
    found["failed"] = gd.insert(conn, "order", {"card": None}, unique_key="order:7")
    commit_for(conn, found["failed"], "stop", reason="order 7 has no card", traceback="Traceback:\n  pay.py\nKeyError")
    found["awaits"] = gd.insert(conn, "order", {"sum": 30}, partition_key="customer:1")
    commit_for(conn, found["awaits"], "await", signals=["paid"], step="pay")
    gd.signal(conn, found["awaits"] or 0, "payed", {"sum": 29})
    found["held"] = gd.insert(conn, "order", {}, unique_key="order:8")
    found["parent"] = gd.insert(conn, "basket", {})
    commit_for(
        conn, found["parent"], "schedule_childs", step="end", childs=[{"fsm": "order", "state": {"of": "basket"}}]
    )
    found["first"] = gd.insert(conn, "order", {}, partition_key="customer:2", queue="mails")
    found["second"] = gd.insert(conn, "order", {}, partition_key="customer:2", queue="mails")
    calls.set_rate_limit(conn, "mail", 1, 60)
    found["limited"] = gd.insert(conn, "mail", {}, rate_limit="mail", queue="slow")
    calls.schedule(conn, "nightly", "0 6 * * *", "mail")
    calls.set_queue(conn, "slow", limit=3)
    calls.pause_queue(conn, "slow")
    calls.pause_machine(conn, "mail", None, "send")
    calls.hello(
        conn, "w1", {"queues": {"default": 4}, "machines": [["order", 1, ["start"]]], "host": "web-3", "pid": 7}
    )
    return {name: id for name, id in found.items() if id is not None}


@pytest.fixture
def browser(db: Database, ids: dict[str, int]) -> Iterator[Browser]:
    with browsing(app(db.dsn)) as browser:
        yield browser


PAGES: dict[str, tuple[str, ...]] = {
    "/": ("Steps in the last hour", "order # has no card", "default", "w1", "Queue slow is paused"),
    "/queues": ("default", "mails", "slow", "limit 3", "paused", "nobody"),
    "/queue?name=default": ("Queue default", "Served by", "w1"),
    "/queue?name=mails": ("Nobody serves this queue", "customer:2"),
    "/instances": ("order:7", "awaiting signal", "basket", "order 7 has no card"),
    "/instances?status=failed&fsm=order": ("order:7", "order 7 has no card"),
    "/instances/{failed}": (
        'It has ended as "failed"',
        "order 7 has no card",
        "KeyError",
        "unique key order:7",
        "stop",
    ),
    "/instances/{awaits}": ("It awaits", "paid", "payed", "customer:1", "29"),
    "/instances/{parent}": ("Children", "It waits for 1 child"),
    "/instances/{done}": ("ship", "History", "next", "sent"),
    "/instances/{done}/history": ("start → ship", "state"),
    "/instances/{done}/journal": ("There are no entries here",),
    "/failures": ("order # has no card", "1 order start"),
    "/line?key=customer:2": ("Line of a key", "next", "waits", "mails"),
    "/machines": ("basket", "order", "pay, ship, start"),
    "/machine?name=order": ("Machine order", "w1", "order # has no card", "Versions"),
    "/schedules": ("nightly", "0 6 * * *", "mail", "UTC"),
    "/limits": ("mail", "slow"),
    "/bucket?name=mail": ("Rate limit mail",),
    "/workers": ("w1", "web-3"),
    "/worker?name=w1": ("Worker w1", "order version 1", "Nothing now."),
    "/pauses": ("queue slow", "step mail step send"),
    "/doctor": ("ok",),
    "/audit": ("gd_pause_queue", "gd_set_rate_limit"),
}


def test_the_pages_show_what_there_is(browser: Browser, ids: dict[str, int]) -> None:
    for path, expected in PAGES.items():
        page = browser.get(path.format(**ids))
        text = text_of(page)
        for said in expected:
            assert said in text, f"{path}: {said!r} is not in: {text}"
        # Nothing that the policy forbids, and no script but the file.
        assert not re.search(r"<[^>]*\s(style|on\w+)=", page.text), path
        assert re.findall(r"<script(?: src=)?", page.text) == ["<script src="], path


def test_every_page_has_its_test() -> None:
    tried = {re.sub(r"\{\w+\}", "{id}", path.partition("?")[0]) for path in PAGES}
    assert set(_PAGES) == tried


def test_an_empty_database_says_what_to_do_next(db: Database) -> None:
    with browsing(app(db.dsn)) as browser:
        assert "gendurable worker MODULE" in text_of(browser.get("/"))
        for path in ("/instances", "/queues", "/machines", "/schedules", "/limits", "/workers", "/audit", "/failures"):
            assert "empty" in browser.get(path).text, path


def test_the_pages_of_a_list_have_every_instance_once(db: Database, conn: Conn) -> None:
    gd.insert_many(conn, [{"fsm": "m"} for _ in range(120)])
    with browsing(app(db.dsn)) as browser:
        found: list[int] = []
        path: str | None = "/instances?fsm=m&limit=50"
        while path:
            page = browser.get(path).text
            found += [int(id) for id in re.findall(r'<tr id="i(\d+)"', page)]
            link = re.search(r'rel="next" href="([^"]+)"', page)
            path = link[1].replace("&amp;", "&") + "&limit=50" if link else None
        assert len(found) == len(set(found)) == 120
        assert found == sorted(found, reverse=True)


def test_filters_have_names_and_their_addresses_are_short(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    commit_for(conn, id, "stop", reason="no card")
    mine = {"My orders": "/instances?fsm=order&status=failed,open", "Open": "status=open&queue=default"}
    with browsing(app(db.dsn, filters=mine)) as browser:
        page = browser.get("/instances").text
        offered = re.findall(r'<nav class="saved".*?</nav>', page, re.DOTALL)[0]
        links = {word: link.replace("&amp;", "&") for link, word in re.findall(r'href="([^"]+)">([^<]+)<', offered)}
        # those of the dashboard come first, and take the places of usual ones
        assert [*links][:2] == [*mine]
        assert links["My orders"] == "/instances?fsm=order&status=failed%2Copen"
        assert links["Open"] == "/instances?status=open&queue=default"
        assert len(links) == len(set(links)) > 4
        for word, link in links.items():
            shown = browser.get(link).text
            assert re.findall(r'aria-current="true">([^<]+)<', shown) == [word]
        page = browser.get(links["My orders"]).text
        assert f'id="i{id}"' in page
        assert "<title>Instances: status failed,open, fsm order" in page
        # what a form leaves empty is not in the address
        answer = browser.get("/instances?status=&fsm=order&step=&error=a+b", 303)
        assert answer.headers["location"] == "/instances?fsm=order&error=a+b"
    for wrong in (
        {"x": "fms=order"},
        {"x": "status=faled"},
        {"x": ""},
        {"x": "order"},
        {"x": "after=1"},
        {" ": "fsm=a"},
    ):
        with pytest.raises(gd.errors.InvalidArgument):
            app(db.dsn, filters=wrong)


FILTERS: tuple[dict[str, Any], ...] = (
    {"fsm": "order", "status": ["failed", "cancelled"]},
    {"id": [1, 2], "stuck_for_ms": 90_500},
    {"attributes": {"a": "b c"}, "meta": {"n": [1]}, "version": 2, "finished_after": "2026-01-01T00:00:00+00:00"},
    {"status": "failed", "error": "a & b = ü", "partition_prefix": "x:"},
)


@pytest.mark.parametrize("filter", FILTERS)
def test_a_filter_of_the_audit_is_a_list(filter: dict[str, Any]) -> None:
    asked = asked_by(filter)
    assert asked is not None
    found = filter_of(QueryParams(query(**asked).removeprefix("?")))
    several = {name: [value] if name in ("status", "id") and not isinstance(value, list) else value
               for name, value in filter.items()}  # fmt: skip
    assert found == several


@pytest.mark.parametrize("nothing", [None, "fsm order", [], {}, {"fms": 1}, {"status": ["faled"]}, {"fsm": "x [cut]"}])
def test_what_is_no_filter_is_no_list(nothing: Any) -> None:
    assert asked_by(nothing) is None


def test_the_search_finds_ids_keys_machines_and_errors(browser: Browser, ids: dict[str, int]) -> None:
    held = ids["awaits"]
    for text, leads_to in (
        (str(held), f"/instances/{held}"),
        ("order:7", "/instances?unique_key=order%3A7"),
        ("order:8", f"/instances/{ids['held']}"),
        ("customer:2", "/instances?partition_key=customer%3A2"),
        ("basket", "/instances?fsm=basket"),
        ("no card", "/instances?status=failed&error=no+card"),
        ("", "/instances"),
    ):
        answer = browser.get("/search", 303, params={"q": text})
        assert answer.headers["location"] == leads_to
        browser.get(leads_to)


def test_the_raw_document_is_what_the_call_answers(browser: Browser, conn: Conn, ids: dict[str, int]) -> None:
    assert browser.get(f"/instances/{ids['failed']}/raw").json() == gd.get(conn, ids["failed"])


def test_a_machine_with_a_history_has_a_diagram(browser: Browser) -> None:
    page = browser.get("/machine?name=order").text
    assert 'class="diagram"' in page
    assert "start to ship: 1" in text_in(page) and "by their histories" in text_in(page)


def test_a_diagram_is_of_what_workers_have_reported(browser: Browser, conn: Conn) -> None:
    rows = [["order", "start", "next", 990, 1, "ship"], ["order", "start", "next", 7, 1, "pay"]]
    rows += [["order", "start", "error", 3, 1], ["order", "pay", "await", 4, 1], ["order", "ship", "done", 50, 1]]
    rows += [["order", "pay", "stop", 1, 1], ["other", "start", "next", 5, 1, "elsewhere"]]
    calls.hello(conn, "w2", {"counters": {"no": 1, "rows": rows}})
    page = text_in(browser.get("/machine?name=order").text)
    for said in ("start to ship: 990", "start to pay: 7", "pay to pay: 4", "ship to (done): 50", "pay to (failed): 1"):
        assert said in page, said
    assert "start: 0.3% went wrong" in page and "pay: 20.0% went wrong" in page and "elsewhere" not in page
    assert "as workers have reported it since" in page
    assert "Last hour" in page and "start to ship: 990" in text_in(browser.get("/machine?name=order&minutes=1440").text)


def test_the_last_entries_of_a_long_history_are_shown(db: Database, conn: Conn) -> None:
    gd.register(conn, "long", version=1, initial_step="s", queue="default", options={"history": "steps"})
    id = gd.insert(conn, "long")
    for _ in range(70):
        commit_for(conn, id, "next", step="s")
    with browsing(app(db.dsn)) as browser:
        page = text_of(browser.get(f"/instances/{id}"))
        assert "#70" in page
        assert "#41" in page
        assert "#40 " not in page
        first = browser.get(f"/instances/{id}/history?limit=50")
        assert "#50" in text_of(first)
        assert "#51" not in text_of(first)
        link = re.search(r'rel="next" href="([^"]+)"', first.text)
        assert link is not None
        assert "#70" in text_of(browser.get(link[1]))


async def _give(value: str) -> str:
    return value


def _refuse() -> None:
    raise ValueError("<b>no</b>")


@flow(name="web.flow")
async def _flow(ctx: FlowContext) -> None:
    for number in range(40):
        await ctx.step(f"give {number}", _give, "a large value")
    await ctx.using(max_attempts=2, delay=60).step("refuse", _refuse)


def test_the_page_of_a_flow_has_the_end_of_its_journal(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, _flow)
    drain(conn, [_flow])
    with browsing(app(db.dsn)) as browser:
        answer = browser.get(f"/instances/{id}")
        page = text_of(answer)
        assert "Journal" in page and "give 39" in page and "give 5 " not in page
        assert "refuse" in page and "ValueError: <b>no</b>" in page and "<b>no</b>" not in answer.text
        assert page.index("give 20") < page.index("give 39") and page.count("a large value") == 29
        # and back to the first one, each once
        seen, path = set(re.findall(r"#(\d+)", page.partition("Journal")[2].partition("History")[0])), answer.text
        while link := re.search(r'href="(/instances/\d+/journal\?before=\d+)">Older', path):
            path = browser.get(link[1]).text
            more = set(re.findall(r"#(\d+)", text_in(path)))
            assert not seen & more
            seen |= more
        assert seen == {str(no) for no in range(1, 43)}
        browser.get(f"/instances/{id}/journal?before=0", 400)
    with browsing(app(db.dsn, redact=lambda what, fsm, value: None)) as browser:
        assert "ValueError" not in browser.get(f"/instances/{id}").text
        assert "a large value" not in browser.get(f"/instances/{id}").text


def test_a_journal_with_much_in_it_is_shown_from_its_end(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "m") or 0
    conn.execute(
        "alter table gendurable.journal alter entry set storage external;"
        "insert into gendurable.journal select i.id, g, jsonb_build_object('k', 'step', 'name', 'n' || g, 'v', "
        "'\"' || repeat('x', case when g = 38 then 1500000 else 900000 end) || '\"') "
        "from gendurable.instance i, generate_series(1, 40) g"
    )
    with browsing(app(db.dsn)) as browser:
        answer = browser.get(f"/instances/{id}")
        said = text_of(answer).partition("Journal")[2]
        assert len(answer.content) < 100_000
        # the last ones are there, and what is too large has a way to it
        assert all(f"n{no} " in said for no in (40, 39, 37)) and "n38 " not in said
        assert "#38, 1.5 MB, too large to be shown here" in said and "#11, 900 kB" in said and "#10" not in said
        one = text_of(browser.get(f"/instances/{id}/journal?before=39&limit=1"))
        assert "n38 #38" in one and "1.5 MB in all, the rest is left out" in one


def test_a_long_queue_says_that_its_first_ones_are_not_shown(db: Database, conn: Conn) -> None:
    said = "these are the newest ones, and others may start before them"
    with browsing(app(db.dsn)) as browser:
        gd.insert_many(conn, [{"fsm": "m", "queue": "q"} for _ in range(49)])
        assert said not in browser.get("/queue?name=q").text
        gd.insert_many(conn, [{"fsm": "m", "queue": "q"} for _ in range(2)])
        assert said in browser.get("/queue?name=q").text


def test_a_search_path_of_another_schema_is_the_connections(db: Database, conn: Conn, ids: dict[str, int]) -> None:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(db.dsn, autocommit=True)

    with browsing(app(connect)) as browser:
        assert "order:7" in text_of(browser.get("/instances"))
    with browsing(app(lambda: psycopg.connect(db.dsn, autocommit=True))) as browser:
        assert "order:7" in text_of(browser.get("/instances"))


def test_a_count_that_was_cut_says_so(browser: Browser, conn: Conn) -> None:
    # Two full queues: each count ends at 5,000.
    conn.execute(
        "insert into gendurable.instance (fsm, step, queue, status, eligible_at)"
        " select 'm', 's', 'full' || n.queue, 'runnable', now() from (values (1, 250), (2, 300), (3, 4999), (4, 5001))"
        " n (queue, rows), generate_series(1, n.rows)"
    )
    page = text_of(browser.get("/queues"))
    assert "full4 5,000+" in page
    assert "full3 4,999 " in page
    assert "full1 250 " in page


def test_static_files_are_kept_by_browsers(browser: Browser) -> None:
    page = browser.get("/").text
    asked = re.findall(r'(?:href|src)="(/static/[^"]*)"', page)
    assert len(asked) == 3
    for path in asked:
        answer = browser.get(path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "set-cookie" not in answer.headers and answer.headers["x-content-type-options"] == "nosniff"
    # under an address that does not say which they are, they are asked for each time, and sent if they have changed
    for path in ("/static/app.js", "/static/app.js?v=other"):
        answer = browser.get(path)
        assert answer.headers["cache-control"] == "no-cache"
        again = browser.get(path, 304, headers={"If-None-Match": answer.headers["etag"]})
        assert not again.content
    assert browser.get("/static/none.js", 404).headers["cache-control"] == "no-store"
    assert browser.get("/").headers["cache-control"] == "no-store"
