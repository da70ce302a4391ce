"""The machines of this process by name and version, and how an unknown one is imported.

The name of an unknown machine comes from the database, so from whoever may insert. What it can make a process do is
bounded: nothing outside of the named packages is looked at; the source is read before anything runs, and must define
what was asked for; an import runs in a thread of its own, with a deadline, and may end as it likes.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from importlib.machinery import ModuleSpec
from pathlib import Path

from ..errors import InvalidArgument
from .spec import Spec

logger = logging.getLogger("gendurable")

IMPORT_DEADLINE = 30.0
"""Seconds that an import may take. After that it goes on by itself, and its module is not tried again."""

_LARGEST_SOURCE = 1 << 20
_MOST_FAILED = 1000
# Imports that hang keep a thread each.
_MOST_HANGING = 8

_registry: dict[tuple[str, int], Spec] = {}
_generation = 0
_lock = threading.Lock()
_failed: set[str] = set()
_running: set[str] = set()


def register(spec: Spec) -> None:
    """Make a machine known. A class of the same module and qualified name takes the place of the one before it: what
    `importlib.reload` and a cell of a notebook that is run again mean."""
    global _generation
    known = _registry.get((spec.name, spec.version), spec)
    there, here = (f"{each.cls.__module__}.{each.cls.__qualname__}" for each in (known, spec))
    if there != here:
        raise InvalidArgument(
            f"two machines are named {spec.name!r} in version {spec.version}: {there} and {here}",
            hint="give one of them another name= or version=",
        )
    _registry[spec.name, spec.version] = spec
    _generation += 1


def generation() -> int:
    """Raised by every machine that is registered: whoever keeps what `lookup` gave asks again when this has moved."""
    return _generation


def known() -> list[Spec]:
    """Every machine that was imported."""
    return list(_registry.values())


def lookup(name: str, version: int) -> Spec | None:
    """The machine of this name and version, if it was imported."""
    return _registry.get((name, version))


def autoload(name: str, allowed: Collection[str], seconds: float = IMPORT_DEADLINE) -> bool:
    """Import the module of a default name (``package.module:Class``); False: it is not known after that.

    The module must lie below an allowed package, and its source must define the class (one with a base) or the job (a
    function with a decorator). It never raises, from any thread, and takes no longer than ``seconds``.
    """
    try:
        return _start_import(name, allowed).result(seconds)
    except TimeoutError:
        _note_hanging(name, seconds)
        return False


async def autoload_async(name: str, allowed: Collection[str], seconds: float = IMPORT_DEADLINE) -> bool:
    """`autoload` beside a running loop. Not in the loop's executor: its threads are waited for when the loop ends."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(_start_import(name, allowed)), seconds)
    except TimeoutError:
        _note_hanging(name, seconds)
        return False


def _start_import(name: str, allowed: Collection[str]) -> Future[bool]:
    done: Future[bool] = Future()
    module, separator, qualname = name.partition(":")
    if not separator or not _is_allowed(module, allowed) or module in sys.modules:
        done.set_result(_is_known(name))
        return done
    with _lock:
        refused = module in _failed or module in _running or len(_running) >= _MOST_HANGING
        if not refused:
            _running.add(module)
    if refused:
        done.set_result(False)
        return done

    def run() -> None:
        answer = False
        try:
            if _defines(module, qualname):
                importlib.import_module(module)
                answer = _is_known(name)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
            _note_failure(module, error)
        finally:
            with _lock:
                _running.discard(module)
            # It was cancelled where nobody waits any more.
            if done.set_running_or_notify_cancel():
                done.set_result(answer)

    try:
        threading.Thread(target=run, name=f"gendurable import {module}", daemon=True).start()
    except RuntimeError as error:  # no more threads
        with _lock:
            _running.discard(module)
        _note_failure(module, error)
        done.set_result(False)
    return done


def _is_known(name: str) -> bool:
    return any(known == name for known, _ in list(_registry))


def _is_allowed(module: str, allowed: Iterable[str]) -> bool:
    parts = module.split(".")
    # What runs a program when it is imported, by its name alone.
    if not all(part.isidentifier() and not part.startswith("__") and part != "conftest" for part in parts):
        return False
    return any(module == package or module.startswith(f"{package}.") for package in allowed)


def _note_failure(module: str, error: BaseException) -> None:
    with _lock:
        if len(_failed) >= _MOST_FAILED:
            return
        _failed.add(module)
    try:
        logger.warning("the module %s could not be imported, and is not tried again: %r", module, error)
    except Exception:  # noqa: BLE001 - an error or a handler of others that cannot even be told
        return


def _note_hanging(name: str, seconds: float) -> None:
    _note_failure(name.partition(":")[0], TimeoutError(f"its import took longer than {seconds:g} s"))


def _defines(module: str, qualname: str) -> bool:
    """Whether the source of a module defines this class or job. Nothing of it is run."""
    path = _find_source(module)
    if path is None:
        return False
    about = path.stat()
    return about.st_size <= _LARGEST_SOURCE and qualname in _list_defined(path, about.st_mtime_ns)


def _find_source(module: str) -> Path | None:
    """Where the source of a module is. Its parents are not imported either, which `importlib.util.find_spec` would."""
    where: Sequence[str] | None = None
    found: ModuleSpec | None = None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        loaded = sys.modules.get(name)
        found = getattr(loaded, "__spec__", None) or _find_spec(name, where)
        if found is None or (found.submodule_search_locations is None and length < len(parts)):
            return None
        where = list(found.submodule_search_locations or ())
    if found is None or not found.has_location or not found.origin:
        return None
    path = Path(found.origin)
    return path if path.suffix == ".py" and path.is_file() else None


def _find_spec(name: str, where: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        look = getattr(finder, "find_spec", None)
        found = None if look is None else look(name, where)
        if isinstance(found, ModuleSpec):
            return found
    return None


@functools.lru_cache(maxsize=256)
def _list_defined(path: Path, _mtime: int) -> frozenset[str]:
    """The qualified names of the classes that have a base, and of the functions that have a decorator."""
    tree = ast.parse(importlib.util.decode_source(path.read_bytes()), os.fspath(path))
    return frozenset(_walk_names(tree.body, ""))


def _walk_names(body: Iterable[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef():
                if node.bases:
                    yield prefix + node.name
                yield from _walk_names(node.body, f"{prefix}{node.name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.decorator_list:
                    yield prefix + node.name
            case ast.If() | ast.Try() | ast.With() | ast.For() | ast.While():
                for field in ("body", "orelse", "finalbody"):
                    yield from _walk_names(getattr(node, field, ()), prefix)
                for handler in getattr(node, "handlers", ()):
                    yield from _walk_names(handler.body, prefix)
