"""What a worker of the project serves: the machines and tasks in ``machines.py`` and ``tasks.py`` of its apps.

`found` is for ``gendurable worker gendurable_py.contrib.django.serving:found``, in each process of it: whoever asks for
it has Django set up by it, from the variable ``DJANGO_SETTINGS_MODULE``. `ready` does that and is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import reset_queries
from django.utils.module_loading import import_string

from ...machine.claim import ClaimRow
from ...machine.outcome import MachineLike
from ...machine.registry import known
from ...telemetry import instrument
from ...telemetry.events import Event
from . import conf
from .transactions import close_broken, close_old, under_way


def discover() -> list[MachineLike]:
    """Import the modules of the installed apps, and list the machines that are known then, those of tasks too.

    What such a module raises goes on. Machines that other modules define are found if these import them.
    """
    if not apps.ready:
        django.setup()
    for app in apps.get_app_configs():
        for name in conf.read().modules:
            module = f"{app.name}.{name}"
            if app.label != "gendurable" and find_spec(module) is not None:
                import_module(module)
    return [cast("MachineLike", spec.cls) for spec in sorted(known(), key=lambda spec: (spec.name, spec.version))]


def queues() -> list[str]:
    """The queues of the machines, and those into which tasks may be put."""
    from ...machine.spec import spec_of

    specs = [spec_of(machine) for machine in discover()]
    names = {spec.queue for spec in specs} | {queue for spec in specs for queue in spec.queues.values()}
    return sorted(names | _task_queues())


def _task_queues() -> set[str]:
    named = getattr(settings, "TASKS", None) or {}
    ours = [one for one in named.values() if _is_ours(str(one.get("BACKEND", "")))]
    return {queue for one in ours for queue in one.get("QUEUES", ["default"])}


def _is_ours(path: str) -> bool:
    """Whether a backend is that of `tasks`, or a class made of it."""
    module = "gendurable_py.contrib.django.tasks"
    if path.startswith(f"{module}."):
        return True
    try:
        return any(base.__module__ == module for base in getattr(import_string(path), "__mro__", ()))
    except ImportError:
        return False  # whoever uses it is told by Django


class Caring:
    """Stands around each step, as Django's requests have it: connections that are too old or broken are closed, of
    async steps those that are broken."""

    def __init__(self, inner: instrument.Instrument | None) -> None:
        self.inner = inner

    def step(self, work: instrument.Running) -> AbstractContextManager[object]:
        return self._around(work)

    @contextmanager
    def _around(self, work: instrument.Running) -> Iterator[None]:
        _care(failed=False)
        try:
            around = nullcontext() if self.inner is None else self.inner.step(work)
            with around, under_way() if _on_loop() else nullcontext():
                yield
        finally:
            _care(failed=work.error is not None)

    def ran(self, row: ClaimRow, seconds: float, outcome: str, error: Exception | None) -> None:
        if self.inner is not None:
            self.inner.ran(row, seconds, outcome, error)

    def event(self, event: Event) -> None:
        if self.inner is not None:
            self.inner.event(event)


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_closing: set[asyncio.Task[None]] = set()


def _care(failed: bool) -> None:
    if not _on_loop():
        close_old()
        reset_queries()
        return
    # What async steps ask goes through one thread of asgiref's, which they share, and one connection there. A lost one
    # would stay there: it is closed before anything is asked that comes after this.
    if failed:
        task = asyncio.get_running_loop().create_task(sync_to_async(close_broken)())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


def take_care() -> None:
    """From now on, in this process."""
    if not isinstance(instrument.current, Caring):
        instrument.use(Caring(instrument.current))


def __getattr__(name: str) -> Any:
    if name == "ready":  # for a worker that is told itself what it serves
        if not apps.ready:
            django.setup()
        take_care()
        return []
    if name != "found":
        raise AttributeError(name)
    machines = discover()
    if not machines:
        names = " or ".join(f"{name}.py" for name in conf.read().modules)
        raise ImproperlyConfigured(f"no installed app has a machine or a task in {names}")
    take_care()
    return machines
