"""Limits and schedules: what starts in a time, what executes at once, and what is inserted when.

Whoever is killed and whatever is lost: never more than burst + rate * T of a bucket starts in any time, never more of a
queue executes than its limit says, and no tick comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.limits import Start, excess

from .machines import BURST, FEW, MOST, PERIOD, RATE, TERMINAL
from .records import Record

# Time is in microseconds there, and a limit a second.
SECOND = 1_000_000
# So many starts at most are taken as the first of a window; of more, every n-th.
FIRSTS = 1500


def limits(record: Record) -> Iterator[str]:
    """A claim took its tokens between the begin of its transaction and the change of its row."""
    if record.stepped:
        return
    starts = [
        Start(event.bucket, event.weight or 1, event.began / SECOND, event.at / SECOND)
        for event in record.events
        if event.claimed and event.status == "executing" and event.bucket is not None
    ]
    if (over := excess(starts, RATE, BURST, firsts=FIRSTS)) > 1e-6:
        yield f"{over:.3f} more was started in a time than {BURST:g} + {RATE:g} a second"


def queues(record: Record) -> Iterator[str]:
    """At most so many of the queue execute, each in a slot of its own, which it has when its claim commits."""
    last: dict[tuple[str, int], int] = {}
    for event in record.events:
        if event.queue == FEW:
            last[event.xid, event.id] = event.seq
    holders: dict[int, int | None] = {}
    for event in record.events:
        if event.queue != FEW:
            continue
        if event.status == "executing":
            new = event.id not in holders
            holders[event.id] = event.queue_slot
            if new and len(holders) > MOST:
                yield f"queue {FEW}: {sorted(holders)} execute at once (seq {event.seq})"
        else:
            holders.pop(event.id, None)
            if event.queue_slot is not None and last[event.xid, event.id] == event.seq:
                yield f"{event.id}: {event.status} in slot {event.queue_slot} of queue {FEW} (seq {event.seq})"
        # Within a claim a row may execute before it gets its slot, and others may end meanwhile.
        if event.status == "executing" and last[event.xid, event.id] == event.seq:
            others = [slot for id, slot in holders.items() if id != event.id]
            if event.queue_slot is None or event.queue_slot in others:
                yield f"queue {FEW}: slots {holders} (seq {event.seq})"


def schedules(record: Record) -> Iterator[str]:
    """A tick inserts once, at a multiple of the period, and where none may be left out, none is; all of them end."""
    inserted: dict[str, dict[int, int]] = {schedule.name: {} for schedule in record.schedules}
    for event in record.events:
        if event.old_status is not None or event.schedule is None or event.tick is None:
            continue
        ticks = inserted.setdefault(event.schedule, {})
        if (before := ticks.setdefault(event.tick, event.id)) != event.id:
            yield f"{event.schedule}: {before} and {event.id} for one tick (seq {event.seq})"
        row = record.rows.get(event.id)
        if row is None or row.status not in TERMINAL:
            yield f"{event.schedule}: {event.id} is {'gone' if row is None else row.status} and did not end"
    for schedule in record.schedules:
        ticks = inserted[schedule.name]
        if between := [id for at, id in ticks.items() if at <= schedule.since or (at - schedule.since) % PERIOD]:
            yield f"{schedule.name}: {between} between two ticks"
        if schedule.last_tick_at is None or not ticks:
            yield f"{schedule.name}: never ticked"
        elif schedule.last_tick_at != max(ticks):
            yield f"{schedule.name}: says it ticked at {schedule.last_tick_at}, and did at {max(ticks)}"
        elif schedule.all:
            every = range(schedule.since + PERIOD, schedule.last_tick_at, PERIOD)
            if lost := [at for at in every if at not in ticks]:
                yield f"{schedule.name}: left {len(lost)} ticks out, the first at {lost[0]}"
