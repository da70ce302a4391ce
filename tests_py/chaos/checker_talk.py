"""What instances share with others: signals, children, unique keys, and the time that was asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from .machines import SCOPES, TERMINAL
from .records import Event, Record


def signals(record: Record) -> Iterator[str]:
    """What was accepted was used once, by a step that progressed."""
    sent: dict[int, set[str]] = defaultdict(set)
    accepted: dict[int, set[str]] = defaultdict(set)
    for line in record.told:
        if line["what"] == "signal":
            sent[line["id"]].add(line["key"])
            if line["answer"] in ("delivered", "duplicate"):
                accepted[line["id"]].add(line["key"])
    for row in record.rows.values():
        if row.fsm != "chaos.waiter" or row.status != "done":
            continue
        got = Counter(row.result["got"])
        if twice := [key for key, count in got.items() if count > 1]:
            yield f"{row.id}: used {twice} more than once"
        if lost := accepted[row.id] - set(got):
            yield f"{row.id}: lost {sorted(lost)}"
        if unknown := set(got) - sent[row.id]:
            yield f"{row.id}: used {sorted(unknown)}, which nobody sent"
    for run in record.runs:
        if run.get("timed_out") and run["took"] is not None:
            yield f"{run['id']}: timed out and was shown {run['took']} (claim {run['claim']})"
    if record.signals_left:
        yield f"{record.signals_left} signals are left though all has ended, for no retry"


def barriers(record: Record) -> Iterator[str]:
    """A parent is released in the very transaction in which the last child of its barrier ends."""
    child: dict[int, Event] = {}
    counted: dict[tuple[int, int], set[int]] = defaultdict(set)
    waits: dict[int, int] = {}
    over: dict[int, str] = {}
    for event in record.events:
        if event.parent is not None:
            _count(event, child.get(event.id), counted)
            child[event.id] = event
            barrier = waits.get(event.parent)
            if barrier is not None and not counted[event.parent, barrier]:
                over.setdefault(event.parent, event.xid)
        if event.status == "awaiting_children":
            if event.old_status != "awaiting_children":
                waits[event.id] = event.claim
                if not counted[event.id, event.claim]:
                    yield f"{event.id}: waits for no child (seq {event.seq})"
        elif event.id in waits:
            left = counted[event.id, waits.pop(event.id)]
            ended_in = over.pop(event.id, None)
            if event.status in TERMINAL:
                continue
            if left:
                yield f"{event.id}: released before {sorted(left)} had ended (seq {event.seq})"
            elif event.status != "runnable" or ended_in != event.xid:
                yield f"{event.id}: released some time after its last child (seq {event.seq})"
    for id in waits:
        yield f"{id}: was never released, {sorted(counted[id, waits[id]])} of its children have not ended"


def _count(event: Event, before: Event | None, counted: dict[tuple[int, int], set[int]]) -> None:
    assert event.parent is not None
    if before is not None and before.barrier is not None:
        counted[event.parent, before.barrier].discard(event.id)
    if event.barrier is not None and event.status not in (*TERMINAL, "gone"):
        counted[event.parent, event.barrier].add(event.id)


def joins(record: Record) -> Iterator[str]:
    """A parent's next step sees all its children, ended, with their results. Operators may have had a hand in some."""
    kids: dict[int, dict[int, str]] = defaultdict(dict)
    seen: dict[tuple[int, int], dict[int, str]] = {}
    revived: set[int] = set()
    for event in record.events:
        if event.old_status in TERMINAL and event.status not in (*TERMINAL, "gone"):
            revived.add(event.id)
        if event.parent is not None:
            kids[event.parent][event.id] = event.status
        if event.claimed and event.fsm == "chaos.parent" and event.old_step == "join":
            now = {id: status for id, status in kids[event.id].items() if status != "gone"}
            seen[event.id, event.claim] = now
            early = sorted(id for id, status in now.items() if status not in TERMINAL)
            if early and event.id not in revived and not revived & set(now):
                yield f"{event.id}: joined before {early} had ended (seq {event.seq})"
    for run in record.runs:
        id, claim = run["id"], run["claim"]
        if run["step"] != "join" or (id, claim) not in seen or id in revived:
            continue
        now = seen[id, claim]
        if {kid[0] for kid in run["kids"]} != set(now) or len(now) != record.rows[id].state["kids"]:
            yield f"{id}: joined {[kid[0] for kid in run['kids']]}, its children are {sorted(now)}"
        for kid in run["kids"]:
            if kid[0] not in revived and not _tells_the_truth(*kid, now=now):
                yield f"{id}: was shown {kid}, which is {now.get(kid[0])}"


def _tells_the_truth(id: int, status: str, result: Any, error: str | None, *, now: dict[int, str]) -> bool:
    if status != now.get(id):
        return False
    return (result == {"n": 1}) if status == "done" else (error is not None and result is None)


def uniques(record: Record) -> Iterator[str]:
    """One holder a unique key, and only in the statuses of its scope."""
    holder: dict[str, int] = {}
    holds: dict[int, str] = {}
    last: dict[int, Event] = {}
    for event in record.events:
        held = event.held
        # Within a transaction the key is taken before the status changes.
        before_it = last.get(event.id)
        if before_it is not None and before_it.xid != event.xid:
            yield from _out_of_scope(before_it)
        last[event.id] = event
        if held != holds.get(event.id):
            before = holds.pop(event.id, None)
            if before is not None and holder.get(before) == event.id:
                del holder[before]
            if held is not None:
                if held in holder:
                    yield f"{held}: held by {holder[held]} and {event.id} (seq {event.seq})"
                holder[held], holds[event.id] = event.id, held
    for event in last.values():
        yield from _out_of_scope(event)


def _out_of_scope(event: Event) -> Iterator[str]:
    if event.held is not None and event.status not in _scope(event.held):
        yield f"{event.id}: holds {event.held} while it is {event.status} (seq {event.seq})"


def _scope(key: str) -> tuple[str, ...]:
    return SCOPES.get(key) or ("runnable", "executing", "awaiting_signal", "awaiting_children")


def times(record: Record) -> Iterator[str]:
    """Nothing starts before it is due, by the row's own time and by what clients asked for."""
    if record.stepped:
        return
    asked: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    expires: dict[int, int] = {}
    moved: dict[int, list[int]] = defaultdict(list)
    for line in record.told:
        if line.get("due") is not None and line["answer"] not in (None, False, "unknown"):
            # (in force from, until when nothing may start, when it was asked for)
            known = line["answered"] if line["what"] == "reschedule" else 0
            asked[line["id"]].append((known, line["due"], line["sent"]))
        if line.get("expires") is not None:
            expires[line["id"]] = line["expires"]
        if line["what"] in ("reschedule", "retry"):
            moved[line["id"]].append(line["sent"])
    for event in record.events:
        # A retry has no deadline any more. A commit under way has what it needs to end.
        over = event.began > expires.get(event.id, event.began) + 100_000 and not moved[event.id]
        if over and (event.claimed or event.committed or event.status == "done"):
            yield f"{event.id}: {event.status} after its deadline (seq {event.seq})"
        if not event.claimed or event.old_status == "executing":
            continue
        due = event.old_eligible_at if event.old_bucket_at is None else event.old_bucket_at
        if due is None or due > event.at:
            yield f"{event.id}: claimed though it was not due (seq {event.seq})"
        if event.key is not None and (event.old_lane_at is None or event.old_lane_at > event.at):
            yield f"{event.id}: claimed before its turn in its key (seq {event.seq})"
        for known, due, sent in asked.get(event.id, ()):
            # Unless somebody asked for something else before it started.
            if known < event.at < due and not any(sent < later < event.at for later in moved[event.id]):
                yield f"{event.id}: started {due - event.at} us before the time asked for (seq {event.seq})"
