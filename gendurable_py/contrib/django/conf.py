"""The setting ``GENDURABLE`` of a Django project, as it is read: a dict, and what is left out has its default.

::

    GENDURABLE = {
        "DATABASES": ["default"],              # where gendurable is; the first is that of calls, admin and commands
        "EXTENSION": None,                     # how a migration installs: True, False; None: as the server can
        "MODULES": ["machines", "tasks"],      # what `manage.py gendurable worker` looks for in each installed app
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

NAME = "GENDURABLE"


@dataclass(frozen=True)
class Conf:
    """What the setting says."""

    databases: tuple[str, ...] = ("default",)
    extension: bool | None = None
    modules: tuple[str, ...] = ("machines", "tasks")


def read() -> Conf:
    """The setting as it is now: tests change it.

    Raises:
        ImproperlyConfigured: it has a key that there is not, or a value of another kind.
    """
    said = getattr(settings, NAME, None)
    if said is None:
        return Conf()
    if not isinstance(said, Mapping):
        raise ImproperlyConfigured(f"{NAME} is a {type(said).__name__}: make it a dict")
    unknown = sorted(map(str, said.keys() - {"DATABASES", "EXTENSION", "MODULES"}))
    if unknown:
        raise ImproperlyConfigured(f"{NAME} has {', '.join(unknown)}: its keys are DATABASES, EXTENSION and MODULES")
    extension = said.get("EXTENSION")
    if extension is not None and not isinstance(extension, bool):
        raise ImproperlyConfigured(f"{NAME}['EXTENSION'] is {extension!r}: make it True, False or None")
    databases = _names(said, "DATABASES", Conf.databases)
    if not databases:
        raise ImproperlyConfigured(f"{NAME}['DATABASES'] is empty: name an alias of DATABASES")
    return Conf(databases, extension, _names(said, "MODULES", Conf.modules))


def default_database() -> str:
    """The alias of the database that calls without ``using`` go to."""
    return read().databases[0]


def _names(said: Mapping[str, object], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = said.get(key, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and name for name in value):
        raise ImproperlyConfigured(f"{NAME}[{key!r}] is {value!r}: make it a list of names")
    return tuple(value)
