"""The options of an engine, each under its own name, as they are after `arguments` has checked them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

Prefetch = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Options:
    """As `Engine` takes them. Numbers that are durations are seconds."""

    queues: Mapping[str, int]
    autoload: frozenset[str]
    lease_ttl: timedelta
    heartbeat_interval: float
    poll_interval: float
    max_poll_interval: float
    reap_interval: float | None
    retention: timedelta
    prefetch: Prefetch
    min_demand: int
    drain_timeout: float
    run_ahead: bool
    sql_steps: bool
    transactions: int
    notify: bool
