"""JSON as Postgres takes it, and the state of a machine.

What could not be stored, or would not come back as it was written, is refused here, before it travels with others.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast

import pydantic
from pydantic_core import from_json, to_json

from ..errors import InvalidArgument
from . import roundtrip
from .describe import clean
from .roundtrip import is_plain

S = TypeVar("S")


def dumps(value: object) -> bytes:
    """Strict JSON: what jsonb would refuse (U+0000, lone surrogates, NaN, infinity) is refused here, and what JSON
    would lose (two keys of a dict that are one as strings).

    A batch travels as one document, so a value that only the server refuses would fail its neighbours too.
    """
    text = _encode_json(value)
    if type(value) is not str and not _is_plain(value) and _scan(text, "two keys"):
        raise InvalidArgument(
            "this value cannot be encoded as JSON: two keys of a dict are the same string",
            hint="JSON has strings as keys: 1 and '1' become one",
        )
    return text


def _encode_json(value: object) -> bytes:
    try:
        text = to_json(value)
    except RecursionError as error:
        raise InvalidArgument("this value cannot be encoded as JSON: it is nested too deeply") from error
    except Exception as error:  # noqa: BLE001 - values bring code of their own: iterators, properties, serializers
        text = _encode_slowly(value, error)
    # Three scans of a short string cost a tenth of a parse; only a hit is looked at closely.
    if b"\\u0000" in text or b"NaN" in text or b"Infinity" in text:
        # The hit may be innocent: an escaped backslash before "u0000", or the word NaN inside a string.
        found = _scan(text, "NaN or infinity", "U+0000")
        if found:
            raise InvalidArgument(f"this value cannot be encoded as JSON: {found}")
    return text


def _encode_slowly(value: object, error: Exception) -> bytes:
    """pydantic ends at 255 levels; what a step was given it can hand back."""
    reason = _say(error)
    if "depth exceeded" in reason:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode()
        except (TypeError, ValueError, RecursionError) as deeper:
            error, reason = deeper, _say(deeper)
    raise InvalidArgument(f"this value cannot be encoded as JSON: {reason}") from error


def _say(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # noqa: BLE001
        return type(error).__name__


def _is_plain(value: object) -> bool:
    try:
        return is_plain(value)
    except RecursionError:
        return False


def _scan(text: bytes, *problems: str) -> str | None:
    """The first of these problems that a JSON text has."""
    found: list[str] = []

    def constant(name: str) -> None:
        found.append("NaN or infinity")

    def pairs(items: list[tuple[str, Any]]) -> None:
        if len(dict(items)) < len(items):
            found.append("two keys")
        look(item for pair in items for item in pair)

    def look(items: Any) -> None:
        for item in items:
            if isinstance(item, str) and "\x00" in item:
                found.append("U+0000")
            elif isinstance(item, list):
                look(item)

    try:
        look([json.loads(text, parse_constant=constant, object_pairs_hook=pairs, parse_int=len)])
    except RecursionError as error:
        raise InvalidArgument("this value cannot be encoded as JSON: it is nested too deeply") from error
    return next((problem for problem in found if problem in problems), None)


def loads(text: str | None) -> pydantic.JsonValue:
    """Decode a JSON column that was fetched as text; SQL null and JSON null are both None.

    Raises:
        InvalidArgument: Python cannot hold it. It is a ``psycopg.Error``, and no other error is raised.
    """
    if text is None:
        return None
    try:
        value: pydantic.JsonValue = from_json(text)
    except ValueError:
        return _load_slowly(text)
    return value


def _load_slowly(text: str) -> pydantic.JsonValue:
    """pydantic ends at 200 levels, and Python by itself at 4,300 digits; jsonb goes on far beyond."""
    try:
        return cast("pydantic.JsonValue", json.loads(text, parse_int=_parse_long))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"this JSON is beyond what Python can read: {_say(error)}",
            hint="read it in SQL, or store it flatter",
        ) from error


def _parse_long(digits: str) -> int:
    # By way of Decimal: the limit of int() is a setting of the whole process.
    return int(digits) if len(digits) < 4000 else int(Decimal(digits))


def check_name(value: object, what: str) -> str:
    """A name as the server takes it.

    Raises:
        InvalidArgument: it is none.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is a {type(value).__name__}", hint="give a text")
    if not value or "\x00" in value or clean(value) != value:
        raise InvalidArgument(f"{what} is {value!r}", hint="give a text that is not empty, and that Postgres can store")
    if len(value.encode()) > 2000:
        raise InvalidArgument(f"{what} has {len(value.encode())} bytes", hint="names have at most 2,000")
    return value


_LONG_NUMBER = re.compile(rb"[0-9]{4000}")

# A plain dict is each of these already, and written as it is.
_OPEN: tuple[object, ...] = (dict, dict[str, object], dict[str, Any])


class StateCodec(Generic[S]):
    """How the state of one machine is read and written. ``kind`` None stands for a plain dict.

    A typed state comes back as it was written, or it is refused: here what never can, at the encode what this value
    does not. Written by aliases where these are read again, else by the names of the fields, without computed fields.

    Raises:
        InvalidArgument: the type is none, or one that loses something.
    """

    __slots__ = ("_adapter", "_aliases", "_by_alias", "_instances", "_open", "_sure", "kind")

    what = "state"
    """What it is in the words of an error."""

    def __init__(self, kind: type[S] | None) -> None:
        self.kind = kind
        self._adapter: pydantic.TypeAdapter[S] | None = None
        # Instances of these are taken as they are; anything else is validated into the declared type first.
        self._instances: type[S] | None = None
        self._sure: roundtrip.Sure = None
        self._open = kind in _OPEN
        if kind is None:
            return
        try:
            self._adapter = pydantic.TypeAdapter(kind)
            found = roundtrip.survey(self._adapter.core_schema)
        except roundtrip.Lost as lost:
            raise InvalidArgument(
                f"a {self.what} of {_name_type(kind)} would not come back as it was written: {lost}",
                hint=f"what a {self.what} holds is written after one step and read before the next",
            ) from lost
        self._by_alias, self._sure, self._aliases = found.by_alias, found.sure, found.aliases
        if isinstance(kind, type) and not issubclass(kind, dict):
            self._instances = kind

    def decode(self, text: str) -> S:
        if self._adapter is None:
            return cast(S, loads(text))
        try:
            return self._adapter.validate_json(text)
        except pydantic.ValidationError as error:
            if error.errors(include_input=False, include_context=False, include_url=False)[0]["type"] != "json_invalid":
                raise
            return self._adapter.validate_python(loads(text))

    def encode(self, state: object) -> bytes:
        """The state as a JSON object.

        Raises:
            InvalidArgument: it does not fit the machine's ``State``, cannot be encoded, or would not come back.
        """
        text = self.write(state)
        if not text.startswith(b"{"):
            raise InvalidArgument(
                f"the state is a {type(state).__name__}",
                hint="a state is a JSON object: a dict, a model or a dataclass",
            )
        return text

    def write(self, value: object) -> bytes:
        """Any value of the type as JSON; the errors are those of `encode`."""
        if self._adapter is None:
            return self._plain(value)
        if self._open and type(value) is dict and _is_plain(value):
            text = _encode_json(value)
            if len(text) <= 4000 or not _LONG_NUMBER.search(text):
                return text
        return self._typed(self._adapter, value)

    def _plain(self, state: object) -> bytes:
        if _is_plain(state):
            return _encode_json(state)
        text = dumps(state)
        if roundtrip.secret(state):
            raise InvalidArgument(
                f"the {self.what} holds a secret, which is written as asterisks",
                hint=f"keep its name in the {self.what}, not itself",
            )
        return text

    def _typed(self, adapter: pydantic.TypeAdapter[S], given: object) -> bytes:
        state = given
        try:
            if self._instances is None or not isinstance(state, self._instances):
                state = adapter.validate_python(state)
            # By way of Python: straight to JSON pydantic writes NaN and infinity as null.
            plain = adapter.dump_python(state, mode="json", by_alias=self._by_alias, round_trip=True, warnings="error")
            text = _encode_json(plain)
            sure = (self._sure is None or self._sure(state)) and not (
                len(text) > 4000 and _LONG_NUMBER.search(text)  # more digits than pydantic reads
            )
            lost = None if sure else self._lost(state, text)
            if lost is None and self._instances is None:
                lost = roundtrip.dropped(given, state, self._aliases)
        except InvalidArgument:
            raise
        except Exception as error:  # validators and serializers are code of others
            raise InvalidArgument(f"the {self.what} does not fit {_name_type(self.kind)}: {_say(error)}") from error
        if lost is not None:
            raise InvalidArgument(
                f"this {self.what} of {_name_type(self.kind)} would not come back as it was written: {lost}",
                hint=f"what a {self.what} holds is written after one step and read before the next: declare it with a "
                "type that says what it is",
            )
        return text

    def _lost(self, state: object, text: bytes) -> str | None:
        try:
            back = self.decode(text.decode())
        except ValueError as error:
            return f"it cannot be read again: {_say(error)}"
        return roundtrip.difference(state, back)


def _name_type(kind: object) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
