"""Machines by the names under which Python finds them: ``module``, ``module:Name``, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import cast

from ..machine.outcome import MachineLike
from ..machine.spec import Spec, spec_of


class NotFound(Exception):
    """There is no such module, or nothing in it that could be served."""


def load(targets: Iterable[str]) -> list[MachineLike]:
    """The machines of ``module`` or of ``module:Name``, ``module:Name:Name``. The directory that one is in counts.

    Raises:
        NotFound: there are none. What a module itself raises goes on.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: dict[int, MachineLike] = {}
    for target in targets:
        name, *attributes = target.split(":")
        module = _import(name)
        for machine in _named(module, attributes) if attributes else _all_of(module):
            found[id(spec_of(machine))] = machine
    return list(found.values())


def load_file(path: Path) -> list[MachineLike]:
    """The machines of a file, which is imported by its stem."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NotFound(f"{path} is no file of Python")
    sys.path.insert(0, str(path.parent.resolve()))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return _all_of(module)


def queues_of(machines: Iterable[MachineLike], concurrency: int = 10) -> dict[str, int]:
    """The queues in which these machines and their steps run."""
    specs = [spec_of(machine) for machine in machines]
    names = {spec.queue for spec in specs} | {queue for spec in specs for queue in spec.queues.values()}
    return dict.fromkeys(sorted(names), concurrency)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another one that it imports is not there: that is the module's own error.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise NotFound(f"there is no module {name}") from None
        raise
    except (ValueError, TypeError) as error:
        raise NotFound(f"{name!r} is no name of a module: {error}") from None


def _spec(value: object) -> Spec | None:
    try:
        return spec_of(cast("MachineLike", value))
    except Exception:  # noqa: BLE001 - whatever lies in a module: some proxies refuse any look outside of a request
        return None


def _all_of(module: ModuleType) -> list[MachineLike]:
    found = [cast("MachineLike", value) for value in vars(module).values() if _spec(value) is not None]
    if not found:
        raise NotFound(f"there is no machine in {module.__name__}")
    return found


def _named(module: ModuleType, attributes: list[str]) -> list[MachineLike]:
    found: list[MachineLike] = []
    for attribute in attributes:
        value: object = module
        for part in attribute.split("."):
            value = getattr(value, part, None)
        some = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
        for each in some:
            if _spec(each) is None:
                raise NotFound(f"{module.__name__}:{attribute} is no machine")
            found.append(cast("MachineLike", each))
    return found
