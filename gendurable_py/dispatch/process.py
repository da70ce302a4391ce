"""What a process that serves, and does nothing else, sets up around its engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from .._log import logger
from . import fork
from .offload import DaemonExecutor

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LAST_WORD = 1.0
_THRESHOLDS = (20_000, 5, 2)
"""When garbage is collected: after so many new objects that hold others the youngest, after 120,000 the older ones too,
and all after 360,000."""


def need_thread_of_its_own() -> None:
    """Refuse to `run` where it cannot have the signals, or the loop."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run() takes the signals, so it needs the main thread: in another, await serve() on a loop")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("a loop runs in this thread already: await serve() on it in place of run()")


def drive(main: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], None]) -> None:
    """Run to the end, with SIGTERM and SIGINT calling `stop`, on a loop whose end waits for nobody.

    `asyncio.run` waits for all tasks and for the threads of the default executor, for as long as they take.
    """
    loop = asyncio.new_event_loop()
    try:
        with _stopped_by_signals(loop, stop):
            asyncio.set_event_loop(loop)
            loop.set_default_executor(DaemonExecutor())
            try:
                _complete(loop, loop.create_task(main()))
            finally:
                _end(loop)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _complete(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Until this task has ended. A loop stops when any task raises SystemExit: it is that task's affair, not ours."""
    while True:
        try:
            loop.run_until_complete(task)
            return
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logger.error("a task that a step began raised %s", type(error).__name__, exc_info=error)


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what steps left behind on the loop, and leave there what does not end."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()

    async def last_word() -> None:
        ending = asyncio.create_task(loop.shutdown_asyncgens())
        await asyncio.wait({*left, ending}, timeout=_LAST_WORD)
        ending.cancel()

    _complete(loop, loop.create_task(last_word()))
    _leave_quietly(loop)


def _leave_quietly(loop: asyncio.AbstractEventLoop) -> None:
    """Tasks that do not end are gone with the loop, and that is no news: everything else is told as before."""
    told = loop.get_exception_handler() or (lambda loop, context: loop.default_exception_handler(context))

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != "Task was destroyed but it is pending!":
            told(loop, context)

    loop.set_exception_handler(tell)


@contextlib.contextmanager
def _stopped_by_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """A handler of Python's, and not the loop's: it also counts before the loop runs, and while a step blocks it."""
    owner = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() == owner:
            stop()
        else:  # a child, before it has got back its own handlers
            fork.restore(number)
            os.kill(os.getpid(), number)

    reading, writing = socket.socketpair()
    with reading, writing:
        for end in (reading, writing):
            end.setblocking(False)
        # The signal may be delivered to a thread that is not the loop's, which would sleep on.
        loop.add_reader(reading, lambda: reading.recv(4096))
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            for number in _SIGNALS:
                fork.handled(number, signal.signal(number, handle))
            yield
        finally:
            for number in _SIGNALS:
                fork.restore(number)
            signal.set_wakeup_fd(before)
            loop.remove_reader(reading)


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Keep what has been imported and set up by now out of the garbage collector's way.

    A full collection walks every object of the program, and the works of some thousand steps are enough to start one:
    20 ms each time in a small program, in which no step runs. What is frozen is freed by its reference count as ever.

    And collect the youngest less often: a claim makes thousands of objects, and none of the collections that they start
    can free one. A program that collects more rarely by itself (`gc.set_threshold`, `gc.disable`) goes on to.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    if 0 < before[0] < _THRESHOLDS[0]:
        gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        if gc.get_threshold() == _THRESHOLDS:  # else a step has set others
            gc.set_threshold(*before)
        gc.unfreeze()
