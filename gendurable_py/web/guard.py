"""In front of every request: from which host, who asks; and what a browser may do with the answer.

Only the static files and the form for the token are open to everybody.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import Access, Asker
from .query import query
from .settings import Settings

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_OPEN = ("/static/", "/login")


class Guard:
    """ASGI middleware; what it finds out stands in ``request.state``: ``asker``, ``browser``."""

    def __init__(self, app: ASGIApp, settings: Settings, access: Access) -> None:
        self._app = app
        self._settings = settings
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _whole(scope)
        request = Request(scope)
        browser, made_up = self._access.browser(request)
        # The last route has set it where it comes from; ours is the first
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if made_up and not path.startswith("/static/"):
                    self._access.keep_browser(request, message["headers"], browser)
            await send(message)

        refused = self._refuse_host(request)
        if refused is None and not path.startswith(_OPEN):
            try:
                asker = await self._access.find(request)
            except HTTPException as error:
                # of the app in which this is mounted: a challenge, or the way to where one logs in
                refused = PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
            else:
                if asker is None:
                    refused = self._ask(scope, root, path)
                else:
                    scope.setdefault("state", {})["asker"] = asker
        scope.setdefault("state", {})["browser"] = browser
        await (refused or self._app)(scope, receive, guarded)

    def _refuse_host(self, request: Request) -> Response | None:
        """A page elsewhere may have given our address a name of its own."""
        if self._settings.hosts is None:
            return None
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower() in self._settings.hosts:
            return None
        return PlainTextResponse("This dashboard is not served under this name.\n", 421)

    def _ask(self, scope: Scope, root: str, path: str) -> Response:
        if not self._settings.asks_for_token or self._settings.auth or self._settings.user_header:
            return PlainTextResponse("You may not see this dashboard.\n", 403)
        wants_page = scope["method"] == "GET" and "text/html" in Request(scope).headers.get("accept", "")
        if not wants_page:
            return PlainTextResponse("Say who you are.\n", 401, {"WWW-Authenticate": "Bearer"})
        asked = path + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        return RedirectResponse(f"{root}/login{query(to=asked[:2000])}", 303)


def _whole(scope: Scope) -> Scope:
    """With the prefix of a proxy in the path, also where that leaves it away and only the outer app knows of it."""
    outer = scope.get("app_root_path", "")
    path, root = scope["path"], scope.get("root_path", "")
    inside = path == root or path.startswith(root.rstrip("/") + "/")
    return scope if inside or not outer else {**scope, "path": outer + path}


def asker_of(request: Request) -> Asker:
    """Who asks, where the guard has let them in."""
    found = request.scope["state"]["asker"]
    assert isinstance(found, Asker)
    return found
