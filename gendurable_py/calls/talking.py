"""Talking to an instance: signals into its inbox, by a call or by a row of a table, and a look at what is in there.

A signal is kept until a step uses it up. `inspecting` shows the rest of an instance.
"""

from __future__ import annotations

from collections.abc import Sequence

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


@call
def signal_on(
    table: str,
    signal: str,
    unique_key: str,
    *,
    when: str = "true",
    payload: Sequence[str] = (),
    name: str | None = None,
) -> Statement[str]:
    """Let a row send a signal: one of a table that comes to match a condition, to the holder of a unique key.

    table: its name as in SQL, with the schema where that is not on the search_path. unique_key: a template over the
    row's columns, ``"order:{id}"``. when: a condition over them, in SQL. payload: the columns that the payload has.
    name: what the trigger is called, by default after the signal. Returns that name, for `signal_off`.
    """
    return Statement(
        "select gd_signal_on(%s::text::regclass, %s, %s, %s, %s::text[], %s)",
        (table, signal, unique_key, when, list(payload), name),
        one_value,
    )


@call
def signal_off(table: str, name: str) -> Statement[bool]:
    """Remove what `signal_on` made, by the name that it returned; False where the table has no such trigger."""
    return Statement("select gd_signal_off(%s::text::regclass, %s)", (table, name), one_value)
