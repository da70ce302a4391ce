"""Beginning coroutines here and now: one that waits for nothing ends without a turn of the loop, and without a task.

What runs has a task all the same, as asyncio expects it: a spare one is the current task meanwhile. It belongs to the
first that waits for something, which goes on in it; until then it serves one after the other, as long as none of them
has left anything at it.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref

# For those who run tasks themselves.
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import Any, NoReturn


class AtOnce:
    """Begins coroutines from callbacks of a loop, where no task runs. ``context``: that of tasks nobody goes on in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._loop = loop
        self._context = context
        self._spare: asyncio.Task[None] | None = None
        self._host = _Host(self)
        self._marks: tuple[object, ...] = ()

    def begin(self, coro: Coroutine[Any, Any, None], context: contextvars.Context) -> asyncio.Task[None] | None:
        """Run it up to where it waits; None: it has ended, else it goes on in this task."""
        task = self._spare
        if task is None:
            # Its first turn comes with the next of the loop: it goes on then, or is over.
            self._host = _Host(self)
            self._spare = task = self._loop.create_task(self._host, context=self._context)
            self._marks = _look_at(task)
        host, loop = self._host, self._loop
        _enter_task(loop, task)
        try:
            awaited = context.run(coro.send, None)
        except StopIteration:
            coro = None  # type: ignore[assignment]
        except BaseException as error:  # noqa: BLE001 - it ends its task, as it does in any
            host.take(coro, context, None, error)
        else:
            host.take(coro, context, awaited, None)
        finally:
            _leave_task(loop, task)
        if coro is None and _look_at(task) == self._marks:
            return None
        self._spare = None
        try:
            return None if coro is None else task
        finally:
            del task  # an error holds this frame, and its task holds the error

    def over(self, host: _Host) -> None:
        """Nobody went on in its task, and its turn has come."""
        if self._host is host:
            self._spare = None


def _look_at(task: asyncio.Task[None]) -> tuple[object, ...]:
    """Who holds it, what hangs at it, what was done to it: before Python 3.13 `uncancel` leaves a cancellation due."""
    return (
        sys.getrefcount(task),
        weakref.getweakrefcount(task),
        task._callbacks or None,
        task.cancelling(),
        task._must_cancel,  # type: ignore[attr-defined]
        task.get_name(),
    )


class _Host(Coroutine[Any, Any, None]):
    """What a spare task runs: nothing, or what began before its first turn, in the context in which that began."""

    def __init__(self, owner: AtOnce) -> None:
        self._owner = owner
        self._coro: Coroutine[Any, Any, None] | None = None
        self._context: contextvars.Context | None = None
        self._awaited: Any = None
        """What it waits for, and the task has not been told of."""
        self._error: BaseException | None = None

    def take(
        self,
        coro: Coroutine[Any, Any, None],
        context: contextvars.Context,
        awaited: Any,
        error: BaseException | None,
    ) -> None:
        self._coro, self._context, self._awaited, self._error = coro, context, awaited, error

    def send(self, value: None) -> Any:
        if self._coro is None or self._context is None:
            self._owner.over(self)
            raise StopIteration
        if self._error is not None:
            self._fail(self._error)
        awaited, self._awaited = self._awaited, None
        return self._context.run(self._coro.send, value) if awaited is None else awaited

    def throw(self, *error: Any) -> Any:
        if self._coro is None or self._context is None:
            self._owner.over(self)
            try:
                raise error[0]
            finally:
                del error
        if self._error is not None:
            self._fail(self._error)  # it had ended before
        awaited, self._awaited = self._awaited, None
        try:
            if awaited is not None and isinstance(error[0], asyncio.CancelledError) and awaited.cancel(*error[0].args):
                return awaited  # it is told of the cancellation by what it waits for
            return self._context.run(self._coro.throw, *error)
        finally:
            del error, awaited

    def _fail(self, error: BaseException) -> NoReturn:
        self._error = None
        try:
            raise error
        finally:
            del error  # with its frame it would be a circle, which only the collector frees

    def close(self) -> None:
        if self._coro is not None:
            self._coro.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only a task runs this")

    def __getattr__(self, name: str) -> Any:
        """What a task, and those who look at it, ask of a coroutine: its name, frame, and whether it has begun."""
        return getattr(self._coro, name)
