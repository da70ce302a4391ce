"""The dashboard beside a project's own pages: below a path of its ASGI application, for its staff.

::

    # bookshop/asgi.py
    application = with_dashboard(get_asgi_application(), "/jobs")

Needs the extra ``web``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user
from django.db import close_old_connections
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ...errors import InvalidArgument
from ...web import app
from . import conf
from .management.commands.gendurable import dsn_of

LOOK = "gendurable.view_instance"


def with_dashboard(
    application: ASGIApp, path: str = "/jobs", *, operate: bool = False, database: str | None = None, **options: Any
) -> Starlette:
    """The application of a project, with the dashboard at a path.

    Who is active, of the staff, and may ``gendurable.view_instance`` may look; who has all permissions of the app
    "gendurable" may operate, where ``operate`` is said. Who has not logged in is led to where one does: the admin's
    form, else ``LOGIN_URL``. The audit has the name of the user.

    Args:
        application: that of ``get_asgi_application()``, or one around it.
        path: such as ``/jobs``, and not that of the whole site.
        operate: whether actions are offered at all.
        database: the alias; by default the first of the setting.
        options: others of `gendurable_py.web.app`: ``redact``, ``filters``, ``refresh``, ``patience``, ``title``, …

    Raises:
        InvalidArgument: an argument is not valid.
    """
    path = "/" + path.strip("/")
    if path == "/":
        raise InvalidArgument("the dashboard needs a path of its own", hint="such as /jobs")
    staff = _Staff()
    dashboard = app(
        dsn_of(database or conf.default_database()),
        auth=staff.known,
        operate=staff.operating.__contains__ if operate else False,
        **options,
    )

    async def slashed(request: Request) -> RedirectResponse:
        return RedirectResponse(request.scope.get("root_path", "") + path + "/", 307)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:  # Django's own has none
        async with dashboard.router.lifespan_context(dashboard):
            yield

    return Starlette(routes=[Route(path, slashed), Mount(path, dashboard), Mount("/", application)], lifespan=lifespan)


class _Staff:
    """Who may look, by the sessions of the project, and which of them may operate."""

    def __init__(self) -> None:
        self.operating: set[str] = set()

    async def known(self, request: Request) -> str | None:
        user, looks, operates = await sync_to_async(_permissions)(request.cookies.get(settings.SESSION_COOKIE_NAME))
        if user is None:
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                raise HTTPException(303, "log in", {"Location": _where_to_log_in(request)})
            return None
        (self.operating.add if operates else self.operating.discard)(user)
        return user if looks else None


def _permissions(session: str | None) -> tuple[str | None, bool, bool]:
    """The name of a user, whether they may look, and whether they may do all."""
    try:
        asked = HttpRequest()
        asked.session = store = import_module(settings.SESSION_ENGINE).SessionStore(session)
        # A look changes no session: one of an older secret key would get a new name, which no browser is told.
        store.cycle_key = store.flush = lambda: None
        user = get_user(asked)
        if not user.is_authenticated:
            return None, False, False
        looks = bool(user.is_active and getattr(user, "is_staff", False) and user.has_perm(LOOK))
        return user.get_username(), looks, looks and user.has_perms(_all_permissions())
    finally:
        # no request of Django's ends here
        close_old_connections()


def _all_permissions() -> list[str]:
    models = apps.get_app_config("gendurable").get_models()
    return [f"gendurable.{name}" for model in models for name, _ in model._meta.permissions]


def _where_to_log_in(request: Request) -> str:
    try:
        form = reverse("admin:login")
    except NoReverseMatch:
        form = resolve_url(settings.LOGIN_URL)
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"{form}?{urlencode({'next': to[:2000]})}"
