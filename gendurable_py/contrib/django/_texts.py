"""Texts of others on pages: as they are, but without what a browser would take for an order, and cut with a word."""

from __future__ import annotations

import re

_LONGEST = 60
_DEEPEST = 20
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def shown(value: object, most: int = _LONGEST) -> str:
    """Any text on a line of its own, without what a browser or a terminal would take for an order."""
    text = "" if value is None else str(value)
    text = "".join(
        c if c.isprintable() else " " if c in "\r\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1]
    )
    return f"{text[:most]}…" if len(text) > most else text


def readable(value: object, length: int | None = None) -> str:
    """A longer text with its lines; ``length`` says how long the whole is, where this is the beginning of it."""
    text = "" if value is None else str(value)
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"{text}\n… cut: the whole has {length:,} characters" if length else text


def indented(text: str) -> str:
    """JSON on lines of its own, every string and number as it is written: a float of Python has 17 digits."""
    made: list[str] = []
    depth, opened = 0, False
    for token in _TOKEN.findall(text):
        closes = token in ("}", "]")
        depth -= closes
        if opened is not closes:
            made.append("\n" + "  " * min(depth, _DEEPEST))
        made.append({",": ",\n" + "  " * min(depth, _DEEPEST), ":": ": "}.get(token, token))
        opened = token in ("{", "[")
        depth += opened
    return "".join(made)


def status_of(status: str, paused: object) -> str:
    """With a word for what is paused."""
    return f"{status.replace('_', ' ')}{' (paused)' if paused else ''}"


def refuse(name: str) -> object:
    """Of what `json` reads besides JSON: ``NaN`` and the infinities."""
    raise ValueError(f"{name} is not in JSON")
