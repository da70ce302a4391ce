"""What comes from outside of a run: a signal that is there, a deadline that has passed, the children of a barrier.

It is recorded, committed, and only then handed out to the function: what came before it in the same commit might cancel
what waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from ..machine.codec import dumps
from ..machine.context import read_childs
from ..machine.outcome import ChildResult
from . import entries
from .errors import FlowError, NonDeterministic
from .state import MOST_ENTRIES, RunState
from .waiting import ChildsWait, SignalWait, StepWait, Waiting

_EARLY = 0.001


def take(run: RunState) -> None:
    """Record the next thing that came, if the function waits for one."""
    if run.hand_out is not None or run.ended:
        return
    told, run.told = run.told, ""
    if told == "(childs)":
        _take_childs(run)
        return
    if not told and _took_signal(run):
        return
    while (one := run.nearest()) is not None and one.deadline is not None:
        # That a deadline has passed is the server's word, too: of the nearest one, and of no other.
        if not told and one.deadline > time.time() + _EARLY:
            break
        told = ""
        if not isinstance(one, StepWait):
            at, (kind, name, n) = run.now(), one.key
            timed = (
                entries.timer(name, n, at)
                if kind == "timer"
                else entries.value(kind, entries.name_of(name), n, at, None)
            )
            run.fresh.append(timed)
            _defer(run, one, at, None)
            return
        # The pause before another attempt needs no record: the step begins again.
        run.time(one, None)
        run.asked[one] = None


def _took_signal(run: RunState) -> bool:
    awaited: dict[str, SignalWait] = {}
    for one in run.waiting.values():
        if isinstance(one, SignalWait):
            awaited.setdefault(one.name, one)
    for place, signal in enumerate(run.inbox) if awaited else ():
        found = awaited.get(signal.name)
        if found is None:
            continue
        if signal.cut:
            run.fatal = FlowError(
                f"signal {signal.id} {signal.name!r} is too large for a flow: send the address of what it says"
            )
            return True
        del run.inbox[place]
        at = run.now()
        run.fresh.append(entries.signal(entries.name_of(found.name), found.key[2], at, signal))
        _defer(run, found, at, signal)
        run.used = signal.id
        return True
    return False


def _take_childs(run: RunState) -> None:
    waits = [one for one in run.waiting.values() if isinstance(one, ChildsWait)]
    results = read_childs(run.row.childs)
    wanted = sum(one.count for one in waits)
    if not waits:
        run.problem = NonDeterministic("its children have ended, and the function does not wait for any")
        return
    if not wanted <= len(results) < MOST_ENTRIES:
        run.fatal = FlowError(f"{len(results):,} children are handed out, and the function waits for {wanted:,}")
        return
    # Those of barriers before this one stand before them.
    ended, at = deque(results[-wanted:]), run.now()
    parts: list[tuple[ChildsWait, tuple[int, tuple[ChildResult, ...]]]] = []
    for one in waits:
        mine = tuple(ended.popleft() for _ in range(one.count))
        text = dumps([_child_as_json(child) for child in mine]).decode()
        run.fresh.append(entries.childs(entries.name_of(one.name), one.key[2], at, text, bool(parts)))
        parts.append((one, (run.count + len(run.fresh), mine)))
    run.pressing = True

    def hand_out() -> None:
        run.set_clock(at)
        for one, got in parts:
            run.settle(one, got)

    run.hand_out, run.taken = hand_out, "childs"
    # At once: a row that still stands at what it was parked for would say so of the next thing that it waits for.
    run.checkpoint = waits[-1].name


def _defer(run: RunState, one: Waiting, at: float, value: Any) -> None:
    run.pressing = True

    def hand_out() -> None:
        run.set_clock(at)
        run.settle(one, value)

    run.hand_out, run.taken = hand_out, one.kind
    run.checkpoint = run.name_checkpoint(one)


def _child_as_json(child: ChildResult) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": child.id,
        "fsm": child.fsm,
        "status": child.status,
        "state": child.state,
        "result": child.result,
    }
    if child.last_error is not None:
        made["last_error"] = child.last_error
    if child.cut:
        made["cut"] = True
    return made
