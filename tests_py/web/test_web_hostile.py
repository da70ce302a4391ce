"""Texts of others, whatever they are, are shown as texts, on every page and in every form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from conftest import Database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.cli import commit_for
from support.hostile_pages import NASTY, WORDS, check
from support.server import Server
from support.web import browsing, text_of

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.web import app, words
from gendurable_py.web.acts import ACTS
from gendurable_py.web.application import _PAGES
from gendurable_py.web.shown import Shown

Conn = psycopg.Connection[Any]
pytestmark = pytest.mark.timeout(400)


def put(conn: Conn, text: str) -> dict[str, Any]:
    """Everything that can have a name, a reason or a value has this text."""
    short = text.encode()[:1000].decode(errors="ignore") or "x"
    gd.register(
        conn, short, version=1, initial_step=short, queue="default", options={"history": "states", "steps": [short]}
    )
    id = gd.insert(
        conn, short, {short: [text, {"deep": text}]}, queue="default", partition_key=short, unique_key=short,
        meta={"m": text, short: 1}, attributes={short: text[:200]}, step=short,
    )  # fmt: skip
    assert id is not None
    gd.signal(conn, id, short, {"payload": text})
    commit_for(conn, id, "replay", delay_ms=0, error=text, state={"s": text}, worker=short)
    commit_for(conn, id, "stop", reason=text, traceback=text, worker=short)
    parent = gd.insert(conn, short, {"s": text}, step=short)
    commit_for(conn, parent, "schedule_childs", step=short, childs=[{"fsm": short, "step": short, "queue": short}])
    waits = gd.insert(conn, short, {"s": text}, queue=short, partition_key=short, step=short)
    assert waits is not None
    gd.pause(conn, waits)
    done = gd.insert(conn, short, step=short)
    commit_for(conn, done, "done", result={"r": text})
    calls.set_rate_limit(conn, short, 1, 3600)
    for _ in range(2):
        gd.insert(conn, short, step=short, rate_limit=short, queue=short)
    gd.claim(conn, short, short, 10)
    calls.schedule(conn, short, "0 6 * * *", short, queue=short)
    calls.pause_queue(conn, short)
    calls.set_queue(conn, short, limit=1)
    calls.pause_machine(conn, short, None, short)
    about: dict[str, Any] = {
        "queues": {short: 4},
        "machines": [[short, 1, [short]]],
        "host": text[:200],
        "pid": 7,
        "version": text[:50],
    }
    counted = [[short, short, outcome, 3, 1.5, short] for outcome in ("next", "await")]
    about["counters"] = {"no": 1, "rows": [*counted, [short, short, "error", 1, 1]]}
    calls.hello(conn, short, about)
    entry = {
        "k": "step",
        "name": text,
        "n": 0,
        "at": 1795727340.25,
        "v": json.dumps({text: text}),
        "e": {"message": text},
    }
    conn.execute(
        "insert into gendurable.journal select %s, g, %s::jsonb from generate_series(1, 35) g",
        (done, json.dumps(entry)),
    )
    calls.drain_worker(conn, short)
    calls.hold_all(conn, text[:500])
    return {"short": short, "ids": [id, parent, waits, done]}


def pages_of(named: str, ids: list[int]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every page, the form of every action, and each filter, about what has a name."""
    for path in _PAGES:
        if "{id}" in path:
            yield from ((path.format(id=id), {}) for id in ids)
        else:
            takes = {"/queue": "name", "/machine": "name", "/bucket": "name", "/worker": "name", "/line": "key",
                     "/failures": "fsm", "/audit": "actor"}  # fmt: skip
            yield path, {takes[path]: named} if path in takes else {}
    for name in ("fsm", "step", "queue", "partition_key", "unique_prefix", "rate_limit", "worker", "error"):
        yield "/instances", {name: named}
    for kind, verb in ACTS:
        about = {"instance": {"id": str(ids[0])}, "many": {"fsm": named}}.get(kind, {"name": named})
        yield f"/act/{kind}/{verb}", about
    yield "/act/machine/pause", {"name": named, "step": named}


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("".join(NASTY[: len(NASTY) // 2]))
@example("".join(NASTY[len(NASTY) // 2 :]))
@given(WORDS)
def test_any_text_is_shown_as_text_on_every_page(server: Server, text: str) -> None:
    db = Database(server)  # one for each text
    conn = db.connect()
    with closing(db), browsing(app(db.dsn, operate=True, user_header="X-User", title=text)) as browser:
        browser.client.headers["X-User"] = quote(text)[:90]
        made = put(conn, text)
        conn.execute("select set_config('gendurable.actor', %s, false)", (text[:200],))
        for path, params in pages_of(made["short"], made["ids"]):
            answer = browser.client.get(path, params=params or None)
            assert answer.status_code == 200, (path, params, text_of(answer))
            check(answer.text)
        for id in made["ids"]:
            assert str(id) in text_of(browser.get(f"/instances/{id}"))
        seen = text_of(browser.get(f"/instances/{made['ids'][0]}"))
        assert " ".join(words.plain(text).split()) in seen
        # what a stream sends is put into pages as HTML
        for part in next(browser.events(f"/instances/{made['ids'][0]}"))[1].values():
            check(part)
        # and it comes back from a form as it was
        before = gd.get(conn, made["ids"][2])
        browser.send(f"/act/instance/edit?id={made['ids'][2]}", priority="3")
        again = gd.get(conn, made["ids"][2])
        assert before is not None and again is not None
        assert (again["state"], again["priority"]) == (before["state"], 3)
        raw = browser.get(f"/instances/{made['ids'][0]}/raw")
        assert raw.headers["content-type"] == "application/json"
        assert raw.json()["state"] == gd.get(conn, made["ids"][0])["state"]  # type: ignore[index]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(WORDS, inner, max_size=8),
    max_leaves=40,
)


@settings(deadline=None)
@given(JSON)
def test_a_tree_has_every_leaf_of_a_small_value(value: Any) -> None:
    def leaves(twig: Any) -> int:
        assert twig.left_out == 0
        return sum(map(leaves, twig.twigs)) if twig.kind in ("object", "array") and twig.twigs else 1

    def count(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return sum(map(count, inner)) if inner else 1

    assert leaves(Shown(None).tree("state", "m", value)) == count(value)


def test_values_of_10_mb_are_cut_with_a_word(db: Database, conn: Conn) -> None:
    ids = [
        gd.insert(conn, "big", {"text": "x" * 10_000_000}),
        gd.insert(conn, "big", {"rows": [{"n": n, "t": "y" * 50} for n in range(150_000)]}),
        gd.insert(conn, "big", {"deep": json.loads("[" * 500 + "]" * 500)}),
        gd.insert(conn, "big", {"keys": {f"k{n}": n for n in range(100_000)}}),
        gd.insert(conn, "big", {"rows": [{"n": n} for n in range(1000)]}),
        gd.insert(conn, "big", {"keys": {f"k{n}": n for n in range(1000)}}),
    ]
    with browsing(app(db.dsn, operate=True)) as browser:
        pages = [browser.get(f"/instances/{id}") for id in ids]
        assert max(len(page.text) for page in pages) < 600_000
        assert "10 MB in all, the rest is left out" in text_of(pages[0])
        assert "MB in all, the rest is left out" in text_of(pages[1])
        assert "more are left out" in text_of(pages[2])
        assert "MB in all, the rest is left out" in text_of(pages[3])
        assert "800 more are left out" in text_of(pages[4])
        assert "800 more are left out" in text_of(pages[5])
        browser.get(f"/act/instance/edit?id={ids[0]}")
        assert len(browser.get(f"/instances/{ids[0]}/raw").content) > 10_000_000
        assert len(browser.get("/instances").text) < 100_000


def test_10_mb_wherever_they_may_stand_are_cut(db: Database, conn: Conn) -> None:
    gd.register(conn, "big", version=1, initial_step="start", queue="default", options={"history": "states"})
    text = "<b>" + "x" * 10_000_000
    id = gd.insert(conn, "big", {"text": text}, meta={"m": text})
    gd.signal(conn, id or 0, "paid", {"p": text})
    commit_for(conn, id, "replay", delay_ms=0, error=text, traceback=text, state={"again": text})
    commit_for(conn, id, "done", result={"r": text})
    failed = gd.insert(conn, "big")
    commit_for(conn, failed, "stop", reason=text, traceback=text)
    with browsing(app(db.dsn, operate=True)) as browser:
        paths = ("/", "/instances", f"/instances/{id}", f"/instances/{id}/history", f"/instances/{failed}", "/failures",
                 "/machine?name=big", f"/act/instance/edit?id={id}", f"/act/instance/fork?id={id}&no=1")  # fmt: skip
        for path in paths:
            page = browser.get(path).text
            assert len(page) < 1_000_000, path
            check(page)
        part = next(browser.events(f"/instances/{id}"))[1]
        assert sum(map(len, part.values())) < 1_000_000


def test_numbers_and_times_that_python_does_not_have(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "m", {"n": 1})
    conn.execute(
        "update gendurable.instance set state = ('{\"n\": 1' || repeat('0', 6000) || '}')::jsonb, "
        "eligible_at = '294000-01-01', inserted_at = '4000-01-01 BC' where id = %s",
        (id,),
    )
    with browsing(app(db.dsn, operate=True)) as browser:
        page = text_of(browser.get(f"/instances/{id}"))
        assert "294000-01-01" in page
        assert b"0" * 6000 in browser.get(f"/instances/{id}/raw").content
        browser.get(f"/act/instance/edit?id={id}")
        assert str(id) in text_of(browser.get("/instances"))
        assert str(id) in text_of(browser.get("/queue?name=default"))


def test_a_state_that_python_cannot_read_costs_its_machine_nothing(db: Database, conn: Conn) -> None:
    gd.register(conn, "m", version=1, initial_step="start", queue="default", options={"history": "states"})
    id = gd.insert(conn, "m")
    commit_for(conn, id, "next", step="pay", state={"n": 1})
    conn.execute("update gendurable.history set state = (repeat('[', 3000) || repeat(']', 3000))::jsonb")
    with browsing(app(db.dsn)) as browser:
        assert "start to pay: 1" in browser.get("/machine?name=m").text
