"""Where an exception was raised, as the text that is kept of it: bounded, always storable, and never the next error."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import FrameType

from .describe import clean, describe

LONGEST = 32 << 10
"""Bytes; the server cuts at the same."""

_MOST_FRAMES = 30
_MOST_LINKS = 5
_OWN = str(Path(__file__).parent.parent)


def describe_traceback(error: object) -> str | None:
    """The traceback of an exception and of what it came from, without the frames of the engine; None: it has none.

    What is too long has its middle cut out: of the frames, and of the text.
    """
    if not isinstance(error, BaseException):
        return None
    parts: list[str] = []
    if not was_raised(error):
        return None
    try:
        for one, said in _walk_links(error):
            lines = _write_frames(_own_left_out(list(traceback.walk_tb(one.__traceback__))))
            parts.append("".join(["Traceback (most recent call last):\n", *lines, _read_head(one), said]))
    except BaseException as another:  # noqa: BLE001 - all of an exception can be code of others
        parts.insert(0, f"(no more of it: {type(another).__name__} while it was described)\n")
    return cut(clean("".join(reversed(parts))).rstrip("\n"))


def was_raised(error: object) -> bool:
    """Whether it, or what it came from, has a traceback."""
    return isinstance(error, BaseException) and any(one.__traceback__ is not None for one, _ in _walk_links(error))


def describe_stack(frames: list[tuple[FrameType, int]]) -> str | None:
    """Where something stands that has raised nothing; None: nowhere."""
    try:
        lines = _write_frames(_own_left_out(frames))
    except BaseException:  # noqa: BLE001 - a loader of modules may be code of others
        return None
    return cut(clean("".join(["It stood here (most recent call last):\n", *lines])).rstrip("\n")) if lines else None


def cut(text: str) -> str:
    """The text without its middle, if it is too long; whole characters."""
    data = text.encode()
    if len(data) <= LONGEST:
        return text
    half = LONGEST // 2 - 50
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(text) - len(head) - len(tail)} characters cut ...\n{tail}"


def _walk_links(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The exception and what it came from, each with what stands between it and the next text."""
    seen: set[int] = set()
    one: BaseException | None = error
    said = ""
    while one is not None and id(one) not in seen and len(seen) < _MOST_LINKS:
        seen.add(id(one))
        yield one, said
        if one.__cause__ is not None:
            one, said = one.__cause__, "\nThis was the cause of the following:\n\n"
        else:
            one, said = None if one.__suppress_context__ else one.__context__, "\nWhile it was handled:\n\n"


def _own_left_out(frames: list[tuple[FrameType, int]]) -> list[tuple[FrameType, int]]:
    """The frames from the first that is not the engine's on; all, if there is no other."""
    for at, (frame, _) in enumerate(frames):
        if not frame.f_code.co_filename.startswith(_OWN):
            return frames[at:]
    return frames


def _write_frames(frames: list[tuple[FrameType, int]]) -> list[str]:
    """In ASCII: a database in another encoding than UTF-8 would refuse the error for what stands in a line of code."""
    lines = traceback.StackSummary.extract(islice(frames, _MOST_FRAMES)).format()
    if len(frames) > _MOST_FRAMES:
        rest = frames[_MOST_FRAMES:]
        if len(rest) > _MOST_FRAMES:
            lines.append(f"  ... {len(rest) - _MOST_FRAMES} frames ...\n")
        lines += traceback.StackSummary.extract(iter(rest[-_MOST_FRAMES:])).format()
    return [line.encode("ascii", "backslashreplace").decode() for line in lines]


def _read_head(error: BaseException) -> str:
    # the first line says what it is; its causes follow by themselves
    return describe(error).partition("\n")[0][:1000] + "\n"
