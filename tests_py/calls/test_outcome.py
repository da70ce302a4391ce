"""Outcomes: how they become the JSON that the server takes, and which signals they use up."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gendurable_py import (
    FSM,
    Await,
    Child,
    Context,
    Done,
    Insert,
    InvalidArgument,
    Next,
    Outcome,
    Replay,
    ScheduleChilds,
    Send,
    Signal,
    Stop,
    job,
    step,
)
from gendurable_py.fsm import spec_of
from gendurable_py.machine.encode import encode_insert, encode_outcome
from gendurable_py.machine.last_resort import encode_stop
from gendurable_py.outcome import Retry
from gendurable_py.testing import context


class Machine(FSM, name="test_outcome.machine", queue="slow"):
    @step
    def start(self, ctx: Context[Any]) -> Next:
        return Next(self.end)

    @step
    def end(self, ctx: Context[Any]) -> Done:
        return Done()


@job(name="test_outcome.work")
def work(args: dict[str, Any]) -> None: ...


def encoded(outcome: object, ctx: Context[Any] | None = None, keep: bool = False) -> dict[str, Any]:
    made = json.loads(encode_outcome(ctx or context(Machine), spec_of(Machine), outcome, keep))
    assert (made.pop("id"), made.pop("claim_no")) == (1, 1)
    return dict(made)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Next("end"), {"kind": "next", "step": "end"}),
        (Next(Machine.end, {"a": 1}), {"kind": "next", "step": "end", "state": {"a": 1}}),
        (
            Next(
                "end", delay=timedelta(minutes=1), partition_key=None, priority=3, queue="q", rate_limit="r", weight=2.5
            ),
            {
                "kind": "next",
                "step": "end",
                "delay_ms": 60000,
                "partition_key": None,
                "priority": 3,
                "queue": "q",
                "rate_limit": "r",
                "weight": 2.5,
            },
        ),
        (Replay(), {"kind": "replay"}),
        (Replay({"a": 1}, 0.5), {"kind": "replay", "state": {"a": 1}, "delay_ms": 500}),
        (Replay(close=30), {"kind": "replay", "close_ms": 30000}),
        (Replay(delay=1, close=timedelta(minutes=1)), {"kind": "replay", "delay_ms": 1000, "close_ms": 60000}),
        (Replay(close=0), {"kind": "replay"}),
        (Next("end", rate_limit="r", close=0.5), {"kind": "next", "step": "end", "rate_limit": "r", "close_ms": 500}),
        (Await("pay"), {"kind": "await", "signals": "pay"}),
        (
            Await(["pay", "cancel"], {"a": 1}, step="end", timeout=0),
            {"kind": "await", "signals": ["pay", "cancel"], "state": {"a": 1}, "step": "end", "timeout_ms": 0},
        ),
        (Done(), {"kind": "done"}),
        (Done([1, "x"]), {"kind": "done", "result": [1, "x"]}),
        (Stop("why"), {"kind": "stop", "reason": "why"}),
        (Stop(ValueError("a\x00b\ud800")), {"kind": "stop", "reason": "ValueError: a\ufffdb?"}),
        (Retry(KeyError("k")), {"kind": "error", "error": "KeyError: 'k'"}),
        (Retry("again", 0), {"kind": "error", "error": "again", "delay_ms": 0}),
        (Retry("429", close=30), {"kind": "error", "error": "429", "close_ms": 30000}),
    ],
)
def test_every_kind_has_exactly_the_keys_of_the_contract(outcome: Outcome, expected: dict[str, Any]) -> None:
    assert encoded(outcome) == expected


@pytest.mark.parametrize(
    "outcome",
    [
        Next("end", attributes={"a": 1, "b": None}),
        Replay(attributes={"a": 1, "b": None}),
        Await("pay", attributes={"a": 1, "b": None}),
        ScheduleChilds("end", [], attributes={"a": 1, "b": None}),
        Done(attributes={"a": 1, "b": None}),
        Stop("why", attributes={"a": 1, "b": None}),
        Retry("no", attributes={"a": 1, "b": None}),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_outcome_changes_attributes(outcome: Outcome) -> None:
    assert encoded(outcome)["attributes"] == {"a": 1, "b": None}
    assert "attributes" not in encoded(Done())


OUTBOX = {"insert": [Insert("elsewhere", {"n": 1}, unique_key="u")], "signal": [Send(7, "paid")]}


@pytest.mark.parametrize(
    "outcome",
    [
        Next("end", **OUTBOX),
        Replay(**OUTBOX),
        Await("pay", **OUTBOX),
        ScheduleChilds("end", [], **OUTBOX),
        Done(**OUTBOX),
        Stop("why", **OUTBOX),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_outcome_but_an_error_inserts_and_sends(outcome: Outcome) -> None:
    made = encoded(outcome)
    assert made["insert"] == [{"fsm": "elsewhere", "unique_key": "u", "state": {"n": 1}}]
    assert made["signal"] == [{"id": 7, "name": "paid", "payload": None}]


def test_an_error_inserts_and_sends_nothing() -> None:
    with pytest.raises(TypeError):
        Retry("no", **OUTBOX)  # type: ignore[arg-type]


def test_what_an_outbox_can_hold() -> None:
    sends = (Send(target, "go", [1], dedup_key=key) for target, key in ((7, None), ("order:7", "e1")))
    made = encoded(Done(insert=(one for one in (work, Machine, {"fsm": "raw"})), signal=sends))
    assert [one["fsm"] for one in made["insert"]] == ["test_outcome.work", "test_outcome.machine", "raw"]
    assert made["signal"] == [
        {"id": 7, "name": "go", "payload": [1]},
        {"unique_key": "order:7", "name": "go", "payload": [1], "dedup_key": "e1"},
    ]
    assert encoded(Done(insert=[], signal=[])) == {"kind": "done", "insert": [], "signal": []}


def test_an_insert_says_what_a_child_can() -> None:
    options: dict[str, Any] = {"step": Machine.end, "partition_key": "p", "delay": 2, "meta": {"a": 1}, "expires": 60}
    options["attributes"] = {"tenant": "a"}
    assert b'"attributes":{"tenant":"a"}' in encode_insert(Insert(Machine, {"n": 1}, **options))
    assert encode_insert(Insert(Machine, {"n": 1}, **options)) == encode_insert(Child(Machine, {"n": 1}, **options))


def test_keep_is_only_for_next() -> None:
    assert encoded(Next("end"), keep=True)["keep"] is True
    assert "keep" not in encoded(Done(), keep=True)


def test_childs_are_machines_jobs_names_or_children() -> None:
    made = encoded(ScheduleChilds("end", [Machine, Child(work, {"n": 1}, unique_key="u", delay=2), Child("elsewhere")]))
    assert made["childs"] == [
        {"fsm": "test_outcome.machine", "step": "start", "version": 1, "queue": "slow", "state": {}},
        {
            "fsm": "test_outcome.work",
            "step": "start",
            "version": 1,
            "queue": "default",
            "unique_key": "u",
            "delay_ms": 2000,
            "state": {"n": 1},
        },
        {"fsm": "elsewhere", "state": {}},
    ]


def test_a_child_says_everything_that_an_insert_can() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    child = Child(
        Machine,
        {},
        step=Machine.end,
        version=7,
        queue="q",
        priority=-1,
        partition_key="p",
        unique_scope=["runnable"],
        eligible_at=at,
        rate_limit="r",
        weight=0.5,
        max_attempts=2,
        meta={"a": [1]},
    )
    made = json.loads(encode_insert(child))
    assert made["step"] == "end"
    assert made["eligible_at"] == "2030-01-01T00:00:00+00:00"
    assert (made["version"], made["unique_scope"], made["meta"]) == (7, ["runnable"], {"a": [1]})


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "done",
        Outcome(),
        Next("nowhere"),
        Next(print),
        Next("end", [1]),
        Next("end", delay=-1),
        Next("end", delay=float("nan")),
        Next("end", delay="1"),  # type: ignore[arg-type]
        Replay(delay=float("inf")),
        Replay(close=-1),
        Replay(close=float("nan")),
        Replay(close=True),
        Retry("429", close="30"),  # type: ignore[arg-type]
        Next("end", close=30),
        Next("end", rate_limit=None, close=30),
        Await("pay", timeout=-1),
        Await("pay", step="nowhere"),
        ScheduleChilds("nowhere", []),
        ScheduleChilds("end", [Child(Machine, [1])]),
        ScheduleChilds("end", [object()]),  # type: ignore[list-item]
        Done(float("nan")),
        Done("\x00"),
        Done(object()),
        Done(insert=[Child("m")]),  # type: ignore[list-item]
        Done(insert=[Insert(Machine, [1])]),
        Done(insert=[object()]),  # type: ignore[list-item]
        Done(signal=["go"]),  # type: ignore[list-item]
        Done(signal=[Send(True, "go")]),
        Done(signal=[Send(None, "go")]),  # type: ignore[arg-type]
        Done(signal=[Send(1.5, "go")]),  # type: ignore[arg-type]
        Done(signal=[Send(1, "go", float("nan"))]),
        Done(signal=[Send(1, "go", "\x00")]),
        Done(signal=[Send(1, "x" * (33 << 20))]),
    ],
)
def test_an_outcome_that_cannot_be_is_refused_before_it_is_sent(bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        encoded(bad)


def test_the_last_resort_encodes_anything() -> None:
    made = json.loads(encode_stop(context(Machine)._row, RuntimeError("\x00\udfff" * 9000)))
    assert made["kind"] == "stop"
    assert len(made["reason"]) < 9000


def test_outcomes_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Done(1).result = 2  # type: ignore[misc]
    assert Next("end") == Next("end") != Next("end", {})


AT = datetime(2026, 1, 1, tzinfo=UTC)
INBOX = [Signal(7, "a", 1, AT), Signal(8, "b", 2, AT), Signal(9, "a", 3, AT)]


def used(outcome: Outcome, *taken: str, awaits: list[str]) -> list[int]:
    ctx = context(Machine, signals=INBOX, awaits=awaits)
    for name in taken:
        ctx.signal(name)
    return list(encoded(outcome, ctx).get("consume", []))


def test_what_was_taken_is_used_up_and_only_that() -> None:
    assert used(Next("end"), "a", awaits=["a", "b"]) == [7]
    assert used(Next("end"), "a", "a", "b", awaits=["b"]) == [7, 9, 8]
    assert used(Await("a"), "b", awaits=["b"]) == [8]
    assert used(ScheduleChilds("end", []), "b", awaits=[]) == [8]


def test_if_nothing_was_taken_progress_uses_up_what_was_awaited() -> None:
    assert used(Next("end"), awaits=["a"]) == [7, 9]
    assert used(ScheduleChilds("end", []), awaits=["b"]) == [8]
    assert used(Next("end"), awaits=[]) == []
    assert used(Await("a"), awaits=["b"]) == []


def test_a_replay_and_an_error_use_up_nothing() -> None:
    assert used(Replay(), "a", awaits=["a"]) == []
    assert used(Retry("no"), "a", awaits=["a"]) == []


def test_consume_overrides_the_rule() -> None:
    assert used(Next("end", consume=[]), "a", awaits=["a"]) == []
    assert used(Next("end", consume=[INBOX[1], 9]), awaits=["a"]) == [8, 9]
    assert used(Await("a", consume=[7]), awaits=["a"]) == [7]
    assert used(Replay(consume=[8]), awaits=["a"]) == [8]
