"""The app: its routes, and how a page, a stream and an action are answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ..calls import viewing
from ..dispatch.arguments import read_connect, read_dsn
from ..dispatch.dial import Connect
from ..errors import InvalidArgument
from .access import Access, same_site
from .acts import ACTS
from .acts.forms import Act
from .acts.many import carry_out
from .files import Static
from .guard import HEADERS, Guard, asker_of
from .look import Handler, Look, Page
from .query import query
from .refusals import Forbidden, Missing, Refusal, refusal_of
from .render import Templates
from .routes import instance, instances, machines, overview, queues, settings
from .saved import Saved, read_saved
from .settings import Auth, Operate, Redact, Settings, key_of
from .shown import Shown
from .source import Conn, Source
from .stream import Events, Streams
from .warm import to_be_seen
from .words import Unreadable

_BODY = 2_000_000
# Of who has not said yet who they are.
_LOGIN_BODY = 20_000
# Nobody is locked out for guessing, so it must not be guessed.
_TOKEN = 16
_PAGES: dict[str, Handler] = {
    "/": overview.overview,
    "/queues": queues.queues,
    "/queue": queues.queue,
    "/instances": instances.instances,
    "/instances/{id}": instance.instance,
    "/instances/{id}/history": instance.history,
    "/instances/{id}/journal": instance.journal,
    "/failures": instances.failures,
    "/line": instances.line,
    "/machines": machines.machines,
    "/machine": machines.machine,
    "/schedules": settings.schedules,
    "/limits": settings.limits,
    "/bucket": settings.bucket,
    "/workers": settings.workers,
    "/worker": settings.worker,
    "/pauses": settings.pauses,
    "/doctor": settings.doctor,
    "/audit": settings.audit,
}


def app(
    connect: Connect | str = "",
    *,
    operate: Operate = False,
    token: str | None = None,
    user_header: str | None = None,
    trusted_proxies: Iterable[str] = ("127.0.0.1", "::1", ""),
    auth: Auth | None = None,
    hosts: Iterable[str] | None = None,
    redact: Redact | None = None,
    refresh: float = 2.0,
    patience: float = 5.0,
    title: str = "gendurable",
    filters: Mapping[str, str] | None = None,
    secret: str | None = None,
) -> Starlette:
    """The dashboard as an ASGI app, to be served or mounted.

    Args:
        connect: a function, sync or async, that answers a new psycopg connection; or a connection string.
        operate: whether actions are offered at all: True, False, or, with ``auth`` or ``user_header``, a function of
            the user's name. What the role of the connections may not do is not offered, and refused by the database.
        token: whoever has it may look. A browser is asked for it once, and keeps a session; programs send it as a
            ``Bearer``.
        user_header: the header in which a reverse proxy says who has logged in; from ``trusted_proxies`` alone (an
            empty text: a Unix socket).
        auth: what the mounting app says about a request: the name of its user for the audit, or None to refuse it. Sync
            or async. Starlette's HTTPException is answered as it is. It goes before ``user_header``, and that before
            ``token``.
        hosts: the names under which it may be asked; None: any.
        redact: what is seen of a value: ``redact(what, machine, value)`` for states, results, payloads and errors.
        refresh: seconds between two looks of a page that is watched.
        patience: seconds that a look may take on the server.
        filters: lists of instances that are offered by a name: ``{"Stuck orders": "fsm=order&stuck_for=10m"}``, each as
            it stands in the URL of such a list.
        secret: the key of sessions and forms where several processes serve one dashboard and there is no token.

    Raises:
        InvalidArgument: an argument is not valid.
    """
    if token is not None and len(token) < _TOKEN:
        raise InvalidArgument(
            "the token is too short", hint=f"{_TOKEN} characters at least; openssl rand -hex 16 makes one"
        )
    if not 0.1 <= refresh <= 3600 or not 0.1 <= patience <= 60:
        raise InvalidArgument("refresh or patience is out of range", hint="0.1 to 3600 s, and 0.1 to 60 s")
    if callable(operate) and auth is None and user_header is None:
        raise InvalidArgument(
            "operate is a function of a name that anybody may type beside the token",
            hint="auth or user_header say who it is; with True whoever has the token may operate",
        )
    said = Settings(
        operate=operate,
        token=token,
        user_header=user_header,
        trusted=frozenset(trusted_proxies),
        auth=auth,
        hosts=None if hosts is None else frozenset(host.lower() for host in hosts),
        redact=redact,
        refresh=refresh,
        patience=patience,
        title=title,
        key=key_of(secret, token),
    )
    dsn = read_dsn(connect) if isinstance(connect, str) else ""
    made = None if isinstance(connect, str) else read_connect(connect, "")
    return _Dashboard(said, dsn, made, read_saved(filters)).starlette()


class _Dashboard:
    def __init__(self, settings: Settings, dsn: str, connect: Connect | None, saved: tuple[Saved, ...]) -> None:
        self._settings = settings
        self._saved = saved
        self._source = Source(dsn, connect, settings.patience, self._lessons)
        self._access = Access(settings)
        self._shown = Shown(settings.redact)
        self._templates = Templates(self._shown)
        self._streams = Streams(settings.refresh)

    def starlette(self) -> Starlette:
        """The app with its routes."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self._source.prepare()
            try:
                yield
            finally:
                await self._source.close()

        routes: list[Route | Mount] = [
            Route(path, partial(self._answer, self._see, handler), methods=["GET"]) for path, handler in _PAGES.items()
        ]
        for path, answer, methods in (
            ("/instances/{id}/raw", self._raw, ["GET"]),
            ("/search", self._search, ["GET"]),
            ("/act/{kind}/{verb}", self._act, ["GET", "POST"]),
            ("/login", self._login, ["GET", "POST"]),
            ("/logout", self._logout, ["POST"]),
        ):
            routes.append(Route(path, partial(self._answer, answer), methods=methods))
        routes.append(Mount("/static", Static(), name="static"))
        made = Starlette(
            routes=routes,
            middleware=[Middleware(cast("type[ASGIApp]", Guard), self._settings, self._access)],  # type: ignore[arg-type]
            exception_handlers={HTTPException: self._http, Exception: self._mistake},
            lifespan=lifespan,
        )
        made.state.end_streams = self._streams.end
        return made

    # -- pages

    async def _answer(self, answer: Callable[..., Awaitable[Response]], *rest: Any) -> Response:
        *before, request = rest
        try:
            return await answer(*before, request)
        except Exception as error:
            found = refusal_of(error)
            if found is None:
                raise
            if found.status == 403:
                self._source.forget()
            return self._refuse(request, found)

    async def _see(self, handler: Handler, request: Request) -> Response:
        empty = [name for name, value in request.query_params.multi_items() if not value]
        if empty:  # of a form, whose address is to be kept or sent on
            kept = {name: value for name, value in request.query_params.items() if value}
            return RedirectResponse(_base(request) + _inner(request) + query(**kept), 303)

        look = partial(self._look, handler, request.query_params, request.path_params)
        around = await self._around(request)
        if "text/event-stream" in request.headers.get("accept", ""):
            seat = self._streams.sit()
            if seat is None:
                return self._refuse(request, Refusal(503, "Too many watch", "Try again later.", again=True))
            key = (handler, str(request.query_params), tuple(request.path_params.values()))
            events = self._streams.events(
                key,
                partial(self._source.read, look),
                lambda page: self._templates.parts(page, around),
                # all that parts show of who looks: where links lead, and which actions are offered
                (around["base"], around["path"], around["query_string"], around["may"]),
            )
            return Events(events, seat)
        page = await self._source.read(look)
        return HTMLResponse(self._templates.page(page, around), page.status)

    async def _look(self, handler: Handler, params: QueryParams, path: Mapping[str, str], conn: Conn) -> Page:
        page = await handler(Look(conn, params, path, self._shown))
        page.data["holds"] = await viewing.holds(conn)
        return page

    async def _lessons(self, conn: Conn) -> list[Callable[[Conn], Awaitable[Page]]]:
        """What a session looks at before it is used."""
        return [partial(self._look, *seen) for seen in await to_be_seen(conn, _PAGES)]

    async def _raw(self, request: Request) -> Response:
        id, body = await self._source.read(
            lambda conn: instance.raw(Look(conn, request.query_params, request.path_params, self._shown))
        )
        headers = {"Content-Disposition": f'inline; filename="instance-{id}.json"'}
        return Response(body, media_type="application/json", headers=headers)

    async def _search(self, request: Request) -> Response:
        found = await self._source.read(
            lambda conn: instances.found_by(Look(conn, request.query_params, request.path_params, self._shown))
        )
        return RedirectResponse(_base(request) + (found or "/instances"), 303)

    async def _around(self, request: Request) -> dict[str, Any]:
        """What every page has: where it is mounted, who looks, what may be done."""
        asker = asker_of(request)
        operates = self._settings.operates(asker.user)
        may = await self._source.abilities() if operates else frozenset[str]()
        return {
            "base": _base(request),
            "path": _inner(request),
            "query_string": str(request.query_params),
            "user": asker.user,
            "operates": operates,
            "may": may,
            "can": lambda kind, verb: may.issuperset(ACTS[kind, verb].needs),
            "proof": self._access.proof(request.scope["state"]["browser"], asker.user),
            "site": self._settings.title,
            "saved": self._saved,
            "leaves": self._settings.asks_for_token and not self._settings.auth and not self._settings.user_header,
            "refresh": self._settings.refresh,
            "holds": [],
        }

    # -- actions

    async def _act(self, request: Request) -> Response:
        act = ACTS.get((request.path_params["kind"], request.path_params["verb"]))
        if act is None:
            raise Missing("There is no such action.")
        around = await self._around(request)
        self._may(act, around)
        params = request.query_params
        if request.method in ("GET", "HEAD"):
            plan = await self._source.read(lambda conn: act.plan(Look(conn, params, request.path_params, self._shown)))
            return HTMLResponse(self._templates.page(Page("act.html", plan.title, {"plan": plan}), around))
        values = await self._form(request)
        user = around["user"]
        if request.path_params["kind"] == "many":
            outcome = await carry_out(act.verb, params, values, lambda deed: self._source.act(user, deed))
        else:
            outcome = await self._source.act(user, lambda conn: act.do(conn, params, values))
        if outcome.page is not None:
            return HTMLResponse(self._templates.page(outcome.page, around))
        if not outcome.done:
            return self._refuse(request, Refusal(409, "Nothing was done", outcome.said))
        return RedirectResponse(_base(request) + outcome.to, 303)

    def _may(self, act: Act, around: dict[str, Any]) -> None:
        if not around["operates"]:
            raise Forbidden("This dashboard only shows: it was started without the right to operate, or you have none.")
        if not around["can"](*next(key for key, one in ACTS.items() if one is act)):
            raise Forbidden("The role of this dashboard in the database has no right to do this.")

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form that was sent from a page of ours."""
        if not same_site(request):
            raise Forbidden("This came from a page elsewhere.")
        values = await _fields(request)
        asker = asker_of(request)
        if asker.by_cookie and not self._access.proves(request, asker.user, values.pop("proof", "")):
            raise Forbidden("This form is too old, or was not made for you: go back, load the page again, and send it.")
        return values

    # -- coming and going

    async def _login(self, request: Request) -> Response:
        if not self._settings.asks_for_token:
            raise Missing("There is no token to be asked for.")
        to = request.query_params.get("to", "/")
        wrong = False
        if request.method == "POST":
            if not same_site(request):
                raise Forbidden("This came from a page elsewhere.")
            values = await _fields(request, _LOGIN_BODY)
            if await self._access.fits(values.get("token", ""), request):
                # a path of ours, whatever the URL says
                safe = to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
                response = RedirectResponse(_base(request) + safe, 303)
                self._access.open_session(request, response, values.get("name", "").strip())
                return response
            wrong = True
        around = {"base": _base(request), "site": self._settings.title, "wrong": wrong, "to": to}
        return HTMLResponse(self._templates.page(Page("login.html", "Who are you?"), around), 401 if wrong else 200)

    async def _logout(self, request: Request) -> Response:
        await self._form(request)
        response = RedirectResponse(_base(request) + "/login", 303)
        self._access.close_session(request, response)
        return response

    # -- saying no

    def _refuse(self, request: Request, found: Refusal) -> Response:
        around = {"base": _base(request), "site": self._settings.title, "refusal": found}
        headers = {"Retry-After": "3"} if found.again else {}
        if found.again and request.method == "GET":
            headers["Refresh"] = "5"
        return HTMLResponse(self._templates.page(Page("refusal.html", found.title), around), found.status, headers)

    async def _http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        titles = {404: "Not there", 405: "Not so", 413: "Too much"}
        title = titles.get(error.status_code, "No")
        return self._refuse(request, Refusal(error.status_code, title, "There is no such page."))

    async def _mistake(self, request: Request, error: Exception) -> Response:
        found = Refusal(500, "A mistake of ours", "The log of the dashboard says more.", type(error).__name__)
        made = self._refuse(request, found)
        made.headers.update(HEADERS)  # it does not come by the guard
        return made


def _base(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _inner(request: Request) -> str:
    """The path within the dashboard."""
    return str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))


async def _fields(request: Request, most: int = _BODY) -> dict[str, str]:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Unreadable("a form is expected")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise Unreadable("this form is too long")
    try:
        # browsers end lines as mail does
        return {
            name: value.replace("\r\n", "\n")
            for name, value in parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100)
        }
    except ValueError:
        raise Unreadable("this is no form") from None
