"""What a process that serves, and does nothing else, sets up around its engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop` on the running loop. Main thread only."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Keep what has been imported and set up by now out of the garbage collector's way.

    A full collection walks every object of the program, and the works of some thousand steps are enough to start one:
    20 ms each time in a small program, in which no step runs. What is frozen is freed by its reference count as ever.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
