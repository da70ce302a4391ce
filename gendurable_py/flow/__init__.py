"""Flows: plain async functions that are durable. See `flow` and `FlowContext`."""

from .context import FlowContext, current
from .define import FlowFunction, flow
from .errors import ChildFailed, FlowError, NonDeterministic, StepFailed
from .saga import Saga

__all__ = [
    "ChildFailed",
    "FlowContext",
    "FlowError",
    "FlowFunction",
    "NonDeterministic",
    "Saga",
    "StepFailed",
    "current",
    "flow",
]
