"""The options of an engine, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from ._codec import Seconds, interval
from ._log import logger
from .errors import InvalidArgument
from .fsm import Spec


@dataclass(frozen=True, slots=True)
class Options:
    """As `Engine` takes them, with times in seconds."""

    limits: Mapping[str, int]
    autoload: frozenset[str]
    lease: timedelta
    beat_every: float
    poll: float
    max_poll: float
    reap_every: float | None
    retention: timedelta
    prefetch: int
    min_demand: int
    drain_for: float
    run_ahead: bool
    notify: bool

    def check(self, specs: Iterable[Spec]) -> None:
        """Refuse what cannot work, warn about what probably does not."""
        for queue, limit in self.limits.items():
            if not queue or limit < 1:
                raise InvalidArgument(f"queue {queue!r} has concurrency {limit}", hint="give a name and 1 or more")
        lease = self.lease.total_seconds()
        if not 0 < self.beat_every < lease:
            raise InvalidArgument(
                f"heartbeat_interval is {self.beat_every} s, the lease {lease} s",
                hint="renew a lease well before it ends: a third of lease_ttl",
            )
        if self.beat_every > lease / 3:
            logger.warning("heartbeat_interval (%g s) is more than a third of lease_ttl (%g s)", self.beat_every, lease)
        if not 0 < self.poll <= self.max_poll:
            raise InvalidArgument("poll_interval must be positive, and at most max_poll_interval")
        if self.reap_every is not None and self.reap_every <= 0:
            raise InvalidArgument("reap_interval must be positive", hint="None: no maintenance on this node")
        most = min(self.limits.values(), default=1) + self.prefetch
        if self.prefetch < 0 or not 1 <= self.min_demand <= most:
            raise InvalidArgument(
                f"prefetch is {self.prefetch}, min_demand {self.min_demand}",
                hint="min_demand is at least 1 and at most the concurrency of the smallest queue plus prefetch",
            )
        for spec in specs:
            if self.limits and spec.queue not in self.limits:
                logger.warning("%s uses the queue %r, which this engine does not serve", spec.name, spec.queue)


def seconds(value: Seconds, what: str) -> float:
    return interval(value, what).total_seconds()
