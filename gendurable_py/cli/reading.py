"""What is typed at a command line, read: durations, times, JSON. What cannot be read is a usage error."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from pydantic import JsonValue

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def duration(text: str) -> float:
    """Seconds: ``90``, ``90s``, ``5m``, ``2h``, ``1d``, ``1h30m``."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not text or _PART.sub("", text):
        raise typer.BadParameter(f"{text!r} is no duration: say 90, 90s, 5m, 2h, 1d or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def ahead(text: str) -> int | str:
    """``auto``, or a whole number."""
    if text == "auto":
        return text
    if not re.fullmatch(r"\d{1,6}", text):
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto", param_hint="--prefetch")
    return int(text)


def moment(text: str, *, ahead: bool = False) -> datetime:
    """A time with its zone: ISO 8601 (without a zone: that of this machine), ``now``, or a duration, counted back from
    now, or on from now where ``ahead``."""
    now = datetime.now(UTC)
    if text == "now":
        return now
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    try:
        span = timedelta(seconds=duration(text))
        return now + span if ahead else now - span
    except (typer.BadParameter, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time: say 2027-01-31T06:00, now, or 2h") from None


def value(text: str) -> JsonValue:
    """JSON, or ``@FILE`` with JSON in it."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{text[1:]}: {error}") from None
    try:
        found: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"this is no JSON: {error}") from None
    return found


def mapping(text: str) -> dict[str, JsonValue]:
    """A JSON object."""
    found = value(text)
    if not isinstance(found, dict):
        raise typer.BadParameter("this is no JSON object")
    return found


def number_or_none(text: str, name: str) -> int | None:
    """A number, or ``none``; ``name``: the parameter that it is given as."""
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number, and not none", param_hint=name)
    return int(text)


def concurrency(text: str) -> dict[str, int]:
    """Queues with how many steps run at once: ``default=10,mail=2``. A name alone means 10."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, said, number = part.strip().rpartition("=")
        if not said:
            name, number = part.strip(), "10"
        if not name or not number.isdecimal() or int(number) < 1:
            raise typer.BadParameter(f"{part!r} is no queue: say default=10,mail=2")
        found[name] = int(number)
    return found
