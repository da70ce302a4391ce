"""Limiting: how much may start of what names a rate limit.

A limit stands in the database and holds over all workers. What a machine declares, an engine registers with
`ensure_rate_limit` when it starts: that never changes a limit which is there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .._contract import Seconds
from .._statement import Statement, call, nothing, one_value
from ..machine.times import aware, seconds

Ensured = Literal["created", "same", "different"]


def _arguments(name: str, allowed: float | None, period: Seconds | None, burst: float | None) -> tuple[object, ...]:
    return (name, allowed, None if period is None else seconds(period, "the period"), burst)


@call
def set_rate_limit(
    name: str, allowed: float | None, period: Seconds | None = None, burst: float | None = None
) -> Statement[None]:
    """Let ``allowed`` start in each ``period``, up to ``burst`` at once, of what has the rate limit ``name`` or
    ``name:…``; each distinct text is a bucket of its own. None: the limit is gone, and what waited starts."""
    return Statement(
        "select gd_set_rate_limit(%s, %s, make_interval(secs => %s), %s)",
        _arguments(name, allowed, period, burst),
        nothing,
    )


@call
def ensure_rate_limit(
    name: str, allowed: float, period: Seconds | None = None, burst: float | None = None
) -> Statement[Ensured]:
    """Set a rate limit if there is none of that name: ``created``; else whether the one that is there is the ``same``
    or a ``different`` one, which stays."""
    return Statement(
        "select gd_ensure_rate_limit(%s, %s, make_interval(secs => %s), %s)",
        _arguments(name, allowed, period, burst),
        one_value,
    )


@call
def close_rate_limit(bucket: str, until: datetime | None) -> Statement[None]:
    """Let nothing of a bucket (``mail``, or its part ``mail:eu``) start before a time; None opens it.

    Raises:
        UnknownName: no rate limit fits the bucket.
    """
    return Statement("select gd_close_rate_limit(%s, %s)", (bucket, None if until is None else aware(until)), nothing)
