"""URLs: what a query string asks for, and query strings for links. What cannot be read, or is not known, is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast
from urllib.parse import urlencode

from pydantic import JsonValue
from starlette.datastructures import QueryParams

from .._contract import TERMINAL
from .words import Unreadable, duration, mapping, moment, whole

OPEN = ("runnable", "executing", "awaiting_signal", "awaiting_children")
STATUSES = (*OPEN, *TERMINAL)
_TEXTS = (
    "fsm", "step", "queue", "partition_key", "partition_prefix", "unique_key", "unique_prefix", "rate_limit", "worker",
    "error",
)  # fmt: skip
_TIMES = ("inserted_after", "inserted_before", "finished_after", "finished_before", "due_before")
FILTERS = ("id", "status", "version", *_TEXTS, "parent_id", *_TIMES, "stuck_for", "attributes", "meta")
"""The keys of a filter in a URL: those of gd_list, but ``stuck_for``, which is a duration."""
_LONGEST = 4000


def only(params: QueryParams, known: Iterable[str]) -> None:
    """Refuse what is not known: a misspelt filter would show more than was meant."""
    strange = sorted(set(params) - set(known))
    if strange:
        raise Unreadable(f"there is no {strange[0][:60]!r} here: {', '.join(known)}")
    for name, value in params.multi_items():
        if len(value) > _LONGEST:
            raise Unreadable(f"{name} is too long")


def filter_of(params: Mapping[str, str] | QueryParams) -> dict[str, JsonValue]:
    """The filter that a URL asks for; empty values ask for nothing."""
    found: dict[str, object] = {}
    for name in FILTERS:
        text = params.get(name, "").strip() if name not in _TEXTS else params.get(name, "")
        if not text:
            continue
        if name == "id":
            ids = [whole(part, "id", 0, 2**63 - 1) for part in text.replace(",", " ").split()]
            found["id"] = ids
        elif name == "status":
            found["status"] = _statuses(text)
        elif name == "version":
            found["version"] = whole(text, name)
        elif name == "parent_id":
            found["parent_id"] = whole(text, name, 0, 2**63 - 1)
        elif name in _TIMES:
            found[name] = moment(text).isoformat()
        elif name == "stuck_for":
            found["stuck_for_ms"] = round(duration(text) * 1000)
        elif name in ("attributes", "meta"):
            found[name] = mapping(text, name)
        else:
            found[name] = text
    return cast("dict[str, JsonValue]", found)


def _statuses(text: str) -> list[str]:
    found = [one for part in text.split(",") for one in (OPEN if part.strip() == "open" else (part.strip(),))]
    for one in found:
        if one not in STATUSES:
            raise Unreadable(f"there is no status {one[:60]!r}: open, {', '.join(STATUSES)}")
    return list(dict.fromkeys(found))


def asked_by(filter: JsonValue) -> dict[str, str] | None:
    """The parameters of a URL that asks for a filter of gd_match; None: it is none, or not all of it."""
    if not isinstance(filter, dict):
        return None
    found: dict[str, str] = {}
    for name, value in filter.items():
        if name == "stuck_for_ms" and isinstance(value, int):
            found["stuck_for"] = f"{value / 1000:.3f}"
        elif isinstance(value, list):
            found[name] = (" " if name == "id" else ",").join(map(str, value))
        elif value is not None:
            found[name] = _text(value)
    try:
        known = set(found) <= set(FILTERS) and bool(filter_of(found))
    except Unreadable:
        return None
    # the audit cuts what is long
    return found if known and not any(text.endswith(" [cut]") for text in found.values()) else None


def cursor_of(text: str | None) -> JsonValue:
    """Where a list goes on."""
    return None if not text else mapping(text, "after")


def instance_of(text: str) -> int:
    return whole(text, "the id of an instance", 0, 2**63 - 1)


def count_of(params: QueryParams, name: str, usual: int, most: int) -> int:
    return whole(params[name], name, 1, most) if params.get(name) else usual


def needed(params: QueryParams, name: str) -> str:
    """A parameter that has to be there."""
    value = params.get(name)
    if not value:
        raise Unreadable(f"the URL has to say which {name}")
    return value


def query(**said: object) -> str:
    """``?a=1&b=2`` of what is not None; JSON for objects."""
    pairs = {name: _text(value) for name, value in said.items() if value is not None and value != ""}
    return "?" + urlencode(pairs) if pairs else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
