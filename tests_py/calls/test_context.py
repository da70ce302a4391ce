"""What a step sees."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from gendurable_py import FSM, Context, Done, Signal, step
from gendurable_py.context import ClaimRow
from gendurable_py.fsm import spec_of
from gendurable_py.testing import context

AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


class Machine(FSM, name="test_context.machine"):
    class State(BaseModel):
        order: int

    @step
    def start(self, ctx: Context[State]) -> Done:
        return Done()


def test_each_call_takes_the_next_oldest_signal_of_the_name() -> None:
    inbox = [Signal(1, "a", {"x": 1}, AT), Signal(2, "b", None, AT), Signal(3, "a", "two", AT)]
    ctx = context(Machine, {"order": 1}, signals=inbox, awaits=["a"])
    assert ctx.signals == tuple(inbox)
    assert ctx.awaited == (inbox[0], inbox[2])
    assert ctx.signal("a") == inbox[0]
    assert ctx.signal("a") == inbox[2]
    assert ctx.signal("a") is None
    assert ctx.signal("c") is None
    assert ctx.signal("b") == inbox[1]
    assert ctx.signals == tuple(inbox)


def test_the_state_is_decoded_once_into_its_type() -> None:
    ctx = context(Machine, {"order": 42})
    assert ctx.state == Machine.State(order=42)
    assert ctx.state is ctx.state


def test_a_stored_state_that_does_not_fit_raises_when_it_is_looked_at() -> None:
    ctx = context(Machine, {"order": 1})
    broken = Context[Any](ctx._row._replace(state='{"order": "x"}'), spec_of(Machine).codec)
    assert broken.step == "start"
    with pytest.raises(ValidationError):
        _ = broken.state


def test_childs_meta_and_attributes_are_decoded() -> None:
    row = ClaimRow(
        5, 6, "m", 2, "join", "{}", 1, "q", "key", "unique", 4, None, True,
        "[]",
        '[{"id": 8, "fsm": "c", "status": "done", "state": {}, "result": [1], "last_error": null},'
        ' {"id": 9, "fsm": "c", "status": "failed", "state": {"a": 1}, "result": null, "last_error": "no"}]',
        '{"trace": "x"}',
        '{"tenant": "a"}',
    )  # fmt: skip
    ctx = Context[Any](row, spec_of(Machine).codec)
    done, failed = ctx.childs
    assert (done.id, done.status, done.result, done.last_error) == (8, "done", [1], None)
    assert (failed.status, failed.state, failed.result, failed.last_error) == ("failed", {"a": 1}, None, "no")
    assert ctx.meta == {"trace": "x"}
    assert ctx.attributes == {"tenant": "a"}
    assert (ctx.id, ctx.fsm, ctx.version, ctx.step, ctx.attempt, ctx.queue) == (5, "m", 2, "join", 1, "q")
    assert (ctx.partition_key, ctx.unique_key, ctx.parent_id, ctx.timed_out) == ("key", "unique", 4, True)
    assert not ctx.cancelled
