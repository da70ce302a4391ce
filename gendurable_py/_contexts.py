"""Context variables: each run of a step begins with those of the program, and nobody sees what it sets."""

from __future__ import annotations

import contextvars
import decimal


class Contexts:
    """Copies of the context in which this is made."""

    def __init__(self) -> None:
        self._base = contextvars.copy_context()
        # A copy shares what the variables hold, and decimal's is made to be changed where it stands.
        self._decimal = any(variable.name == "decimal_context" for variable in self._base)

    def fresh(self) -> contextvars.Context:
        context = self._base.copy()
        if self._decimal:
            context.run(_own_decimal)
        return context


def _own_decimal() -> None:
    decimal.setcontext(decimal.getcontext().copy())
