"""Outcomes that no step gave: where nothing else can be said of a run, its instance is stopped; or its time was up."""

from __future__ import annotations

from .claim import ClaimRow
from .codec import dumps
from .describe import describe


def encode_stop(row: ClaimRow, reason: str | BaseException) -> bytes:
    """A stop as JSON. It cannot fail."""
    return b'{"id":%d,"claim_no":%d,"kind":"stop","reason":%b}' % (row.id, row.claim_no, dumps(describe(reason)))


def encode_error(row: ClaimRow, message: str) -> bytes:
    """An error as JSON: tried again after the server's back-off, until the attempts are used up."""
    return b'{"id":%d,"claim_no":%d,"kind":"error","error":%b}' % (row.id, row.claim_no, dumps(message))
