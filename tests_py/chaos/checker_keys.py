"""Partition keys: who executes at once, in which order they come, and what a paused queue does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .machines import WIDE
from .records import Event, Record

NEVER = 1 << 62


class Periods:
    """What operators decided, and when. A call is in force at some time between its first try and its answer."""

    def __init__(self, record: Record) -> None:
        self._stepped = record.stepped
        self._limits: list[tuple[int, int, int]] = []
        self._pauses: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        limit, since = 1, 0
        pausing: dict[str, tuple[int, int]] = {}
        for line in record.told:
            if line["what"] == "limit":
                self._limits.append((limit, since, line["answered"]))
                limit, since = line["limit"], line["sent"]
            elif line["what"] == "pause":
                pausing[line["queue"]] = line["sent"], line["answered"]
            elif line["what"] == "resume":
                self._pauses[line["queue"]].append((*pausing.pop(line["queue"]), line["sent"], line["answered"]))
        self._limits.append((limit, since, NEVER))
        for queue, (sent, answered) in pausing.items():
            self._pauses[queue].append((sent, answered, NEVER, NEVER))

    def limit(self, key: str, began: int, at: int) -> int:
        """The most that may have been allowed at some time between the two."""
        if key.partition(":")[0] != WIDE:
            return 1
        return max(limit for limit, since, until in self._limits if self._stepped or (since <= at and until >= began))

    def paused(self, queue: str, began: int, at: int) -> bool:
        """Whether it was paused all the time between the two, without a doubt."""
        if self._stepped:
            return False
        return any(answered < began and at < resumed for _, answered, resumed, _ in self._pauses[queue])

    def ever_paused(self, queue: str, began: int, at: int) -> bool:
        """Whether it may have been paused at some time between the two."""
        return any(sent <= at and over >= began for sent, _, _, over in self._pauses[queue])


def keys(record: Record) -> Iterator[str]:
    """At most K executing instances a key, each in a slot of its own. Who executes when K is lowered may finish."""
    periods = Periods(record)
    holders: dict[str, dict[int, int | None]] = defaultdict(dict)
    for event in record.events:
        if event.key is None:
            continue
        held = holders[event.key]
        if event.status != "executing":
            held.pop(event.id, None)
            continue
        new = event.id not in held
        held[event.id] = event.slot
        most = periods.limit(event.key, event.began, event.at)
        if new and len(held) > most:
            yield f"key {event.key}: {sorted(held)} execute at once (seq {event.seq})"
        if event.slot is None or len(set(held.values())) < len(held):
            yield f"key {event.key}: slots {held} (seq {event.seq})"


def overlap(record: Record) -> Iterator[str]:
    """The same from what the steps wrote: never more than K of a key's at once whose claim still stood."""
    if record.stepped:
        return
    periods = Periods(record)
    # When it got its slot: a claim that is kept, or comes after one that was lost, has it from the one before.
    slot_since: dict[tuple[int, int], int] = {}
    lost: dict[tuple[int, int], int] = {}
    for event in record.events:
        if event.claimed or event.kept:
            before = slot_since.get((event.id, event.old_claim or 0)) if event.old_status == "executing" else None
            slot_since[event.id, event.claim] = before or event.began
        if event.old_status == "executing" and (event.status != "executing" or event.claim != event.old_claim):
            lost[event.id, event.old_claim or 0] = event.at
    moments: dict[str, list[tuple[int, bool, int, int]]] = defaultdict(list)
    for run in record.runs:
        claim = run["id"], run["claim"]
        # A claim that a crash of the server took back is nobody's, and what runs past its lease is nobody's business.
        if run.get("key") is None or claim not in slot_since or run["ended"] is None:
            continue
        start, end = run["at"], min(run["ended"], lost.get(claim, NEVER))
        if start < end:
            since = slot_since[claim]
            moments[run["key"]] += [(start, True, run["id"], since), (end, False, run["id"], since)]
    for key, sequence in moments.items():
        running: dict[int, int] = {}
        for at, starts, id, since in sorted(sequence):
            if not starts:
                running.pop(id, None)
                continue
            running[id] = since
            if len(running) > periods.limit(key, min(running.values()), at):
                yield f"key {key}: the steps of {sorted(running)} ran at once"


class Place(NamedTuple):
    """Where a row waits in its key, and from when on every claim must know."""

    priority: int
    lane_at: int
    id: int
    known: int
    queue: str


class Lanes:
    """The rows that wait in each key, as the log goes on."""

    def __init__(self, record: Record) -> None:
        self.periods = Periods(record)
        self._waiting: dict[str, dict[int, Place]] = defaultdict(dict)
        self._inserted = {line["id"]: line.get("answered", NEVER) for line in record.told if line["what"] == "insert"}
        self._revived: dict[int, list[int]] = defaultdict(list)
        for line in record.told:
            if line["what"] == "retry" and line["answer"] is True:
                self._revived[line["id"]].append(line["answered"])

    def note(self, event: Event) -> None:
        waiting = self._waiting[event.key or ""]
        if event.status != "runnable" or event.lane_at is None:
            waiting.pop(event.id, None)
            return
        before = waiting.get(event.id)
        if before is not None and before[:3] == (event.priority, event.lane_at, event.id):
            known = before.known
        elif event.old_status is None:
            known = self._inserted.get(event.id, NEVER)
        elif event.old_status in ("failed", "cancelled"):
            known = min((at for at in self._revived[event.id] if at >= event.at), default=NEVER)
        else:
            known = 0  # it took its place under the lock of its key
        waiting[event.id] = Place(event.priority, event.lane_at, event.id, known, event.queue)

    def of(self, event: Event, until: int) -> list[Place]:
        """Those whose turn has come, and of whom the transaction of this event must know."""
        return [
            place
            for place in self._waiting[event.key or ""].values()
            if place.known <= event.began
            and place.lane_at <= event.began
            and not self.periods.ever_paused(place.queue, event.began, until)
        ]


def order(record: Record) -> Iterator[str]:
    """Within a key nobody overtakes: whoever starts is among the first for whom there are free slots."""
    if record.stepped:
        return
    lanes = Lanes(record)
    together = _started_together(record)
    holders: dict[str, set[int]] = defaultdict(set)
    seen: set[tuple[str, str]] = set()
    for event in record.events:
        if event.fsm != "chaos.keyed" or event.key is None:
            continue
        group = together.get((event.xid, event.key), [])
        if event in group and (event.xid, event.key) not in seen:
            seen.add((event.xid, event.key))
            until = max(one.at for one in group)
            free = lanes.periods.limit(event.key, event.began, until) - len(holders[event.key])
            mine = [(one.old_priority or 0, one.old_lane_at or 0, one.id) for one in group]
            ids = {one.id for one in group}
            line = sorted([*mine, *(place[:3] for place in lanes.of(event, until) if place.id not in ids)])
            if late := [place[2] for place in line[max(free, 0) :] if place[2] in ids]:
                yield f"key {event.key}: {late} overtook, the line was {[place[2] for place in line]} (seq {event.seq})"
        if event.kept and (ahead := [place.id for place in sorted(lanes.of(event, event.at))]):
            yield f"key {event.key}: {event.id} ran on though {ahead} waited (seq {event.seq})"
        lanes.note(event)
        (holders[event.key].add if event.status == "executing" else holders[event.key].discard)(event.id)


def _started_together(record: Record) -> dict[tuple[str, str], list[Event]]:
    """The rows of a key that one claim started: the log has them in any order."""
    groups: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in record.events:
        if event.key is not None and event.claimed and event.old_status == "runnable" and event.old_lane_at is not None:
            groups[event.xid, event.key].append(event)
    return groups


def pauses(record: Record) -> Iterator[str]:
    """What began while a queue was paused hands out nothing of it, and keeps no claim there."""
    periods = Periods(record)
    for event in _of(record.events):
        if periods.paused(event.queue, event.began, event.at):
            yield f"{event.id}: {'claimed' if event.claimed else 'kept'} in paused {event.queue} (seq {event.seq})"


def _of(events: Iterable[Event]) -> Iterator[Event]:
    return (event for event in events if event.claimed or event.kept)
