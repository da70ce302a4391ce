"""What async steps hand over to threads: it goes on when the step is cancelled, and the step has not ended before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

handed_over: ContextVar[set[Future[Any]] | None] = ContextVar("gendurable_handed_over", default=None)
"""The calls that the step which runs here has handed over and that have not ended."""


def _count(call: Future[Any]) -> None:
    calls = handed_over.get()
    if calls is not None:
        calls.add(call)
        call.add_done_callback(calls.discard)


class DaemonExecutor(ThreadPoolExecutor):
    """The default executor of a loop that is the engine's own: nothing waits for its threads at the end.

    Those of the standard library are joined when the loop is closed, and again when the interpreter ends. A loop takes
    no other class for its default executor, but all that it calls is here.
    """

    def __init__(self) -> None:
        most = min(32, (os.cpu_count() or 1) + 4)  # as asyncio's own
        super().__init__(most)
        self._most = most
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._ended = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        call: Future[R] = Future()
        with self._guard:
            if self._ended:
                raise RuntimeError("the loop has been closed")
            self._calls.put((call, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._count < self._most:
                self._count += 1
                name = f"gendurable-call-{self._count}"
                threading.Thread(target=self._main, name=name, daemon=True).start()
        _count(call)
        return call

    def _main(self) -> None:
        while (item := self._calls.get()) is not None:
            call, function = item
            if call.set_running_or_notify_cancel():
                try:
                    answer = function()
                except StopIteration as error:
                    # A future cannot carry it: who awaits it would wait for ever.
                    call.set_exception(RuntimeError(f"the call raised StopIteration({error})"))
                except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                    call.set_exception(error)
                else:
                    call.set_result(answer)
            del item, call, function
            self._idle.release()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._guard:
            if not self._ended:
                self._ended = True
                for _ in range(self._count):
                    self._calls.put(None)


class _Counted(Executor):
    """Stands before any executor, for one call of a step."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        call = self._executor.submit(fn, *args, **kwargs)
        _count(call)
        return call


_counting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def counted(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Count what steps hand over by `loop.run_in_executor`, and so by `asyncio.to_thread`; all others pass through."""
    engines = _counting.get(loop, 0)
    if not engines:
        with contextlib.suppress(AttributeError):  # a loop that takes no attributes: not counted
            loop.run_in_executor = _counter(loop)  # type: ignore[method-assign]
    _counting[loop] = engines + 1
    try:
        yield
    finally:
        _counting[loop] -= 1
        if not _counting[loop]:
            del _counting[loop]
            if getattr(vars(loop).get("run_in_executor"), "gendurable", False):
                del loop.run_in_executor


def _counter(loop: asyncio.AbstractEventLoop) -> Any:
    original: Any = loop.run_in_executor

    def run_in_executor(executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        if handed_over.get() is None:
            return original(executor, func, *args)
        if executor is not None:
            return original(_Counted(executor), func, *args)
        # Nobody can stand before the default one: what is counted is the call itself.
        call: Future[None] = Future()
        _count(call)
        try:
            future = original(None, _marked, call, func, args)
        except BaseException:
            call.cancel()
            raise
        # Cancelled before it began, it never will.
        future.add_done_callback(lambda _: call.cancel())
        return future

    run_in_executor.gendurable = True  # type: ignore[attr-defined]
    return run_in_executor


def _marked(call: Future[None], func: Callable[..., R], args: tuple[Any, ...]) -> R:
    """In the thread: make the call, and mark its end."""
    if not call.set_running_or_notify_cancel():
        raise CancelledError  # nobody waits for it any more
    try:
        return func(*args)
    finally:
        call.set_result(None)
