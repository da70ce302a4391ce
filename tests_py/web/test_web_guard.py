"""Who gets in, what a browser may do with a page, and that no secret is told."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from conftest import Database
from starlette.applications import Starlette
from starlette.routing import Mount
from support.cli import commit_for
from support.web import Browser, browsing, fields_of, serving, text_in, text_of

import gendurable_py as gd
from gendurable_py.errors import InvalidArgument
from gendurable_py.web import app, guesses
from gendurable_py.web.settings import Settings, key_of

Conn = psycopg.Connection[Any]
TOKEN = "a long token, and secret"
PATHS = ("/", "/instances/1", "/instances/1/raw", "/queues", "/act/instance/cancel?id=1", "/search?q=1", "/nothing")


def test_who_has_the_token_gets_in(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with browsing(app(db.dsn, token=TOKEN)) as browser:
        for path in PATHS:
            assert browser.get(path, 303).headers["location"].startswith("/login?to="), path
            browser.get(path, 401, headers={"Accept": "application/json"})
            browser.get(path, 401, headers={"Accept": "text/event-stream"})
        browser.get("/static/app.css")
        wrong = browser.client.post("/login", data={"token": "another one", "name": "ada"})
        assert wrong.status_code == 401
        assert not _session(wrong)

        answer = browser.client.post("/login?to=/queues", data={"token": TOKEN, "name": "ada"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/queues")
        cookie = _session(answer)
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        page = browser.get("/queues")
        assert "ada" in text_of(page)

        leave = browser.client.post("/logout", data={"proof": _proof(page.text)})
        assert leave.status_code == 303
        browser.get("/queues", 303)
    assert TOKEN not in caplog.text


def _session(answer: Any) -> str:
    """The cookie of the session, as it is set."""
    found = [value for value in answer.headers.get_list("set-cookie") if value.startswith("gendurable_session_")]
    return found[0] if found else ""


def _proof(page: str) -> str:
    return page.split('name="proof" value="')[1].split('"')[0]


def test_a_program_sends_the_token_as_a_bearer(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    with browsing(app(db.dsn, token=TOKEN, operate=True)) as browser:
        bearer = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}
        assert browser.get(f"/instances/{id}/raw", headers=bearer).json()["id"] == id
        browser.get("/", 401, headers={**bearer, "Authorization": "Bearer nonsense"})
        browser.get("/", 401, headers={**bearer, "Authorization": "Bearer"})
        # no browser sends it by itself, so that it needs no proof
        answer = browser.client.post(f"/act/instance/cancel?id={id}", headers=bearer, data={"reason": "x"})
        assert answer.status_code == 303


def test_a_session_that_was_made_up_or_changed_is_none(db: Database) -> None:
    with browsing(app(db.dsn, token=TOKEN)) as browser:
        cookie = _session(browser.client.post("/login", data={"token": TOKEN, "name": "ada"}))
        called, _, right = cookie.partition(";")[0].partition("=")
        until, name, proof = right.split(".")
        for wrong in (
            "",
            "x",
            "..",
            f"{int(until) + 1}.{name}.{proof}",
            f"{until}.eA==.{proof}",
            f"{until}.{name}.",
            "%C3%A9",
        ):
            browser.client.cookies.clear()
            browser.get("/", 303, headers={"Cookie": f"{called}={wrong}"})
        browser.get("/", 200, headers={"Cookie": f"{called}={right}"})
        port = browser.client.base_url.port
    with browsing(app(db.dsn, token=TOKEN + "!")) as browser:
        # under the name of that port, so that it is the cookie of this dashboard
        browser.get("/", 303, headers={"Cookie": f"{called}={right}", "Host": f"127.0.0.1:{port}"})


def test_who_has_the_token_gets_in_whoever_else_guesses(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # behind a proxy all of them come from one address
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(guesses, "asyncio", SimpleNamespace(sleep=sleep))
    through = {"X-Forwarded-For": "10.9.9.9, 10.0.0.7"}
    with browsing(app(db.dsn, token=TOKEN)) as browser:
        for number in range(10):
            browser.get("/", 401, headers={"Authorization": f"Bearer guess {number}", "Accept": "text/plain"})
        assert waits == []
        for number in range(10):
            answer = browser.client.post("/login", data={"token": f"guess {number}"}, headers=through)
            assert answer.status_code == 401
        assert len(waits) == 10
        assert min(waits) > 0
        browser.get("/", headers={"Authorization": f"Bearer {TOKEN}"})
        assert browser.client.post("/login", data={"token": TOKEN}).status_code == 303
        browser.get("/")
        assert len(waits) == 10
    # it is told once, with the address of the browser and without what was tried
    [said] = [record.getMessage() for record in caplog.records if record.name == "gendurable.web"]
    assert said == "many wrong tokens for the dashboard; one came from '10.0.0.7'"


def test_what_waits_for_its_refusal_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = 0
    most = 0

    async def guess() -> None:
        let_go = asyncio.Event()

        async def sleep(seconds: float) -> None:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await let_go.wait()
            waiting -= 1

        monkeypatch.setattr(guesses, "asyncio", SimpleNamespace(sleep=sleep))
        kept = guesses.Guesses()
        tries = [asyncio.ensure_future(kept.add("10.0.0.1")) for _ in range(1000)]
        done, held = await asyncio.wait(tries, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(held)) == (900, 100)
        let_go.set()
        await asyncio.gather(*held)

    asyncio.run(guess())
    assert (most, waiting) == (100, 0)


def test_who_has_not_said_who_they_are_fills_no_memory(db: Database, conn: Conn) -> None:
    large = {"token": TOKEN, "more": 100_000 * "x"}
    with browsing(app(db.dsn, token=TOKEN, operate=True)) as browser:
        assert browser.client.post("/login", data=large).status_code == 400
        assert browser.client.post("/login", data={**large, "more": ""}).status_code == 303
        held = gd.insert(conn, "order", {"n": 1}, delay=3600)
        browser.send(f"/act/instance/edit?id={held}", state=json.dumps({"n": 100_000 * "x"}))


def test_dashboards_of_one_host_do_not_take_each_others_cookies(db: Database, conn: Conn) -> None:
    # browsers know no ports, and send the cookies of / to all paths
    id = gd.insert(conn, "order")
    one, two = (app(db.dsn, token=f"{TOKEN} {number}", operate=True) for number in (1, 2))
    inner = app(db.dsn, token=f"{TOKEN} 3", operate=True)
    outer = Starlette(routes=[Mount("/jobs", inner), Mount("/", two)])
    with browsing(one) as first, browsing(outer) as second, browsing(outer, "/jobs") as third:
        jar: dict[str, str] = {}
        for browser, number in ((first, 1), (second, 2), (third, 3)):
            browser.client.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
            answer = browser.client.post("/login", data={"token": f"{TOKEN} {number}"})
            assert answer.status_code == 303
            for cookie in answer.headers.get_list("set-cookie"):
                name, _, value = cookie.partition(";")[0].partition("=")
                assert name not in jar
                jar[name] = value
            browser.client.cookies.clear()
        assert len(jar) == 6
        for browser in (first, second, third):
            browser.client.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
            browser.send(f"/act/instance/pause?id={id}")
            browser.send(f"/act/instance/resume?id={id}")


def test_cookies_are_secure_where_the_browser_came_over_https(db: Database) -> None:
    with browsing(app(db.dsn, trusted_proxies=["127.0.0.1"])) as browser:
        assert "Secure" not in browser.get("/").headers["set-cookie"]
        browser.client.cookies.clear()
        assert "Secure" in browser.get("/", headers={"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    with browsing(app(db.dsn, trusted_proxies=["10.0.0.1"])) as browser:
        assert "Secure" not in browser.get("/", headers={"X-Forwarded-Proto": "https"}).headers["set-cookie"]


def test_what_an_app_raises_about_a_request_lets_nobody_in(db: Database) -> None:
    def known(request: Any) -> str | None:
        raise RuntimeError("no session store")

    with browsing(app(db.dsn, auth=known)) as browser:
        answer = browser.get("/", 500)
        assert "RuntimeError" in text_of(answer)
        assert "session store" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_after_the_form_for_the_token_nobody_is_led_elsewhere(db: Database) -> None:
    with browsing(app(db.dsn, token=TOKEN)) as browser:
        for to in ("https://example.com/", "//example.com/", "/\\example.com", "javascript:alert(1)", "\\\\x", ""):
            answer = browser.client.post("/login", params={"to": to}, data={"token": TOKEN})
            assert answer.headers["location"] == "/", to


def test_the_name_of_a_proxy_counts_from_the_proxy_alone(db: Database) -> None:
    with browsing(app(db.dsn, user_header="X-Forwarded-User")) as browser:
        browser.get("/", 403)
        assert "ada" in text_of(browser.get("/", headers={"X-Forwarded-User": "ada"}))
    with browsing(app(db.dsn, user_header="X-Forwarded-User", trusted_proxies=["10.0.0.1"])) as browser:
        browser.get("/", 403, headers={"X-Forwarded-User": "ada"})
    # off unless it is said
    with browsing(app(db.dsn, token=TOKEN)) as browser:
        browser.get("/", 303, headers={"X-Forwarded-User": "ada"})


def test_names_and_tokens_are_read_as_they_are_sent(db: Database) -> None:
    with browsing(app(db.dsn, user_header="X-User")) as browser:
        for sent, seen in ((b"Zo\xc3\xab", "Zoë"), (b"Zo\xeb", "Zoë"), (b"ada", "ada")):
            assert seen in text_of(browser.get("/", headers=[(b"X-User", sent)]))
    with browsing(app(db.dsn, token="schlüssel zum haus")) as browser:
        browser.get("/", headers=[(b"Authorization", "Bearer schlüssel zum haus".encode())])


def test_the_mounting_app_says_who_it_is(db: Database) -> None:
    async def known(request: Any) -> str | None:
        return request.headers.get("x-test")

    with browsing(app(db.dsn, auth=known, token=TOKEN)) as browser:
        browser.get("/", 403)
        browser.get("/", 403, headers={"Authorization": f"Bearer {TOKEN}"})
        assert "bob" in text_of(browser.get("/", headers={"X-Test": "bob"}))


def test_a_name_that_is_not_ours_is_not_served(db: Database) -> None:
    with browsing(app(db.dsn, hosts=["127.0.0.1", "[::1]"])) as browser:
        browser.get("/")
        browser.get("/", 421, headers={"Host": "rebound.example.com"})
        browser.get("/", 421, headers={"Host": "rebound.example.com:8080"})
        browser.get("/", 200, headers={"Host": "[::1]:8080"})


def test_what_a_browser_may_do_with_an_answer(db: Database, conn: Conn) -> None:
    gd.insert(conn, "order")
    with browsing(app(db.dsn)) as browser:
        for path, status in (("/", 200), ("/instances/1/raw", 200), ("/nothing", 404), ("/static/app.js", 200),
                             ("/instances?status=x", 400)):  # fmt: skip
            headers = browser.get(path, status).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
        assert browser.get("/").headers["cache-control"] == "no-store"


def test_a_form_needs_the_proof_of_this_browser(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    made = app(db.dsn, operate=True)
    path = f"/act/instance/cancel?id={id}"
    with serving(made) as address, Browser(address) as ada, Browser(address) as eve:
        form = ada.form(path)
        stolen = eve.form(path)
        for values in ({"reason": "x"}, {"proof": ""}, {"proof": "0" * 64}, {"proof": "é"}, stolen):
            assert ada.client.post(path, data=values).status_code == 403
        for headers in (
            {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://example.com"},
            {"Origin": "null"},
        ):  # fmt: skip
            assert ada.client.post(path, data=form, headers=headers).status_code == 403
        assert ada.client.post(path, json=form).status_code == 400
        assert ada.client.post(path, data={**form, "reason": "x" * 3_000_000}).status_code == 400
        assert gd.count(conn, {"status": "runnable"}).instances == 1
        origin = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
        assert ada.client.post(path, data=form, headers=origin).status_code == 303
    # what only looks never changes anything
    with browsing(made) as browser:
        assert browser.client.request("DELETE", "/instances/1").status_code == 405
        assert browser.client.post("/instances/1", data={}).status_code == 405


def test_redaction_reaches_everything_that_is_shown(db: Database, conn: Conn) -> None:
    gd.register(conn, "order", version=1, initial_step="start", queue="default", options={"history": "states"})
    secret = "4711 secret card"
    id = gd.insert(conn, "order", {"card": secret}, meta={"m": secret}, attributes={"a": secret}, partition_key="k")
    commit_for(conn, id, "next", step="pay", state={"card": secret, "n": 2})
    gd.signal(conn, id or 0, "paid", {"with": secret})
    commit_for(conn, id, "stop", reason=f"refused: {secret}", traceback=f"Traceback {secret}")
    done = gd.insert(conn, "order")
    commit_for(conn, done, "done", result={"r": secret})
    seen: list[tuple[str, str]] = []

    def redact(what: str, machine: str, value: object) -> Any:
        seen.append((what, machine))
        return "[redacted]"

    paths = (
        "/", f"/instances/{id}", f"/instances/{id}/raw", f"/instances/{id}/history", f"/instances/{done}",
        f"/instances/{done}/raw", "/instances", "/failures", "/machine?name=order", "/queue?name=default",
        f"/act/instance/edit?id={id}", f"/act/instance/retry?id={id}",
    )  # fmt: skip
    with browsing(app(db.dsn, redact=redact, operate=True)) as browser:
        for path in paths:
            assert "secret" not in browser.get(path).text, path
        assert "secret" not in str(next(browser.events(f"/instances/{id}")))
    assert {what for what, _ in seen} == {"state", "result", "meta", "attributes", "payload", "detail", "error"}

    def broken(what: str, machine: str, value: object) -> Any:
        raise ValueError(f"what is this: {value}")

    with browsing(app(db.dsn, redact=broken)) as browser:
        for path in paths[:-2]:
            page = browser.get(path).text
            assert "secret" not in page, path
        assert "withheld: redact raised ValueError" in text_of(browser.get(f"/instances/{id}"))
    with browsing(app(db.dsn)) as browser:
        assert all("secret" in browser.get(path).text for path in paths[1:8])


def test_an_error_of_which_nothing_may_be_seen_is_not_seen_in_its_summary(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    commit_for(conn, id, "stop", reason="refused: secret", traceback="Traceback secret")
    for nothing in (None, ""):
        with browsing(app(db.dsn, redact=lambda what, machine, value, seen=nothing: seen)) as browser:  # type: ignore[misc]
            assert "secret" not in browser.get(f"/instances/{id}").text


def test_what_a_function_of_a_migration_raises_is_redacted(db: Database, conn: Conn) -> None:
    for version in (1, 2):
        gd.register(conn, "order", version=version, initial_step="start", queue="q")
    gd.insert(conn, "order", {"card": "secret"}, version=1)
    conn.execute(
        "create function public.newer(s jsonb) returns jsonb language plpgsql as "
        "$$begin raise exception 'what is this: %', s; end$$"
    )
    values = {"start": "1", "to": "2", "state": "public.newer(jsonb)"}
    for redact, shows in ((None, True), (lambda what, machine, value: "[redacted]", False)):
        with browsing(app(db.dsn, redact=redact, operate=True)) as browser:
            page = browser.send("/act/machine/migrate?name=order", 200, **values).text
            assert "1 cannot" in text_in(page)
            assert ("secret" in page, "[redacted]" in page) == (shows, not shows)


def test_arguments_that_are_not_valid_are_refused() -> None:
    typed = {"token": TOKEN, "operate": bool}
    for wrong in ({"token": "fifteen letters"}, {"token": ""}, {"refresh": 0}, {"patience": 1000}, typed):
        with pytest.raises(InvalidArgument):
            app("", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        app("no connection string")
    with pytest.raises(InvalidArgument):
        app(7)  # type: ignore[arg-type]


def test_the_forms_of_several_processes_fit_each_other(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")
    path = f"/act/instance/cancel?id={id}"
    with browsing(app(db.dsn, operate=True, secret="shared by all")) as one:
        form, cookies = fields_of(one.get(path).text), one.client.cookies
        with browsing(app(db.dsn, operate=True, secret="shared by all")) as two:
            # browsers know them by one name
            two.client.cookies = cookies
            two.client.headers["Host"] = f"127.0.0.1:{one.client.base_url.port}"
            assert two.client.post(path, data=form).status_code == 303


def test_no_secret_is_told_of_by_the_settings_and_no_session_outlives_the_token() -> None:
    assert TOKEN not in repr(Settings(token=TOKEN))
    assert key_of("shared by all", TOKEN) == key_of("shared by all", TOKEN)
    assert key_of("shared by all", TOKEN) != key_of("shared by all", TOKEN + "!")


def test_an_operate_that_is_async_lets_nobody_operate(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order")

    async def operate(user: str) -> bool:
        return False

    with browsing(app(db.dsn, operate=operate, auth=lambda _: "ada")) as browser:  # type: ignore[arg-type]
        assert "operate is async" in text_of(browser.get(f"/act/instance/cancel?id={id}", 400))


def test_without_its_packages_it_says_which_extra_has_them() -> None:
    program = "import sys; sys.modules['starlette.applications'] = None; sys.modules['starlette'] = None; "
    done = subprocess.run(
        [sys.executable, "-c", program + "import gendurable_py.web"], capture_output=True, text=True, check=False
    )
    assert "the dashboard needs starlette: pip install 'gendurable_py[web]'" in done.stderr
