"""Values as words: texts of others that cannot steer a page, times, sizes; and what is typed, read.

Whatever comes from the database comes from whoever may write there. HTML is escaped by the templates, all of them and
always; here goes what would still deceive: control characters, and those that turn the direction of a text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|[smhdw])")


class Unreadable(ValueError):
    """What was typed or stands in a URL cannot be read; the message says what would be."""


# -- showing


def plain(text: str) -> str:
    """A text in which what cannot be seen is shown as ``\\x1b``; line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter
        if letter in "\n\t" or unicodedata.category(letter) not in _UNPRINTABLE
        else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text.replace("\r\n", "\n")
    )


def cut(text: str, most: int) -> str:
    """The beginning of a text, and a word where something is left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]}… [{size(len(text))} in all, the rest is left out]"


def first_line(value: object, most: int = 200) -> str:
    text = "" if value is None else str(value).strip()
    return cut(text.split("\n", 1)[0], most)


def size(count: float) -> str:
    """Bytes or characters: ``800``, ``12 kB``, ``3.4 MB``."""
    for unit in ("", " kB", " MB", " GB"):
        if count < 1000 or unit == " GB":
            return f"{count:.0f}{unit}" if count >= 10 or not unit else f"{count:.1f}{unit}"
        count /= 1000
    raise AssertionError


def number(value: object) -> str:
    """A number with its thousands apart."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def span(seconds: float) -> str:
    """A duration in one unit: ``45 s``, ``12 min``, ``3 h``, ``8 d``."""
    for unit_size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < unit_size * (48 if unit == "h" else 100):
            return f"{seconds / unit_size:.0f} {unit}" if seconds >= 10 or unit != "s" else f"{seconds:.1f} s"
    return f"{seconds / 86400:,.0f} d"


def parse_time(value: object) -> datetime | None:
    """A time as the calls or JSON give it; None: there is none, or Python has no such time."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def exact(value: object) -> str:
    """A time to the second in UTC; what Python has no time for, as it is."""
    found = parse_time(value)
    if found is None:
        return "" if value is None else str(value)
    try:
        return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError):
        return str(value)


def ago(value: object, now: datetime | None = None) -> str:
    """How long ago a time was, or in how long it comes."""
    found = parse_time(value)
    if found is None:
        return "" if value is None else str(value)
    seconds = ((now or datetime.now(UTC)) - found).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


# -- reading


def duration(text: str) -> float:
    """Seconds: ``90``, ``90s``, ``5m``, ``2h``, ``1d``, ``1h30m``."""
    if re.fullmatch(r"\d{1,12}(?:\.\d{1,6})?", text):
        return float(text)
    if not text or _PART.sub("", text):
        raise Unreadable(f"{cut(text, 60)!r} is no duration: say 90, 90s, 5m, 2h, 1d or 1h30m")
    return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))


def moment(text: str, *, ahead: bool = False) -> datetime:
    """A time: ISO 8601 (without a zone: UTC), ``now``, or a duration, counted back, or on from now where ``ahead``."""
    now = datetime.now(UTC)
    if text == "now":
        return now
    found = parse_time(text)
    if found is not None:
        return found
    try:
        away = timedelta(seconds=duration(text))
        return now + away if ahead else now - away
    except (Unreadable, OverflowError):
        raise Unreadable(f"{cut(text, 60)!r} is no time: say 2027-01-31T06:00, now, or 2h") from None


def whole(text: str, name: str, low: int = -(2**31), high: int = 2**31 - 1) -> int:
    """A whole number within bounds."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text.strip()) or not low <= int(text) <= high:
        raise Unreadable(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def document(text: str, name: str) -> JsonValue:
    """JSON."""
    try:
        found: JsonValue = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{name} is no JSON: {error}") from None
    return found


def mapping(text: str, name: str) -> dict[str, JsonValue]:
    """A JSON object."""
    found = document(text, name)
    if not isinstance(found, dict):
        raise Unreadable(f"{name} must be a JSON object, {{…}}")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no value of JSON")
