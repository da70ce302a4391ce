"""Outcomes that no step gave: where nothing else can be said of a run, its instance is stopped; or its time was up."""

from __future__ import annotations

from .claim import ClaimRow
from .codec import dumps
from .describe import describe
from .tracebacks import describe_traceback


def encode_stop(row: ClaimRow, reason: str | BaseException) -> bytes:
    """A stop as JSON. It cannot fail."""
    text = b'{"id":%d,"claim_no":%d,"kind":"stop","reason":%b' % (row.id, row.claim_no, dumps(describe(reason)))
    return text + encode_traceback(describe_traceback(reason)) + b"}"


def encode_error(row: ClaimRow, message: str, where: str | None = None) -> bytes:
    """An error as JSON: tried again after the server's back-off, until the attempts are used up."""
    text = b'{"id":%d,"claim_no":%d,"kind":"error","error":%b' % (row.id, row.claim_no, dumps(message))
    return text + encode_traceback(where) + b"}"


def encode_traceback(where: str | None) -> bytes:
    """What the JSON of an outcome says of where its error was raised."""
    return b"" if where is None else b',"traceback":' + dumps(where)
