"""What this package raises.

::

    psycopg.Error
    └── psycopg.DatabaseError
        └── GendurableError
            ├── InvalidArgument    GD501  an argument is not valid
            ├── UnknownName        GD502  no such rate limit or profile
            ├── UnknownInstance    GD503  no such instance
            ├── WrongIsolation     GD504  called under an isolation level in which it cannot be correct
            ├── ClaimLost          GD505  the claim is lost
            ├── VersionMismatch    GD506  the installed extension does not fit this package
            └── StepRefused        GD507  a step in SQL breaks a rule, or is somebody else's

An error of the server keeps what psycopg knows about it (``diag``, ``pgresult``); the error that psycopg raised is its
``__cause__``. Everything else that the server raises reaches the caller as psycopg raised it.
"""

from __future__ import annotations

import psycopg

__all__ = [
    "ClaimLost",
    "GendurableError",
    "InvalidArgument",
    "StepRefused",
    "UnknownInstance",
    "UnknownName",
    "VersionMismatch",
    "WrongIsolation",
    "from_sqlstate",
    "translate",
]


class GendurableError(psycopg.DatabaseError):
    """The root of the tree: also what an unknown ``GD…`` SQLSTATE of a newer server becomes."""

    sqlstate: str | None = None

    def __init__(self, message: str, *, hint: str | None = None, source: psycopg.Error | None = None) -> None:
        if hint and source is None:
            message = f"{message}\nHINT:  {hint}"
        if source is None:
            super().__init__(message)
        else:
            super().__init__(message, info=source.pgresult, encoding=getattr(source, "_encoding", "utf-8"))
        self._hint = hint

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return self._hint or self.diag.message_hint


class InvalidArgument(GendurableError):
    """An argument is not valid: refused here before any SQL, or by the server."""

    sqlstate = "GD501"


class UnknownName(GendurableError):
    """A call names a rate limit or a profile that does not exist."""

    sqlstate = "GD502"


class UnknownInstance(GendurableError):
    """There is no instance with this id."""

    sqlstate = "GD503"


class WrongIsolation(GendurableError):
    """The call needs READ COMMITTED: under a fixed snapshot it could not be correct."""

    sqlstate = "GD504"


class ClaimLost(GendurableError):
    """The claim is not this one any more; nothing was written."""

    sqlstate = "GD505"


class VersionMismatch(GendurableError):
    """The extension in the database is missing, or of a version that this package does not work with."""

    sqlstate = "GD506"


class StepRefused(GendurableError):
    """A step in SQL is somebody else's, runs steps itself, or broke another rule (then in the detail of an answer)."""

    sqlstate = "GD507"


_CLASSES: dict[str, type[GendurableError]] = {
    str(cls.sqlstate): cls
    for cls in (InvalidArgument, UnknownName, UnknownInstance, WrongIsolation, ClaimLost, VersionMismatch, StepRefused)
}


def translate(error: psycopg.Error) -> psycopg.Error:
    """Our class for an error that carries one of our SQLSTATEs, else the error itself."""
    state = error.sqlstate
    if state is None or not state.startswith("GD") or isinstance(error, GendurableError):
        return error
    return _CLASSES.get(state, GendurableError)(str(error), source=error)


def from_sqlstate(sqlstate: str | None, message: str) -> GendurableError:
    """The error for a reason that came as data: the detail of a rejected outcome."""
    made = _CLASSES.get(sqlstate or "", GendurableError)(message)
    made.sqlstate = sqlstate
    return made
