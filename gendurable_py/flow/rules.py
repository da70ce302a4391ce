"""How often a step is tried, and what is not tried again."""

from __future__ import annotations

from typing import NamedTuple

from .._contract import Seconds
from ..errors import InvalidArgument
from ..machine.times import seconds
from ..machine.times import timeout as read_timeout


class Rule(NamedTuple):
    """How often a step is tried, and how long the pauses are: ``delay``, times ``factor`` each time."""

    max_attempts: int = 1
    delay: float = 1.0
    factor: float = 2.0
    max_delay: float = 300.0
    timeout: float | None = None
    never: tuple[type[BaseException], ...] = ()

    def pause(self, attempts: int) -> float:
        """Seconds after so many attempts."""
        try:
            return min(self.max_delay, self.delay * self.factor ** (attempts - 1))
        except OverflowError:
            return self.max_delay


def read_rule(
    *,
    max_attempts: int = 1,
    delay: Seconds = 1,
    factor: float = 2,
    max_delay: Seconds = 300,
    timeout: Seconds | None = None,
    never: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> Rule:
    """A rule, as `FlowContext.using` takes it.

    Raises:
        InvalidArgument: one of them is out of range.
    """
    if not isinstance(max_attempts, int) or isinstance(max_attempts, bool) or max_attempts < 1:
        raise InvalidArgument(f"max_attempts is {max_attempts!r}"[:200], hint="give a whole number, 1 or more")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor <= 1000:
        raise InvalidArgument(f"factor is {factor!r}"[:200], hint="give a number of 1 to 1,000")
    classes = never if isinstance(never, tuple) else (never,)
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        raise InvalidArgument(f"never is {never!r}"[:200], hint="give a class of errors, or a tuple of them")
    return Rule(
        max_attempts,
        seconds(delay, "delay"),
        float(factor),
        seconds(max_delay, "max_delay"),
        None if timeout is None else read_timeout(timeout, "timeout"),
        classes,
    )
