"""Undoing: what was done is taken back by steps of its own, the last first."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self

from .errors import StepFailed, mark_undone

P = ParamSpec("P")


class Undoing(Protocol):
    """Whoever runs the steps."""

    @property
    def suspended(self) -> bool: ...

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...


class Saga:
    """See `FlowContext.saga`. Where an undo step fails for good the others run all the same, and the error that ended
    the block has a note of it.

    A flow that failed so goes on by ``gd_retry`` at the first undo step that failed; where all was undone it fails
    again at once, with the same error: what was undone is not done again."""

    def __init__(self, ctx: Undoing) -> None:
        self._ctx = ctx
        self._undo: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def undo(self, name: str, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """If the block raises, call this as a step of this name."""
        self._undo.append((name, function, args, kwargs))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A suspension ends the block, too, and it is gone through again.
        if error is None or self._ctx.suspended:
            return
        if not self._undo:
            return
        first: StepFailed | None = None
        while self._undo:
            name, function, args, kwargs = self._undo.pop()
            try:
                await self._ctx.step(name, function, *args, **kwargs)
            except StepFailed as failed:
                first = first or failed
                error.add_note(f"and it could not be undone: {failed}")
        mark_undone(error, first)
