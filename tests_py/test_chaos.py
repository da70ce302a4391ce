"""The short form of the chaos suite (`make chaos` is the long one), and the proof that its checker is not blind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from chaos.checker import check
from chaos.records import Event, Record, Row
from chaos.scene import Unavailable, installation, play

SEED = 20261124


@pytest.mark.timeout(240)
def test_nothing_is_lost_whatever_is_broken() -> None:
    try:
        installation()
    except Unavailable as error:
        pytest.skip(str(error))
    report = play(SEED)
    print(report)
    assert report.violations == []
    # There were faults, and work for them to hurt. (A backend that is to be hit may have gone by itself.)
    assert {
        "server killed",
        "all backends terminated",
        "connections cut",
        "worker killed",
        "worker stopped past its lease",
    } <= set(report.faults)
    assert report.instances.total() > 100
    for fsm in ("steps", "keyed", "unique", "child", "parent", "waiter", "strict"):
        assert report.instances[f"chaos.{fsm} done"], fsm


class Story:
    """A small record in which all is well, written by hand."""

    def __init__(self) -> None:
        self.record = Record()
        self._now: dict[int, Event] = {}

    def event(self, id: int, fsm: str = "", **changes: Any) -> Event:
        before = self._now.get(id)
        seq = len(self.record.events) + 1
        if before is None:
            places = {"priority": 0, "lane_at": None, "old_priority": None, "old_lane_at": None}
            first = {"seq": seq, "id": id, "fsm": fsm, "old_status": None, "status": "runnable", "old_step": None}
            more = {"old_n": None, "n": 0, "old_claim": None, "claim": 0, "lease_live": None, "key": None}
            made = Event(**first, **more, **places, slot=None, at=seq, held=None, parent=None)  # type: ignore[arg-type]
            made.__dict__["step"] = "start"
        else:
            made = copy.copy(before)
            for name in ("status", "n", "claim", "priority", "lane_at"):
                setattr(made, f"old_{name}", getattr(before, name))
            made.old_step = before.__dict__["step"]
            made.seq = made.at = seq
            made.lease_live = None
        for name, value in changes.items():
            setattr(made, name, value)
        self._now[id] = made
        self.record.events.append(made)
        return made

    def claim(self, id: int, **run: Any) -> None:
        key = self._now[id].key
        event = self.event(id, status="executing", claim=self._now[id].claim + 10, slot=key and 0)
        self.record.runs.append({"id": id, "claim": event.claim, "step": event.old_step, **run})

    def end(self, id: int, status: str = "done", state: Any = None, parent: int | None = None, **result: Any) -> None:
        event = self.event(id, status=status, slot=None, lane_at=None, held=None)
        outcome = {"n": event.n + 1, **result} if status == "done" else None
        self.record.rows[id] = Row(id, event.fsm, status, parent, {"n": event.n, **(state or {})}, outcome)


def all_is_well() -> Record:
    story = Story()
    for id in (1, 2):
        story.event(id, "chaos.keyed", key="k", lane_at=id)
    for id in (1, 2):
        story.claim(id)
        story.end(id)
    story.event(3, "chaos.parent")
    story.claim(3)
    story.event(4, "chaos.child", parent=3)
    story.event(3, status="awaiting_children", n=1, step="join")
    story.claim(4)
    story.end(4, parent=3)
    story.event(3, status="runnable")
    story.claim(3, kids=[[4, "done"]])
    story.end(3, state={"kids": 1})
    story.event(5, "chaos.waiter")
    story.claim(5)
    story.end(5, state={"wants": 1}, got=["5:0"])
    for id in (6, 7):
        story.event(id, "chaos.unique", held="u")
        story.claim(id)
        story.end(id)
    story.event(8, "chaos.strict")
    for n, step in enumerate(("second", "last")):
        story.claim(8)
        story.event(8, status="runnable", n=n + 1, step=step)
    story.claim(8)
    story.end(8)
    story.event(9, "chaos.unique")
    story.end(9, status="cancelled")
    record = story.record
    record.ledger = [(8, 0), (8, 1), (8, 2)]
    record.told = [
        {"what": "insert", "id": 1, "answer": 1},
        {"what": "signal", "id": 5, "key": "5:0", "answer": "delivered"},
        {"what": "cancel", "id": 9, "answer": True},
    ]
    return record


def of(record: Record, id: int, **wanted: Any) -> Event:
    return next(e for e in record.events if e.id == id and all(getattr(e, k) == v for k, v in wanted.items()))


def overtake(record: Record) -> None:
    of(record, 2, old_status=None).lane_at = 0


def two_at_once(record: Record) -> None:
    of(record, 1, status="done").status = "executing"


def skip_a_step(record: Record) -> None:
    of(record, 8, n=2).n = 3


def after_the_end(record: Record) -> None:
    again = copy.copy(of(record, 9, status="cancelled"))
    again.old_status, again.status, again.seq = "cancelled", "runnable", 1000
    record.events.append(again)


def join_early(record: Record) -> None:
    end = of(record, 4, status="done")
    record.events.remove(end)
    record.events.append(end)


def live_lease(record: Record) -> None:
    event = of(record, 6, status="executing")
    event.old_status, event.lease_live = "executing", True


def number_twice(record: Record) -> None:
    record.runs.append(dict(record.runs[0]))


def hold_twice(record: Record) -> None:
    of(record, 6, status="done").held = "u"


SEEDED: list[tuple[str, Callable[[Record], object]]] = [
    ("transition", skip_a_step),
    ("transition", after_the_end),
    ("transition", lambda r: r.events.remove(of(r, 8, n=1, status="runnable"))),
    ("run", lambda r: r.runs.pop(0)),
    ("run", number_twice),
    ("claim", live_lease),
    ("claim", lambda r: setattr(of(r, 7, status="executing"), "old_claim", 99)),
    ("key", two_at_once),
    ("order", overtake),
    ("unique", hold_twice),
    ("signal", lambda r: r.rows[5].result["got"].append("5:0")),
    ("signal", lambda r: r.rows[5].result["got"].remove("5:0")),
    ("signal", lambda r: r.told.pop(1)),
    ("signal", lambda r: setattr(r, "signals_left", 1)),
    ("join", join_early),
    ("join", lambda r: next(run for run in r.runs if "kids" in run)["kids"].clear()),
    ("told", lambda r: r.rows.pop(1)),
    ("told", lambda r: setattr(r.rows[9], "status", "failed")),
    ("ledger", lambda r: r.ledger.append((8, 1))),
    ("ledger", lambda r: r.ledger.pop()),
    ("stuck", lambda r: setattr(r.rows[1], "status", "executing")),
    ("stuck", lambda r: setattr(r, "repaired", 1)),
]


def test_the_checker_is_content_when_all_is_well() -> None:
    assert check(all_is_well()) == []


@pytest.mark.parametrize(("kind", "doctor"), SEEDED)
def test_the_checker_finds_a_seeded_violation(kind: str, doctor: Callable[[Record], object]) -> None:
    record = all_is_well()
    doctor(record)
    assert kind in {violation.kind for violation in check(record)}
