"""The functions that a flow runs as steps: how they are run, and how what they return is written and read again.

What comes back to the flow is the stored JSON, read by the function's return annotation: the same now and after a
crash.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidArgument
from ..machine.codec import StateCodec, dumps, loads
from ..machine.job import read_annotation
from .errors import FlowError

_PLAIN = (None, type(None), Any, object, dict, list, Mapping, dict[str, Any], list[Any])
_SCALARS = (type(None), bool, int, float, str)
_EXACT = (bool, int, str)
"""Annotations that say of a value of this very type all that there is to say."""
_LARGE = 1 << 63
_WORDS = {None: "null", True: "true", False: "false"}


class ValueCodec(StateCodec[Any]):
    """How the values of one type are written and read."""

    __slots__ = ()

    what = "value"


class StepFunction:
    """What is known of a function: whether it is async, and how its values are written. ``codec`` None: plain JSON."""

    __slots__ = ("_exact", "codec", "is_async")

    def __init__(self, is_async: bool, codec: ValueCodec | None) -> None:
        self.is_async = is_async
        self.codec = codec
        self._exact = codec.kind if codec is not None and codec.kind in _EXACT else None

    def write(self, value: Any) -> str:
        """A value as JSON.

        Raises:
            InvalidArgument: it does not fit the annotation, or it would not come back as it is.
        """
        if self._is_scalar(value):
            kind = type(value)
            if kind is int and -_LARGE < value < _LARGE:
                return str(value)
            return _WORDS[value] if kind is bool or value is None else dumps(value).decode()
        if self.codec is not None:
            return self.codec.write(value).decode()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise InvalidArgument("the step is a sync function that gives back an awaitable", hint="make it async def")
        return dumps(value).decode()

    def read(self, text: str) -> Any:
        """Raises pydantic's ValidationError where it does not fit the annotation (any more)."""
        return loads(text) if self.codec is None else self.codec.decode(text)

    def again(self, value: Any, text: str) -> Any:
        """What `read` would give, where the value itself is at hand."""
        return value if self._is_scalar(value) else self.read(text)

    def _is_scalar(self, value: Any) -> bool:
        """Whether it comes back as it is, with nothing to be checked: pydantic reads no number of many digits."""
        kind = type(value)
        if self.codec is None:
            return kind in _SCALARS
        return kind is self._exact and (kind is not int or -_LARGE < value < _LARGE)


_AWAITED, _CALLED = StepFunction(True, None), StepFunction(False, None)


def look_at(function: Callable[..., Any]) -> StepFunction:
    """What is known of a step's function.

    Raises:
        FlowError: it is none, or its annotation cannot be used.
    """
    plain = getattr(function, "__func__", function)
    if getattr(plain, "__closure__", True) is None and not _has_values(plain):
        return _remembered(plain)  # one that closes over nothing lives as long as its module, or nearly so
    return _examine(function)


def _has_values(function: Any) -> bool:
    """Whether it was made in passing and has values of that moment: ``lambda order=order: …``."""
    return bool(function.__defaults__ or function.__kwdefaults__) and "<" in function.__qualname__


@functools.lru_cache(maxsize=4096)
def _remembered(function: Callable[..., Any]) -> StepFunction:
    return _examine(function)


def _examine(function: Callable[..., Any]) -> StepFunction:
    if not callable(function):
        raise FlowError(f"a {type(function).__name__} is no function: ctx.step(name, function, *args)")
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        raise FlowError(f"{_name(function)} is a generator, which gives back no value")
    is_async = inspect.iscoroutinefunction(inner)
    try:
        kind = read_annotation(inspect.unwrap(inner), "return")
        if _is_plain(kind):
            return _AWAITED if is_async else _CALLED
        return StepFunction(is_async, _codec(kind))
    except Exception as error:
        raise FlowError(f"what {_name(function)} is annotated to return cannot be used: {error}") from error


def _is_plain(kind: Any) -> bool:
    return any(kind is one or kind == one for one in _PLAIN)


def _codec(kind: Any) -> ValueCodec:
    try:
        return _codec_of(kind)
    except TypeError:  # a type that cannot be hashed
        return ValueCodec(kind)


@functools.lru_cache(maxsize=4096)
def _codec_of(kind: Any) -> ValueCodec:
    return ValueCodec(kind)


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))[:200]
