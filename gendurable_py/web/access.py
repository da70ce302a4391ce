"""Who asks: a session behind a token, a name from a reverse proxy, or what the mounting app says; and the proof in
forms.

Nothing that is secret stands in a URL or goes into a log. Cookies are signed with the key of the dashboard; HttpOnly,
SameSite=Lax, and Secure where the request came over https. A form is accepted with the proof that this browser got it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from .settings import NOBODY, Settings

SESSION = "gendurable_session"
FORM = "gendurable_form"
_LASTS = 12 * 3600
_MOST_FAILURES = 10
_MOST_PEERS = 1000
_NAME = 100


@dataclass(frozen=True)
class Asker:
    """Who asks. ``by_cookie``: a browser sends it by itself, so that forms need a proof."""

    user: str
    by_cookie: bool = True


class Access:
    """Decides who a request is from."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures: dict[str, list[float]] = {}

    async def find(self, request: HTTPConnection) -> Asker | None:
        """Who asks; None: nobody that may."""
        said = self._settings
        if said.auth is not None:
            known = await said.known(request)
            return None if known is None else Asker(known or NOBODY)
        if said.user_header is not None:
            name = _sent(request, said.user_header).strip() if _peer(request) in said.trusted else ""
            return Asker(name[:_NAME]) if name else None
        if said.token is not None:
            scheme, _, given = _sent(request, "authorization").partition(" ")
            if scheme.lower() == "bearer":
                return Asker(NOBODY, by_cookie=False) if self.fits(given.strip(), _peer(request)) else None
            session = self._named(request.cookies.get(SESSION, ""))
            return None if session is None else Asker(session or NOBODY)
        return Asker(NOBODY)

    # The token and its session

    def fits(self, token: str, peer: str) -> bool:
        """Whether this is the token; after many from an address that were not, none is for a while."""
        now = time.monotonic()
        failures = [at for at in self._failures.pop(peer, ()) if at > now - 60]
        right = hmac.compare_digest(token.encode("utf-8", "replace"), (self._settings.token or "").encode())
        right = right and bool(token) and len(failures) < _MOST_FAILURES
        if not right and len(failures) < _MOST_FAILURES:
            failures.append(now)
        if failures:
            self._failures[peer] = failures
            while len(self._failures) > _MOST_PEERS:
                del self._failures[next(iter(self._failures))]
        return right

    def open_session(self, request: Request, response: Response, name: str) -> None:
        """Let this browser in, under the name that its user has given."""
        body = f"{int(time.time()) + _LASTS}.{base64.urlsafe_b64encode(name[:_NAME].encode()).decode()}"
        self._set(request, response, SESSION, f"{body}.{self._sign('session', body)}", _LASTS)

    def close_session(self, request: Request, response: Response) -> None:
        response.delete_cookie(SESSION, path=_path(request), httponly=True, samesite="lax")

    def _named(self, cookie: str) -> str | None:
        body, _, proof = cookie.rpartition(".")
        if not body or not hmac.compare_digest(proof.encode("utf-8", "replace"), self._sign("session", body).encode()):
            return None
        until, _, name = body.partition(".")
        if int(until) < time.time():
            return None
        return base64.urlsafe_b64decode(name).decode()

    # Forms

    def proof(self, browser: str, user: str) -> str:
        """What a form of this browser, for this user, has to bring along."""
        return self._sign("form", f"{browser}|{user}")

    def browser(self, request: HTTPConnection) -> tuple[str, bool]:
        """The name by which forms know the browser, and whether it has just been made up."""
        known = request.cookies.get(FORM, "")
        return (known, False) if 20 <= len(known) <= 60 else (secrets.token_urlsafe(24), True)

    def keep_browser(self, request: HTTPConnection, response_headers: list[tuple[bytes, bytes]], name: str) -> None:
        holder = Response()
        self._set(request, holder, FORM, name, None)
        response_headers.extend(pair for pair in holder.raw_headers if pair[0] == b"set-cookie")

    def proves(self, request: HTTPConnection, user: str, given: str) -> bool:
        browser, made_up = self.browser(request)
        return not made_up and hmac.compare_digest(given.encode("utf-8", "replace"), self.proof(browser, user).encode())

    def _is_secure(self, request: HTTPConnection) -> bool:
        """Whether the browser came over https, also where a proxy ends that."""
        proxied = _peer(request) in self._settings.trusted and request.headers.get("x-forwarded-proto") == "https"
        return request.url.scheme == "https" or proxied

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._settings.key, f"{what}|{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _set(self, request: HTTPConnection, response: Response, name: str, value: str, lasts: int | None) -> None:
        response.set_cookie(
            name,
            value,
            max_age=lasts,
            path=_path(request),
            secure=self._is_secure(request),
            httponly=True,
            samesite="lax",
        )


def _peer(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def _sent(request: HTTPConnection, header: str) -> str:
    """A header as it is mostly meant: in UTF-8, where it can be."""
    value = request.headers.get(header, "")
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _path(request: HTTPConnection) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/") or "/"


def same_site(request: Request) -> bool:
    """Whether a request that changes something comes from a page of our own, as far as the browser says."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:  # no page can make that up, and a proxy may have changed the host
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")
