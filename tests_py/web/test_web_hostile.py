"""Texts of others, whatever they are, are shown as texts; no URL is answered with a mistake of ours."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import psycopg
from conftest import Database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.cli import commit_for
from support.web import Browser, browsing, text_of

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.web import app, words
from gendurable_py.web.acts import ACTS
from gendurable_py.web.application import _PAGES
from gendurable_py.web.query import FILTERS
from gendurable_py.web.render import HERE
from gendurable_py.web.shown import Shown

Conn = psycopg.Connection[Any]
NASTY = [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "</textarea><b>x",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "javascript:alert(1)",
    "a\u202eb\u2066c",
    "\x01\x1b[31m\x7f",
    "' onmouseover='x",
    "&lt;b&gt;",
    "../..",
    "a/b?c=d&e#f%00",
    "\u200b\ufeff",
    "'; drop schema gendurable cascade; --",
    "%s%n",
    "ü" * 300,
    "</pre></details>",
]
WORDS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30),
)
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# What the templates are made of.
TAGS = {
    tag
    for path in [*(HERE / "templates").glob("*.html"), HERE / "charts.py", HERE / "diagram.py", HERE / "render.py"]
    for tag in re.findall(r"<([a-z][a-z0-9]*)\b", path.read_text())
} - {"template"}


class Checker(HTMLParser):
    """Every tag is one of ours, no handler and no style is among the attributes, and all links stay here."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert not name.startswith("on"), attrs
            assert name != "style", attrs
            if name in ("href", "src", "action"):
                assert value is not None
                assert value.startswith(("/", "#")), attrs
                assert not value.startswith("//"), attrs


def check(page: str) -> None:
    Checker().feed(page)
    # fields of forms have to come back as they are
    shown = re.sub(r"(?<= value=)\"[^\"]*\"|(?<=>\n)[^<]*(?=</textarea>)", "", page)
    assert not HIDDEN.search(shown)


def put(conn: Conn, text: str) -> tuple[int, int]:
    """Instances that have a text wherever a text may stand."""
    short = text.encode()[:1000].decode(errors="ignore") or "x"
    gd.register(conn, short, version=1, initial_step=short, queue="default", options={"history": "states"})
    id = gd.insert(
        conn, short, {short: [text, {"deep": text}]}, queue="default", partition_key=short, unique_key=short,
        meta={"m": text}, step=short,
    )  # fmt: skip
    assert id is not None
    gd.signal(conn, id, short, {"payload": text})
    commit_for(conn, id, "stop", reason=text, traceback=text, worker=short)
    waits = gd.insert(conn, short, {"s": text}, queue=short, partition_key=short)
    assert waits is not None
    return id, waits


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("".join(NASTY[: len(NASTY) // 2]))
@example("".join(NASTY[len(NASTY) // 2 :]))
@given(WORDS)
def test_any_text_is_shown_as_text(db: Database, text: str) -> None:
    conn = db.connect()
    with conn, browsing(app(db.dsn, operate=True, auth=lambda request: "ada")) as browser:
        conn.execute("select gd_cancel(id) from gd_instances where finished_at is null")
        conn.execute("select gd_delete(id) from gd_instances")
        id, waits = put(conn, text)
        row = gd.get(conn, id)
        assert row is not None
        named: dict[str, Any] = {"name": row["fsm"]}
        for path, params in (
            ("/", {}), ("/queues", {}), ("/queue", named), ("/instances", {}), ("/instances", {"fsm": row["fsm"]}),
            (f"/instances/{id}", {}), (f"/instances/{waits}", {}), (f"/instances/{id}/history", {}), ("/failures", {}),
            ("/machines", {}), ("/machine", named), ("/line", {"key": row["partition_key"]}), ("/audit", {}),
            (f"/act/instance/edit?id={id}", {}), (f"/act/instance/retry?id={id}", {}),
            ("/act/many/cancel", {"error": text}),
            ("/act/queue/pause", named), ("/act/machine/pause", {**named, "step": row["step"]}),
        ):  # fmt: skip
            answer = browser.client.get(path, params=params or None)
            assert answer.status_code == 200, (path, text_of(answer))
            check(answer.text)
        seen = text_of(browser.get(f"/instances/{id}"))
        assert " ".join(words.plain(text).split()) in seen
        # and it comes back from a form as it was
        browser.send(f"/act/instance/edit?id={id}")
        again = gd.get(conn, id)
        assert again is not None
        assert again["state"] == row["state"]


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


# -- URLs


def test_what_stands_around_an_id_gets_into_no_header(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    with browsing(app(db.dsn)) as browser:
        for before in ("%0d%0a%0d%0a", "%E2%80%83", "+"):
            answer = browser.get(f"/instances/{before}{id}/raw")
            assert answer.headers["content-disposition"] == f'inline; filename="instance-{id}.json"'


PARAMS = (
    *FILTERS,
    *["name", "key", "after", "limit", "since", "minutes", "version", "no", "q", "did", "to", "call", "actor"],
)
VALUES = st.one_of(
    WORDS,
    st.sampled_from(
        [
            *("", "0", "-1", "1", "99999999999999999999", "9223372036854775807", "1e9", "null", "open", "failed,open"),
            *("2h", "now", "9" * 12 + "w", "0001-01-01", "9999-12-31T23:59:59+14:00", "\x00", "infinity", "x" * 5000),
            *("{}", "[]", '{"id": 1}', '{"id": "x"}', '{"a": NaN}', "[" * 3000, '{"failed_us": 1e400, "id": 1}'),
            *('{"failed_us": 99999999999999999999999, "id": 1}', '{"id": 1e400}', '{"x": {"y": 1}}'),
        ]
    ),
)
PATHS = st.one_of(
    st.sampled_from([*sorted({path.replace("{id}", "1") for path in _PAGES}), "/instances/1/raw", "/search"]),
    st.sampled_from(sorted(f"/act/{kind}/{verb}" for kind, verb in ACTS)),
    VALUES.map(lambda text: "/instances/" + quote(text[:100], safe="")),
    VALUES.map(lambda text: "/" + quote(text[:100])),
)


def test_any_url_is_answered_without_a_mistake_of_ours(db: Database, conn: Conn) -> None:
    conn.execute("select gd_register('order', 1, 'start', 'default', '{\"history\": \"steps\"}')")
    for number in range(3):
        gd.insert(conn, "order", {"n": number}, partition_key="1")
    commit_for(conn, 1, "stop", reason="no")
    made = app(db.dsn, operate=True, auth=lambda request: "ada")

    with browsing(made) as browser:

        @settings(max_examples=150, deadline=None)
        @given(PATHS, st.dictionaries(st.one_of(st.sampled_from(PARAMS), WORDS), VALUES, max_size=3))
        def ask(path: str, params: dict[str, str]) -> None:
            answer = browser.client.get(path, params=params)
            assert answer.status_code < 500, (path, params, text_of(answer))
            if "html" in answer.headers.get("content-type", ""):
                check(answer.text)

        ask()

        @settings(max_examples=80, deadline=None)
        @given(st.sampled_from(sorted(ACTS)), st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4), VALUES)
        def send(act: tuple[str, str], values: dict[str, str], name: str) -> None:
            path = f"/act/{act[0]}/{act[1]}"
            params = {"id": "2", "name": name, "fsm": "nobody"}
            answer = browser.client.post(path, params=params, data={"proof": proof(browser), **values})
            assert answer.status_code < 500, (path, values, name, text_of(answer))

        send()


FIELDS = [
    "reason",
    "cascade",
    "step",
    "state",
    "at",
    "name",
    "payload",
    "dedup_key",
    "queue",
    "priority",
    "meta",
    "unique_key",
    "limit",
    "concurrency",
    "limit_name",
    "allowed",
    "period",
    "burst",
    "until",
    "prefix",
    "ids",
    "start",
    "to",
    "steps",
    "really",
]


def proof(browser: Browser) -> str:
    return browser.form("/act/everything/release")["proof"]


def test_a_misspelt_filter_is_refused_and_not_passed_over(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    with browsing(app(db.dsn)) as browser:
        assert "there is no 'fms' here" in text_of(browser.get("/instances?fms=order", 400))
        assert "there is no status 'faled'" in text_of(browser.get("/instances?status=faled", 400))
        assert calls.audit(conn).calls == []
