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

from starlette.requests import Request
from starlette.responses import Response

from .guesses import Guesses
from .settings import NOBODY, Settings

SESSION = "gendurable_session"
FORM = "gendurable_form"
_LASTS = 12 * 3600
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
        self._guesses = Guesses()

    async def find(self, request: Request) -> Asker | None:
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
                return Asker(NOBODY, by_cookie=False) if await self.fits(given.strip(), request) else None
            session = self._named(request.cookies.get(_cookie(request, SESSION), ""))
            return None if session is None else Asker(session or NOBODY)
        return Asker(NOBODY)

    # The token and its session

    async def fits(self, token: str, request: Request) -> bool:
        """Whether this is the token. It always is, whoever has guessed before; what is not waits for its answer."""
        right = hmac.compare_digest(token.encode("utf-8", "replace"), (self._settings.token or "").encode())
        if right and token:
            return True
        await self._guesses.add(self._from(request))
        return False

    def _from(self, request: Request) -> str:
        """The address of the browser, also behind a proxy that is trusted: for the log alone."""
        peer = _peer(request)
        if peer in self._settings.trusted:
            passed = [one.strip() for one in request.headers.get("x-forwarded-for", "").split(",")]
            peer = next((one for one in reversed(passed) if one and one not in self._settings.trusted), peer)
        return peer[:60]

    def open_session(self, request: Request, response: Response, name: str) -> None:
        """Let this browser in, under the name that its user has given."""
        body = f"{int(time.time()) + _LASTS}.{base64.urlsafe_b64encode(name[:_NAME].encode()).decode()}"
        self._set(request, response, _cookie(request, SESSION), f"{body}.{self._sign('session', body)}", _LASTS)

    def close_session(self, request: Request, response: Response) -> None:
        response.delete_cookie(_cookie(request, SESSION), path=_path(request), httponly=True, samesite="lax")

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

    def browser(self, request: Request) -> tuple[str, bool]:
        """The name by which forms know the browser, and whether it has just been made up."""
        known = request.cookies.get(_cookie(request, FORM), "")
        return (known, False) if 20 <= len(known) <= 60 else (secrets.token_urlsafe(24), True)

    def keep_browser(self, request: Request, response_headers: list[tuple[bytes, bytes]], name: str) -> None:
        holder = Response()
        self._set(request, holder, _cookie(request, FORM), name, None)
        response_headers.extend(pair for pair in holder.raw_headers if pair[0] == b"set-cookie")

    def proves(self, request: Request, user: str, given: str) -> bool:
        browser, made_up = self.browser(request)
        return not made_up and hmac.compare_digest(given.encode("utf-8", "replace"), self.proof(browser, user).encode())

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser came over https, also where a proxy ends that."""
        proxied = _peer(request) in self._settings.trusted and request.headers.get("x-forwarded-proto") == "https"
        return request.url.scheme == "https" or proxied

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._settings.key, f"{what}|{text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _set(self, request: Request, response: Response, name: str, value: str, lasts: int | None) -> None:
        response.set_cookie(
            name,
            value,
            max_age=lasts,
            path=_path(request),
            secure=self._is_secure(request),
            httponly=True,
            samesite="lax",
        )


def _cookie(request: Request, name: str) -> str:
    """A cookie of this dashboard alone: browsers send those of one port to all ports of a host, and those of a path to
    all paths below it."""
    port = request.headers.get("host", "").rpartition(":")[2]
    where = f"{port if port.isdecimal() else ''}{_path(request)}"
    return f"{name}_{hashlib.sha256(where.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _sent(request: Request, header: str) -> str:
    """A header as it is mostly meant: in UTF-8, where it can be."""
    value = request.headers.get(header, "")
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _path(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/") or "/"


def same_site(request: Request) -> bool:
    """Whether a request that changes something comes from a page of our own, as far as the browser says."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:  # no page can make that up, and a proxy may have changed the host
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")
