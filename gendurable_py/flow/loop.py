"""The event loop that a flow runs on: deterministic, since nothing comes in but what its journal says.

It runs in slices, each from something that is handed out until nothing is ready any more, as a callback of the engine's
loop and with itself as the running loop. Its clock is that of the journal, and what waits on it waits in `timers`. What
would reach outside is refused: that belongs into a step.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import traceback
import weakref

# For those who implement loops: a slice of this one runs inside a callback of another.
from asyncio import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import FrameType
from typing import Any, NoReturn

from .._log import logger
from .errors import FlowError

_FEW_TASKS = 16
_LAST_ROUNDS = 3
_LONGEST = 3e9
"""Seconds of a timer: a century, nearly."""
_TASKS_FILE = asyncio.as_completed.__code__.co_filename


Around = tuple[asyncio.AbstractEventLoop | None, tuple[Any, Any]]
"""The loop that runs, and its hooks for asynchronous generators."""


def look_around() -> Around:
    """What a slice begins in, and puts back."""
    return _get_running_loop(), sys.get_asyncgen_hooks()


class Handle:
    """A callback that is ready, or was."""

    __slots__ = ("args", "callback", "context")

    def __init__(
        self, callback: Callable[..., object] | None, args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class Timer(Handle):
    """A callback for later: it waits for a checkpoint that says that its time has come."""

    __slots__ = ("_at", "_forget", "delay")

    def __init__(
        self,
        at: float,
        delay: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        forget: Callable[[Timer], None],
    ) -> None:
        super().__init__(callback, args, context)
        self._at = at
        self._forget = forget
        self.delay = delay

    def when(self) -> float:
        return self._at

    def cancel(self) -> None:
        super().cancel()
        self._forget(self)


class Inline(ThreadPoolExecutor):
    """An executor for libraries that call sync functions of their users in threads: in a flow such a function is called
    there and then, elsewhere in its threads."""


# Its own signatures are for type checkers alone, and have many methods that are refused here.
_Loop: Any = asyncio.AbstractEventLoop


class FlowLoop(_Loop):  # type: ignore[misc]
    """A loop for one run of one flow. ``timed`` and ``forget`` are told of the timers that begin and end."""

    def __init__(self, timed: Callable[[Timer], None], forget: Callable[[Timer], None]) -> None:
        self.ready: deque[Handle] = deque()
        """Callbacks that run next; none: it is idle."""
        self._timed = timed
        self._forget = forget
        self._tasks: list[asyncio.Task[Any]] = []
        self._many = _FEW_TASKS
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None
        self._closed = False
        self.clock = 0.0
        """Seconds since the flow began, by its journal."""

    # Running

    def run(self, most: int, around: Around | None = None) -> int:
        """Run what is ready, and what that makes ready, until nothing is; answers how many callbacks are left of
        ``most``: none, if it did not come to rest. ``around``: as `look_around` says, if that is known."""
        ready = self.ready
        take = ready.popleft
        outer, hooks = around or look_around()
        _set_running_loop(self)
        sys.set_asyncgen_hooks(self._begin_generator, self._finalize)
        try:
            while ready and most:
                most -= 1
                handle = take()
                callback = handle.callback
                if callback is not None:
                    try:
                        handle.context.run(callback, *handle.args)
                    except BaseException:  # noqa: BLE001 - a task has kept what it raised; a callback has nobody to tell
                        if not isinstance(getattr(callback, "__self__", None), asyncio.Task):
                            logger.warning("a callback in a flow failed: %r", callback, exc_info=True)
        finally:
            sys.set_asyncgen_hooks(*hooks)
            _set_running_loop(outer)
        return most

    def _begin_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._generators is None:  # few flows have any
            self._generators = weakref.WeakSet()
        self._generators.add(generator)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(_close_generator(generator))

    def cancel_all(self) -> None:
        """Cancel every task, and close the asynchronous generators; `run` comes next."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        for generator in list(self._generators or ()):
            self.create_task(_close_generator(generator))

    def end(self) -> None:
        """Forget what is left. It may be called more than once.

        Of a coroutine that did not end when it was cancelled, this is the end: Python tells it so (GeneratorExit), here
        and now, with this loop running. Elsewhere, in some collection of garbage, what it waits for next might raise at
        once, and one that goes on whatever is raised would never come back.
        """
        self._closed = True
        self._timed = self._forget = _ignore
        if len(self._tasks) == 1 and not self.ready and _has_returned(self._tasks[0]):
            self._tasks.clear()  # the function's, as of most: nothing is left that could go on
            self._generators = None
            return
        outer = _get_running_loop()
        _set_running_loop(self)
        try:
            for _ in range(_LAST_ROUNDS):  # what ends may begin something
                while self._tasks:
                    _free(self._tasks.pop())
                self.ready.clear()
                if not self._tasks and not self.ready:
                    break
            self._generators = None
        finally:
            _set_running_loop(outer)

    # What tasks and futures need

    def call_soon(self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = Handle(callback, args, context)
        self.ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        if _get_running_loop() is not self:
            raise FlowError("something outside of a flow calls into it: let a step do that, and give back its result")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        if delay <= 0:
            return self.call_soon(callback, *args, context=context)
        if not delay <= _LONGEST:
            raise FlowError(f"a timer of {delay:g} s")
        timer = Timer(self.clock + delay, delay, callback, args, context, self._forget)
        self._timed(timer)
        return timer

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_later(when - self.clock, callback, *args, context=context)

    def ring(self, timer: Timer) -> None:
        """Its time has come."""
        self.ready.append(Handle(timer.callback, timer.args, timer.context))

    def time(self) -> float:
        return self.clock

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[Any]:
        if _is_of_as_completed(sys._getframe(1)):
            if asyncio.iscoroutine(coro):
                coro.close()
            raise FlowError(
                "asyncio.as_completed begins coroutines in an order that is another one in each run: give it tasks, "
                "[asyncio.ensure_future(one) for one in coroutines]"
            )
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        tasks = self._tasks
        tasks.append(task)
        if len(tasks) > self._many:
            self._tasks = [task for task in tasks if not task.done()]
            self._many = 2 * len(self._tasks) + _FEW_TASKS
        return task

    def run_in_executor(self, executor: Executor | None, function: Callable[..., Any], *args: Any) -> Any:
        if not isinstance(executor, Inline):
            _refuse("run_in_executor")
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:  # noqa: BLE001 - it is for whoever awaits it
            future.set_exception(error)
        return future

    def get_task_factory(self) -> None:
        return None

    def set_task_factory(self, factory: Any) -> None:
        if factory is not None:
            raise FlowError("a flow makes its tasks itself: set_task_factory is not for it")

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """It has no such mode."""

    def is_running(self) -> bool:
        return _get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def get_exception_handler(self) -> None:
        return None

    def set_exception_handler(self, handler: Any) -> None:
        """Nobody is called: see `call_exception_handler`."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # Of tasks that a flow has left behind, and of errors that nobody has looked at.
        logger.debug("in a flow: %s", context.get("message"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """They are closed at the end."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """There is none."""


def _has_returned(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _free(task: Any) -> None:
    """Nothing holds it or what it held any more: it is gone with its last reference."""
    if task.done():
        # The frames that it ended in may have the very error: a circle that asyncio's groups of tasks leave.
        error = task._make_cancelled_error() if task.cancelled() else task.exception()
        if error is not None:
            traceback.clear_frames(error.__traceback__)
        return
    waits: Any = getattr(task, "_fut_waiter", None)
    for callback, _ in list(getattr(waits, "_callbacks", None) or ()):
        waits.remove_done_callback(callback)


def _is_of_as_completed(frame: FrameType | None) -> bool:
    """Whether that function, which goes through a set of what it is given, makes a task here, a few calls away."""
    for _ in range(5):
        if frame is None or frame.f_code.co_filename != _TASKS_FILE:
            return False
        if frame.f_code.co_qualname.startswith(("as_completed", "_AsCompletedIterator")):
            return True
        frame = frame.f_back
    return False


async def _close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def _ignore(timer: Timer) -> None:
    return


def _refuse(name: str) -> NoReturn:
    raise FlowError(f"{name} in a flow: what reaches outside belongs into a step, await ctx.step(...)")


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: FlowLoop, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse(name)

    refuse.__name__ = name
    return refuse


def _refuse_the_rest() -> None:
    """Connections, subprocesses, threads, signals and files, and whatever a newer Python adds: refused by name."""
    for name in dir(asyncio.AbstractEventLoop):
        if not name.startswith("_") and name not in vars(FlowLoop):
            setattr(FlowLoop, name, _refusing(name))


_refuse_the_rest()
