"""The rate limits that machines declare, registered when an engine starts: never over what is in the database."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from .._log import logger
from ..calls import limiting
from ..machine.limits import RateLimit
from ..telemetry.events import Emit, RateLimitRegistered, Registered
from .link import Link

_GO_ON = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction, psycopg.errors.LockNotAvailable)
"""A role or a database from before there were rate limits; somebody's open transaction that sets this very one. An
engine that starts without it runs the same machines under the limits that the database has."""


class Limits:
    """What the machines of an engine declare, in one database."""

    def __init__(self, link: Link, emit: Emit) -> None:
        self._link = link
        self._emit = emit

    async def register(self, limits: Mapping[str, RateLimit]) -> None:
        """Register what is not there yet, and tell what differs."""
        for name, limit in limits.items():
            result: Registered = "failed"
            error = None
            try:
                ensured = await self._link.insist(limiting.ensure_rate_limit, name, *limit.stored)
                result = ensured
            except _GO_ON as failure:
                error = str(failure).strip()
                logger.warning("the rate limit %r (%s) could not be registered: %s", name, limit, error)
            if result == "different":
                logger.warning(
                    "the rate limit %r is %s in the code, and the database has another one, which stays: see "
                    "gd_rate_limits, and change the code, or the database with gd_set_rate_limit",
                    name,
                    limit,
                )
            allowed, period, burst = limit.stored
            self._emit(RateLimitRegistered(allowed, period, burst, name, result, error))
