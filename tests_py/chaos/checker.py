"""Compares what was written down with the invariants (docs/internals.md); answers what does not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .machines import STEPS, TERMINAL
from .records import Event, Record


class Violation(NamedTuple):
    kind: str
    text: str


def check(record: Record) -> list[Violation]:
    return [Violation(kind, text) for kind, judge in JUDGES.items() for text in judge(record)]


def transitions(record: Record) -> Iterator[str]:
    """Each committed transition once, none skipped, none undone, nothing after the end."""
    now: dict[int, Event] = {}
    for event in record.events:
        before = now.get(event.id)
        now[event.id] = event
        if before is None:
            if event.old_status is not None:
                yield f"{event.id}: changed before it was inserted (seq {event.seq})"
            continue
        if event.old_status is None:
            yield f"{event.id}: inserted twice (seq {event.seq})"
        elif (event.old_status, event.old_claim, event.old_n) != (before.status, before.claim, before.n):
            yield f"{event.id}: a change was lost between seq {before.seq} and {event.seq}"
        if event.n not in (before.n, before.n + 1):
            yield f"{event.id}: n went from {before.n} to {event.n} (seq {event.seq})"
        if before.status in TERMINAL and event.status != before.status:
            yield f"{event.id}: {event.status} after {before.status} (seq {event.seq})"
    for row in record.rows.values():
        last = now.get(row.id)
        if last is None or last.status != row.status:
            yield f"{row.id}: is {row.status}, the log says {last and last.status}"
        if row.status == "done":
            wanted = row.state["wants"] if row.fsm == "chaos.waiter" else len(STEPS[row.fsm])
            if row.result["n"] != wanted:
                yield f"{row.id}: {row.fsm} ended with n = {row.result['n']} instead of {wanted}"


def runs(record: Record) -> Iterator[str]:
    """A transition was committed only under a claim whose step did run, and one claim ran one step once."""
    ran = Counter((run["id"], run["claim"]) for run in record.runs)
    steps = {(run["id"], run["claim"]): run["step"] for run in record.runs}
    for (id, claim), count in ran.items():
        if count > 1:
            yield f"{id}: claim {claim} ran {count} times"
    for event in record.events:
        if event.committed and steps.get((event.id, event.old_claim or 0)) != event.old_step:
            yield f"{event.id}: {event.old_step} was committed under claim {event.old_claim}, which did not run it"
    committed: dict[int, set[str | None]] = defaultdict(set)
    for event in record.events:
        if event.committed:
            committed[event.id].add(event.old_step)
    for row in record.rows.values():
        if row.status == "done" and (missing := set(STEPS.get(row.fsm, ())) - committed[row.id]):
            yield f"{row.id}: done without {sorted(missing)}"


def claims(record: Record) -> Iterator[str]:
    """Numbers of claims only grow, and nobody takes what is under a live lease."""
    for event in record.events:
        if event.old_claim is None:
            continue
        if event.claim < event.old_claim:
            yield f"{event.id}: claim {event.claim} after {event.old_claim}"
        if event.claimed and event.old_status == "executing" and event.lease_live:
            yield f"{event.id}: claimed under a live lease (seq {event.seq})"


def keys(record: Record) -> Iterator[str]:
    """One executing instance a key."""
    holders: dict[str, set[int]] = defaultdict(set)
    for event in record.events:
        if event.key is None:
            continue
        if event.status != "executing":
            holders[event.key].discard(event.id)
            continue
        holders[event.key].add(event.id)
        if len(holders[event.key]) > 1 or event.slot is None:
            yield f"key {event.key}: {sorted(holders[event.key])} execute at once (seq {event.seq})"


def order(record: Record) -> Iterator[str]:
    """Within a key whose rows one client inserts one after the other, nobody overtakes."""
    waiting: dict[str, dict[int, tuple[int, int, int]]] = defaultdict(dict)
    for event in record.events:
        if event.key is None or event.fsm != "chaos.keyed":
            continue
        behind = waiting[event.key]
        if event.claimed and event.old_status == "runnable" and event.old_lane_at is not None:
            behind.pop(event.id, None)
            mine = (event.old_priority or 0, event.old_lane_at, event.id)
            passed = [place for place in behind.values() if place < mine and place[1] <= event.at]
            if passed:
                yield f"key {event.key}: {event.id} overtook {sorted(place[2] for place in passed)} (seq {event.seq})"
        if event.status == "runnable" and event.lane_at is not None:
            behind[event.id] = (event.priority, event.lane_at, event.id)
        else:
            behind.pop(event.id, None)


def uniques(record: Record) -> Iterator[str]:
    """One holder a unique key."""
    holder: dict[str, int] = {}
    holds: dict[int, str] = {}
    for event in record.events:
        if event.held != holds.get(event.id):
            before = holds.pop(event.id, None)
            if before is not None and holder.get(before) == event.id:
                del holder[before]
            if event.held is not None:
                if event.held in holder:
                    yield f"{event.held}: held by {holder[event.held]} and {event.id} (seq {event.seq})"
                holder[event.held], holds[event.id] = event.id, event.held


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
    if record.signals_left:
        yield f"{record.signals_left} signals are left though all has ended"


def joins(record: Record) -> Iterator[str]:
    """A parent goes on when all its children have ended, not before."""
    kids: dict[int, list[int]] = defaultdict(list)
    for row in record.rows.values():
        if row.parent is not None:
            kids[row.parent].append(row.id)
    end: dict[int, int] = {}
    for event in record.events:
        if event.status in TERMINAL:
            end.setdefault(event.id, event.seq)
        if event.claimed and event.fsm == "chaos.parent" and event.old_step == "join":
            early = [kid for kid in kids[event.id] if kid not in end]
            if early:
                yield f"{event.id}: joined before {early} had ended (seq {event.seq})"
    for run in record.runs:
        row = record.rows.get(run["id"])
        if run["step"] == "join" and row is not None:
            shown = {id for id, status in run["kids"] if status in TERMINAL}
            if shown != set(kids[row.id]) or len(shown) != row.state["kids"]:
                yield f"{row.id}: joined {sorted(shown)}, its children are {sorted(kids[row.id])}"


def told(record: Record) -> Iterator[str]:
    """What a client was told is so."""
    for line in record.told:
        row = record.rows.get(line["id"])
        if row is None:
            yield f"{line['id']}: {line['what']} was acknowledged, there is no such instance"
        elif line["what"] == "cancel" and line["answer"] and row.status != "cancelled":
            yield f"{row.id}: cancelled, and {row.status}"


def ledger(record: Record) -> Iterator[str]:
    """What a step wrote in the transaction of its commit is there exactly if the commit is."""
    written = Counter(record.ledger)
    committed = Counter((e.id, e.old_n or 0) for e in record.events if e.fsm == "chaos.strict" and e.committed)
    for entry in sorted(written.keys() | committed.keys()):
        if (written[entry], committed[entry]) != (1, 1):
            yield f"{entry}: written {written[entry]} times, committed {committed[entry]} times"


def stuck(record: Record) -> Iterator[str]:
    """All has ended by itself."""
    for row in record.rows.values():
        if row.status not in TERMINAL:
            yield f"{row.id}: {row.fsm} is still {row.status}"
    if record.repaired:
        yield f"gd_maintain had to repair {record.repaired} keys"


JUDGES: dict[str, Callable[[Record], Iterator[str]]] = {
    "transition": transitions,
    "run": runs,
    "claim": claims,
    "key": keys,
    "order": order,
    "unique": uniques,
    "signal": signals,
    "join": joins,
    "told": told,
    "ledger": ledger,
    "stuck": stuck,
}
