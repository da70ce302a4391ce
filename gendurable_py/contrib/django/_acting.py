"""What an operator does to instances from the admin, as the user that has logged in: so `gendurable_py.audit` has it.

An action concerns the instances that were chosen on a page. Those that need to be told something ask for it on a page
between.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import psycopg
from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db import Error, transaction
from django.http import HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from ... import calls
from ...calls import viewing
from ...errors import GendurableError, UnknownInstance
from . import conf
from ._texts import refuse
from .calling import connection, translated, wrapper_of

_SAID = {
    "done": "done",
    "no": "not possible as they stand",
    "busy": "busy: try again",
    "none": "not there any more",
}


@contextlib.contextmanager
def acting(request: Any) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in the name of the user."""
    alias = conf.default_database()
    with translated(wrapper_of(alias)), transaction.atomic(using=alias):
        conn = connection(alias)
        viewing.says_who(conn, request.user.get_username())
        yield conn


def chosen(request: Any) -> list[int]:
    """The ids on the page that were chosen, whatever else the request says."""
    texts = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
    numbers = {int(text) for text in texts if len(text) < 20 and text.isascii() and text.isdigit()}
    return sorted(number for number in numbers if number < 2**63)


def one_by_one(function: Callable[..., bool]) -> Callable[[psycopg.Connection[Any], list[int]], dict[int, str]]:
    """A call that takes one id, for many."""

    def run(conn: psycopg.Connection[Any], ids: list[int]) -> dict[int, str]:
        answers = {}
        for id in ids:
            try:
                with transaction.atomic(using=conf.default_database()):
                    answers[id] = "done" if function(conn, id) else "no"
            except UnknownInstance:
                answers[id] = "none"
            except psycopg.errors.LockNotAvailable:
                answers[id] = "busy"
        return answers

    return run


class CancelForm(forms.Form):
    reason = forms.CharField(required=False, max_length=1000, widget=forms.TextInput(attrs={"class": "vTextField"}))


class RescheduleForm(forms.Form):
    time = forms.SplitDateTimeField(widget=AdminSplitDateTime, help_text="When they are due, or until when they wait.")

    def clean_time(self) -> Any:
        moment = self.cleaned_data["time"]
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


class SignalForm(forms.Form):
    name = forms.CharField(max_length=200, widget=forms.TextInput(attrs={"class": "vTextField"}))
    payload = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"class": "vLargeTextField", "rows": 5}),
        help_text="JSON, or nothing.",
    )

    def clean_payload(self) -> Any:
        text = self.cleaned_data["payload"].strip()
        if not text:
            return None
        try:
            return json.loads(text, parse_constant=refuse)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is no JSON: {error}") from None


class Acting:
    """The actions of the list of instances."""

    actions = ("retry", "cancel", "pause", "resume", "reschedule", "signal")

    @admin.action(description="Retry", permissions=["retry"])
    def retry(self, request: Any, queryset: Any) -> Any:
        return self._do(request, "retry", calls.retry_many)

    @admin.action(description="Pause", permissions=["pause"])
    def pause(self, request: Any, queryset: Any) -> Any:
        return self._do(request, "pause", one_by_one(calls.pause))

    @admin.action(description="Resume", permissions=["pause"])
    def resume(self, request: Any, queryset: Any) -> Any:
        return self._do(request, "resume", one_by_one(calls.resume))

    @admin.action(description="Cancel…", permissions=["cancel"])
    def cancel(self, request: Any, queryset: Any) -> Any:
        return self._ask(
            request,
            "cancel",
            CancelForm,
            lambda said: lambda conn, ids: calls.cancel_many(conn, ids, said["reason"] or None),
        )

    @admin.action(description="Reschedule…", permissions=["reschedule"])
    def reschedule(self, request: Any, queryset: Any) -> Any:
        return self._ask(
            request,
            "reschedule",
            RescheduleForm,
            lambda said: lambda conn, ids: calls.reschedule_many(conn, ids, said["time"]),
        )

    @admin.action(description="Signal…", permissions=["signal"])
    def signal(self, request: Any, queryset: Any) -> Any:
        return self._ask(
            request,
            "signal",
            SignalForm,
            lambda said: lambda conn, ids: calls.signal_many(conn, ids, said["name"], said["payload"]),
        )

    def _do(
        self, request: Any, what: str, call: Callable[[psycopg.Connection[Any], list[int]], Mapping[int, str]]
    ) -> Any:
        ids = chosen(request)
        try:
            with acting(request) as conn:
                answers = call(conn, ids)
        except (GendurableError, Error) as error:
            messages.error(request, f"{what}: {str(error).partition(chr(10))[0]}")
        else:
            counted = Counter(answers.values())
            level = messages.SUCCESS if set(counted) <= {"done"} else messages.WARNING
            messages.add_message(request, level, f"{what}: {_sum(counted)}")
        if request.POST.get("back") == "instance" and len(ids) == 1:
            return HttpResponseRedirect(reverse("admin:gendurable_instance_change", args=ids, current_app=self.site))
        return None

    def _ask(self, request: Any, what: str, kind: type[Any], make: Callable[[Any], Any]) -> Any:
        form = kind(request.POST if "apply" in request.POST else None)
        if "apply" in request.POST and form.is_valid():
            return self._do(request, what, make(form.cleaned_data))
        ids = chosen(request)
        context = {
            **self.admin_site.each_context(request),  # type: ignore[attr-defined]
            "title": f"{what.capitalize()} {len(ids)} instance{'' if len(ids) == 1 else 's'}",
            "opts": self.model._meta,  # type: ignore[attr-defined]
            "media": self.media + form.media,  # type: ignore[attr-defined]
            "form": form,
            "what": what,
            "ids": ids,
            "back": request.POST.get("back", ""),
            "checkbox": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/gendurable/instance/ask.html", context)

    @property
    def site(self) -> str:
        return str(self.admin_site.name)  # type: ignore[attr-defined]


def _sum(counted: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{counted[answer]} {_SAID[answer]}" for answer in _SAID if counted.get(answer)) or "nothing chosen"
    )


def note(request: Any, what: str, answers: Iterable[bool]) -> None:
    """Say how many of some calls had an effect."""
    counted = Counter("done" if answer else "no" for answer in answers)
    level = messages.SUCCESS if set(counted) <= {"done"} else messages.WARNING
    messages.add_message(request, level, f"{what}: {_sum(counted)}")
