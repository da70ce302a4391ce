"""Contexts without a database, for steps that are called as plain functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..machine.claim import ClaimRow
from ..machine.codec import dumps
from ..machine.context import Context
from ..machine.outcome import MachineLike, Signal
from ..machine.spec import Spec, spec_of


def context(
    machine: MachineLike,
    state: object = None,
    *,
    step: str | None = None,
    attempt: int = 0,
    signals: Iterable[Signal] = (),
    awaits: Iterable[str] = (),
    timed_out: bool = False,
    meta: dict[str, object] | None = None,
    attributes: dict[str, object] | None = None,
) -> Context[Any]:
    """A context to call a step with, without any database: ``Checkout().ship(context(Checkout, {"order": 1}))``."""
    spec: Spec = spec_of(machine)
    inbox = [
        {
            "id": signal.id,
            "name": signal.name,
            "payload": signal.payload,
            "inserted_at": signal.inserted_at.isoformat(),
        }
        for signal in signals
    ]
    row = ClaimRow(
        id=1,
        claim_no=1,
        fsm=spec.name,
        version=spec.version,
        step=step or spec.initial,
        state=spec.codec.encode({} if state is None else state).decode(),
        attempt=attempt,
        queue=spec.queue,
        partition_key=None,
        unique_key=None,
        parent_id=None,
        awaits=list(awaits) or None,
        timed_out=timed_out,
        signals=dumps(inbox).decode(),
        childs="[]",
        meta=dumps(meta or {}).decode(),
        attributes=dumps(attributes or {}).decode(),
    )
    return Context(row, spec.codec)
