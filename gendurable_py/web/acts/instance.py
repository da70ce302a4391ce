"""What can be done to one instance."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from starlette.datastructures import QueryParams

from ... import calls
from ..._contract import TERMINAL
from ...calls import viewing
from ...errors import InvalidArgument
from ...machine.codec import loads
from ...machine.outcome import UNSET
from ..look import Look
from ..query import instance_of, needed, query
from ..refusals import Missing
from ..source import Conn
from ..words import document, mapping, moment, whole
from .forms import Act, Field, Outcome, Plan, Values, checked, given, required

_OPEN_BELOW = 1000
# A state beyond that is not put into a form.
_EDITABLE = 200_000
# Who is locked for a moment, mostly by a commit, is asked again.
_TRIES = 5
_PAUSE = 0.1


def _id(params: QueryParams) -> int:
    return instance_of(needed(params, "id"))


def _back(params: QueryParams) -> str:
    return f"/instances/{_id(params)}"


async def _one(look: Look, most: int = 0) -> dict[str, Any]:
    """The instance, with texts of its values of so many characters."""
    id = _id(look.params)
    found = await viewing.glance(look.conn, id, most)
    if found is None:
        raise Missing(f"There is no instance {id} (any more).")
    return found


def _name(one: dict[str, Any]) -> str:
    return f"{one['fsm']} {one['id']}"


def _where(one: dict[str, Any]) -> str:
    paused = ", paused" if one["paused_at"] else ""
    return f"It is {str(one['status']).replace('_', ' ')} at step {one['step']}{paused}."


def _ended(params: QueryParams, done: bool, otherwise: str, verb: str) -> Outcome:
    return Outcome(done, otherwise, _back(params) + query(did=verb))


# -- ends and beginnings


async def plan_cancel(look: Look) -> Plan:
    one = await _one(look)
    says = [_where(one), "It ends as cancelled, at once. What a running step answers after that counts no more."]
    below = [
        node
        for node in await calls.tree(look.conn, one["id"], 20, _OPEN_BELOW)
        if node.id != one["id"] and node.status not in TERMINAL
    ]
    fields = [Field("reason", "Reason", help="It becomes its last error.")]
    if below:
        says.append(f"{len(below)} instances that came out of it have not ended: they go on unless you say otherwise.")
        fields.append(Field("cascade", "Cancel these, too", "check"))
    return Plan(f"Cancel {_name(one)}", tuple(says), "Cancel it", _back(look.params), tuple(fields), grave=True)


async def do_cancel(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.cancel(conn, _id(params), given(values, "reason"), cascade=checked(values, "cascade"))
    return _ended(params, done, "It had ended already.", "cancel")


async def plan_retry(look: Look) -> Plan:
    one = await _one(look)
    says = (
        _where(one),
        "It runs again, with all its attempts, from the step where it ended and with the state that it has there, "
        "unless you say another.",
    )
    fields = (
        Field("step", "From step", help=f"Empty: {one['step']}."),
        Field("state", "With state", "area", help="JSON. Empty: the one that it has."),
    )
    return Plan(f"Retry {_name(one)}", says, "Run it again", _back(look.params), fields)


async def do_retry(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    state = given(values, "state")
    done = await calls.retry(
        conn, _id(params), given(values, "step"), UNSET if state is None else document(state, "state")
    )
    otherwise = "It has not failed and was not cancelled, or another instance holds its unique key."
    return _ended(params, done, otherwise, "retry")


async def plan_delete(look: Look) -> Plan:
    one = await _one(look)
    says = (_where(one), "It is removed for good, with its errors, its history and its inbox. Nothing brings it back.")
    return Plan(f"Delete {_name(one)}", says, "Delete it", _back(look.params), grave=True)


async def do_delete(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.delete(conn, _id(params))
    return Outcome(done, "It has not ended, or its parent has not.", "/instances" + query(did="delete"))


# -- time


async def plan_reschedule(look: Look) -> Plan:
    one = await _one(look)
    when = one["deadline_at"] or one["eligible_at"]
    what = "until when it waits for its signal" if one["status"] == "awaiting_signal" else "when it is due"
    says = (_where(one), f"You set {what}" + (f"; that is {when} now." if when else "."))
    fields = (
        Field("at", "At", help="now, 2h from now, or 2027-01-31T06:00 (UTC unless it has a zone).", value="now",
              needed=True),
    )  # fmt: skip
    return Plan(f"Reschedule {_name(one)}", says, "Set the time", _back(look.params), fields)


async def do_reschedule(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.reschedule(conn, _id(params), moment(required(values, "at").strip(), ahead=True))
    return _ended(params, done, "It is neither runnable nor waiting for a signal.", "reschedule")


async def plan_pause(look: Look) -> Plan:
    one = await _one(look)
    says = (_where(one), "It starts no further step until it is resumed. A step that runs now is finished.")
    return Plan(f"Pause {_name(one)}", says, "Pause it", _back(look.params))


async def do_pause(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    return _ended(params, await calls.pause(conn, _id(params)), "It has ended, or is paused already.", "pause")


async def plan_resume(look: Look) -> Plan:
    one = await _one(look)
    says = (_where(one), "It goes on where it was, and has its old place where it waits in a line.")
    return Plan(f"Resume {_name(one)}", says, "Let it go on", _back(look.params))


async def do_resume(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    return _ended(params, await calls.resume(conn, _id(params)), "It is not paused.", "resume")


# -- talking and changing


async def plan_signal(look: Look) -> Plan:
    one = await _one(look)
    awaits = one["awaits"] or []
    waits = f"It waits for {', '.join(awaits)}: such a signal lets it go on." if awaits else "It waits for no signal."
    fields = (
        Field("name", "Signal", value=awaits[0] if awaits else "", needed=True),
        Field("payload", "Payload", "area", help="JSON. Empty: null."),
        Field("dedup_key", "Only once for this key", help="Of signals with one such key only the first counts."),
    )
    says = (_where(one), f"{waits} Any other one lies in its inbox.")
    return Plan(f"Signal {_name(one)}", says, "Send it", _back(look.params), fields)


async def do_signal(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    """By the call for many, which the audit has: what programs signal is not in it."""
    id, name, payload = _id(params), required(values, "name"), given(values, "payload")
    brought = None if payload is None else document(payload, "payload")
    answer = "busy"
    for turn in range(_TRIES):
        if answer != "busy":
            break
        await asyncio.sleep(_PAUSE * turn)
        found = await calls.signal_many(conn, [id], name, brought, dedup_key=given(values, "dedup_key"))
        answer = found.get(id, "none")
    if answer == "none":
        raise Missing(f"There is no instance {id} (any more).")
    said = {"no": "It has ended, or has had a signal with this key before.", "busy": "Somebody has it locked."}
    return _ended(params, answer == "done", said.get(answer, answer), "signal")


async def plan_edit(look: Look) -> Plan:
    one = await _one(look, 0 if look.shown.redacts else _EDITABLE)
    text = "" if look.shown.redacts else _text(one)
    fields = (
        Field("step", "Step", help=f"Empty: {one['step']}."),
        Field("queue", "Queue", help=f"Empty: {one['queue']}."),
        Field("priority", "Priority", help=f"Lower runs earlier. Empty: {one['priority']}."),
        Field("state", "State", "area", help="JSON. Empty: it stays as it is.", value=text),
        Field("meta", "Meta", "area", help="JSON, an object. Empty: it stays as it is."),
        *((Field("was", "", "hidden", value=_mark(text)),) if text else ()),
    )
    says = (
        _where(one),
        "It is changed while no step runs; its errors and its history say that it was, and by whom. It goes on "
        "waiting for what it waits for, and what has ended stays so.",
    )
    return Plan(f"Edit {_name(one)}", says, "Change it", _back(look.params), fields, grave=True)


def _text(one: dict[str, Any]) -> str:
    """The state of an instance for a form; empty: it is too large for one."""
    if "state" in one["cut"]:
        return ""
    try:
        text = json.dumps(loads(one["state"]), indent=2)
    except (InvalidArgument, ValueError):  # beyond what Python can read, or with more digits than it writes
        return ""
    return text if len(text) <= _EDITABLE else ""


def _mark(text: str) -> str:
    """By which a form knows the state that it was filled in with."""
    return hashlib.sha256(text.encode()).hexdigest()


async def do_edit(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    state, meta, priority = given(values, "state"), given(values, "meta"), given(values, "priority")
    was = values.get("was")
    if state is not None and was:
        if _mark(state) == was:
            state = None  # it stays as it is, whatever it is by now
        elif (now := await viewing.glance(conn, _id(params), _EDITABLE)) is not None and _mark(_text(now)) != was:
            return _ended(params, False, "Its state has changed since then: nothing was done.", "edit")
    done = await calls.edit(
        conn,
        _id(params),
        given(values, "step"),
        UNSET if state is None else document(state, "state"),
        queue=given(values, "queue"),
        priority=None if priority is None else whole(priority, "priority"),
        meta=None if meta is None else mapping(meta, "meta"),
    )
    return _ended(params, done, "A step of it runs now: nothing was changed.", "edit")


async def plan_fork(look: Look) -> Plan:
    one = await _one(look)
    no = look.params.get("no")
    where = f"at entry {instance_of(no)} of its history" if no else "as it stands now"
    fields = (
        Field("step", "From step", help="Empty: the one there."),
        Field("state", "With state", "area", help="JSON. Empty: the one there."),
        Field("unique_key", "Unique key", help="Empty: none."),
        Field("queue", "Queue", help="Empty: the one there."),
    )
    says = (_where(one), f"A new instance begins {where}. This one stays as it is. What was done is done again.")
    return Plan(f"Fork {_name(one)}", says, "Make the new one", _back(look.params), fields)


async def do_fork(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    state = given(values, "state")
    options = {name: text for name in ("unique_key", "queue") if (text := given(values, name)) is not None}
    made = await calls.fork(
        conn,
        _id(params),
        instance_of(params["no"]) if params.get("no") else None,
        step=given(values, "step"),
        state=UNSET if state is None else document(state, "state"),
        options=options,
    )
    to = f"/instances/{made}" + query(did="fork")
    return Outcome(made is not None, "Another instance holds this unique key.", to)


ACTS = (
    Act("cancel", ("gd_cancel",), plan_cancel, do_cancel),
    Act("retry", ("gd_retry",), plan_retry, do_retry),
    Act("delete", ("gd_delete",), plan_delete, do_delete),
    Act("reschedule", ("gd_reschedule",), plan_reschedule, do_reschedule),
    Act("pause", ("gd_pause",), plan_pause, do_pause),
    Act("resume", ("gd_resume",), plan_resume, do_resume),
    Act("signal", ("gd_signal_many",), plan_signal, do_signal),
    Act("edit", ("gd_edit",), plan_edit, do_edit),
    Act("fork", ("gd_fork",), plan_fork, do_fork),
)
