"""Several workers as one: children that are started again when they die, and one drain for all.

Each child has a pipe from here that it reads: when this process is gone, killed too, the pipe ends and the child
drains. Children are in process groups of their own, so that a Ctrl-C comes here alone and is handed on once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .measured import Family
from .serving import Settings

logger = logging.getLogger("gendurable.cli")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_PAUSE = 30.0
_LONG_LIFE = 10.0
# Beyond the time that a child itself gives its steps.
_GRACE = 15.0
_LOOK = 0.5
_PASSED_OVER = {"node_modules", "__pycache__", "site-packages"}


@dataclass
class _Child:
    number: int
    process: subprocess.Popen[bytes]
    control: BinaryIO
    status: BinaryIO
    started: float
    worker: str | None = None

    def tell(self, word: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.control.write(word.encode() + b"\n")
            self.control.flush()

    def close(self) -> None:
        for pipe in (self.control, self.status):
            with contextlib.suppress(OSError):
                pipe.close()


class Supervisor:
    """Runs ``processes`` children with these settings until a signal comes; ``changed`` asks for new ones."""

    def __init__(
        self,
        settings: Settings,
        processes: int,
        changed: Callable[[], bool] | None = None,
        lost: Callable[[str], None] | None = None,
        family: Family | None = None,
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._lost = lost
        self._family = family
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = dict.fromkeys(range(1, processes + 1), 0.0)
        self._deaths: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self._ever_ready = False
        self._stops = 0
        self._deadline: float | None = None
        self._code = 0

    def run(self) -> int:
        """The exit code: 0, or that of a child that could not begin, or 1 if one had to be killed."""
        with self._signals():
            try:
                while self._children or not self._stops:
                    self._start_due()
                    self._wait()
                    self._collect()
                    self._reload()
                    self._enforce()
            finally:
                for child in self._children.values():
                    child.process.kill()
                    child.process.wait()
                    child.close()
        return self._code

    # Starting

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, at in sorted(self._due.items()):
            if not self._stops and at <= now:
                del self._due[number]
                self._start(number)

    def _start(self, number: int) -> None:
        reading, control = os.pipe()
        status, writing = os.pipe()
        theirs = [reading, writing] if self._family is None else [reading, writing, self._family.begin(number).detach()]
        process = subprocess.Popen(
            [sys.executable, "-m", "gendurable_py.cli.child", *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
            process_group=0,
            env=_environment(),
        )
        for end in theirs:
            os.close(end)
        os.set_blocking(status, False)
        child = _Child(number, process, os.fdopen(control, "wb"), os.fdopen(status, "rb", 0), time.monotonic())
        self._children[number] = child
        self._selector.register(child.status, selectors.EVENT_READ, child)
        child.tell(self._settings.line(number))
        logger.info("worker %d is process %d", number, process.pid)

    # Waiting

    def _wait(self) -> None:
        now = time.monotonic()
        times = [at - now for at in self._due.values()] + ([self._deadline - now] if self._deadline else [])
        if self._changed is not None or any(child.process.poll() is not None for child in self._children.values()):
            times.append(_LOOK)
        for key, _ in self._selector.select(max(0.0, min(times)) if times else None):
            if isinstance(key.data, _Child):
                self._hear(key.data)
            else:
                self._told(key.fileobj)  # type: ignore[arg-type]

    def _hear(self, child: _Child) -> None:
        text = child.status.read(4096)
        if text:
            for word in text.decode("utf-8", "replace").splitlines():
                if word.startswith("ready "):
                    child.worker = word.removeprefix("ready ")
                    self._ever_ready = True
                    logger.info("worker %d serves as %s", child.number, child.worker)
        elif text is not None:
            # All of its end is closed: it is gone, or about to be.
            self._selector.unregister(child.status)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(1)

    def _told(self, reading: socket.socket) -> None:
        for number in reading.recv(4096):
            if number not in _SIGNALS:
                continue
            self._stops += 1
            if self._stops == 1:
                logger.info("draining %d workers", len(self._children))
                self._drain()
            elif self._stops == 2:
                self._tell_all("hurry")
                self._deadline = time.monotonic() + _GRACE

    def _drain(self) -> None:
        self._due.clear()
        self._deadline = time.monotonic() + self._settings.drain_timeout + _GRACE
        self._tell_all("drain")

    def _tell_all(self, word: str) -> None:
        for child in self._children.values():
            child.tell(word)

    # Ends

    def _collect(self) -> None:
        for number, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._children[number]
            with contextlib.suppress(KeyError, ValueError):
                self._hear(child)  # what it may have said last
                self._selector.unregister(child.status)
            child.close()
            if self._family is not None:
                self._family.end(number, died=bool(code) and not self._stops)
            self._judge(child, code)

    def _judge(self, child: _Child, code: int) -> None:
        if self._stops:
            if code:
                self._code = self._code or 1
                logger.warning("worker %d has ended with %s", child.number, _name(code))
            return
        if child.number in self._due:
            return  # it was told to make room
        if code and child.worker is not None and self._lost is not None:
            self._lost(child.worker)
        if not self._ever_ready and self._changed is None:
            # It cannot even begin: so it is with all.
            logger.error("worker %d could not begin: %s", child.number, _name(code))
            self._code = code if 0 < code < 4 else 1
            self._stops = 1
            self._drain()
            return
        long = time.monotonic() - child.started >= _LONG_LIFE
        deaths = 0 if long else self._deaths.get(child.number, 0) + 1
        self._deaths[child.number] = deaths
        pause = 0.0 if long or deaths == 1 else min(_LONGEST_PAUSE, 0.5 * 2 ** (deaths - 2))
        self._due[child.number] = time.monotonic() + pause
        logger.error("worker %d has ended with %s; it is started again in %.1f s", child.number, _name(code), pause)

    def _reload(self) -> None:
        if self._changed is not None and not self._stops and self._changed():
            logger.info("files have changed: the workers are started again")
            self._deaths.clear()
            for number, child in self._children.items():
                child.tell("drain")
                self._due[number] = float("inf")
            self._due.update(dict.fromkeys(self._due.keys() - self._children.keys(), 0.0))
        for number in self._due.keys() - self._children.keys():
            if self._due[number] == float("inf"):
                self._due[number] = 0.0

    def _enforce(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            for child in self._children.values():
                logger.error("worker %d does not end: it is killed", child.number)
                child.process.kill()
                child.process.wait()
            self._deadline = None

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """They only wake the loop, which reads their numbers."""
        reading, writing = socket.socketpair()
        with reading, writing:
            writing.setblocking(False)
            self._selector.register(reading, selectors.EVENT_READ)
            wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
            before = {number: signal.signal(number, lambda *_: None) for number in (*_SIGNALS, signal.SIGCHLD)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
                signal.set_wakeup_fd(wakeup)
                self._selector.close()


def _environment() -> Mapping[str, str]:
    """That of the children: they find this package where it is, and write as they go."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def _name(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


class Files:
    """The Python files below a directory; asked whether any has changed since it was asked before."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether one is new, gone or was written."""
        now = self._look()
        before, self._seen = self._seen, now
        return now != before

    def _look(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, folders, names in os.walk(self._root):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in _PASSED_OVER]
            if "pyvenv.cfg" in names:
                folders.clear()
                continue
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    with contextlib.suppress(OSError):
                        found[path] = os.stat(path).st_mtime_ns
        return found
