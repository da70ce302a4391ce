"""The machines of this process by name and version, and how an unknown one is imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import InvalidArgument

if TYPE_CHECKING:
    from .fsm import Spec

_registry: dict[tuple[str, int], Spec] = {}


def register(spec: Spec) -> None:
    known = _registry.get((spec.name, spec.version), spec)
    there, here = (f"{each.cls.__module__}.{each.cls.__qualname__}" for each in (known, spec))
    if there != here:
        raise InvalidArgument(
            f"two machines are named {spec.name!r} in version {spec.version}: {there} and {here}",
            hint="give one of them another name= or version=",
        )
    _registry[spec.name, spec.version] = spec


def lookup(name: str, version: int) -> Spec | None:
    """The machine of this name and version, if it was imported."""
    return _registry.get((name, version))


def autoload(name: str, allowed: Iterable[str]) -> bool:
    """Import the module of a default name (``package.module:Class``), if it lies below an allowed package.

    The name comes from the database, so nothing outside the list is ever imported.
    """
    module, separator, _ = name.partition(":")
    if not separator or not all(part.isidentifier() for part in module.split(".")):
        return False
    if not any(module == package or module.startswith(f"{package}.") for package in allowed):
        return False
    importlib.import_module(module)
    return True
