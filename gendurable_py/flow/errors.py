"""What a flow meets: errors of its own, beside those of its steps. They are no ``psycopg.Error``, which a flow may well
catch for other reasons.

::

    FlowError               the function does what a flow cannot do
    └── NonDeterministic    it does not do what its journal says
    StepFailed              a step has failed for good
    ChildFailed             a child did not end as done
"""

from __future__ import annotations

from ..machine.describe import clean, describe

LONGEST_MESSAGE = 8000
_MOST_KINDS = 20
_LONGEST_KIND = 1000


class FlowError(Exception):
    """The function does what a flow cannot do, such as I/O outside of a step."""


class NonDeterministic(FlowError):
    """The function does not do again what its journal says that it did: its code has changed, or chance has a part in
    it. The instance is tried again, until its attempts are used up."""


class StepFailed(Exception):
    """A step has failed, and its attempts are used up: the same now and after a crash.

    ``name``: the step's. ``kinds``: the classes of the error with those that it derives from, each as
    ``module.Class``, its own first. ``message``: the text of the error. ``attempts``: how often it was tried.
    """

    def __init__(self, name: str, kinds: tuple[str, ...], message: str, attempts: int) -> None:
        super().__init__(name, kinds, message, attempts)
        self.name = name
        self.kinds = kinds
        self.message = message
        self.attempts = attempts
        self._seq: int | None = None  # where the journal has it

    def __str__(self) -> str:
        often = "" if self.attempts == 1 else f" after {self.attempts} attempts"
        return f"step {self.name!r} failed{often}: {self.message}"

    def is_a(self, kind: type[BaseException]) -> bool:
        """Whether the error was of this class, or of one that derives from it."""
        return name_kind(kind) in self.kinds


class ChildFailed(Exception):
    """A child ended as ``status``, ``failed`` or ``cancelled``, with this message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self._seq: int | None = None

    def __str__(self) -> str:
        return f"the child {'was cancelled' if self.status == 'cancelled' else 'failed'}: {self.message}"


def name_kind(kind: type[BaseException]) -> str:
    return clean(f"{kind.__module__}.{kind.__qualname__}")[:_LONGEST_KIND]


def list_kinds(error: BaseException) -> tuple[str, ...]:
    """The classes of an error, its own first, but for those that every error has."""
    return tuple(name_kind(kind) for kind in type(error).__mro__ if kind not in (BaseException, object))[:_MOST_KINDS]


def say(error: BaseException) -> str:
    """The text of an error as the journal keeps it."""
    return describe(error)[:LONGEST_MESSAGE]


def find_failed(error: BaseException) -> int | None:
    """The number in the journal of the checkpoint whose failure this error is, or came from: the first of several."""
    found = [one._seq for one in _list_causes(error) if isinstance(one, (StepFailed, ChildFailed))]
    return min((seq for seq in found if seq is not None), default=None)


def find_alone(error: BaseException | None) -> BaseException | None:
    """An error that came alone out of groups of tasks, which make groups of errors of all that ends them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def mark_undone(error: BaseException, failed: StepFailed | None) -> None:
    """What led to this error has been undone: whoever has the flow tried again must not go on in the middle of that.
    ``failed``: the first undo step that failed, where it goes on."""
    for one in _list_causes(error):
        if isinstance(one, (StepFailed, ChildFailed)):
            one._seq = None
    if failed is not None:
        vars(error)["_undo"] = failed


def _list_causes(error: BaseException) -> list[BaseException]:
    """An error, and all that it came from."""
    found: dict[int, BaseException] = {}
    todo: list[BaseException | None] = [error]
    while todo and len(found) < 1000:
        one = todo.pop()
        if one is None or id(one) in found:
            continue
        found[id(one)] = one
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        todo += [one.__cause__, vars(one).get("_undo")]
        if not one.__suppress_context__:
            todo.append(one.__context__)
    return list(found.values())
