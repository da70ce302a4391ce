"""What a page says in place of what was asked for: not there, not readable, not allowed, no server."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import psycopg

from ..errors import GendurableError, InvalidArgument, UnknownInstance, UnknownName, VersionMismatch
from .source import Busy
from .words import Unreadable

logger = logging.getLogger("gendurable.web")


class Missing(Exception):
    """There is no such thing (any more)."""


class TooLarge(Exception):
    """It would be more than a page or a browser can bear."""


class Forbidden(Exception):
    """Whoever asks may not do this."""


@dataclass(frozen=True)
class Refusal:
    """A page that says no. ``again``: the same may work in a moment."""

    status: int
    title: str
    message: str
    hint: str = ""
    again: bool = False


AWAY = "The database does not answer"
_NOT_INSTALLED = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
)


def refusal_of(error: Exception) -> Refusal | None:
    """How an error is told; None: it is one of ours, a mistake in the program."""
    match error:
        case Missing():
            return Refusal(404, "Not there", str(error))
        case TooLarge():
            return Refusal(413, "Too much", str(error))
        case Unreadable():
            return Refusal(400, "That cannot be read", str(error))
        case Forbidden():
            return Refusal(403, "Not allowed", str(error))
        case Busy():
            return Refusal(503, "Too many look at once", "Try again in a moment.", again=True)
        case UnknownInstance() | UnknownName():
            return Refusal(404, "Not there", _message(error), error.hint or "")
        case VersionMismatch():
            return Refusal(503, "Another version", _message(error), error.hint or "", again=True)
        case GendurableError():
            return Refusal(
                400 if isinstance(error, InvalidArgument) else 409, "The server refused it", _message(error),
                error.hint or "",
            )  # fmt: skip
        case psycopg.errors.QueryCanceled():
            return Refusal(
                503, "That took too long", "The server was given a few seconds, and has not answered in that time.",
                "It may be busy, or somebody has locked what was asked for.", again=True,
            )  # fmt: skip
        case psycopg.errors.InsufficientPrivilege():
            return Refusal(
                403, "Not allowed", f"The database says: {_message(error)}",
                "The role of the dashboard has no right to it: gd_grant gives the profiles reader and operator.",
            )  # fmt: skip
        case psycopg.errors.ReadOnlySqlTransaction():
            return Refusal(409, "Not now", "The database only reads: it is a standby, or was set so.", again=True)
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            return Refusal(503, "Somebody else has it", _message(error), "Try again in a moment.", again=True)
        case psycopg.Error() if isinstance(error, _NOT_INSTALLED):
            return Refusal(
                503, "gendurable is not here", f"The database says: {_message(error)}",
                "It is not installed in this database (gendurable install), it is older than this package (gendurable "
                "upgrade), or its schema is not on the search_path.", again=True,
            )  # fmt: skip
        case psycopg.DataError():
            return Refusal(400, "That cannot be read", _message(error))
        case psycopg.OperationalError() | psycopg.InterfaceError():
            logger.warning("the dashboard cannot reach the database: %s", type(error).__name__)
            return Refusal(503, AWAY, "It is looked for again.", "This page comes back by itself.", again=True)
        case psycopg.Error():
            return Refusal(409, "The server refused it", _message(error), getattr(error.diag, "message_hint", "") or "")
    return None


def _message(error: psycopg.Error) -> str:
    message = error.diag.message_primary or str(error).partition("\nHINT:")[0]
    return f"{message} ({error.diag.message_detail})" if error.diag.message_detail else message
