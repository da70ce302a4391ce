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

# In the package the decorator has this module's name, and stands in its place: what is here is found at it, too, as
# `gendurable_py.flow.current()`.
for _name in __all__:
    if _name != "flow":
        setattr(flow, _name, globals()[_name])
