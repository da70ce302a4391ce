"""A Django project in this process, for the tests: settings once, the database anew for each test that asks for it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

BACKEND = "gendurable_py.contrib.django.tasks.GendurableBackend"
urlpatterns: list[Any] = []
_ZONE = os.environ.get("TZ")


def set_up() -> None:
    """Configure Django, once in a process."""
    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="not so secret",
        ALLOWED_HOSTS=["*"],
        DATABASES={},
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        TIME_ZONE="UTC",
        LANGUAGE_CODE="en-us",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        STATIC_URL="/static/",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "gendurable_py.contrib.django",
            "support.shop",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        TASKS={
            "default": {"BACKEND": BACKEND, "QUEUES": ["default", "mail"]},
            "stubborn": {"BACKEND": BACKEND, "QUEUES": ["default"], "OPTIONS": {"max_attempts": 4}},
            "exact": {"BACKEND": BACKEND, "QUEUES": ["default"], "OPTIONS": {"transactional": True}},
        },
    )
    django.setup()
    from django.contrib import admin

    urlpatterns.append(path("admin/", admin.site.urls))


def make_tables() -> None:
    """Those of the shop, which has no migrations."""
    from django.db import connection
    from support.shop.models import Order

    with connection.schema_editor() as editor:
        editor.create_model(Order)


def described(dsn: str, **more: Any) -> dict[str, Any]:
    """A database as ``DATABASES`` has it."""
    known = conninfo_to_dict(dsn)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": known["dbname"],
        "USER": known.get("user", ""),
        "PASSWORD": known.get("password", ""),
        "HOST": known["host"],
        "PORT": str(known.get("port", "")),
        **more,
    }


def use(**databases: dict[str, Any]) -> None:
    """Let the project have these databases, in this thread and in those that come."""
    leave()
    made = connections.configure_settings({"default": {}, **databases})
    connections.databases.clear()
    connections.databases.update(made)


def leave() -> None:
    """Close what is open, also in the thread of asgiref's, in which async views and tasks ask the database."""
    _leave_here()
    asyncio.run(sync_to_async(_leave_here)())
    # Django sets it for the whole process, when a test overrides its time zone.
    if os.environ.get("TZ") != _ZONE:
        os.environ.pop("TZ", None)
        os.environ.update({} if _ZONE is None else {"TZ": _ZONE})
        time.tzset()


def _leave_here() -> None:
    for alias in list(connections.databases):
        connections[alias].close()
        close_pool = getattr(connections[alias], "close_pool", None)
        if close_pool is not None and connections[alias].vendor == "postgresql":
            close_pool()
        del connections[alias]


set_up()

# Modules with models, which can be imported from now on.
from django.contrib.auth.models import Permission, User  # noqa: E402

__all__ = ["BACKEND", "Permission", "User", "described", "leave", "make_tables", "use"]
