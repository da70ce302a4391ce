"""Machines: see `machine.fsm` and `machine.spec`."""

from .machine.fsm import FSM, step
from .machine.spec import Backoff, Spec, Step, spec_of, step_name

__all__ = [
    "FSM",
    "Backoff",
    "Spec",
    "Step",
    "spec_of",
    "step",
    "step_name",
]
