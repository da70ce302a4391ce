"""Outcomes and insert options as the JSON that `gd_commit` and `gd_insert_many` take.

Every outcome is encoded, and with that validated, alone. The hot kinds are put together from ready bytes: it is one of
the few things done for each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from inspect import isawaitable, iscoroutine
from typing import Any

from .. import _trace
from ..errors import InvalidArgument
from .codec import dumps
from .context import Context
from .last_resort import encode_traceback
from .outcome import (
    UNSET,
    Await,
    Child,
    Done,
    MachineLike,
    New,
    Next,
    Outcome,
    Replay,
    Retry,
    ScheduleChilds,
    Send,
    Sending,
    Signal,
    StepLike,
    Stop,
)
from .spec import Spec, check_step, spec_of, step_name
from .times import aware, milliseconds
from .tracebacks import describe_traceback

LONGEST_OUTCOME = 32 << 20
"""Bytes. A commit that takes longer than the engine waits for its answer would be sent again for ever, and all others
would wait for it: 50 MB took 12 s, 200 MB more than 30 s."""


_OUTCOMES = frozenset((Next, Replay, Await, ScheduleChilds, Done, Stop, Retry))


def encode_outcome(ctx: Context[Any], spec: Spec, outcome: object, keep: bool) -> bytes:
    """The outcome of a step as one JSON object.

    Raises:
        InvalidArgument: it is no outcome, names an unknown step, holds what cannot be encoded, or is too large.
    """
    row = ctx._row
    kind = type(outcome)
    if kind not in _OUTCOMES:
        outcome = spec.read_answer(outcome)
        kind = type(outcome)
    if kind is Next:
        assert isinstance(outcome, Next)
        text = b'{"id":%d,"claim_no":%d,"kind":"next","step":%b' % (
            row.id,
            row.claim_no,
            _name_step(spec, outcome.step),
        )
        text += _encode_state(spec, outcome.state) + _encode_next_options(outcome)
        if keep:
            text += b',"keep":true'
    elif kind is Done:
        assert isinstance(outcome, Done)
        text = b'{"id":%d,"claim_no":%d,"kind":"done"' % (row.id, row.claim_no)
        if outcome.result is not None:
            text += b',"result":' + dumps(outcome.result)
    elif isinstance(outcome, Outcome):
        text = b'{"id":%d,"claim_no":%d,' % (row.id, row.claim_no) + _encode_other(spec, outcome)
    else:
        raise _explain_no_outcome(ctx, outcome)
    if outcome.attributes is not None:
        text += b',"attributes":' + dumps(outcome.attributes)
    if isinstance(outcome, Sending):
        text += _encode_outbox(outcome)
    used = _list_consumed(ctx, outcome)
    if used:
        text += b',"consume":' + dumps(used)
    if len(text) > LONGEST_OUTCOME:
        raise InvalidArgument(
            f"the outcome of step {row.step!r} of {row.fsm} has {len(text):,} bytes",
            hint=f"{LONGEST_OUTCOME:,} are the most: keep large data elsewhere, and its address in the state",
        )
    return text + b"}"


def _explain_no_outcome(ctx: Context[Any], returned: object) -> InvalidArgument:
    what, hint = type(returned).__name__, "return Next, Replay, Await, ScheduleChilds, Done, Stop or Retry"
    if iscoroutine(returned):
        returned.close()  # or it would be warned about, where nobody looks
    if isawaitable(returned):
        hint = "the step is async and what decorates it is not: make the decorator's function async def, too"
    elif isinstance(returned, type):
        what, hint = f"the class {returned.__name__}", f"return an instance: {returned.__name__}(...)"
    return InvalidArgument(f"step {ctx.step!r} of {ctx.fsm} returned {what}, which is no outcome", hint=hint)


def read_kind(outcome: bytes | None) -> str | None:
    """The kind of an encoded outcome: only numbers stand before it."""
    if outcome is None:
        return None
    start = outcome.index(b'"kind":"') + 8
    return outcome[start : outcome.index(b'"', start)].decode()


_STEP = b',"step":"'
_LONGEST_NAME = 200


def read_next(outcome: bytes | None, kind: str | None) -> str | None:
    """Where an encoded outcome goes on, which stands right behind its kind; None: nowhere else.

    What the server might refuse as a name, or a report that has it, is None, too.
    """
    if outcome is None or kind not in ("next", "await", "schedule_childs"):
        return None
    start = outcome.index(b'"kind":"') + 9 + len(kind)
    if not outcome.startswith(_STEP, start):
        return None
    start += len(_STEP)
    name = outcome[start : outcome.index(b'"', start)]
    return None if not name or b"\\" in name or len(name) > _LONGEST_NAME else name.decode()


def _encode_other(spec: Spec, outcome: Outcome) -> bytes:
    if isinstance(outcome, Replay):
        text = b'"kind":"replay"' + _encode_state(spec, outcome.state) + _encode_delay(outcome.delay)
        return text + _encode_close(outcome.close)
    if isinstance(outcome, Await):
        names = outcome.names if isinstance(outcome.names, str) else list(outcome.names)
        text = b'"kind":"await"'
        if outcome.step is not None:
            text += b',"step":' + _name_step(spec, outcome.step)
        text += b',"signals":' + dumps(names) + _encode_state(spec, outcome.state)
        if outcome.timeout is not None:
            text += b',"timeout_ms":%d' % milliseconds(outcome.timeout, "the timeout")
        return text
    if isinstance(outcome, ScheduleChilds):
        childs = encode_inserts(outcome.childs)
        text = b'"kind":"schedule_childs","step":%b,"childs":%b' % (_name_step(spec, outcome.step), childs)
        return text + _encode_state(spec, outcome.state)
    if isinstance(outcome, Stop):
        return b'"kind":"stop","reason":' + dumps(outcome.text()) + encode_traceback(describe_traceback(outcome.reason))
    if isinstance(outcome, Retry):
        text = b'"kind":"error","error":' + dumps(outcome.text()) + _encode_delay(outcome.delay, keep_zero=True)
        return text + _encode_close(outcome.close) + encode_traceback(describe_traceback(outcome.reason))
    raise InvalidArgument(f"{type(outcome).__name__} is no outcome of a step")


def _encode_outbox(outcome: Sending) -> bytes:
    text = b""
    if outcome.insert != ():
        news = list(outcome.insert)
        for new in news:
            if isinstance(new, Child):
                raise InvalidArgument("a Child in insert=", hint="Insert(...) is no child; those of ScheduleChilds are")
        text = b',"insert":' + encode_inserts(news)
    if outcome.signal != ():
        text += b',"signal":[' + b",".join([_encode_send(send) for send in outcome.signal]) + b"]"
    return text


def _encode_send(send: Send) -> bytes:
    if not isinstance(send, Send):
        raise InvalidArgument(f"a {type(send).__name__} in signal=", hint="give Send(target, name, payload) objects")
    made: dict[str, object] = {key_of_target(send.target): send.target, "name": send.name, "payload": send.payload}
    if send.dedup_key is not None:
        made["dedup_key"] = send.dedup_key
    return dumps(made)


def key_of_target(target: object) -> str:
    """How a signal names the instance that it goes to: by ``id`` or by ``unique_key``.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise InvalidArgument(
            f"a {type(target).__name__} is no instance", hint="give its id, a number, or its unique key, a text"
        )
    return "id" if isinstance(target, int) else "unique_key"


def _name_step(spec: Spec, target: StepLike) -> bytes:
    name = target if isinstance(target, str) else spec.step_name(target)
    known = spec.names.get(name)
    if known is None:
        raise InvalidArgument(f"{spec.name} has no step {name!r}", hint=f"its steps are {', '.join(spec.names)}")
    return known


def _encode_state(spec: Spec, state: object) -> bytes:
    return b"" if state is UNSET else b',"state":' + spec.codec.encode(state)


def _encode_delay(delay: Any, keep_zero: bool = False) -> bytes:
    if delay is None or (delay == 0 and not keep_zero):
        return b""
    return b',"delay_ms":%d' % milliseconds(delay, "the delay")


def _encode_close(close: Any) -> bytes:
    if close is None or close == 0:
        return b""
    return b',"close_ms":%d' % milliseconds(close, "close")


_NEXT_OPTIONS = ("partition_key", "priority", "queue", "rate_limit", "weight")


def _encode_next_options(outcome: Next) -> bytes:
    text = _encode_delay(outcome.delay)
    for name in _NEXT_OPTIONS:
        value = getattr(outcome, name)
        if value is not UNSET:
            text += b',"%b":%b' % (name.encode(), dumps(value))
    if outcome.close is not None:
        if outcome.rate_limit is UNSET or outcome.rate_limit is None:
            raise InvalidArgument(
                "close in a Next without rate_limit", hint="say of which limit nothing is to start: rate_limit="
            )
        text += _encode_close(outcome.close)
    return text


def _list_consumed(ctx: Context[Any], outcome: object) -> list[int] | None:
    """The rule of consumption. Done drops the whole inbox anyway; what has failed keeps it for a retry."""
    assert isinstance(outcome, Outcome)
    if outcome.consume is not None:
        return [signal.id if isinstance(signal, Signal) else signal for signal in outcome.consume]
    if ctx._row.signals == "[]" or isinstance(outcome, (Replay, Retry, Done)):
        return None
    if ctx._taken is not None:
        return ctx._taken
    if isinstance(outcome, (Next, ScheduleChilds, Stop)):
        return [signal.id for signal in ctx.awaited]
    return None


_PLAIN_OPTIONS = (
    "version",
    "queue",
    "priority",
    "partition_key",
    "unique_key",
    "rate_limit",
    "weight",
    "max_attempts",
)


Insertable = New | MachineLike | Mapping[str, object]


def encode_inserts(instances: Iterable[Insertable]) -> bytes:
    """The array that `gd_insert_many` takes.

    Of `Child`s or `Insert`s, bare machines, or mappings with the keys of the SQL contract.

    Raises:
        InvalidArgument: a state does not fit its machine, or a value cannot be encoded.
    """
    trace = _trace.carrier()
    return b"[" + b",".join([encode_insert(instance, trace) for instance in instances]) + b"]"


def encode_insert(what: Insertable, trace: Mapping[str, str] | None = None) -> bytes:
    if not isinstance(what, New) and isinstance(what, Mapping):
        meta = what.get("meta")
        if trace and (meta is None or isinstance(meta, Mapping)):
            what = {**what, "meta": _trace.traced(meta, trace)}
        for name in ("eligible_at", "expires_at"):
            when = what.get(name)
            if isinstance(when, datetime):
                what = {**what, name: aware(when).isoformat()}
        return dumps(what)
    child = what if isinstance(what, New) else New(what)
    made: dict[str, object] = {}
    if isinstance(child.machine, str):
        text = b'{"fsm":' + dumps(child.machine)
        if child.step is not None:
            made["step"] = step_name(child.step)
        state = b"{}" if child.state is UNSET else dumps(child.state)
    else:
        spec = spec_of(child.machine)
        text = spec.head
        if child.step is not None:
            made["step"] = check_step(spec, child.step)
        state = spec.codec.encode({} if child.state is UNSET else child.state)
    for name in _PLAIN_OPTIONS:
        value = getattr(child, name)
        if value is not None:
            made[name] = value
    if child.unique_scope is not None:
        made["unique_scope"] = list(child.unique_scope)
    if child.eligible_at is not None:
        made["eligible_at"] = aware(child.eligible_at).isoformat()
    if child.delay is not None:
        made["delay_ms"] = milliseconds(child.delay, "the delay")
    if child.expires_at is not None:
        made["expires_at"] = aware(child.expires_at).isoformat()
    if child.expires is not None:
        made["expires_ms"] = milliseconds(child.expires, "expires")
    meta = _trace.traced(child.meta, trace)
    if meta is not None:
        made["meta"] = meta
    if child.attributes is not None:
        made["attributes"] = child.attributes
    if made:
        text += b"," + dumps(made)[1:-1]  # a key that stands in the head, too: jsonb takes the last one
    return text + b',"state":' + state + b"}"
