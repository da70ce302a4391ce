"""Waiting for a condition, with a limit: the tests never sleep to let something happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import psycopg

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10) -> T:
    """Ask again until the answer is true, and return it; TimeoutError after `timeout` seconds.

    AssertionError counts as not yet, and is the cause that the TimeoutError names.
    """
    limit = time.monotonic() + timeout
    pause = 0.002
    while True:
        cause: AssertionError | None = None
        try:
            answer = condition()
        except AssertionError as error:
            answer, cause = None, error  # type: ignore[assignment]
        if answer:
            return answer
        if time.monotonic() > limit:
            raise TimeoutError(f"not true within {timeout} s: {cause or condition}") from cause
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


class Running(Generic[T]):
    """A call that runs in a thread: `result()` waits for it, and raises what it raised."""

    def __init__(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> None:
        self._value: list[T] = []
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._value.append(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout: float = 10) -> T:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"still running after {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value[0]


def run_in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> Running[T]:
    """Start the call in a thread, for the second session of a test."""
    return Running(call, *args, **kwargs)


def is_blocked(conn: psycopg.Connection[Any], pid: int) -> bool:
    """Whether the backend `pid` waits for a lock now; ask on another connection than the waiting one."""
    row = conn.execute(
        "select wait_event_type = 'Lock' and state = 'active' from pg_stat_activity where pid = %s", (pid,)
    ).fetchone()
    return row is not None and bool(next(iter(row.values() if isinstance(row, dict) else row)))


def wait_until_blocked(conn: psycopg.Connection[Any], waiting: psycopg.Connection[Any], timeout: float = 10) -> None:
    """Wait until the statement that `waiting` runs in another thread stands before a lock."""
    pid = waiting.info.backend_pid
    wait_until(lambda: is_blocked(conn, pid), timeout)
