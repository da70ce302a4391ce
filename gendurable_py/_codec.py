"""JSON as Postgres takes it, durations, and the state of a machine."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Generic, TypeVar

import pydantic
from pydantic_core import PydanticSerializationError, from_json, to_json

from .errors import InvalidArgument

S = TypeVar("S")

Seconds = float | timedelta


def dumps(value: object) -> bytes:
    """Strict JSON: what jsonb would refuse (U+0000, lone surrogates, NaN, infinity) is refused here.

    A batch travels as one document, so a value that only the server refuses would fail its neighbours too.
    """
    try:
        text = to_json(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"this value cannot be encoded as JSON: {error}") from error
    # Three scans of a short string cost a tenth of a parse; only a hit is looked at closely.
    if b"\\u0000" in text or b"NaN" in text or b"Infinity" in text:
        _refuse(text)
    return text


def _refuse(text: bytes) -> None:
    def constant(name: str) -> object:
        raise InvalidArgument(f"this value cannot be encoded as JSON: {name} is not JSON")

    # The hit may be innocent: an escaped backslash before "u0000", or the word NaN inside a string.
    if _has_null(json.loads(text, parse_constant=constant)):
        raise InvalidArgument("this value cannot be encoded as JSON: Postgres has no U+0000 in text")


def _has_null(value: object) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any("\x00" in key or _has_null(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_has_null(item) for item in value)
    return False


def loads(text: str | None) -> pydantic.JsonValue:
    """Decode a JSON column that was fetched as text; SQL null and JSON null are both None."""
    if text is None:
        return None
    value: pydantic.JsonValue = from_json(text)
    return value


def clean(text: str) -> str:
    """Any text as one that Postgres can store: an error message must never be the next error."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def milliseconds(value: Seconds, what: str) -> int:
    """A duration for a ``…_ms`` key.

    Raises:
        InvalidArgument: it is negative, not finite or not a number.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise InvalidArgument(f"{what} is a {type(value).__name__}", hint="give seconds or a timedelta")
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidArgument(f"{what} is {value}", hint="give a finite duration that is not negative")
    return round(seconds * 1000)


def interval(value: Seconds, what: str) -> timedelta:
    """A duration for an ``interval`` argument, checked like `milliseconds`."""
    milliseconds(value, what)
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=value)
    except OverflowError as error:
        raise InvalidArgument(f"{what} is {value}", hint="give a duration below 2.7 million years") from error


class StateCodec(Generic[S]):
    """How the state of one machine is read and written. ``kind`` None stands for a plain dict."""

    __slots__ = ("_adapter", "_instances", "kind")

    def __init__(self, kind: type[S] | None) -> None:
        self.kind = kind
        self._adapter: pydantic.TypeAdapter[S] | None = None
        # Instances of these are taken as they are; anything else is validated into the declared type first.
        self._instances: type[S] | None = None
        if kind is not None:
            self._adapter = pydantic.TypeAdapter(kind)
            if isinstance(kind, type) and not issubclass(kind, dict):
                self._instances = kind

    def decode(self, text: str) -> S:
        if self._adapter is None:
            plain: S = from_json(text)
            return plain
        return self._adapter.validate_json(text)

    def encode(self, state: object) -> bytes:
        """The state as a JSON object.

        Raises:
            InvalidArgument: it does not fit the machine's ``State``, or cannot be encoded.
        """
        if self._adapter is None:
            text = dumps(state)
        else:
            try:
                if self._instances is None or not isinstance(state, self._instances):
                    state = self._adapter.validate_python(state)
                # By way of Python: straight to JSON pydantic writes NaN and infinity as null.
                plain = self._adapter.dump_python(state, mode="json", by_alias=True, warnings="error")
            except (pydantic.ValidationError, PydanticSerializationError, UnicodeError) as error:
                raise InvalidArgument(f"the state does not fit {self.kind}: {error}") from error
            text = dumps(plain)
        if not text.startswith(b"{"):
            raise InvalidArgument(
                f"the state is a {type(state).__name__}",
                hint="a state is a JSON object: a dict, a model or a dataclass",
            )
        return text
