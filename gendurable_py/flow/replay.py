"""Replay: a function runs from the top, and is given what its journal has, entry by entry.

After each entry it runs until it waits, as it did then: so races, timeouts and groups of tasks take the same way again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..machine.codec import loads
from ..machine.context import read_childs
from ..machine.outcome import Signal
from . import entries
from .entries import Entry
from .errors import NonDeterministic, StepFailed
from .state import RunState
from .waiting import ChildsWait, SignalWait, StepWait, Waiting


def give(run: RunState, entry: Entry) -> None:
    """Give the function the next entry.

    Raises:
        NonDeterministic: it does not wait for that.
    """
    kind = entry.get("k")
    if kind in entries.MARKS:
        if kind == "retried":
            _begin_anew(run)
        return
    key = entries.key_of(entry)
    found = run.waiting.get(key)
    if found is None or run.ended:
        raise _conflict(run, key)
    run.set_clock(float(entry["at"]))
    if kind == "retry":
        assert isinstance(found, StepWait)
        found.attempts = int(entry["attempts"])
        run.time(found, float(entry["until"]))
        run.asked.pop(found, None)
        run.checkpoint = found.name
        return
    error = entry.get("e")
    seq = run.position + 1
    if error is not None:
        failed = StepFailed(found.name, tuple(error["kinds"]), error["message"], error["attempts"])
        failed._seq = seq
        run.settle(found, error=failed)
    else:
        run.settle(found, _read(found, entry, seq))


def _begin_anew(run: RunState) -> None:
    """Somebody has had it tried again: attempts count from the beginning, and pauses are over."""
    for one in run.waiting.values():
        if isinstance(one, StepWait):
            one.attempts = 0
            run.time(one, None)
            run.asked[one] = None


def _read(found: Waiting, entry: Entry, seq: int) -> Any:
    text = entry.get("v")
    if isinstance(found, StepWait):
        try:
            return found.about.read(text or "null")
        except Exception as error:
            raise NonDeterministic(
                f"what the journal has of {entries.describe(found.key)} is not what its function is annotated to "
                f"return any more: {error}"
            ) from error
    if isinstance(found, SignalWait):
        if text is None:
            return None
        return Signal(int(entry["id"]), found.name, loads(text), datetime.fromisoformat(entry["sent"]))
    if isinstance(found, ChildsWait):
        return seq, read_childs(text or "[]")
    return None


def _conflict(run: RunState, key: tuple[str, str, int]) -> NonDeterministic:
    here = f"the journal goes on with {entries.describe(key)}, and the function "
    if run.ended:
        return NonDeterministic(here + "ended")
    waits = [entries.describe(one) for one in list(run.waiting)[:3]]
    more = "" if len(run.waiting) <= 3 else f" and {len(run.waiting) - 3} more"
    return NonDeterministic(here + (f"waits for {', '.join(waits)}{more}" if waits else "waits for nothing"))
