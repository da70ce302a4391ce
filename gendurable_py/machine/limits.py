"""Rate limits as machines declare them: how much may start in what time. An engine registers them when it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from .._contract import Seconds
from ..errors import InvalidArgument

_LONGEST = 1000 * 365.25 * 86400


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``allowed`` tokens in each ``period``, and up to ``burst`` of them at once (default: ``allowed``, at least 1).

    A start takes as many tokens as the instance's ``weight``, one unless told otherwise. ``allowed=0``: nothing starts.

    Raises:
        InvalidArgument: a number is negative, not finite, or none at all.
    """

    allowed: float
    period: Seconds = 1
    burst: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= _number(self.allowed, "allowed") < math.inf:
            raise InvalidArgument(f"allowed is {self.allowed!r}", hint="give a finite number, 0 or more")
        if not 1e-6 <= self._seconds <= _LONGEST:
            raise InvalidArgument(f"the period is {self.period!r}", hint="give a microsecond to 1,000 years")
        if self.burst is not None and not 0 < _number(self.burst, "burst") < math.inf:
            raise InvalidArgument(f"burst is {self.burst!r}", hint="give a finite number above 0")

    @property
    def _seconds(self) -> float:
        period = self.period
        return period.total_seconds() if isinstance(period, timedelta) else _number(period, "the period")

    @property
    def stored(self) -> tuple[float, float, float]:
        """As the server keeps it: allowed, the seconds of the period, burst."""
        burst = max(self.allowed, 1) if self.burst is None else self.burst
        return float(self.allowed), self._seconds, float(burst)

    def __str__(self) -> str:
        return "{:g} in {:g} s, burst {:g}".format(*self.stored)


RateLimitLike = RateLimit | tuple[float, Seconds] | tuple[float, Seconds, float]
"""A rate limit, or ``(allowed, period)`` or ``(allowed, period, burst)``."""


def _number(value: object, what: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidArgument(f"{what} is a {type(value).__name__}", hint="give a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_rate_limits(limits: object, cls: str) -> dict[str, RateLimit]:
    """What a class statement, or a job, gave as ``rate_limits``; its names are looked at elsewhere."""
    if not isinstance(limits, Mapping):
        raise InvalidArgument(
            f"{cls}: rate_limits is a {type(limits).__name__}",
            hint='map names to limits: {"mail": (50, 1)} lets 50 start in a second',
        )
    found = {}
    for name, limit in limits.items():
        try:
            found[name] = _read_rate_limit(limit)
        except InvalidArgument as error:
            raise InvalidArgument(f"{cls}: of the rate limit {name!r} {error}") from None
    return found


def _read_rate_limit(limit: object) -> RateLimit:
    if isinstance(limit, RateLimit):
        return limit
    if isinstance(limit, (tuple, list)) and 2 <= len(limit) <= 3:
        return RateLimit(*limit)
    raise InvalidArgument(f"nothing is known: {limit!r}"[:200], hint="give a RateLimit, or (allowed, period[, burst])")
