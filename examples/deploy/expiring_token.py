"""A worker whose password is a token that expires, as cloud providers give them out for their databases.

A token is asked for when a connection is made and the last one is nearly over; the connections that there are live on
with the token that they began with. What the provider raises counts as a server that is away: it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from gendurable_py import Engine

# Seconds before its end at which a token is not used any more: a connection takes its time.
MARGIN = 60.0


@dataclass
class Tokens:
    """The token of one role, asked for anew shortly before it expires.

    ``ask`` answers a token and for how many seconds it is valid: with boto3 for example
    ``lambda: (rds.generate_db_auth_token(host, 5432, user), 900)``.
    """

    ask: Callable[[], tuple[str, float]]
    margin: float = MARGIN
    _token: str = ""
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> str:
        """A token that is valid for a while. The engine calls it in a thread, several at a time."""
        with self._lock:
            if time.monotonic() > self._until - self.margin:
                self._token, valid = self.ask()
                self._until = time.monotonic() + valid
            return self._token


def engine(dsn: str, tokens: Tokens, machines: Sequence[Any], queues: dict[str, int]) -> Engine:
    """An engine whose every connection is made with a token of its own time."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(dsn, password=tokens.now(), connect_timeout=10, keepalives_idle=30)

    return Engine(connect=connect, machines=machines, queues=queues)
