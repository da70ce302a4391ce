"""What people see of values: redacted, as a tree, and never more of it than a page can bear."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from pydantic import JsonValue

from ..errors import InvalidArgument
from ..machine.codec import loads
from .settings import Redact
from .words import cut, size

# What one tree shows. More is in the raw JSON.
_NODES = 1500
_DEPTH = 24
_WIDE = 200
_TEXT = 4000
_ERROR = 40_000
"""Errors and tracebacks are cut at 32 kB by the server."""


@dataclass(frozen=True)
class Twig:
    """A value in a tree: ``kind`` is object, array, string, number, boolean or null; of what is too large: cut."""

    name: str | None
    kind: str
    text: str
    twigs: tuple[Twig, ...] = ()
    left_out: int = 0


class Shown:
    """What a request may see of values. Where the hook fails nothing is shown."""

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact

    @property
    def redacts(self) -> bool:
        return self._redact is not None

    def value(self, what: str, fsm: object, value: JsonValue) -> JsonValue:
        """A value as it may be seen."""
        if self._redact is None or value is None:
            return value
        try:
            return self._redact(what, str(fsm), value)
        except Exception as error:  # noqa: BLE001 - a hook of the user's; what it says may quote the value
            return f"[withheld: redact raised {type(error).__name__}]"

    def text(self, fsm: object, text: str | None) -> str | None:
        """An error, a traceback or a message as it may be seen."""
        if text is None:
            return None
        seen = self.value("error", fsm, text)
        return None if seen is None else cut(seen if isinstance(seen, str) else json.dumps(seen), _ERROR)

    def tree(self, what: str, fsm: object, value: JsonValue) -> Twig:
        """A value as a tree of bounded size."""
        return grown(self.value(what, fsm, value))

    def excerpt(self, what: str, fsm: object, text: str | None, most: int, whole: int | None = None) -> Twig:
        """A value of which the server has sent ``most`` characters of JSON, or None of what is larger still.

        ``whole``: how long it is, or how large as it is stored. What is cut cannot be redacted: it is not shown then.
        """
        said = "" if whole is None else f"{size(whole)} in all, "
        if text is not None:
            with contextlib.suppress(InvalidArgument):  # what is cut, or beyond what Python can read
                return self.tree(what, fsm, loads(text))
        if text is None or self._redact is not None:
            return Twig(None, "cut", f"[{said}too large to be shown here]")
        return Twig(None, "cut", text if len(text) < most else f"{text}… [{said}the rest is left out]")


def grown(value: JsonValue) -> Twig:
    """A value that is as it may be seen, as a tree of bounded size."""
    return _Tree().grow(None, value, 0)


class _Tree:
    def __init__(self) -> None:
        self._left = _NODES

    def grow(self, name: str | None, value: JsonValue, depth: int) -> Twig:
        self._left -= 1
        match value:
            case dict():
                return self._branch(name, "object", [(str(key), each) for key, each in value.items()], depth)
            case list():
                return self._branch(name, "array", [(str(place), each) for place, each in enumerate(value)], depth)
            case str():
                return Twig(name, "string", cut(value, _TEXT))
            case bool():
                return Twig(name, "boolean", "true" if value else "false")
            case None:
                return Twig(name, "null", "null")
            case _:
                return Twig(name, "number", cut(_digits(value), 100))

    def _branch(self, name: str | None, kind: str, pairs: list[tuple[str, JsonValue]], depth: int) -> Twig:
        count = f"{len(pairs)} {'key' if kind == 'object' else 'value'}{'' if len(pairs) == 1 else 's'}"
        twigs: list[Twig] = []
        for key, each in pairs[:_WIDE] if depth < _DEPTH else []:
            if self._left <= 0:
                break
            twigs.append(self.grow(cut(key, 200), each, depth + 1))
        return Twig(name, kind, count, tuple(twigs), len(pairs) - len(twigs))


def _digits(value: object) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # an integer with more digits than Python writes
        return "a number with very many digits"
