"""One instance: all that there is to know of it, and why it does not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from ... import calls
from ...calls import Entry, viewing
from ..look import Look, Page
from ..query import count_of, instance_of, only
from ..refusals import Missing
from ..shown import Shown, Twig
from ..source import Conn

_LINE = 20
_TREE = 200
_HISTORY = 30
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
_VALUES = ("state", "result", "attributes", "meta")


@dataclass(frozen=True)
class Happened:
    """An entry of the history as it is shown."""

    entry: Entry
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
    entries = await viewing.latest(conn, id, _HISTORY)
    return Page(
        "instance.html",
        f"{fsm} {id}",
        {
            "one": found,
            "facts": [(name, found[name]) for name in _FACTS if _tells(name, found.get(name))],
            "times": [(name, found[name]) for name in _TIMES if found.get(name)],
            "values": [
                (name, shown.tree(name, fsm, found[name])) for name in _VALUES if found.get(name) not in (None, {})
            ],
            "last_error": shown.text(fsm, found["last_error"]),
            "causes": [(cause, shown.text(fsm, cause.message)) for cause in await calls.why(conn, id)],
            "errors": [
                (kept, shown.text(fsm, kept.traceback or kept.error)) for kept in await calls.errors(conn, id, 20)
            ],
            "signals": [
                (signal, shown.tree("payload", fsm, signal.payload))
                for signal in await calls.signals(conn, id, 0, _SIGNALS)
            ],
            "signals_in_all": len(found["signals"]),
            "nodes": [(node, shown.text(node.fsm, node.last_error)) for node in nodes],
            "more_nodes": len(nodes) >= _TREE,
            "history": [_happened(shown, fsm, entry) for entry in entries],
            "line": await calls.line(conn, key, _LINE) if key and not found["finished_at"] else [],
            "did": look.params.get("did"),
        },
    )


def _tells(name: str, value: object) -> bool:
    return value not in (None, [], "") and not (name in _USUAL and value == _USUAL[name])


async def _get(conn: Conn, id: int) -> dict[str, Any]:
    found = await calls.get(conn, id)
    if found is None:
        raise Missing(f"There is no instance {id} (any more).")
    return found


def _happened(shown: Shown, fsm: object, entry: Entry) -> Happened:
    return Happened(
        entry,
        None if entry.state is None else shown.tree("state", fsm, entry.state),
        shown.tree("detail", fsm, entry.detail) if entry.detail else None,
    )


async def history(look: Look) -> Page:
    """The history of an instance, page by page, with the states that were kept."""
    only(look.params, ("after", "limit"))
    id = instance_of(look.path["id"])
    found = await _get(look.conn, id)
    after = instance_of(look.params.get("after") or "0")
    limit = count_of(look.params, "limit", 50, 200)
    entries = await calls.history(look.conn, id, after, limit)
    return Page(
        "history.html",
        f"History of {id}",
        {
            "one": found,
            "history": [_happened(look.shown, found["fsm"], entry) for entry in entries],
            "next": entries[-1].no if len(entries) == limit else None,
            "after": after,
        },
    )


async def raw(look: Look) -> dict[str, JsonValue]:
    """One instance as JSON, as far as it may be seen: what `calls.get` answers."""
    only(look.params, ())
    found = await _get(look.conn, instance_of(look.path["id"]))
    fsm = found["fsm"]
    for name in _VALUES:
        found[name] = look.shown.value(name, fsm, found[name])
    found["last_error"] = look.shown.text(fsm, found["last_error"])
    for error in found["errors"]:
        error["error"] = look.shown.text(fsm, error["error"])
    return found
