"""Forked children: what they inherit of an engine that runs, they must neither use, hold on to, nor go on with.

A step may fork (`multiprocessing`, `os.fork`, `subprocess` with a `preexec_fn`). The child is a copy of this process
in which only the forking thread lives: it has the engine's signal handlers, its sockets and, if an async step forked,
its loop in the middle of a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from psycopg import AsyncConnection, Connection

R = TypeVar("R")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

generation = 0
"""Raised in each child: what began under another number began in a parent."""


class Connected(Protocol):
    """What has a connection."""

    @property
    def conn(self) -> AsyncConnection[Any] | Connection[Any] | None: ...


class _Running:
    """What a child must be parted from."""

    def __init__(self, loop: asyncio.AbstractEventLoop, links: Sequence[Connected]) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.links = links


_running: list[_Running] = []
_handlers: dict[int, Any] = {}


@contextlib.contextmanager
def parted(loop: asyncio.AbstractEventLoop, links: Sequence[Connected]) -> Iterator[None]:
    """While an engine runs: children get none of its connections, and do not go on with its loop."""
    here = _Running(loop, links)
    _running.append(here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            _running.remove(here)


def handled(number: int, previous: Any) -> None:
    """A signal is the engine's now; children get back what stood there before."""
    _handlers[number] = previous


def restore(number: int) -> None:
    """Put back what stood there before. None was set by something else than Python, which cannot be put back."""
    previous = _handlers.pop(number, None)
    signal.signal(number, signal.SIG_DFL if previous is None else previous)


def leave(error: BaseException | None) -> NoReturn:
    """End a child that comes back from its step: what follows there is the parent's work."""
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0 if code is None else code & 0xFF if isinstance(code, int) else 1)


_masks = threading.local()


def _before() -> None:
    """A signal that reaches the child before it has got back its own handlers would be lost: it has to wait."""
    _masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if _running or _handlers else None


def _after() -> None:
    old, _masks.old = getattr(_masks, "old", None), None
    if old is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _in_child() -> None:
    global generation
    generation += 1
    if _running or _handlers:
        _part()
    _after()


def _part() -> None:
    # Whatever wakes this loop writes to a socket that the parent reads: it would take the child's signals for its own.
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    for number in list(_handlers):
        restore(number)
    # So does `loop.add_signal_handler` of a program that serves on a loop of its own; what it calls stays in the loop.
    for number in _SIGNALS:
        if getattr(signal.getsignal(number), "__module__", "") == "asyncio.unix_events":
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for engine in _running:
        _cut_off(engine.links)
        if engine.thread == threading.get_ident():
            _halt(engine.loop)
    _running.clear()


def _cut_off(links: Sequence[Connected]) -> None:
    """Put a dead socket in the place of each connection: the server would take the child for the engine."""
    with contextlib.suppress(OSError):
        dead, other = socket.socketpair()
        other.close()
        for link in links:
            with contextlib.suppress(Exception):
                if link.conn is not None:
                    os.dup2(dead.fileno(), link.conn.pgconn.socket, inheritable=False)
        dead.close()


def _halt(loop: asyncio.AbstractEventLoop) -> None:
    """A child that was forked by a step on the loop ends when it gives the loop its turn."""

    def back() -> None:
        leave(RuntimeError("a forked child came back to the engine's loop: it must end in the step that forked it"))

    with contextlib.suppress(Exception):  # another kind of loop than asyncio's own has none of this
        # All that is ready is the parent's, and in the parent it will run. The length of this turn is counted already.
        ready = _held_by(loop, deque)
        count = len(ready)
        ready.clear()
        for _ in range(count + 1):
            loop.call_soon(back)
        # Descriptors in an epoll set are the parent's, also when they are taken out of it here.
        with select.epoll() as fresh:
            os.dup2(fresh.fileno(), _held_by(loop, selectors.EpollSelector).fileno(), inheritable=False)


def _held_by(loop: object, kind: type[R]) -> R:
    """The one object of this kind that a loop holds: what is ready, and what it waits with, have no public names."""
    (found,) = (value for value in vars(loop).values() if isinstance(value, kind))
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)
