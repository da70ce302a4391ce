"""What ``manage.py check`` says of the settings: what would else show when something runs. It asks no server."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from . import conf
from .calling import need_postgresql


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[Any]:
    """Errors ``gendurable.E001`` (the setting itself), ``E002`` (an alias that there is not), ``E003`` (no
    PostgreSQL)."""
    try:
        databases = conf.read().databases
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="gendurable.E001")]
    found: list[Any] = []
    for alias in databases:
        if alias not in connections.settings:
            hint = f"DATABASES has {', '.join(connections.settings)}"
            found.append(checks.Error(f"{conf.NAME} names the database {alias!r}", hint=hint, id="gendurable.E002"))
            continue
        try:
            need_postgresql(connections[alias])
        except ImproperlyConfigured as error:
            found.append(checks.Error(str(error), id="gendurable.E003"))
    return found
