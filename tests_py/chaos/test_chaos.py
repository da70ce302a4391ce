"""The short form of the chaos suite (`make chaos` is the long one), and the proof that its checker is not blind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.wait import wait_until

from chaos import bank_checker
from chaos.around import play_around
from chaos.aside import Gaps, without_excuse
from chaos.by_hand import LOST, Hand
from chaos.checker import INVARIANTS, JUDGES, check
from chaos.records import Event, Record, Schedule
from chaos.sabotage import DEFECTS
from chaos.scene import Unavailable, installation, play
from chaos.story import SECOND, all_is_well

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
    assert report.maintained > 0
    for fsm in (
        "steps",
        "keyed",
        "unique",
        "limited",
        "few",
        "tick",
        "child",
        "parent",
        "waiter",
        "strict",
        "flaky",
        "late",
        "timed",
    ):
        assert report.instances[f"chaos.{fsm} done"], fsm


@pytest.mark.timeout(240)
def test_nothing_is_lost_and_nothing_stands_still_whatever_goes_on_around() -> None:
    try:
        installation()
    except Unavailable as error:
        pytest.skip(str(error))
    report = play_around(SEED, 1 / 3, steady=True)
    print(report)
    assert report.violations == []
    assert {"settings changed", "payload: state", "payload: inbox", "analyze"} & set(report.faults)
    assert any(kind.startswith("transaction") for kind in report.faults)
    assert report.instances.total() > 100


@pytest.mark.parametrize(
    ("control", "excused", "found"),
    [
        ([], [], [(0.0, 3.0)]),
        ([(0.5, 1.0), (4.0, 9.0)], [], [(0.0, 3.0)]),
        ([(0.5, 2.9)], [], []),
        ([], [(2.0, 8.0)], []),
        ([], [(3.5, 8.0)], [(0.0, 3.0)]),
    ],
)
def test_standing_still_is_seen(control: list[Any], excused: list[Any], found: list[Any]) -> None:
    gaps, other = Gaps(), Gaps()
    gaps.seen, other.seen = [(0.0, 3.0), (5.0, 5.9)], control
    assert without_excuse(gaps, other, excused) == found


def of(record: Record, id: int, **wanted: Any) -> Event:
    """The first change of an instance that looks so."""
    return next(e for e in record.events if e.id == id and all(getattr(e, k) == v for k, v in wanted.items()))


def run_of(record: Record, id: int, nth: int = 0) -> dict[str, Any]:
    return [run for run in record.runs if run["id"] == id][nth]


def said(record: Record, what: str, id: int = 0) -> dict[str, Any]:
    return next(line for line in record.told if (line["what"], line["id"]) == (what, id))


def change(event: Event, **values: Any) -> None:
    for name, value in values.items():
        setattr(event, name, value)


def after_the_end(record: Record) -> None:
    again = copy.copy(of(record, 7, status="done"))
    change(again, old_status="done", status="runnable", seq=1000)
    record.events.append(again)


def join_early(record: Record) -> None:
    """The child's end comes after its parent has gone on."""
    end = of(record, 4, status="done")
    record.events.remove(end)
    record.events.insert(record.events.index(of(record, 3, status="done")), end)


def overtake(record: Record) -> None:
    """The second was put in before the first, with the same wish to go first."""
    change(of(record, 2, old_status=None), lane_at=500)
    change(of(record, 2, status="executing"), old_lane_at=500)


def keep_with_others_waiting(record: Record) -> None:
    change(of(record, 1, n=1), status="executing", claim=11)


def beyond_the_limit(record: Record) -> None:
    said(record, "limit")["limit"] = 1
    run_of(record, 11)["ended"] += 5000


def pause_for_long(record: Record) -> None:
    said(record, "resume")["sent"] += 5000
    said(record, "resume")["answered"] += 5000


def not_retried(record: Record) -> None:
    said(record, "retry", 21)["answer"] = False
    said(record, "retry", 21)["tries"] = 0


def nobody_else_to_blame(record: Record) -> None:
    said(record, "insert", 10)["due"] += 5 * SECOND


SEEDED: list[tuple[str, Callable[[Record], object]]] = [
    # 1: a transition is never undone, repeated or skipped, and commits only under the claim that produced it
    ("transition", lambda r: change(of(r, 8, n=2), n=3)),
    ("transition", after_the_end),
    ("transition", not_retried),
    ("transition", lambda r: said(r, "retry", 21).update(id=9)),
    ("transition", lambda r: r.events.remove(of(r, 8, n=1, status="runnable"))),
    ("transition", lambda r: r.events.append(copy.copy(of(r, 5, old_status=None)))),
    ("transition", lambda r: r.rows[8].result.update(n=2)),
    ("transition", lambda r: r.rows[15].result.update(late=True)),
    ("run", lambda r: r.runs.remove(run_of(r, 8))),
    ("run", lambda r: r.runs.append(dict(run_of(r, 8)))),
    ("run", lambda r: run_of(r, 8).update(step="last")),
    ("run", lambda r: run_of(r, 8).update(ended=None)),
    ("run", lambda r: run_of(r, 8).update(ended=of(r, 8, n=1).at + 1)),
    ("attempt", lambda r: change(of(r, 8, status="executing"), attempt=1)),
    ("attempt", lambda r: run_of(r, 21, 1).update(attempt=0)),
    ("attempt", lambda r: run_of(r, 21, 2).update(fails=1)),
    ("attempt", lambda r: run_of(r, 21, 1).update(fails=1)),
    ("attempt", lambda r: change(of(r, 21, attempt=1), eligible_at=0)),
    ("time", lambda r: change(of(r, 10, status="executing"), old_eligible_at=1 << 60)),
    ("time", lambda r: change(of(r, 1, status="executing"), old_lane_at=1 << 60)),
    ("time", nobody_else_to_blame),
    ("time", lambda r: said(r, "insert", 14).update(expires=of(r, 14, status="executing").began - SECOND)),
    ("time", lambda r: said(r, "insert", 14).update(expires=of(r, 14, status="done").began - SECOND)),
    ("schedule", lambda r: change(of(r, 53, old_status=None), tick=of(r, 51).tick)),
    ("schedule", lambda r: change(of(r, 53, old_status=None), tick=r.schedules[0].since + 1)),
    ("schedule", lambda r: change(of(r, 51, old_status=None), tick=r.schedules[0].since)),
    ("schedule", lambda r: change(of(r, 53, old_status=None), schedule="one by one")),
    ("schedule", lambda r: setattr(r.rows[55], "status", "runnable")),
    ("schedule", lambda r: r.rows.pop(55)),
    ("schedule", lambda r: setattr(r.schedules[1], "last_tick_at", of(r, 53).tick)),
    ("schedule", lambda r: r.schedules.append(Schedule("never", 0, None, False))),
    # 2: one live claim an instance, K executing instances a key, order within a key
    ("claim", lambda r: change(of(r, 6, status="executing"), old_status="executing", lease_live=True)),
    ("claim", lambda r: change(of(r, 7, status="executing"), old_claim=99)),
    ("claim", lambda r: change(of(r, 6, status="executing"), old_status="awaiting_children")),
    ("key", lambda r: change(of(r, 1, status="done"), status="executing", slot=0)),
    ("key", lambda r: said(r, "limit").update(limit=1)),
    ("key", lambda r: change(of(r, 12, status="executing"), slot=0)),
    ("overlap", lambda r: run_of(r, 2).update(at=run_of(r, 1)["at"] + 1)),
    ("overlap", beyond_the_limit),
    ("order", overtake),
    ("order", keep_with_others_waiting),
    ("order", lambda r: change(of(r, 13, old_status=None), priority=-1)),
    ("pause", pause_for_long),
    ("limit", lambda r: change(of(r, 36, status="executing"), weight=1.5)),
    ("queue", lambda r: r.events.remove(of(r, 41, n=1, status="runnable"))),
    ("queue", lambda r: change(of(r, 42, status="executing"), queue_slot=0)),
    ("queue", lambda r: change(of(r, 42, status="executing"), queue_slot=None)),
    ("queue", lambda r: change(of(r, 42, n=1, status="runnable"), queue_slot=1)),
    # 3: an accepted signal is used once
    ("signal", lambda r: r.rows[5].result["got"].append("5:0")),
    ("signal", lambda r: r.rows[5].result["got"].remove("5:0")),
    ("signal", lambda r: r.told.remove(said(r, "signal", 5))),
    ("signal", lambda r: run_of(r, 5).update(timed_out=True)),
    ("signal", lambda r: setattr(r, "signals_left", 1)),
    # 4: a parent goes on exactly when its last child has ended
    ("barrier", join_early),
    ("barrier", lambda r: change(of(r, 3, old_status="awaiting_children"), xid="later")),
    ("barrier", lambda r: r.events.remove(of(r, 3, old_status="awaiting_children"))),
    ("join", join_early),
    ("join", lambda r: run_of(r, 3, 1)["kids"].clear()),
    ("join", lambda r: run_of(r, 3, 1)["kids"][0].__setitem__(2, {"n": 0})),
    # 5: one holder a unique key
    ("unique", lambda r: change(of(r, 6, status="done"), held="unique:0", status="executing")),
    ("unique", lambda r: change(of(r, 6, status="done"), held="unique:0")),
    # 6: nothing is stuck
    ("stuck", lambda r: setattr(r.rows[1], "status", "executing")),
    ("stuck", lambda r: setattr(r, "repaired", 1)),
    # 7: crashes lose nothing of what was acknowledged, and retention takes nothing that is needed
    ("told", lambda r: r.rows.pop(1)),
    ("told", lambda r: change(of(r, 9, status="cancelled"), status="failed")),
    ("told", lambda r: said(r, "cancel", 9).update(answer="unknown")),
    ("told", lambda r: said(r, "signal", 5).update(answer="no_target")),
    ("ledger", lambda r: r.ledger.append((8, 1))),
    ("ledger", lambda r: r.ledger.pop()),
    ("removal", lambda r: setattr(r.removals[0], "finished_at", r.removals[0].at - SECOND)),
    ("removal", lambda r: setattr(r.removals[0], "parent_alive", True)),
    ("removal", lambda r: setattr(r.removals[0], "carried", True)),
    ("removal", lambda r: setattr(r.rows[4], "status", "runnable")),
    ("orphan", lambda r: r.orphans.append("a signal of 4")),
]


def test_the_checker_is_content_when_all_is_well() -> None:
    assert check(all_is_well()) == []


@pytest.mark.parametrize(("kind", "doctor"), SEEDED)
def test_the_checker_finds_a_seeded_violation(kind: str, doctor: Callable[[Record], object]) -> None:
    record = all_is_well()
    doctor(record)
    assert kind in {violation.kind for violation in check(record)}


def test_each_judge_has_a_seeded_violation() -> None:
    assert {kind for kind, _ in SEEDED} == set(JUDGES)
    # 8, that no open transaction stops others, is watched while it goes on.
    assert set(INVARIANTS.values()) == set(range(1, 9))


def comes_back_late(hand: Hand) -> None:
    """A worker whose lease is over ends its step while another runs it."""
    hand.insert("chaos.steps")
    late = hand.start("late", lease=LOST)
    assert late is not None
    taken = wait_until(lambda: hand.start("other"))
    assert taken is not None
    hand.finish(late, "late")
    hand.finish(taken, "other")


def comes_back_late_with_others(hand: Hand) -> None:
    """The same in a batch: what is plain in it has a way of its own."""
    hand.insert("chaos.steps")
    late = hand.start("late", lease=LOST)
    assert late is not None
    taken = wait_until(lambda: hand.start("other"))
    assert taken is not None
    hand.insert("chaos.steps")
    fresh = hand.start("late")
    assert fresh is not None
    hand.finish_together([late, fresh], "late")
    hand.finish(taken, "other")


def three_of_a_key(hand: Hand) -> None:
    for _ in range(3):
        hand.insert("chaos.keyed", queue="keyed", partition_key="k")


def family(hand: Hand) -> None:
    hand.insert("chaos.parent", {"kids": 2})


def two_signals(hand: Hand) -> None:
    id = hand.insert("chaos.waiter", {"got": [], "wants": 2})
    for number in range(2):
        hand.signal(id, f"{id}:{number}")


def more_than_a_burst(hand: Hand) -> None:
    hand.limit()
    for _ in range(20):
        hand.insert("chaos.limited", rate_limit="chaos")


def more_than_fit(hand: Hand) -> None:
    hand.few()
    for _ in range(4):
        hand.insert("chaos.few", queue="few")
    for claim in [hand.start() for _ in range(4)]:
        if claim is not None:
            hand.finish(claim)


def missed_ticks(hand: Hand) -> None:
    hand.schedule("each")
    hand.miss("5 s")
    for _ in range(6):
        claim = wait_until(hand.start)
        assert claim is not None
        hand.finish(claim)
    hand.pause("each")


STORIES: dict[str, Callable[[Hand], None]] = {
    "unfenced": comes_back_late,
    "unfenced batch": comes_back_late_with_others,
    "no baton": three_of_a_key,
    "no order": three_of_a_key,
    "early release": family,
    "inbox kept": two_signals,
    "free tokens": more_than_a_burst,
    "no room": more_than_fit,
    "tick again": missed_ticks,
}


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.parametrize("planted", [False, True], ids=["sound", "planted"])
def test_the_suite_finds_a_defect_that_is_planted_into_the_engine(
    name: str, planted: bool, db: Any, tmp_path: Path
) -> None:
    hand = Hand(db.connect(), tmp_path, name if planted else None)
    STORIES[name](hand)
    hand.drain()
    found = {violation.kind for violation in check(hand.record())}
    if planted:
        assert found & set(DEFECTS[name].finds)
    else:
        assert found == set()


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_that_can_be_planted_still_fits_the_sql(name: str) -> None:
    assert DEFECTS[name].new in DEFECTS[name].sql()
    assert set(DEFECTS[name].finds) <= {*INVARIANTS, *bank_checker.JUDGES}
