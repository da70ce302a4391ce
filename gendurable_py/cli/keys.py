"""Keys of a terminal, as they are pressed, and what else wakes a screen: its size, a thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator

# What terminals send for the keys that have no letter.
_NAMED = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
}
# The rest of such a sequence follows at once, if this was not the key Escape itself.
_REST = 0.05


class Keys:
    """What wakes a screen: keys, if somebody can press any, and `wake`, from any thread or signal handler."""

    def __init__(self, number: int | None) -> None:
        self._number = number
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)

    @property
    def can_press(self) -> bool:
        return self._number is not None

    def wake(self) -> None:
        # full: it is woken already
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._waker, b".")

    def wait(self, seconds: float) -> list[str]:
        """The keys that are pressed within so many seconds; none: it was woken, or time is up."""
        watched = [self._woken] if self._number is None else [self._woken, self._number]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._number is None or self._number not in ready:
            return []
        text = self._read()
        # hung up
        return named(text) if text else ["q"]

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._waker)

    def _read(self) -> str:
        assert self._number is not None
        text = os.read(self._number, 1024).decode("latin-1")
        while text.endswith(("\x1b", "\x1b[", "\x1bO")):
            ready, _, _ = select.select([self._number], [], [], _REST)
            more = os.read(self._number, 1024).decode("latin-1") if ready else ""
            if not more:
                break
            text += more
        return text


def named(text: str) -> list[str]:
    """What was pressed: letters as they are, others by name; what has none is left out."""
    found: list[str] = []
    while text:
        name = next((name for name in _NAMED if text.startswith(name)), None)
        if name is not None:
            found.append(_NAMED[name])
            text = text[len(name) :]
        elif text.startswith(("\x1b[", "\x1bO")):
            # Another sequence: up to its last letter.
            end = next((place for place, letter in enumerate(text[2:], 2) if letter.isalpha() or letter == "~"), 1)
            text = text[end + 1 :]
        else:
            found.append("escape" if text[0] == "\x1b" else text[0])
            text = text[1:]
    return found


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """Read keys as they are pressed; the terminal is left as it was. A change of its size wakes, too."""
    number = sys.stdin.fileno() if sys.stdin.isatty() else None
    pressed = Keys(number)
    before = None if number is None else termios.tcgetattr(number)
    resized = signal.signal(signal.SIGWINCH, lambda *_: pressed.wake())
    try:
        if number is not None:
            tty.setcbreak(number)
        yield pressed
    finally:
        signal.signal(signal.SIGWINCH, resized)
        if number is not None and before is not None:
            termios.tcsetattr(number, termios.TCSADRAIN, before)
        pressed.close()
