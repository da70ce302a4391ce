"""The list of instances in the admin: pages of `gendurable_py.list`, which looks at a bounded number of rows.

Nothing here counts a table or walks over pages that were seen: a page goes on behind the last row of the one before.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import Error

from ... import calls
from ...calls import viewing
from ...errors import GendurableError
from . import conf
from ._texts import refuse, shown
from .calling import connection, translated, wrapper_of
from .models import Instance

AFTER = "after"
STATUSES = ("runnable", "executing", "awaiting_signal", "awaiting_children", "done", "failed", "cancelled")
# What may stand before a colon in the search, and the key of the filter that it is.
WORDS = {
    "machine": "fsm",
    "step": "step",
    "queue": "queue",
    "key": "partition_key",
    "prefix": "partition_prefix",
    "unique": "unique_key",
    "parent": "parent_id",
    "worker": "worker",
    "error": "error",
    "limit": "rate_limit",
}
SEARCH_HELP = (
    "an id, a unique key, an attribute (tenant=acme), or "
    + ", ".join(f"{word}:..." for word in WORDS)
    + "; several of "
    "them with blanks between, texts with blanks in quotes"
)
_REMEMBER_SECONDS = 30.0


def read_search(text: str) -> dict[str, object]:
    """What is looked for, as a filter of `gendurable_py.list`.

    Raises:
        ValueError: a quote is not closed.
    """
    found: dict[str, object] = {}
    attributes: dict[str, object] = {}
    for word in shlex.split(text):
        name, colon, value = word.partition(":")
        key, equals, wanted = word.partition("=")
        if word.isascii() and word.isdigit() and len(word) < 19:
            found["id"] = int(word)
        elif colon and name in WORDS:
            number = name == "parent" and value.isascii() and value.isdigit() and len(value) < 19
            found[WORDS[name]] = int(value) if number else value
        elif equals and key.replace("_", "").isalnum():
            attributes[key] = _read_value(wanted)
        else:
            found["unique_key"] = word
    return {**found, **({"attributes": attributes} if attributes else {})}


def _read_value(text: str) -> object:
    """A number or a truth value of JSON, any other text as it is; ``'tenant="42"'`` is a text, too."""
    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (bool, int, float, str)) else text


class NothingYet:
    """Stands where the admin wants a query: actions concern the ids that were chosen, and never a whole list."""

    def filter(self, *args: object, **kwargs: object) -> NothingYet:
        return self


class InstanceList(ChangeList):
    """A page of the list; ``next`` is where the next one begins."""

    _after: str | None = None

    def get_queryset(self, request: Any, exclude_parameters: Any = None) -> Any:
        for params in (self.params, self.filter_params):
            params.pop(AFTER, None)
        self.filter_specs, self.has_filters, left, _, self.has_active_filters = self.get_filters(request)
        self.clear_all_filters_qs = self.get_query_string(new_params=left, remove=self.get_filters_params())
        return NothingYet()

    def get_results(self, request: Any) -> None:
        page = calls.Page([], None)
        try:
            wanted = {**read_search(self.query), **self._chosen()}
            after = json.loads(request.GET[AFTER]) if AFTER in request.GET else None
            with translated(wrapper_of()):
                page = calls.list(connection(), wanted, after, self.list_per_page)
        except (GendurableError, ValueError, RecursionError) as error:
            messages.error(request, f"This cannot be looked for: {str(error).partition(chr(10))[0]}")
        except Error as error:
            messages.error(request, str(error))
        self.result_list = [_as_model(row) for row in page.instances]
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = False
        self.show_all = self.can_show_all = self.multi_page = False
        self.show_admin_actions = bool(self.result_list)
        self.paginator = Paginator([], self.list_per_page)
        going_on = page.next is not None
        self.next = self.get_query_string({AFTER: json.dumps(page.next)}) if going_on else None
        self.first = self.get_query_string() if AFTER in request.GET else None
        # Fewer than a page, and more to look at: it has looked at as many as it may.
        self.looked = going_on and self.result_count < self.list_per_page

    def _chosen(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for spec in self.filter_specs:
            if isinstance(spec, Chosen) and spec.value():
                found.update(spec.wanted(spec.value()))
        return found


def _as_model(row: calls.Listed) -> Instance:
    names = {field.attname for field in Instance._meta.concrete_fields}
    return Instance(**{name: value for name, value in row._asdict().items() if name in names})


class Chosen(admin.SimpleListFilter):
    """A filter in the sidebar, which the list reads."""

    def wanted(self, value: str) -> dict[str, object]:
        return {self.parameter_name: value}

    def queryset(self, request: Any, queryset: Any) -> Any:
        return queryset


class ByStatus(Chosen):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(status, status.replace("_", " ")) for status in STATUSES]


class ByMachine(Chosen):
    title = "machine"
    parameter_name = "fsm"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        names = remembered("machines", lambda: sorted({row.fsm for row in calls.machines(connection())}))
        return [(name, shown(name)) for name in _with_chosen(names, self.used_parameters.get("fsm"), request, "fsm")]


class ByQueue(Chosen):
    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        names = remembered("queues", lambda: sorted(str(row["queue"]) for row in viewing.queues(connection())))
        return [(name, shown(name)) for name in _with_chosen(names, None, request, "queue")]


class Stuck(Chosen):
    title = "stuck for"
    parameter_name = "stuck"
    _TIMES: ClassVar[dict[str, tuple[str, int]]] = {
        "1m": ("a minute", 60_000),
        "10m": ("ten minutes", 600_000),
        "1h": ("an hour", 3_600_000),
        "1d": ("a day", 86_400_000),
    }

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, name) for key, (name, _) in self._TIMES.items()]

    def wanted(self, value: str) -> dict[str, object]:
        if value not in self._TIMES:
            return {}
        return {"stuck_for_ms": self._TIMES[value][1]}


def _with_chosen(names: list[str], chosen: object, request: Any, parameter: str) -> list[str]:
    """The name that is asked for stays one, also where it is not among them (any more)."""
    asked = request.GET.get(parameter)
    return names if asked is None or asked in names else [*names, asked]


_known: dict[tuple[str, str], tuple[float, list[str]]] = {}


def remembered(what: str, ask: Callable[[], list[str]]) -> list[str]:
    """The names for a filter, asked for at most twice a minute; none where the database does not answer."""
    key = (conf.default_database(), what)
    at, names = _known.get(key, (float("-inf"), []))
    if time.monotonic() - at > _REMEMBER_SECONDS:
        try:
            with translated(wrapper_of()):
                names = ask()[:200]
        except (GendurableError, Error):
            return []  # the list itself says why
        _known[key] = (time.monotonic(), names)
    return names
