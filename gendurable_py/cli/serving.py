"""What a worker of the command line is told: its settings, as they also travel to a child, and its log."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """All that a process needs to know. It goes through a pipe: the arguments of a process are seen by others."""

    dsn: str
    targets: list[str]
    queues: dict[str, int] | None = None
    lease: float = 60
    drain_timeout: float = 5
    prefetch: int | str = "auto"
    run_ahead: bool = False
    poll_only: bool = False
    no_upkeep: bool = False
    log_level: str = "info"
    json: bool = False
    number: int = 0
    measured: bool = False

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `Engine`."""
        return {
            "lease_ttl": self.lease,
            "heartbeat_interval": self.lease / 3,
            "drain_timeout": self.drain_timeout,
            "prefetch": self.prefetch,
            "run_ahead": self.run_ahead,
            "notify": not self.poll_only,
            "reap_interval": None if self.no_upkeep else min(30.0, self.lease),
        }

    def line(self, number: int) -> str:
        """For the child of that number."""
        return json.dumps(asdict(replace(self, number=number)))


class _Lines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        made = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            made["traceback"] = self.formatException(record.exc_info)
        return json.dumps(made)


def set_up_logging(level: str, as_json: bool, prefix: str = "") -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines() if as_json else logging.Formatter(f"%(asctime)s {prefix}%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
