"""Wrong tokens: they are slowed and told of in the log. None keeps out who has the right one, from whatever address."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

logger = logging.getLogger("gendurable.web")

# So many a minute are mistakes of people, and answered at once.
_FREE = 10
_SLOW = 1.0
# More do not wait at a time: what waits is kept.
_MOST_WAIT = 100


class Guesses:
    """The wrong tokens of the last minute, wherever they came from."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=_FREE)
        self._waiting = 0
        self._told_until = 0.0

    async def add(self, address: str) -> None:
        """Count one, and wait where there were many: before the answer."""
        now = time.monotonic()
        many = len(self._at) == _FREE and self._at[0] > now - 60
        self._at.append(now)
        if not many:
            return
        if now >= self._told_until:
            self._told_until = now + 60
            logger.warning("many wrong tokens for the dashboard; one came from %s", ascii(address))
        if self._waiting >= _MOST_WAIT:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(_SLOW)
        finally:
            self._waiting -= 1
