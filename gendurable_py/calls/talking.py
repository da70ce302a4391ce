"""Talking to an instance: signals into its inbox, and a look at what is in there.

A signal is kept until a step uses it up. `inspecting` shows the rest of an instance.
"""

from __future__ import annotations

from .._statement import Statement, call, one_value
from ..machine.codec import dumps, loads
from ..machine.encode import key_of_target
from ..machine.outcome import Signal
from .rows import when


@call
def signal(target: int | str, name: str, payload: object = None, *, dedup_key: str | None = None) -> Statement[str]:
    """Send a signal to an instance, by id or by unique key: ``delivered``, ``duplicate`` or ``no_target``."""
    by = key_of_target(target)
    text = dumps(payload).decode()
    if by == "unique_key":
        return Statement("select gd_signal(%s::text, %s, %s::jsonb, %s)", (target, name, text, dedup_key), one_value)
    return Statement("select gd_signal(%s::bigint, %s, %s::jsonb, %s)", (target, name, text, dedup_key), one_value)


@call
def signals(id: int, after: int = 0, limit: int = 1000) -> Statement[list[Signal]]:
    """The inbox of an instance by id, a page at a time: pass the last id as ``after``. Looking uses nothing up."""
    return Statement(
        "select id, name, payload::text, extract(epoch from inserted_at) from gd_signals(%s, %s, %s) order by id",
        (id, after, limit),
        lambda rows: [Signal(row[0], row[1], loads(row[2]), when(row[3])) for row in rows],
    )
