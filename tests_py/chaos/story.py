"""A small record in which all is well, written by hand: doctored, it shows that the checker is not blind."""

from __future__ import annotations

import copy
from typing import Any

from .machines import FEW, PERIOD
from .records import Event, Record, Removal, Row, Schedule

SECOND = 1_000_000


class Story:
    def __init__(self) -> None:
        self.record = Record()
        self._now: dict[int, Event] = {}
        self.time = SECOND
        self._transactions = 0

    def event(self, id: int, fsm: str = "", **changes: Any) -> Event:
        """A change in a transaction of its own, or in that of the last event (`same`)."""
        before = self._now.get(id)
        if not changes.pop("same", False):
            self._transactions += 1
            self.time += 1000
        more: dict[str, Any] = {"seq": len(self.record.events) + 1, "at": self.time, "began": self.time - 10}
        more["xid"] = str(self._transactions)
        if before is None:
            made = Event(id=id, fsm=fsm, old_status=None, status="runnable", step="start", **more)
            made.eligible_at = self.time - 10
        else:
            made = copy.copy(before)
            for name in ("status", "step", "n", "claim", "attempt", "priority", "lane_at", "eligible_at"):
                setattr(made, f"old_{name}", getattr(before, name))
            made.lease_live = None
        for name, value in {**more, **changes}.items():
            setattr(made, name, value)
        self._now[id] = made
        self.record.events.append(made)
        return made

    def tell(self, what: str, id: int, answer: Any, **more: Any) -> None:
        when = {"sent": self.time - 20, "answered": self.time + 20, "tries": 1}
        self.record.told.append({"what": what, "id": id, "answer": answer, **when, **more})

    def insert(self, id: int, fsm: str, **changes: Any) -> None:
        self.event(id, fsm, **changes)
        self.tell("insert", id, id)

    def claim(self, id: int, *, slot: int = 0, **run: Any) -> None:
        now = self._now[id]
        held = now.key and slot
        made = self.event(
            id,
            status="executing",
            claim=now.claim + 10,
            slot=held,
            queue_slot=slot if now.queue == FEW else None,
            attempt=(now.attempt or 0) + (now.status == "executing"),
        )
        about = {"id": id, "fsm": made.fsm, "claim": made.claim, "step": made.step, "attempt": made.attempt}
        at = {"key": made.key, "at": made.at + 10, "ended": made.at + 500}
        self.record.runs.append({**about, **at, **run})

    def next(self, id: int, step: str, **changes: Any) -> None:
        now = self._now[id]
        due = self.time + 990
        place: dict[str, Any] = {
            "eligible_at": due,
            "lane_at": due if now.key else None,
            "slot": None,
            "queue_slot": None,
            "attempt": 0,
        }
        self.event(id, **{"status": "runnable", "n": now.n + 1, "step": step, **place, **changes})

    def end(
        self,
        id: int,
        status: str = "done",
        *,
        state: Any = None,
        same: bool = False,
        error: str | None = None,
        **result: Any,
    ) -> None:
        made = self.event(
            id, status=status, slot=None, queue_slot=None, lane_at=None, eligible_at=None, held=None, same=same
        )
        outcome = {"n": made.n + 1, **result} if status == "done" else None
        kept = {"n": made.n, **(state or {})}
        self.record.rows[id] = Row(id, made.fsm, status, made.parent, kept, outcome, error)

    def remove(self, id: int, after: int) -> None:
        ended = self._now[id].at
        self.time += after
        self.event(id, status="gone", old_status=None, eligible_at=None)
        self.record.removals.append(Removal(id, self.time, ended, False, False))


def all_is_well() -> Record:
    story = Story()
    _keyed(story)
    _wide(story)
    _family(story)
    _flaky(story)
    _others(story)
    _limited(story)
    _few(story)
    _ticks(story)
    return story.record


def _keyed(story: Story) -> None:
    for id in (1, 2):
        story.insert(id, "chaos.keyed", key="k", lane_at=1000 * id)
    # The second step takes its place behind the other one.
    for id in (1, 2):
        story.claim(id)
        story.next(id, "last")
    for id in (1, 2):
        story.claim(id)
        story.end(id)


def _wide(story: Story) -> None:
    """Three of a key with two slots; its queue is paused for a while."""
    story.tell("limit", 0, None, limit=2)
    for id in (11, 12, 13):
        story.insert(id, "chaos.keyed", key="wide:0", lane_at=1000 * id, queue="keyed")
    story.claim(11, slot=0)
    story.claim(12, slot=1)
    story.next(11, "last")
    story.claim(13, slot=0)
    story.tell("pause", 0, None, queue="keyed")
    story.next(12, "last")
    story.tell("resume", 0, None, queue="keyed")
    story.claim(11, slot=1)
    story.next(13, "last")
    story.claim(12, slot=0)
    story.end(11)
    story.claim(13, slot=1)
    story.end(12)
    story.end(13)


def _family(story: Story) -> None:
    story.insert(3, "chaos.parent")
    story.claim(3)
    story.event(4, "chaos.child", parent=3, barrier=10)
    story.event(3, status="awaiting_children", n=1, step="join", eligible_at=None, same=True)
    story.claim(4)
    story.end(4)
    story.event(3, status="runnable", eligible_at=story.time - 10, same=True)
    story.claim(3, kids=[[4, "done", {"n": 1}, None]])
    story.end(3, state={"kids": 1})
    story.remove(4, 4 * SECOND)


def _flaky(story: Story) -> None:
    """Fails, is tried again, fails for good at its last attempt, and is retried by an operator."""
    story.insert(21, "chaos.backoff")
    story.claim(21, fails=2, how="raise")
    story.event(21, status="runnable", attempt=1, eligible_at=story.time + SECOND)
    story.time += 2 * SECOND
    story.claim(21, fails=2, how="raise")
    story.end(21, "failed", error="as it was told")
    story.event(21, status="runnable", attempt=0, eligible_at=story.time)
    story.tell("retry", 21, True)
    story.claim(21, fails=0, how="raise")
    story.end(21)


def _limited(story: Story) -> None:
    for id in range(31, 37):
        story.insert(id, "chaos.limited", bucket="chaos", weight=1.0)
        story.claim(id)
        story.end(id)


def _few(story: Story) -> None:
    """Three of a queue of which two execute at once."""
    for id in (41, 42, 43):
        story.insert(id, "chaos.few", queue=FEW)
    story.claim(41, slot=0)
    story.claim(42, slot=1)
    story.next(41, "last")
    story.claim(43, slot=0)
    for id in (42, 43):
        story.next(id, "last")
    for id in (41, 42, 43):
        story.claim(id)
        story.end(id)


def _ticks(story: Story) -> None:
    since = story.time
    for name, all in (("each", True), ("one by one", False)):
        story.record.schedules.append(Schedule(name, since, since + 3 * PERIOD, all))
    for number, (name, tick) in enumerate(
        [("each", 1), ("one by one", 1), ("each", 2), ("each", 3), ("one by one", 3)]
    ):
        story.time = max(story.time, since + tick * PERIOD)
        story.event(51 + number, "chaos.tick", schedule=name, tick=since + tick * PERIOD)
        story.claim(51 + number)
        story.end(51 + number)


def _others(story: Story) -> None:
    story.insert(5, "chaos.waiter")
    story.claim(5, took="5:0", timed_out=False)
    story.tell("signal", 5, "delivered", key="5:0")
    story.end(5, state={"wants": 1}, got=["5:0"])
    story.tell("signal", 5, "no_target", key="5:1")
    for id in (6, 7):
        story.insert(id, "chaos.unique", held="unique:0")
        story.claim(id)
        story.end(id)
    story.insert(8, "chaos.strict")
    for step in ("second", "last"):
        story.claim(8)
        story.next(8, step)
    story.claim(8)
    story.end(8)
    story.record.ledger = [(8, 0), (8, 1), (8, 2)]
    story.insert(9, "chaos.unique")
    story.end(9, status="cancelled", error="chaos")
    story.tell("cancel", 9, True)
    story.event(10, "chaos.late", eligible_at=story.time + SECOND)
    story.tell("insert", 10, 10, due=story.time + SECOND)
    story.time += 2 * SECOND
    story.claim(10)
    story.end(10)
    story.event(14, "chaos.late")
    story.tell("insert", 14, 14, expires=story.time + SECOND)
    story.claim(14)
    story.end(14)
    story.insert(15, "chaos.timed")
    story.claim(15)
    story.event(15, status="runnable", attempt=1, eligible_at=story.time + SECOND)
    story.time += 2 * SECOND
    story.claim(15)
    story.end(15, late=False)
