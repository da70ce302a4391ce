"""Times and durations as they travel: a session's calendar and its time zone have no say in them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from .._contract import Seconds
from ..errors import InvalidArgument

_LONGEST = 9e12


def seconds(value: Seconds, what: str) -> float:
    """A duration in seconds, as it travels: a timedelta would become days of the session's calendar.

    Raises:
        InvalidArgument: it is negative, not finite, not a number, or beyond all times.
    """
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    else:
        raise InvalidArgument(f"{what} is a {type(value).__name__}", hint="give seconds or a timedelta")
    if not 0 <= found <= _LONGEST:
        raise InvalidArgument(
            f"{what} is {found:g} s", hint="give a duration that is not negative, and below 285,000 years"
        )
    return found


def retention_seconds(value: Seconds, what: str = "the retention") -> float:
    """A retention in seconds. `timedelta.max` and the like, beyond all times that the server has, keep everything.

    Raises:
        InvalidArgument: it is negative, beyond what a timedelta holds, not a number, or no duration.
    """
    if isinstance(value, timedelta) or (isinstance(value, float) and _LONGEST < value <= timedelta.max.total_seconds()):
        found = value.total_seconds() if isinstance(value, timedelta) else value
        return seconds(min(found, _LONGEST), what)
    return seconds(value, what)


def milliseconds(value: Seconds, what: str) -> int:
    """A duration for a ``..._ms`` key, checked like `seconds`."""
    return round(seconds(value, what) * 1000)


def timeout(value: Seconds, what: str) -> float:
    """The timeout of a step in seconds, in whole milliseconds: the server counts in these, and 0 would be no time."""
    found = milliseconds(value, what)
    if not found:
        raise InvalidArgument(f"{what} is {value}", hint="give a millisecond or more")
    return found / 1000


def interval(value: Seconds, what: str) -> timedelta:
    """A duration as Python has it, checked like `seconds`."""
    return timedelta(seconds=seconds(value, what))


def aware(when: datetime) -> datetime:
    """A time with its zone: a naive one would mean the session's zone here and the server's there."""
    if not isinstance(when, datetime):
        raise InvalidArgument(f"a {type(when).__name__} is no time", hint="give an aware datetime")
    if when.utcoffset() is None:
        raise InvalidArgument(
            f"{when} has no time zone", hint="give an aware datetime, such as datetime.now(timezone.utc)"
        )
    return when
