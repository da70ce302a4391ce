"""What can be done to many at once: the preview says which ones, and exactly these are meant by the confirmation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from pydantic import JsonValue
from starlette.datastructures import QueryParams

from ... import calls
from ..._contract import TERMINAL
from ...calls import viewing
from ..look import Look, Page
from ..query import FILTERS, OPEN, filter_of, only, query
from ..refusals import Refusal, refusal_of
from ..source import Conn
from ..words import Unreadable, document, moment
from .forms import Act, Field, Outcome, Plan, Values, given, required

MOST = 10_000
"""So many at once; the page afterwards leads to the next ones."""
_BATCH = 500
_SHOWN = 20
_ROUNDS = 5
_PAUSE = 0.1
_PAGES = 60
_WORDS = ("done", "no", "changed", "busy", "none")

Deed: TypeAlias = "Callable[[Conn, list[int], Values], Awaitable[dict[int, str]]]"


async def _cancel(conn: Conn, ids: list[int], values: Values) -> dict[int, str]:
    return await calls.cancel_many(conn, ids, given(values, "reason"))


async def _retry(conn: Conn, ids: list[int], values: Values) -> dict[int, str]:
    return await calls.retry_many(conn, ids)


async def _delete(conn: Conn, ids: list[int], values: Values) -> dict[int, str]:
    return await calls.delete_many(conn, ids)


async def _reschedule(conn: Conn, ids: list[int], values: Values) -> dict[int, str]:
    return await calls.reschedule_many(conn, ids, moment(required(values, "at").strip(), ahead=True))


async def _signal(conn: Conn, ids: list[int], values: Values) -> dict[int, str]:
    payload = given(values, "payload")
    return await calls.signal_many(
        conn,
        ids,
        required(values, "name"),
        None if payload is None else document(payload, "payload"),
        dedup_key=given(values, "dedup_key"),
    )


_AT = Field("at", "At", help="now, 2h from now, or 2027-01-31T06:00.", value="now", needed=True)
_REASON = Field("reason", "Reason", help="It becomes their last error.")
_SIGNAL = (
    Field("name", "Signal", needed=True),
    Field("payload", "Payload", "area", help="JSON. Empty: null."),
    Field("dedup_key", "Only once for this key", help="Each takes only one signal with such a key."),
)
# What else the filter asks, unless it says which statuses; what will happen; what it takes; how it is done.
KINDS: dict[str, tuple[list[str], str, tuple[Field, ...], Deed]] = {
    "cancel": ([*OPEN], "They end as cancelled, at once.", (_REASON,), _cancel),
    "retry": (["failed"], "They run again from where they ended, with the states that they have there.", (), _retry),
    "reschedule": (["runnable", "awaiting_signal"], "They are due, or stop to wait, at one time.", (_AT,), _reschedule),
    "signal": ([*OPEN], "Each of them gets this signal.", _SIGNAL, _signal),
    "delete": ([*TERMINAL], "They are removed for good. Nothing brings them back.", (), _delete),
}


def _filter(params: QueryParams, verb: str) -> dict[str, JsonValue]:
    only(params, FILTERS)
    wanted = filter_of(params)
    if not wanted:
        raise Unreadable("a filter has to say which ones: all instances at once is not offered")
    usual: list[JsonValue] = [*KINDS[verb][0]]
    return {"status": usual, **wanted}


def _asked(params: QueryParams) -> dict[str, str]:
    return {name: params[name] for name in FILTERS if params.get(name)}


def _plan(verb: str) -> Callable[[Look], Awaitable[Plan]]:
    async def plan(look: Look) -> Plan:
        wanted = _filter(look.params, verb)
        ids: list[int] = []
        after, goes_on = 0, True
        for _ in range(_PAGES):
            page = await calls.match(look.conn, wanted, after, min(1000, MOST - len(ids)))
            ids += page.ids
            if page.next is None or len(ids) >= MOST:
                goes_on = page.next is not None
                break
            after = page.next
        first = await calls.list(look.conn, {"id": [*ids[:_SHOWN]]}, None, _SHOWN) if ids else None
        count = f"{len(ids)} instance{'' if len(ids) == 1 else 's'}"
        says = [f"{count} fit now." if ids else "No instance fits.", KINDS[verb][1]]
        if goes_on:
            says.append(f"There are more; these {len(ids)} are done first.")
        says.append("It goes in batches. Who has changed meanwhile is left alone, and told.")
        asked = ", ".join(f"{name} {text}" for name, text in _asked(look.params).items())
        return Plan(
            f"{verb.capitalize()} {count}: {asked}",
            tuple(says),
            f"{verb.capitalize()} {count}" if ids else "",
            "/instances" + query(**_asked(look.params)),
            (*KINDS[verb][2], Field("ids", "", "hidden", value=" ".join(map(str, ids)))),
            grave=True,
            rows=tuple((row.id, row.fsm, row.step, row.status, row.updated_at) for row in first.instances)
            if first
            else (),
        )

    return plan


def ids_of(values: Values) -> list[int]:
    """The ids that were previewed."""
    parts = values.get("ids", "").split()
    if len(parts) > MOST or not all(part.isascii() and part.isdecimal() and len(part) <= 18 for part in parts):
        raise Unreadable("ids are not those of a preview")
    return list(dict.fromkeys(map(int, parts)))


def batches(ids: list[int]) -> list[list[int]]:
    return [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]


Transact: TypeAlias = "Callable[[Callable[[Conn], Awaitable[dict[int, str]]]], Awaitable[dict[int, str]]]"


async def carry_out(verb: str, params: QueryParams, values: Values, transact: Transact) -> Outcome:
    """Do it, each batch in a transaction of its own, and tell what came of it, also where one of them fails."""
    wanted = _filter(params, verb)
    stopped: Refusal | None = None
    left = ids_of(values)
    total = len(left)
    results: dict[int, str] = {}
    for turn in range(_ROUNDS):
        if turn:
            await asyncio.sleep(_PAUSE * turn)
        for some in batches(left):
            try:
                results |= await transact(partial(_do, verb, wanted, some, values))
            except Exception as error:
                stopped = refusal_of(error)
                if stopped is None or not results:
                    raise
                break
        left = [id for id in left if results.get(id) == "busy"]
        if not left or stopped:
            break
    tally = {word: [id for id, result in results.items() if result == word] for word in _WORDS}
    page = Page(
        "many.html",
        f"{verb.capitalize()}: done",
        {
            "verb": verb,
            "total": total,
            "untried": total - len(results),
            "stopped": stopped,
            "tally": {word: (len(ids), ids[:_SHOWN]) for word, ids in tally.items()},
            "again": f"/act/many/{verb}" + query(**_asked(params)),
            "back": "/instances" + query(**_asked(params)),
        },
    )
    return Outcome(True, page=page)


async def _do(verb: str, wanted: dict[str, JsonValue], some: list[int], values: Values, conn: Conn) -> dict[int, str]:
    """One batch, as far as it still fits: who went on while somebody read the preview is not meant any more."""
    page = await calls.list(conn, {**wanted, "id": [*some]}, None, len(some))
    fit = {row.id for row in page.instances}
    if not fit:
        return dict.fromkeys(some, "changed")
    await viewing.says_which(conn, wanted)
    found = await KINDS[verb][3](conn, [id for id in some if id in fit], values)
    return dict.fromkeys(some, "changed") | found


async def _alone(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    raise AssertionError("many are done by carry_out")


ACTS = tuple(Act(verb, (f"gd_{verb}_many", "gd_match"), _plan(verb), _alone) for verb in KINDS)
