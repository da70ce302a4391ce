"""One instance: all that there is to know of it, and why it does not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ... import calls
from ...calls import JournalShown, viewing
from ...machine.codec import dumps, loads
from ..look import Look, Page
from ..query import count_of, instance_of, only
from ..refusals import Missing, TooLarge
from ..shown import Shown, Twig
from ..source import Conn
from ..words import size, whole

_LINE = 20
_TREE = 200
_HISTORY = 30
_JOURNAL = 30
# Characters of a value of a journal.
_ENTRY = 2000
_SIGNALS = 20
_FACTS = (
    "queue", "priority", "partition_key", "unique_key", "unique_scope", "rate_limit", "weight", "worker", "attempt",
    "max_attempts", "crashes", "awaits", "watched",
)  # fmt: skip
_TIMES = (
    "inserted_at", "updated_at", "eligible_at", "deadline_at", "lease_expires_at", "timeout_at", "expires_at",
    "finished_at", "keep_until", "paused_at",
)  # fmt: skip
# Said only where it is not what it mostly is.
_USUAL = {"priority": 0, "attempt": 0, "crashes": 0, "weight": 1, "watched": False}
_TEXTS = ("state", "result", "meta")
# So many characters of each value, and of all states of a page of the history together; of a payload; of a detail.
_VALUE, _STATES, _PAYLOAD, _DETAIL = 100_000, 400_000, 4_000, 4_000
# So many characters of raw JSON, which is passed on as it comes, or has to be read for the hook.
_RAW, _REDACTED = 64_000_000, 8_000_000


@dataclass(frozen=True)
class Happened:
    """An entry of the history as it is shown."""

    entry: viewing.Row
    state: Twig | None
    detail: Twig | None


async def instance(look: Look) -> Page:
    """All of one instance."""
    only(look.params, ("did",))
    conn, shown = look.conn, look.shown
    id = instance_of(look.path["id"])
    found = await _get(conn, id)
    fsm = found["fsm"]
    nodes = await calls.tree(conn, id, limit=_TREE)
    key = found["partition_key"]
    return Page(
        "instance.html",
        f"{fsm} {id}",
        {
            "one": found,
            "facts": [(name, found[name]) for name in _FACTS if _tells(name, found.get(name))],
            "times": [(name, found[name]) for name in _TIMES if found.get(name)],
            "values": _values(shown, found),
            "last_error": shown.text(fsm, _cut(found, "last_error")),
            "causes": [(cause, shown.text(fsm, cause.message)) for cause in await calls.why(conn, id)],
            "errors": [
                (kept, shown.text(fsm, kept.traceback or kept.error)) for kept in await calls.errors(conn, id, 20)
            ],
            "signals": [
                (signal, shown.excerpt("payload", fsm, signal["payload"], _PAYLOAD, signal["size"]))
                for signal in cast("list[dict[str, Any]]", await viewing.inbox(conn, id, _SIGNALS, _PAYLOAD))
            ],
            "signals_in_all": len(found["signals"]),
            "nodes": [(node, shown.text(node.fsm, node.last_error)) for node in nodes],
            "more_nodes": len(nodes) >= _TREE,
            "history": [_happened(shown, fsm, entry, 0) for entry in await viewing.lately(conn, id, _HISTORY)],
            "journal": await _journal(look, id, fsm, None, _JOURNAL, _ENTRY),
            "line": await calls.line(conn, key, _LINE) if key and not found["finished_at"] else [],
            "did": look.params.get("did"),
        },
    )


def _tells(name: str, value: object) -> bool:
    return value not in (None, [], "") and not (name in _USUAL and value == _USUAL[name])


def _values(shown: Shown, found: dict[str, Any]) -> list[tuple[str, Twig]]:
    """The values of an instance: texts of JSON, cut by the server, and the attributes, which are short."""
    fsm, made = found["fsm"], list[tuple[str, Twig]]()
    for name in _TEXTS:
        text = found[name]
        if text not in (None, "null", "{}"):
            made.append((name, shown.excerpt(name, fsm, text, _VALUE, found["cut"].get(name, len(text)))))
    if found["attributes"]:
        made.insert(-1, ("attributes", shown.tree("attributes", fsm, found["attributes"])))
    return made


def _cut(found: dict[str, Any], name: str) -> str | None:
    text = found[name]
    return f"{text}… [the rest is left out]" if name in found["cut"] else text


async def _get(conn: Conn, id: int, most: int = _VALUE) -> dict[str, Any]:
    found = await viewing.glance(conn, id, most)
    if found is None:
        raise _missing(id)
    return found


def _missing(id: int) -> Missing:
    return Missing(f"There is no instance {id} (any more).")


def _happened(shown: Shown, fsm: object, entry: viewing.Row, most: int) -> Happened:
    one = cast("dict[str, Any]", entry)
    return Happened(
        entry,
        shown.excerpt("state", fsm, one["state"], most, one["size"]) if most and one["size"] is not None else None,
        shown.excerpt("detail", fsm, one["detail"], _DETAIL) if one["detail"] else None,
    )


async def history(look: Look) -> Page:
    """The history of an instance, page by page, with the states that were kept: a part of each, of one alone more."""
    only(look.params, ("after", "limit"))
    id = instance_of(look.path["id"])
    found = await _get(look.conn, id, 0)
    after = instance_of(look.params.get("after") or "0")
    limit = count_of(look.params, "limit", 50, 200)
    most = _VALUE if limit == 1 else _STATES // limit
    entries = await viewing.happened(look.conn, id, after, limit, _DETAIL, most)
    return Page(
        "history.html",
        f"History of {id}",
        {
            "one": found,
            "history": [_happened(look.shown, found["fsm"], entry, most) for entry in entries],
            "next": entries[-1]["no"] if len(entries) == limit else None,
            "after": after,
        },
    )


@dataclass(frozen=True)
class Entered:
    """An entry of a journal as it is shown."""

    entry: JournalShown
    value: Twig | None
    error: str | None


async def _journal(look: Look, id: int, fsm: object, before: int | None, limit: int, most: int) -> list[Entered]:
    """A page of a journal from its end, the oldest entry first."""
    made: list[Entered] = []
    for entry in reversed(await calls.journal_page(look.conn, id, before, limit, most)):
        value = None
        if entry.value not in (None, "null"):
            what = "payload" if entry.kind == "signal" else "result"
            value = look.shown.excerpt(what, fsm, entry.value, most, entry.size)
        made.append(Entered(entry, value, look.shown.text(fsm, entry.error)))
    return made


async def journal(look: Look) -> Page:
    """The journal of a flow from its end, page by page; of one entry alone more is shown."""
    only(look.params, ("before", "limit"))
    id = instance_of(look.path["id"])
    found = await _get(look.conn, id, 0)
    before = whole(look.params["before"], "before", 1) if look.params.get("before") else None
    limit = count_of(look.params, "limit", 50, 200)
    most = _VALUE if limit == 1 else _ENTRY
    entries = await _journal(look, id, found["fsm"], before, limit, most)
    return Page(
        "journal.html",
        f"Journal of {id}",
        {
            "one": found,
            "journal": entries,
            "before": before,
            "older": entries[0].entry.seq if entries and entries[0].entry.seq > 1 else None,
        },
    )


async def raw(look: Look) -> tuple[int, bytes]:
    """One instance as JSON, as far as it may be seen: what `calls.get` answers; and its id."""
    only(look.params, ())
    id = instance_of(look.path["id"])
    answer = await viewing.whole(look.conn, id, _REDACTED if look.shown.redacts else _RAW)
    if answer is None:
        raise _missing(id)
    length, text = answer
    if text is None:
        raise TooLarge(f"It has {size(length)} of JSON: gendurable show {id} --json writes all of it.")
    if not look.shown.redacts:
        return id, text.encode()
    found = cast("dict[str, Any]", loads(text))
    fsm = found["fsm"]
    for name in (*_TEXTS, "attributes"):
        found[name] = look.shown.value(name, fsm, found[name])
    found["last_error"] = look.shown.text(fsm, found["last_error"])
    for error in found["errors"]:
        error["error"] = look.shown.text(fsm, error["error"])
    return id, dumps(found)
