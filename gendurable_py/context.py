"""What a step sees of its instance: see `machine.context`."""

from .machine.claim import ClaimRow
from .machine.context import Context

__all__ = [
    "ClaimRow",
    "Context",
]
