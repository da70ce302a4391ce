"""How an instance remembers the trace that it was inserted in: `telemetry.otel` says what the trace is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Of the whole process, as tracers are: an insert knows no engine. None unless the program asks for it.
_current: Callable[[], Mapping[str, str]] | None = None


def use(current: Callable[[], Mapping[str, str]] | None) -> None:
    """From now on ask this for the keys of ``meta`` by which an instance remembers its trace."""
    global _current
    _current = current


def carrier() -> Mapping[str, str] | None:
    current = _current
    return None if current is None else current()


def traced(meta: Mapping[str, object] | None, keys: Mapping[str, str] | None) -> Mapping[str, object] | None:
    """The meta of an instance with the trace it is inserted in; one that the caller gave is never mixed with it."""
    if not keys or (meta and "traceparent" in meta):
        return meta
    return {**keys, **(meta or {})}
