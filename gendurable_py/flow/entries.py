"""The entries of a journal: what a flow has committed, one after the other, as JSON.

Values stand in them as JSON *in a text*: as JSON itself the server would sort the keys of objects and write numbers in
its own way, and the function would be given something else after a crash.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from ..machine.codec import dumps
from ..machine.outcome import Signal

Entry = Mapping[str, Any]


def quote(text: str) -> bytes:
    """A text that is JSON itself, as a text in JSON: what could not be stored was refused when it was written."""
    return to_json(text)


@functools.lru_cache(maxsize=4096)
def name_of(name: str) -> bytes:
    """The name of a checkpoint as JSON."""
    return dumps(name)


MARKS = frozenset({"start", "patch", "retried", "end"})
"""Entries that nobody waits for: they may be committed with the next that counts."""


def start(at: float, seed: str) -> bytes:
    return b'{"k":"start","at":%.6f,"seed":%b}' % (at, quote(seed))


def patch(name: str) -> bytes:
    return b'{"k":"patch","name":%b,"on":true}' % dumps(name)


def end(at: float, failed: int | None) -> bytes:
    return b'{"k":"end","at":%.6f,"failed":%b}' % (at, b"null" if failed is None else b"%d" % failed)


def value(kind: str, name: bytes, n: int, at: float, text: str | None) -> bytes:
    """Something came: the value of a step, the results of children; None: a time was up."""
    made = b'{"k":"%b","name":%b,"n":%d,"at":%.6f' % (kind.encode(), name, n, at)
    return made + (b"}" if text is None else b',"v":%b}' % quote(text))


def step(name: bytes, n: int, at: float, text: str) -> bytes:
    """A step has given its value."""
    return b'{"k":"step","name":%b,"n":%d,"at":%.6f,"v":%b}' % (name, n, at, to_json(text))


def childs(name: bytes, n: int, at: float, text: str, along: bool) -> bytes:
    """Children have ended. ``along``: together with those of the entry before, which are of the same barrier."""
    made = b'{"k":"childs","name":%b,"n":%d,"at":%.6f' % (name, n, at)
    return made + (b',"along":true' if along else b"") + b',"v":%b}' % quote(text)


def signal(name: bytes, n: int, at: float, came: Signal) -> bytes:
    """A signal was taken, with its payload as the value."""
    sent, payload = dumps(came.inserted_at.isoformat()), quote(dumps(came.payload).decode())
    return b'{"k":"signal","name":%b,"n":%d,"at":%.6f,"id":%d,"sent":%b,"v":%b}' % (name, n, at, came.id, sent, payload)


def failure(name: bytes, n: int, at: float, kinds: tuple[str, ...], message: str, attempts: int) -> bytes:
    said = dumps({"kinds": kinds, "message": message, "attempts": attempts})
    return b'{"k":"step","name":%b,"n":%d,"at":%.6f,"e":%b}' % (name, n, at, said)


def timer(delay: str, n: int, at: float) -> bytes:
    return b'{"k":"timer","delay":%b,"n":%d,"at":%.6f}' % (delay.encode(), n, at)


def retry(name: bytes, n: int, at: float, attempts: int, until: float, message: str) -> bytes:
    return b'{"k":"retry","name":%b,"n":%d,"at":%.6f,"attempts":%d,"until":%.6f,"error":%b}' % (
        name,
        n,
        at,
        attempts,
        until,
        dumps(message),
    )


def key_of(entry: Entry) -> tuple[str, str, int]:
    """What the function has to wait for where this comes."""
    kind = str(entry.get("k"))
    name = f"{entry.get('delay', 0):.5f}" if kind == "timer" else str(entry.get("name"))
    return ("step" if kind == "retry" else kind), name, int(entry.get("n") or 0)


def describe(key: tuple[str, str, int]) -> str:
    """In the words of an error."""
    kind, name, n = key
    said = f"a timer of {float(name):g} s" if kind == "timer" else f"{_SAID.get(kind, kind)} {name!r}"
    return said if n == 0 else f"{said} (number {n + 1})"


_SAID = {"step": "step", "sleep": "sleep", "signal": "signal", "childs": "children"}
