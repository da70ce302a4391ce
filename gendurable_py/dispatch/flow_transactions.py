"""Transactional steps of flows: what one writes on its connection and its entry in the journal are one commit.

Such a step runs alone, and its commit ends the claim: the flow is claimed again and replayed. `transaction` runs it as
it runs those of machines, of which this makes one for the occasion.
"""

from __future__ import annotations

from typing import Any

from ..flow import entries
from ..flow.moves import end_with
from ..flow.waiting import StepCall
from ..machine.spec import Step
from .work import Work


class FlowStep(Work):
    """One run of a transactional step of a flow."""

    __slots__ = ("call",)

    def __init__(self, work: Work, call: StepCall) -> None:
        step = call.step

        def run(ctx: Any) -> Any:
            return step.function(ctx.conn, *step.args, **step.kwargs)

        made = Step(step.name, run, call.is_async, transactional=True)
        super().__init__(work.row, work.spec, made, work.worker, work.since, False)
        self.call = call

    @property
    def cancelled(self) -> bool:
        return self.call.ctx._cancelled

    def encode(self, returned: object) -> bytes:
        """The outcome that goes with it: the flow goes on behind this step."""
        call = self.call
        call.keep(returned)
        assert call.text is not None
        run, step = call.owner.run, call.step
        return end_with(
            run, step.name, entries.value("step", entries.name_of(step.name), step.key[2], run.now(), call.text)
        )


def run(work: Work, call: StepCall) -> None:
    """Run a sync one; its call has an error afterwards, or the work its fate."""
    assert work.transactions is not None
    made = FlowStep(work, call)
    try:
        work.transactions.run(made)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its error
        call.error = error
    call.fate = made.fate


async def run_async(work: Work, call: StepCall) -> None:
    """The same for an async one."""
    assert work.transactions is not None
    made = FlowStep(work, call)
    try:
        await work.transactions.run_async(made)
    except BaseException as error:
        if call.broken_off(error):
            raise
        call.error = error
    call.fate = made.fate
