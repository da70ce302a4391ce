"""The outcome of last resort: where nothing else can be said of a run, its instance is stopped."""

from __future__ import annotations

from .claim import ClaimRow
from .codec import dumps
from .describe import describe


def encode_stop(row: ClaimRow, reason: str | BaseException) -> bytes:
    """A stop as JSON. It cannot fail."""
    return b'{"id":%d,"claim_no":%d,"kind":"stop","reason":%b}' % (row.id, row.claim_no, dumps(describe(reason)))
