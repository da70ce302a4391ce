"""Forks and moves: a new instance where another one stands or stood, and whole instances as documents.

A document is text, so that it may be written to a file as it is, and no number in it goes through Python.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._statement import Statement, call, one_value
from ..errors import InvalidArgument
from ..machine.codec import dumps
from ..machine.outcome import UNSET, StepLike
from ..machine.spec import step_name


@call
def fork(
    id: int,
    no: int | None = None,
    *,
    step: StepLike | None = None,
    state: object = UNSET,
    options: Mapping[str, object] | None = None,
) -> Statement[int | None]:
    """Make a new instance that begins where another one stands, or stood at entry ``no`` of its history.

    Args:
        step: where it begins, in place of that step.
        state: its state, in place of the one there.
        options: what `insert_many` takes in a mapping, but fsm, step and state; and ``journal``, of a flow: how many
            entries of its journal the fork takes over.

    Returns:
        Its id, or None if another instance holds the unique key that the options give.
    """
    first = None if step is None else step_name(step)
    text = None if state is UNSET else dumps(state).decode()
    return Statement(
        "select gd_fork(%s, %s, %s, %s::jsonb, %s::jsonb)",
        (id, no, first, text, dumps({} if options is None else options).decode()),
        one_value,
    )


@call
def export(id: int) -> Statement[str]:
    """An instance with all that belongs to it, and its descendants, as the text of a JSON document for `import_`."""
    return Statement("select gd_export(%s)::text", (id,), one_value)


@call
def import_(document: str | bytes) -> Statement[int | None]:
    """Make the instances of a document of `export`, in this database or another one.

    Returns:
        The new id of the one that was exported, or None if a unique key is taken: nothing was imported.
    """
    if not isinstance(document, str | bytes):
        raise InvalidArgument(
            f"the document is a {type(document).__name__}", hint="give the text that export has given"
        )
    try:
        text = document if isinstance(document, str) else document.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("the document is not UTF-8", hint="give what export has given") from error
    return Statement("select gd_import(%s::jsonb)", (text,), one_value)
