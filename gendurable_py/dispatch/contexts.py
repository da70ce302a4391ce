"""Context variables: each run of a step begins with those of the program, and nobody sees what it sets."""

from __future__ import annotations

import contextvars
import decimal


class Contexts:
    """Copies of the context in which this is made."""

    def __init__(self) -> None:
        self._base = contextvars.Context()
        # A copy shares what the variables hold, and decimal's is made to be changed where it stands. Where it is not
        # set, decimal makes one at its first use.
        self._decimal = _shape(decimal.getcontext()) != _shape(decimal.DefaultContext)
        for variable, value in contextvars.copy_context().items():
            if self._decimal or variable.name != "decimal_context":
                self._base.run(variable.set, value)

    def fresh(self) -> contextvars.Context:
        context = self._base.copy()
        if self._decimal:
            context.run(_own_decimal)
        return context


def _shape(context: decimal.Context) -> tuple[object, ...]:
    """What it does, without what has happened in it."""
    named = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    return (*(getattr(context, name) for name in named), [flag for flag, on in context.traps.items() if on])


def _own_decimal() -> None:
    decimal.setcontext(decimal.getcontext().copy())
