"""Transactional steps of flows: what one writes on its connection and its entry in the journal are one commit.

Such a step runs alone, and its commit ends the claim: the flow is claimed again and replayed. `transaction` runs it as
it runs those of machines, of which this makes one for the occasion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..flow import entries
from ..flow.moves import end_with
from ..flow.waiting import StepCall
from ..machine.claim import ClaimRow
from ..machine.context import Context
from ..machine.spec import Spec, Step


class Transacting(Protocol):
    """Whoever runs transactional steps (see `transaction`)."""

    def run(self, work: Any, encode: Callable[[object], bytes]) -> None: ...

    async def run_async(self, work: Any, encode: Callable[[object], bytes]) -> None: ...


class Claimed(Protocol):
    """The work of a flow."""

    row: ClaimRow
    spec: Spec
    worker: str
    transactions: Any


class FlowStep:
    """One run of a transactional step of a flow, as that of a machine."""

    def __init__(self, work: Claimed, call: StepCall) -> None:
        step = call.step

        def run(ctx: Any) -> Any:
            return step.function(ctx.conn, *step.args, **step.kwargs)

        self.row = work.row
        self.spec = work.spec
        self.step = Step(step.name, run, call.is_async, transactional=True)
        self.worker = work.worker
        self.ctx: Context[Any] = Context(work.row, work.spec.codec)
        self.outcome: bytes | None = None
        self.fate: Any = None
        self._call = call

    @property
    def cancelled(self) -> bool:
        return self._call.ctx._cancelled

    def encode(self, returned: object) -> bytes:
        """The outcome that goes with it: the flow goes on behind this step."""
        call = self._call
        call.keep(returned)
        assert call.text is not None
        run, step = call.owner.run, call.step
        entry = entries.value("step", entries.name_of(step.name), step.key[2], run.now(), call.text)
        return end_with(run, step.name, entry)


def run(work: Claimed, call: StepCall) -> None:
    """Run a sync one; its call has an error afterwards, or its fate."""
    made, transactions = FlowStep(work, call), _need(work)
    try:
        transactions.run(made, made.encode)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its error
        call.error = error
    call.fate = made.fate


async def run_async(work: Claimed, call: StepCall) -> None:
    """The same for an async one."""
    made, transactions = FlowStep(work, call), _need(work)
    try:
        await transactions.run_async(made, made.encode)
    except BaseException as error:
        if call.broken_off(error):
            raise
        call.error = error
    call.fate = made.fate


def _need(work: Claimed) -> Transacting:
    found: Transacting = work.transactions
    return found
