"""Filters that have a name: links above the list of instances, to its URLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ..errors import InvalidArgument
from .query import FILTERS, filter_of
from .words import Unreadable


@dataclass(frozen=True)
class Saved:
    """A name, and what its URL asks for."""

    name: str
    asked: Mapping[str, str]


_USUAL = (
    Saved("Open", {"status": "open"}),
    Saved("Executing", {"status": "executing"}),
    Saved("Await a signal", {"status": "awaiting_signal"}),
    Saved("Failed today", {"status": "failed", "finished_after": "1d"}),
    Saved("Stuck", {"stuck_for": "10m"}),
)


def read_saved(filters: Mapping[str, str] | None) -> tuple[Saved, ...]:
    """Those that were given, and behind them the usual ones whose names are free.

    Raises:
        InvalidArgument: one is no filter.
    """
    given = tuple(_read(name, text) for name, text in (filters or {}).items())
    return (*given, *(one for one in _USUAL if one.name not in (filters or {})))


def _read(name: str, text: str) -> Saved:
    hint = "such as fsm=order&stuck_for=10m: what stands behind /instances? in the address of a list"
    try:
        asked = dict(parse_qsl(text.rpartition("?")[2], strict_parsing=True))
        strange = sorted(set(asked) - set(FILTERS))
        if strange:
            raise Unreadable(f"there is no {strange[0][:60]!r} in a filter")
        if not filter_of(asked):
            raise Unreadable("it asks for nothing")
    except (ValueError, Unreadable) as error:
        raise InvalidArgument(f"the filter {name!r} cannot be read: {error}", hint=hint) from None
    if not name.strip():
        raise InvalidArgument("a filter has no name", hint=hint)
    return Saved(name.strip(), asked)
