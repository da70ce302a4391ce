"""``top``: queues, workers and failures, drawn anew. A thread asks the database, so that keys are read and the page is
drawn whatever becomes of the connection."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated

import psycopg
import typer
from rich.console import Group
from rich.live import Live

from .. import calls
from ..calls import viewing
from .frame import Frame, command
from .keys import Keys, keys
from .output import encode
from .reading import duration
from .top_page import Facts, View, page, waited

PANEL = "Looking"
_COUNTED = 10_000
_FAILED = ("error", "stop")


def add(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "top", panel=PANEL)(top)


def top(
    frame: Frame,
    interval: Annotated[str, typer.Option("--interval", "-i", help="How often to look.", metavar="TIME")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    since: Annotated[
        str, typer.Option("--failures", help="Failures and lost workers of so long.", metavar="TIME")
    ] = "1h",
) -> None:
    """Watch queues, workers and failures. Keys: s sorts by the next column, r turns the order, j and k or the arrows
    choose a queue, p pauses or resumes it, space freezes the page, q ends."""
    back = timedelta(seconds=duration(since))
    every = max(0.1, duration(interval))
    found = look(frame, None, back)
    if frame.json:
        frame.line(encode(found.as_json()))
        while not once:
            time.sleep(every)
            found = look(frame, found, back)
            frame.line(encode(found.as_json()))
    elif once or not frame.out.is_terminal or frame.out.is_dumb_terminal:
        frame.out.print(Group(*page(found, View(), frame.out.width, None)), soft_wrap=True)
    else:
        with keys() as pressed, Live(console=frame.out, screen=True, auto_refresh=False) as live:
            _watch(frame, live, pressed, found, every, back)


def look(frame: Frame, before: Facts | None, back: timedelta) -> Facts:
    """Ask the database for all that is on the page."""
    conn = frame.conn
    now = viewing.clock(conn)
    ended, rate = 0, None
    if before is not None:
        counted = calls.count(conn, {"finished_after": before.at.isoformat()}, most=_COUNTED)
        ended = counted.instances
        rate = ended / max(0.001, (now - before.at).total_seconds())
    whole = [row for row in calls.stats(conn, 2) if row.minute <= now - timedelta(minutes=1)]
    return Facts(
        now,
        viewing.queues(conn),
        viewing.workers(conn),
        viewing.holds(conn),
        calls.failures(conn, None, now - back, limit=5),
        calls.crashes(conn, now - back, 2000, limit=5),
        ended,
        rate,
        sum(row.ended for row in whole),
        sum(row.ended for row in whole if row.outcome in _FAILED),
    )


def _watch(frame: Frame, live: Live, pressed: Keys, found: Facts, every: float, back: timedelta) -> None:
    view, asking = View(), _Asking(frame, found, pressed.wake)
    due = time.monotonic() + every
    while not view.ended:
        found = asking.found
        view.said = asking.take_word() or view.said
        if asking.fault is not None:
            raise asking.fault
        trouble = asking.trouble
        if not trouble and asking.since is not None and time.monotonic() - asking.since > max(3.0, 2 * every):
            trouble = waited(time.monotonic() - asking.since)
        width, height = frame.out.size
        live.update(Group(*page(found, view, width, height, trouble)), refresh=True)
        paused = [str(row["queue"]) for row in found.queues if row["paused"]]
        for key in pressed.wait(due - time.monotonic()):
            was_asked = view.asked is not None
            if (steered := view.press(key, paused)) is not None:
                asking.ask(partial(_steer, frame, steered, back), is_steering=True)
            if view.asked is not None and not was_asked:
                break  # what is typed or pasted behind it answers no question that anybody has seen
        if time.monotonic() >= due:
            due = time.monotonic() + every
            if not view.frozen and asking.since is None:
                asking.ask(lambda before: (look(frame, before, back), ""))


_Asked = Callable[[Facts], tuple[Facts, str]]


def _steer(frame: Frame, steered: tuple[str, bool], back: timedelta, before: Facts) -> tuple[Facts, str]:
    name, pause = steered
    with frame.acting() as conn:
        (calls.pause_queue if pause else calls.resume_queue)(conn, name)
    return look(frame, before, back), f"{name} {'is paused' if pause else 'goes on'}"


class _Asking:
    """The thread that asks: one thing after the other, and after a lost connection anew over another one."""

    def __init__(self, frame: Frame, found: Facts, wake: Callable[[], None]) -> None:
        self.found = found
        self.trouble = ""
        self.fault: Exception | None = None
        self.since: float | None = None  # since when it has waited for an answer
        self._word = ""
        self._frame, self._wake = frame, wake
        self._asked: queue.SimpleQueue[tuple[_Asked, bool]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="gendurable top").start()

    def ask(self, what: _Asked, *, is_steering: bool = False) -> None:
        if self.since is None:
            self.since = time.monotonic()
        self._asked.put((what, is_steering))

    def take_word(self) -> str:
        word, self._word = self._word, ""
        return word

    def _run(self) -> None:
        while True:
            what, is_steering = self._asked.get()
            self.since = time.monotonic()
            try:
                self.found, self._word = what(self.found)
                self.trouble = ""
            except psycopg.Error as error:
                self._take_error(error, is_steering)
            except Exception as error:  # noqa: BLE001 - whoever looks is told, and waits for no thread that has ended
                self.fault = error
            if self._asked.empty():
                self.since = None
            self._wake()

    def _take_error(self, error: psycopg.Error, is_steering: bool) -> None:
        said = self._frame.scrub(_short(error))
        if isinstance(error, psycopg.OperationalError) and not self._frame.is_connected:
            # What is on the page stays.
            self.trouble = f"The connection is lost, trying again: {said}"
            self._word = "Nobody knows whether that was done." if is_steering else ""
        elif is_steering:
            denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
            self._word = f"No: {said}." + (" The profile operator may." if denied else "")
        elif isinstance(error, psycopg.OperationalError):
            self.trouble = f"The server said no, trying again: {said}"
        else:
            self.fault = error


def _short(error: psycopg.Error) -> str:
    text = (error.diag.message_primary or str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")
