"""What an answer to a commit means for its work: one reading of it, for the committer and for the testing kit.

A commit answers only for what is not simply ok. An outcome that the server refuses goes down one stage: the step's to
`handle`, that of `handle` to a stop; and nothing comes after the stop.
"""

from __future__ import annotations

from enum import Enum

import psycopg

from ..calls.rows import Answer

CONFLICTS = ("40001", "40P01", "55P03")
"""What another session does, and what passes by itself."""

RUN, HANDLE, STOP = range(3)
"""What produced an outcome: the step, `handle` after an error, or the last resort."""


class Meaning(Enum):
    """What is to be done with a work."""

    COMMITTED = "it is over, and the claim is let go"
    KEPT = "it is committed, and the claim is kept: the next step of the instance"
    REPEATED = "it was committed before its answer was lost"
    LOST = "the claim was lost: it is never run again from here"
    BUSY = "send it again, apart from the others"
    HANDLE = "refused: ask `handle` for another outcome"
    STOP = "refused, and that of `handle` too: stop the instance"
    HOPELESS = "even the stop is refused: its lease will end"


class Fate(Enum):
    """How it ended without an outcome: mostly its step had a transaction, and nothing is left to be committed."""

    COMMITTED = "with its outcome"
    LOST = "rolled back, since the claim was lost"
    CRASHED = "nobody knows: its connection was lost"
    HALTED = "a flow: what it asked for may not begin now"
    UNSTARTED = "there was no connection, and the step has not run"


def read_answer(answer: Answer | None, stage: int, uncertain: bool) -> Meaning:
    """``uncertain``: this outcome was sent before, and the answer was lost."""
    if answer is None or answer.result == "ok":
        return Meaning.KEPT if answer is not None and answer.kept is not None else Meaning.COMMITTED
    if answer.result == "busy":
        return Meaning.BUSY
    if answer.result == "stale":
        # If it was committed then, its claim_no is no longer the row's: that settles it.
        return Meaning.REPEATED if uncertain else Meaning.LOST
    return read_refusal(stage)


def read_refusal(stage: int) -> Meaning:
    """The server refuses an outcome that came from this stage."""
    return (Meaning.HANDLE, Meaning.STOP, Meaning.HOPELESS)[stage]


def is_unsendable(error: BaseException) -> bool:
    """Whether it never left this process: an error of the driver about the text itself."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate is None and isinstance(error, (psycopg.DataError, psycopg.NotSupportedError))
    return isinstance(error, UnicodeEncodeError)
