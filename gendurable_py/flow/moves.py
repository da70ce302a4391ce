"""What a run of a flow commits next: the outcomes that it can come to, and which of them it is.

They are ordinary outcomes, with the entries of the journal that they add. What is kept goes on in this process; at all
others the function is gone, and the next claim begins with a replay.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..machine.codec import dumps
from ..machine.describe import describe
from ..machine.last_resort import encode_error, encode_traceback
from ..machine.outcome import Cancel
from ..machine.tracebacks import describe_traceback
from . import entries
from .errors import FlowError, find_alone, find_failed
from .restart import Restart
from .state import MOST_BYTES, MOST_ENTRIES, RunState
from .taking import take
from .waiting import ChildsWait, SignalWait, StepWait


class Move(NamedTuple):
    """An outcome as JSON. ``keep``: the run goes on after its commit, else it is closed. ``parked``: the step of a row
    that is parked."""

    outcome: bytes
    keep: bool
    parked: str | None = None


def decide(run: RunState, keep: bool) -> Move | None:
    """What to commit now that the function is at rest; None: nothing. Steps are to begin, or run, or something is on
    its way. ``keep``: whether the claim may be kept."""
    if run.sent or run.closed or run.transacting:
        return None
    if run.undisturbed:
        if run.asked:
            if not run.pressing:
                return None  # a step begins, as it mostly does
            if keep and len(run.fresh) == 1 and run.count < MOST_ENTRIES and not run.used and not run.goes_on:
                return _go_on_plainly(run)
    elif run.problem is None and run.fatal is None:
        take(run)
    if run.problem is None and run.fatal is None and run.count + len(run.fresh) > MOST_ENTRIES:
        run.fatal = FlowError(
            f"the journal has more than {MOST_ENTRIES:,} entries: begin anew with ctx.restart(args), or have children"
        )
    if run.problem is not None:
        return Move(encode_error(run.row, describe(run.problem), describe_traceback(run.problem)), False)
    if run.overflows:
        return _go_on(run, keep)
    if run.fatal is not None:
        return _stop(run, run.fatal)
    if run.ended:
        return _end(run)
    if run.hand_out is not None:
        return _go_on(run, keep)
    if run.asked or run.running:
        # Without the claim nothing goes on here: what runs is waited for.
        return _go_on(run, keep) if run.pressing and (keep or not run.running) else None
    return _park(run)


def end_with(run: RunState, name: str, entry: bytes) -> bytes:
    """The outcome that a transactional step commits itself, with this entry: the claim ends."""
    added = b",".join([*run.fresh, entry])
    return _head(run, b"next") + _step(name) + b',"journal":{"at":%d,"add":[%b]}}' % (run.count, added)


def _head(run: RunState, kind: bytes) -> bytes:
    return b'{"id":%d,"claim_no":%d,"kind":"%b"' % (run.row.id, run.row.claim_no, kind)


def _step(name: str) -> bytes:
    return b',"step":' + entries.name_of(name)


def _entries(run: RunState, keep: bool = False) -> bytes:
    """The entries that are not committed: as many as one outcome may carry. ``keep``: it asks for its claim."""
    taken = list(run.fresh)
    # Of a barrier all goes at once: a row that has left it has no children to take any more.
    if run.overflows and not (run.hand_out is not None and run.taken == "childs"):
        size = 0
        for number, entry in enumerate(taken):
            size += len(entry)
            if number and size > MOST_BYTES:
                del taken[number:]
                break
    run.sent = len(taken)
    # Without its claim what runs here, or is left here, would run elsewhere, too.
    more = (b',"runs":true' if run.unsettled else b"") + b',"brief":true' if keep else b""
    return b',"journal":{"at":%d,"add":[%b]%b}' % (run.count, b",".join(taken), more) if taken else b""


def _go_on(run: RunState, keep: bool) -> Move:
    run.stands = run.checkpoint or run.row.step
    made = _head(run, b"next") + _step(run.stands) + _entries(run, keep)
    if run.used and run.sent == len(run.fresh):
        made += b',"consume":[%d]' % run.used
        run.used = 0
    return Move(made + (b',"keep":true}' if keep else b"}"), keep)


def _go_on_plainly(run: RunState) -> Move:
    """What `_go_on` makes of one entry with nothing besides, as most moves are, in one piece."""
    run.sent = 1
    row = run.row
    run.stands = run.checkpoint or row.step
    return Move(
        b'{"id":%d,"claim_no":%d,"kind":"next","step":%b,"journal":{"at":%d,"add":[%b],"brief":true},'
        b'"keep":true}' % (row.id, row.claim_no, entries.name_of(run.stands), run.count, run.fresh[0]),
        True,
    )


def _park(run: RunState) -> Move:
    nearest = run.nearest()
    childs = [one for one in run.waiting.values() if isinstance(one, ChildsWait)]
    names = list(dict.fromkeys(one.name for one in run.waiting.values() if isinstance(one, SignalWait)))
    left = 0 if nearest is None or nearest.deadline is None else nearest.deadline - run.now()
    wait = max(1, math.ceil(left * 1000))
    if childs:
        if nearest is not None:
            run.fatal = FlowError(
                "children beside something with a deadline: await them alone, since a barrier cannot have one"
            )
            return _stop(run, run.fatal)
        inserts = b",".join(one.inserts[1:-1] for one in childs)
        parked = "(childs)"
        made = _head(run, b"schedule_childs") + _step(parked) + b',"childs":[' + inserts + b"]"
    elif names:
        parked = "(signal)"
        made = _head(run, b"await") + _step(parked) + b',"signals":' + dumps(names)
        if nearest is not None:
            made += b',"timeout_ms":%d' % wait
    elif nearest is not None:
        parked = "(retry)" if isinstance(nearest, StepWait) else "(sleep)"
        made = _head(run, b"next") + _step(parked) + b',"delay_ms":%d' % wait
    else:
        run.fatal = FlowError(
            "the function waits for something that can never come: no step, signal, child or time, and what another "
            "thread would bring belongs into a step"
        )
        return _stop(run, run.fatal)
    return Move(made + _entries(run) + b"}", False, parked)


def _end(run: RunState) -> Move:
    main = run.main
    assert main is not None
    if main.cancelled():
        return _stop(run, FlowError("the function ended by a cancellation that was its own"))
    error = main.exception()
    if error is not None:
        asked = find_alone(error)
        return _restart(run, asked) if isinstance(asked, Restart) else _stop(run, error)
    try:
        result = main.result()
        made = _head(run, b"done") + (b"" if result is None else b',"result":' + dumps(result))
    except Exception as refused:  # noqa: BLE001 - values bring code of their own
        return _stop(run, refused)
    return Move(made + _entries(run) + b"}", False)


def _restart(run: RunState, asked: Restart) -> Move:
    run.fresh.clear()
    run.fresh.append(entries.start(run.now(), asked.seed))
    run.count = 0
    text = _entries(run)
    made = _head(run, b"next") + _step(asked.step) + b',"state":' + asked.state
    return Move(made + text[:-1] + b',"forget":true}}', False)


def _stop(run: RunState, error: BaseException) -> Move:
    """The end as failed. The journal says which checkpoint it was, for who has it tried again."""
    said = find_alone(error)
    decided = isinstance(said, Cancel)
    failed = None if decided else find_failed(error)
    reason = (str(said) or "cancelled") if decided else describe(error)
    made = _head(run, b"stop") + b',"reason":' + dumps(reason)
    if not decided:
        made += encode_traceback(describe_traceback(error))
    run.fresh.append(entries.end(run.now(), failed))
    return Move(made + _entries(run) + b"}", False)
