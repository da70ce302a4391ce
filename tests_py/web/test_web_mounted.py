"""The dashboard in apps of others: below a prefix of FastAPI, Starlette and Django, with whom these say it is.

Annotations are not put off here: FastAPI would not find the names of a function in them.
"""

import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Annotated, Any

import psycopg
import pytest
from conftest import Database
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from support.wait import wait_until
from support.web import Browser, browsing, text_of

import gendurable_py as gd
from gendurable_py.web import app

Conn = psycopg.Connection[Any]
TOKEN = "a long token, and secret"
OPENED = (
    "select count(*) from pg_stat_activity"
    " where application_name = 'gendurable dashboard' and datname = current_database()"
)


def inside(browser: Browser, prefix: str, conn: Conn, user: str) -> None:
    """Links, forms, cookies, streams and files of a dashboard at a prefix work, and stay there."""
    id = gd.insert(conn, "order", {"n": 1}, queue="a")
    held = gd.insert(conn, "order", {"n": 1}, unique_key="order:1", delay=3600)
    for path in ("/", "/queues", "/queue?name=a", "/instances?fsm=order", f"/instances/{id}", "/doctor", "/audit"):
        page = browser.get(path)
        assert page.status_code == 200
        for link in re.findall(r'(?:href|src|action)="([^"#]+)"', page.text):
            assert link.startswith(f"{prefix}/"), (path, link)
        assert user in text_of(page)
    for path in set(re.findall(rf'(?:href|src)="{prefix}(/static/[^"]+)"', page.text)):
        browser.get(path.replace("&amp;", "&"))
    assert browser.get("/search?q=order:1", 303).headers["location"] == f"{prefix}/instances/{held}"
    # a page that does not exist, and one that cannot be read, are ours as well
    assert f'href="{prefix}/"' in browser.get("/nothing", 404).text
    assert f'href="{prefix}/"' in browser.get("/instances?status=what", 400).text

    path = f"/act/instance/cancel?id={id}"
    cookies = [one for one in browser.client.cookies.jar if one.name.startswith("gendurable_form")]
    assert {one.path for one in cookies} == {prefix}
    assert browser.client.post(path, data={"reason": "x"}).status_code == 403
    page = browser.get(path).text
    # where the form itself says, and not where a test thinks
    [action] = re.findall(r'<form class="act" method="post" action="([^"]+)"', page)
    form = browser.form(path)
    origin = str(browser.client.base_url.copy_with(path="")).rstrip("/")
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    answer = browser.client.post(origin + action.replace("&amp;", "&"), data={**form, "reason": "x"}, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{prefix}/instances/{id}?did=cancel")
    assert "Done: cancel" in text_of(browser.client.get(origin + answer.headers["location"]))
    [call] = gd.audit(conn).calls
    assert (call.call, call.actor, call.id) == ("gd_cancel", user, id)

    assert "live_head" in next(browser.events(f"/instances/{id}"))[1]


def outside(browser: Browser, conn: Conn, status: int) -> None:
    """Who the app does not know gets nothing, and does nothing."""
    id = gd.insert(conn, "order")
    for path in ("/", f"/instances/{id}/raw", "/nothing", f"/act/instance/cancel?id={id}"):
        assert browser.get(path, status).text.find("order") < 0
    browser.get("/", status, headers={"Accept": "text/event-stream"})
    assert browser.client.post(f"/act/instance/cancel?id={id}", data={"proof": "x"}).status_code == status
    assert gd.count(conn, {"status": "cancelled"}).instances == 0


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


# What a FastAPI app has anyway: a dependency with a dependency, which its routes use
known_to_api = HTTPBasic(realm="shop")


async def staff(credentials: Annotated[HTTPBasicCredentials, Depends(known_to_api)]) -> str:
    if credentials.password != "open sesame":
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": 'Basic realm="shop"'})
    return credentials.username


async def staff_of(request: Request) -> str:
    """The same dependency, asked by hand: mounted apps have none of FastAPI's own."""
    credentials = await known_to_api(request)
    assert credentials is not None
    return await staff(credentials)


def fastapi_app(db: Database) -> FastAPI:
    dashboard = app(db.dsn, operate=True, auth=staff_of, refresh=0.2)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with dashboard.router.lifespan_context(dashboard):
            yield

    api = FastAPI(lifespan=lifespan)

    @api.get("/me")
    async def me(name: Annotated[str, Depends(staff)]) -> str:
        return name

    @api.middleware("http")
    async def marked(request: Request, call_next: Callable[..., Any]) -> Any:
        answer = await call_next(request)
        answer.headers["X-Shop"] = "1"
        return answer

    api.add_middleware(GZipMiddleware, minimum_size=100)
    api.mount("/ops/jobs", dashboard)
    return api


def test_in_fastapi_with_its_own_dependency(db: Database, conn: Conn) -> None:
    with browsing(fastapi_app(db), "/ops/jobs") as browser:
        outside(browser, conn, 401)
        answer = browser.get("/", 401, headers=basic("eve", "guess"))
        assert answer.headers["www-authenticate"] == 'Basic realm="shop"'
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        browser.client.headers.update(basic("ada", "open sesame"))
        inside(browser, "/ops/jobs", conn, "ada")
        answer = browser.get("/queues")
        assert (answer.headers["x-shop"], answer.headers["content-encoding"]) == ("1", "gzip")
        # without the slash at its end
        assert browser.client.get(browser.address).headers["location"].endswith("/ops/jobs/")
        # and the app has its own pages as before
        assert browser.client.get(browser.address.removesuffix("/ops/jobs") + "/me").json() == "ada"
        assert conn.execute(OPENED).fetchone() != (0,)
    # its lifespan has closed the sessions
    wait_until(lambda: conn.execute(OPENED).fetchone() == (0,))


def test_a_server_ends_while_pages_are_watched(db: Database) -> None:
    # uvicorn waits for all answers, unless it is told how long; `serving` asserts that it has ended
    with (
        Browser("http://127.0.0.1", **basic("ada", "open sesame")) as watches,
        browsing(fastapi_app(db), "/ops/jobs", timeout_graceful_shutdown=1) as browser,
    ):
        watches.client.base_url = browser.client.base_url
        events = watches.events("/queues")
        assert next(events)[0] == "parts"


def behind(app: Any, prefix: str, *, strips: bool) -> Any:
    """What a server leaves of a prefix that a proxy has put before it: some strip the path, others do not."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(prefix)
            path = scope["path"].removeprefix(prefix) if strips else scope["path"]
            scope = {**scope, "root_path": prefix, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return proxied


@pytest.mark.parametrize("strips", [True, False], ids=["stripped", "whole"])
def test_in_fastapi_behind_a_proxy_with_a_prefix(db: Database, conn: Conn, strips: bool) -> None:
    made = behind(fastapi_app(db), "/api", strips=strips)
    with browsing(made, "/api/ops/jobs") as browser:
        outside(browser, conn, 401)
        browser.client.headers.update(basic("ada", "open sesame"))
        inside(browser, "/api/ops/jobs", conn, "ada")


def test_with_a_token_of_its_own(db: Database, conn: Conn) -> None:
    id = gd.insert(conn, "order", queue="a")
    outer = Starlette(routes=[Mount("/ops/jobs", app(db.dsn, operate=True, token=TOKEN))])
    with browsing(outer, "/ops/jobs") as browser:
        to = browser.get("/queues", 303).headers["location"]
        assert to == "/ops/jobs/login?to=%2Fqueues"
        found = browser.client.post("/login?to=/queues", data={"token": TOKEN})
        assert found.headers["location"] == "/ops/jobs/queues"
        for path in ("/", f"/instances/{id}", f"/act/instance/cancel?id={id}"):
            page = browser.get(path).text
            for link in re.findall(r'(?:href|src|action)="([^"#]+)"', page):
                assert link.startswith("/ops/jobs/"), link
        answer = browser.send(f"/act/instance/cancel?id={id}")
        assert answer.headers["location"] == f"/ops/jobs/instances/{id}?did=cancel"
        assert "live_head" in dict(browser.events(f"/instances/{id}").__next__()[1])
        browser.get("/static/app.js")


class Backend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.cookies.get("shop")
        return (AuthCredentials(["staff"]), SimpleUser(name)) if name else None


def test_in_starlette_with_its_user_and_its_form_to_log_in(db: Database, conn: Conn) -> None:
    def known(request: Request) -> str:
        if not request.user.is_authenticated:
            raise HTTPException(303, "log in", {"Location": "/login"})
        return str(request.user.display_name)

    dashboard = app(db.dsn, operate=lambda user: user == "ada", auth=known, refresh=0.2)
    site = Starlette(
        routes=[
            Route("/login", lambda request: PlainTextResponse("the form of the shop")),
            Mount("/inner", routes=[Mount("/jobs", dashboard)]),
        ],
        middleware=[Middleware(AuthenticationMiddleware, backend=Backend())],
    )
    with browsing(site, "/inner/jobs") as browser:
        outside(browser, conn, 303)
        assert browser.get("/queues", 303).headers["location"] == "/login"
        browser.client.headers["Cookie"] = "shop=bob"
        assert "/act/" not in browser.get("/instances?fsm=order").text
        browser.get("/act/instance/cancel?id=1", 403)
        browser.client.headers.pop("Cookie")
        browser.client.cookies.set("shop", "ada")
        inside(browser, "/inner/jobs", conn, "ada")


def test_in_django_for_its_staff(migrated: Database) -> None:
    from django.conf import settings
    from django.contrib.auth.models import Permission, User
    from django.core.asgi import get_asgi_application
    from support import djangoproject

    from gendurable_py.contrib.django.dashboard import with_dashboard

    User.objects.create_superuser("ada", password="open sesame")
    User.objects.create_user("eve", password="open sesame")
    bob = User.objects.create_user("bob", password="open sesame", is_staff=True)
    conn = migrated.connect()
    id = gd.insert(conn, "order")
    site = with_dashboard(get_asgi_application(), "/jobs", operate=True, refresh=0.2)
    with ExitStack() as stack:
        stack.callback(djangoproject.leave)
        browser = stack.enter_context(browsing(site, "/jobs"))
        home = browser.address.removesuffix("/jobs")

        def log_in(name: str) -> None:
            browser.client.cookies.clear()
            page = browser.client.get(f"{home}/admin/login/").text
            [token] = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
            values = {"username": name, "password": "open sesame", "csrfmiddlewaretoken": token}
            browser.client.post(f"{home}/admin/login/?next=/jobs/", data=values)

        # who has not logged in is led to where one does, and comes back
        to = browser.get("/queue?name=a", 303).headers["location"]
        assert to == "/admin/login/?next=%2Fjobs%2Fqueue%3Fname%3Da"
        assert "csrfmiddlewaretoken" in browser.client.get(home + to).text
        browser.client.headers["Accept"] = "application/json"
        outside(browser, conn, 403)
        browser.client.headers["Accept"] = "text/html"
        log_in("eve")  # the admin's form refuses her
        browser.get("/", 303)
        log_in("bob")
        assert settings.SESSION_COOKIE_NAME in browser.client.cookies
        outside(browser, conn, 403)
        bob.user_permissions.add(Permission.objects.get(codename="view_instance"))
        assert "/act/" not in browser.get(f"/instances/{id}").text
        browser.get(f"/act/instance/cancel?id={id}", 403)
        log_in("ada")
        inside(browser, "/jobs", conn, "ada")
        assert browser.client.get(f"{home}/jobs").headers["location"] == "/jobs/"
        # who is nobody's staff any more is out with the next page
        User.objects.filter(username="ada").update(is_staff=False)
        browser.get("/", 403)
        browser.get("/", 303, headers={"Cookie": f"{settings.SESSION_COOKIE_NAME}=made-up"})
        assert conn.execute(OPENED).fetchone() != (0,)
    wait_until(lambda: conn.execute(OPENED).fetchone() == (0,))


def test_a_look_changes_no_session_of_django(migrated: Database) -> None:
    """Django gives a session of an older secret key a new name, and ends one of a password that was changed."""
    from django.contrib.auth.models import User
    from django.contrib.sessions.models import Session
    from django.core.asgi import get_asgi_application
    from django.test import Client, override_settings
    from support import djangoproject

    from gendurable_py.contrib.django.dashboard import with_dashboard

    ada = User.objects.create_superuser("ada", password="open sesame")
    client = Client()
    client.force_login(ada)
    name = client.session.session_key
    # a path as people write it
    site = with_dashboard(get_asgi_application(), "jobs/")
    with ExitStack() as stack:
        stack.callback(djangoproject.leave)
        browser = stack.enter_context(browsing(site, "/jobs"))
        browser.client.headers["Cookie"] = f"sessionid={name}"
        with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["not so secret"]):
            assert "ada" in text_of(browser.get("/"))
            assert "ada" in text_of(browser.get("/queues"))
        ada.set_password("another")
        ada.save()
        browser.get("/", 303)
        assert [one.session_key for one in Session.objects.all()] == [name]
    for path in ("", "/", "//"):
        with pytest.raises(gd.InvalidArgument):
            with_dashboard(get_asgi_application(), path)
