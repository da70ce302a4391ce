"""What a step gives back, and the values it meets: see `machine.outcome`."""

from .machine.describe import describe
from .machine.outcome import (
    UNSET,
    Await,
    Cancel,
    Child,
    ChildResult,
    Done,
    MachineLike,
    Next,
    Outcome,
    Replay,
    Retry,
    ScheduleChilds,
    Signal,
    StepLike,
    Stop,
    Unset,
)

__all__ = [
    "UNSET",
    "Await",
    "Cancel",
    "Child",
    "ChildResult",
    "Done",
    "MachineLike",
    "Next",
    "Outcome",
    "Replay",
    "Retry",
    "ScheduleChilds",
    "Signal",
    "StepLike",
    "Stop",
    "Unset",
    "describe",
]
