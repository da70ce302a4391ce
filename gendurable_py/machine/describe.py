"""An exception as the text that is kept of it: short enough to list, always storable, and never the next error."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 8000
_LONGEST_PART = 1000
_MOST_MEMBERS = 10
_MOST_CAUSES = 5
_MOST_LINES = 40


def clean(text: str) -> str:
    """Any text as one that Postgres can store: an error message must never be the next error."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def describe(error: object) -> str:
    """The text kept as ``last_error``: type and message, notes, the members of a group, and what it came from."""
    if isinstance(error, str):
        return clean(error[:_LONGEST])
    lines = []
    try:
        for line in _write_lines(error, _LONGEST):
            lines.append(line)
            if len(lines) >= _MOST_LINES:
                break
    except BaseException as another:  # noqa: BLE001 - all of an exception can be code of others
        lines.append(f"(no more of it: {_name_type(another)} while it was described)")
    return clean("\n".join(lines)[:_LONGEST])


def _write_lines(error: object, longest: int) -> Iterator[str]:
    yield _write_head(error, longest)
    if not isinstance(error, BaseException):
        return
    yield from _write_parts(error, "")
    seen = {id(error)}
    for _ in range(_MOST_CAUSES):
        cause = error.__cause__
        said = "caused by"
        if cause is None and not error.__suppress_context__:
            cause, said = error.__context__, "while handling"
        if cause is None or id(cause) in seen:
            return
        seen.add(id(cause))
        error = cause
        yield f"{said} {_write_head(error, _LONGEST_PART)}"
        yield from _write_parts(error, "")


def _write_parts(error: BaseException, indent: str) -> Iterator[str]:
    """Its notes and its members."""
    for note in list(getattr(error, "__notes__", ()))[:_MOST_MEMBERS]:
        yield f"{indent}  {_read_text(note)[:_LONGEST_PART]}"
    if not isinstance(error, BaseExceptionGroup) or len(indent) > 6:
        return
    members = error.exceptions
    for member in members[:_MOST_MEMBERS]:
        yield f"{indent}  - {_write_head(member, _LONGEST_PART)}"
        yield from _write_parts(member, indent + "  ")
    if len(members) > _MOST_MEMBERS:
        yield f"{indent}  - and {len(members) - _MOST_MEMBERS} more"


def _write_head(error: object, longest: int) -> str:
    message = _read_text(error)
    return f"{_name_type(error)}: {message}"[:longest] if message else _name_type(error)


def _name_type(value: object) -> str:
    return str(type(value).__name__)


def _read_text(value: object) -> str:
    try:
        # A class of strings may have a slice of its own.
        return "".join(str(value))
    except BaseException:  # noqa: BLE001 - an exception may fail to describe itself, with itself for example
        return "(no text: its __str__ failed)"
