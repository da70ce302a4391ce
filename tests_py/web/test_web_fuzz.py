"""No URL, no form and no header is answered with a mistake of ours: what cannot be read gets a 4xx."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from conftest import Database
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import commit_for
from support.hostile_pages import WORDS, check
from support.web import Browser, browsing, fields_of, serving, text_of

import gendurable_py as gd
from gendurable_py import calls
from gendurable_py.web import app
from gendurable_py.web.acts import ACTS
from gendurable_py.web.application import _PAGES
from gendurable_py.web.query import FILTERS

Conn = psycopg.Connection[Any]
pytestmark = pytest.mark.timeout(400)


def test_what_stands_around_an_id_gets_into_no_header(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    with browsing(app(db.dsn)) as browser:
        for before in ("%0d%0a%0d%0a", "%E2%80%83", "+"):
            answer = browser.get(f"/instances/{before}{id}/raw")
            assert answer.headers["content-disposition"] == f'inline; filename="instance-{id}.json"'


PARAMS = (
    *FILTERS,
    *[
        "name",
        "key",
        "after",
        "before",
        "limit",
        "since",
        "minutes",
        "version",
        "no",
        "q",
        "did",
        "to",
        "call",
        "actor",
    ],
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


EXTREMES = ("\x00", "x" * 5000, "99999999999999999999", "", '{"a": NaN}', "[" * 3000)


def fill_in(browser: Browser, conn: Conn, act: tuple[str, str], values: list[str], *, open: bool) -> None:
    """The form of an action as it comes, with these values, and with what it does not know."""
    kind, verb = act
    id = gd.insert(conn, "order")
    if not open:
        gd.cancel(conn, id or 0)
    path = f"/act/{kind}/{verb}?" + {"instance": f"id={id}", "many": f"id={id}"}.get(kind, "name=order")
    form = fields_of(browser.get(path).text)
    fields = [name for name in form if name != "proof"]
    filled = {**form, "cascade": "yes", "really": "yes", **dict(zip(fields, values, strict=False))}
    odd = {"proof": [form["proof"], values[0]], "x" * 3000: "y", "ids": values[0]}
    for sent in (filled, odd):
        answer = browser.client.post(path, data=sent)
        assert answer.status_code < 500, (path, sent, text_of(answer))
        check(answer.text)


@pytest.mark.parametrize("value", EXTREMES, ids=range(len(EXTREMES)))
def test_every_form_takes_extremes_without_a_mistake_of_ours(db: Database, conn: Conn, value: str) -> None:
    with browsing(app(db.dsn, operate=True)) as browser:
        for act in ACTS:
            fill_in(browser, conn, act, [value] * 9, open=act[1] != "retry")


def test_every_form_takes_anything_without_a_mistake_of_ours(db: Database, conn: Conn) -> None:
    with browsing(app(db.dsn, operate=True)) as browser:

        @settings(max_examples=100, deadline=None)
        @given(st.sampled_from(sorted(ACTS)), st.lists(VALUES, min_size=9, max_size=9), st.booleans())
        def fill(act: tuple[str, str], values: list[str], open: bool) -> None:
            fill_in(browser, conn, act, values, open=open)

        fill()


HEADERS = st.dictionaries(
    st.sampled_from(
        ["Accept", "Accept-Encoding", "Authorization", "Cookie", "Content-Type", "Host", "If-None-Match", "Origin",
         "Range", "Referer", "Sec-Fetch-Site", "X-Forwarded-For", "X-Forwarded-Proto", "X-User", "Last-Event-ID"]
    ),
    st.one_of(
        st.sampled_from(
            [
                *("", "Bearer", "Bearer \xff", "Basic x", "bytes=0-1", "*", "text/event-stream;q=0", ",,,", "a=b; c"),
                *("gendurable_session=..", 'x="', "https", "null", "[::1", "a:b:c", ":", "localhost:99999999"),
            ]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
    ),
    max_size=4,
)  # fmt: skip


def raw(address: str, method: str, target: str, headers: dict[str, str], body: bytes) -> int:
    """A request of bytes that clients would not send."""
    host = address.removeprefix("http://")
    conn = http.client.HTTPConnection(host, timeout=60)
    try:
        conn.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            conn.putheader(name, value.strip().encode("latin-1"))
        conn.putheader("Content-Length", str(len(body)))
        conn.endheaders(body)
        return conn.getresponse().status
    finally:
        conn.close()


TARGETS = st.one_of(
    st.sampled_from(
        [
            *("/%", "/%zz", "/%ff%fe", "//", "//example.com/", "/./../etc/passwd", "/static/../app.py"),
            *("/static/%2e%2e/app.py", "/static/", "/static", "/static/app.js%00", "/instances/%2e%2e"),
            *("/instances/1/raw/", "/queues/", "/queue?name", "/queue?name=a&name=b", "/instances?%ff=%fe"),
            *("/instances?fsm=%00", "/instances?fsm=%ff", "/queue?name=%ed%a0%80", "/?&&&=&", "/login?to=%00"),
            *("/act/instance/cancel?id=1&id=2", "/act//", "/act/many/cancel?ids=1", "/search?q=" + "x" * 30_000),
            "/line?key=" + "%F0%9F%92%A9" * 1000,
            "/instances?" + "&".join(f"fsm={number}" for number in range(2000)),
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60).map(lambda text: "/" + text),
)


def bombard(address: str) -> None:
    methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])

    @settings(max_examples=80, deadline=None)
    @given(methods, TARGETS, HEADERS, st.binary(max_size=60))
    def ask(method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        assert raw(address, method, target, headers, body) < 500, (method, target, headers, body)

    ask()


def test_no_request_is_answered_with_a_mistake_of_ours(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    for options in ({"operate": True}, {"token": "a long token, and secret"}, {"user_header": "X-User"}):
        hosts = ["127.0.0.1"] if "token" in options else None
        with serving(app(db.dsn, hosts=hosts, **options)) as address:  # type: ignore[arg-type]
            bombard(address)
    assert gd.count(conn, {"status": "runnable"}).instances == 1


def test_a_misspelt_filter_is_refused_and_not_passed_over(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    with browsing(app(db.dsn)) as browser:
        assert "there is no 'fms' here" in text_of(browser.get("/instances?fms=order", 400))
        assert "there is no status 'faled'" in text_of(browser.get("/instances?status=faled", 400))
        assert calls.audit(conn).calls == []
