"""The admin: instances with what is to be known of each, queues, schedules and workers. Nothing is edited there.

Who may view what, and act, is said by Django's permissions: ``gendurable.view_instance``, ``retry_instance``,
``cancel_instance``, ``pause_instance``, ``reschedule_instance``, ``signal_instance``, ``pause_queue``,
``pause_schedule``, ``trigger_schedule``, ``drain_worker``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar, cast

import psycopg
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import Error, transaction
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from ... import calls
from ...calls import viewing
from ...errors import GendurableError
from . import conf
from ._acting import Acting, acting, note
from ._changelist import SEARCH_HELP, ByMachine, ByQueue, ByStatus, InstanceList, Stuck
from ._texts import indented, readable, shown, status_of
from .calling import connection, translated, wrapper_of
from .models import Instance, Queue, Schedule, Worker

_MOST_TRACEBACK = 8_000
_MOST_ENTRIES = 100
_MOST_NODES = 100
# How the facts of an instance begin; the others follow.
_ORDER = (
    *("fsm", "fsm_version", "step", "queue", "priority", "attempt", "max_attempts", "crashes", "last_error"),
    *("unique_key", "partition_key", "attributes", "parent_id", "children", "worker", "eligible_at"),
)


class ReadOnly(admin.ModelAdmin):
    """Nothing is added, changed or deleted; actions have permissions of their own."""

    show_full_result_count = False

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def history_view(self, request: Any, object_id: str, extra_context: Any = None) -> Any:
        """Of Django's own log, which has nothing of these."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return HttpResponseRedirect(reverse(name, args=[object_id], current_app=self.admin_site.name))

    def allows(self, request: Any, permission: str) -> bool:
        return bool(request.user.has_perm(f"gendurable.{permission}"))


@admin.register(Instance)
class InstanceAdmin(Acting, ReadOnly):
    """Lists by `gendurable_py.list`, and one instance with why it does not run, its errors, history and children."""

    list_display = ("id", "machine", "step_", "status_", "queue_", "keys", "error", "inserted_at", "finished_at")
    list_display_links = ("id",)
    list_filter = (ByStatus, ByMachine, ByQueue, Stuck)
    list_per_page = 100
    sortable_by = ()
    search_fields = ("id",)
    search_help_text = SEARCH_HELP
    show_facets = admin.ShowFacets.NEVER
    change_list_template = "admin/gendurable/instance/list.html"

    def get_changelist(self, request: Any, **kwargs: Any) -> Any:
        return InstanceList

    @admin.display(description="machine")
    def machine(self, row: Instance) -> str:
        return shown(f"{row.fsm} v{row.fsm_version}" if row.fsm_version != 1 else row.fsm)

    @admin.display(description="step")
    def step_(self, row: Instance) -> str:
        return shown(row.step)

    @admin.display(description="status")
    def status_(self, row: Instance) -> str:
        return status_of(row.status, row.paused_at)

    @admin.display(description="queue")
    def queue_(self, row: Instance) -> str:
        return shown(row.queue)

    @admin.display(description="keys and attributes")
    def keys(self, row: Instance) -> str:
        said = [text for text in (row.unique_key, row.partition_key) if text]
        said += [f"{name}={value}" for name, value in (row.attributes or {}).items()]
        return shown(", ".join(dict.fromkeys(said)))

    @admin.display(description="error")
    def error(self, row: Instance) -> str:
        return shown(row.last_error)

    # Permissions of the actions

    def has_retry_permission(self, request: Any) -> bool:
        return self.allows(request, "retry_instance")

    def has_cancel_permission(self, request: Any) -> bool:
        return self.allows(request, "cancel_instance")

    def has_pause_permission(self, request: Any) -> bool:
        return self.allows(request, "pause_instance")

    def has_reschedule_permission(self, request: Any) -> bool:
        return self.allows(request, "reschedule_instance")

    def has_signal_permission(self, request: Any) -> bool:
        return self.allows(request, "signal_instance")

    # One instance

    def change_view(self, request: Any, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        if not self.has_view_permission(request):
            raise PermissionDenied
        id, after = _number(object_id), _number(request.GET.get("after", "0"))
        try:
            with translated(wrapper_of()):
                seen = _look(connection(), id, after)
        except (GendurableError, Error) as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))
        if seen is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        actions = [
            # a tuple, and from Django 6.1 on an object
            {"name": name, "description": getattr(action, "description", None) or action[2]}
            for name, action in self.get_actions(request).items()
            if name in Acting.actions
        ]
        context = {
            **self.admin_site.each_context(request),
            "title": f"{shown(seen['row']['fsm'])} {id}",
            "opts": self.opts,
            "media": self.media,
            "actions": actions,
            **seen,
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/gendurable/instance/detail.html", context)


def _number(text: str) -> int:
    """An id, or the number of an entry; 0, which none has, for all else."""
    return int(text) if len(text) < 19 and text.isascii() and text.isdigit() else 0


def _look(conn: psycopg.Connection[Any], id: int, after: int) -> dict[str, Any] | None:
    """What the page of an instance shows; None: there is no such instance."""
    row = viewing.glance(conn, id)
    if row is None:
        return None
    large = cast("dict[str, int]", row["cut"])
    entries = viewing.happened(conn, id, after, _MOST_ENTRIES + 1)
    nodes = calls.tree(conn, id, 10, _MOST_NODES + 1)
    errors = [
        {**_all_shown(error._asdict()), "text": _cut(error.traceback or error.error)}
        for error in calls.errors(conn, id, 20)
    ]
    by_hand = [
        {**_all_shown(done._asdict()), "what": shown(json.dumps(done.what), 200)}
        for done in calls.audit(conn, {"id": id}, None, 20).calls
    ]
    return {
        "row": row,
        "facts": _facts(row),
        "status": status_of(str(row["status"]), row["paused_at"]),
        "texts": [
            (name, readable(_laid_out(row[name], name in large), large.get(name)))
            for name in ("state", "result", "meta")
            if row[name] not in (None, "null", "{}") or name == "state"
        ],
        "causes": [{**cause._asdict(), "message": readable(cause.message)} for cause in calls.why(conn, id)],
        "errors": errors,
        "entries": [_all_shown(entry) for entry in entries[:_MOST_ENTRIES]],
        "entries_after": entries[_MOST_ENTRIES - 1]["no"] if len(entries) > _MOST_ENTRIES else None,
        "nodes": [{**_all_shown(node._asdict()), "indent": node.depth * 20} for node in nodes[1 : _MOST_NODES + 1]],
        "nodes_cut": len(nodes) > _MOST_NODES,
        "by_hand": by_hand,
    }


def _all_shown(row: dict[str, Any]) -> dict[str, Any]:
    """For the cells of a table."""
    return {name: shown(value, 300) if isinstance(value, str) else value for name, value in row.items()}


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The short values, but for those that say nothing."""
    left_out = {
        "id",
        "state",
        "result",
        "meta",
        "cut",
        "errors",
        "signals",
        "children",
        "status",
        "watched",
        "paused_at",
    }
    facts = [
        (name.replace("_", " "), shown(value if isinstance(value, str) else json.dumps(value), 300))
        for name, value in sorted(row.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else 99)
        if name not in left_out and value not in (None, {}, [], False)
    ]
    facts += [("paused since", shown(row["paused_at"]))] if row["paused_at"] else []
    inbox = [f"{signal['name']} ({signal['inserted_at']})" for signal in row["signals"]]
    return facts + ([("inbox", shown(", ".join(inbox), 1000))] if inbox else [])


def _laid_out(text: Any, is_cut: bool) -> str:
    return str(text or "") if is_cut else indented(str(text or ""))


def _cut(text: str | None) -> str:
    if text is None:
        return ""
    return readable(text[:_MOST_TRACEBACK], len(text) if len(text) > _MOST_TRACEBACK else None)


class Small(ReadOnly):
    """A view with a row for each thing that somebody has named: few rows."""

    show_facets = admin.ShowFacets.NEVER
    shown_names: ClassVar[tuple[str, ...]] = ()

    def for_each(self, request: Any, queryset: Any, what: str, call: Callable[..., object]) -> None:
        answers, refused = [], []
        try:
            with acting(request) as conn:
                for row in queryset:
                    try:
                        with transaction.atomic(using=conf.default_database()):
                            # A call may answer nothing where it cannot but have its effect.
                            answers.append(call(conn, row.pk) not in (False,))
                    except (GendurableError, psycopg.errors.LockNotAvailable) as error:
                        refused.append(f"{what} {row}: {str(error).partition(chr(10))[0]}")
        except (GendurableError, Error) as error:
            messages.error(request, f"{what}: {str(error).partition(chr(10))[0]}")
            return
        for text in refused:
            messages.error(request, text)
        if answers:
            note(request, what, answers)


@admin.register(Queue)
class QueueAdmin(Small):
    list_display = ("queue", "due", "delayed", "executing", "parked", "limited", "oldest_due_at", "paused", "workers")
    ordering = ("queue",)
    actions = ("pause", "resume")

    def has_pause_permission(self, request: Any) -> bool:
        return self.allows(request, "pause_queue")

    @admin.action(description="Pause", permissions=["pause"])
    def pause(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "pause", calls.pause_queue)

    @admin.action(description="Resume", permissions=["pause"])
    def resume(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "resume", calls.resume_queue)


@admin.register(Schedule)
class ScheduleAdmin(Small):
    list_display = ("name", "cron", "timezone", "fsm", "queue", "next_at", "last_at", "last_id", "error", "paused_at")
    ordering = ("name",)
    actions = ("pause", "resume", "trigger")

    @admin.display(description="last error")
    def error(self, row: Schedule) -> str:
        return shown(row.last_error)

    def has_pause_permission(self, request: Any) -> bool:
        return self.allows(request, "pause_schedule")

    def has_trigger_permission(self, request: Any) -> bool:
        return self.allows(request, "trigger_schedule")

    @admin.action(description="Pause", permissions=["pause"])
    def pause(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "pause", calls.pause_schedule)

    @admin.action(description="Resume", permissions=["pause"])
    def resume(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "resume", calls.resume_schedule)

    @admin.action(description="Trigger now", permissions=["trigger"])
    def trigger(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "trigger", lambda conn, name: calls.trigger(conn, name) is not None)


@admin.register(Worker)
class WorkerAdmin(Small):
    list_display = ("worker", "host", "pid", "version", "state", "executing", "started_at", "seen_at", "draining_since")
    ordering = ("worker",)
    actions = ("drain", "resume")

    def has_drain_permission(self, request: Any) -> bool:
        return self.allows(request, "drain_worker")

    @admin.action(description="Drain", permissions=["drain"])
    def drain(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "drain", calls.drain_worker)

    @admin.action(description="Resume", permissions=["drain"])
    def resume(self, request: Any, queryset: Any) -> None:
        self.for_each(request, queryset, "resume", calls.resume_worker)
