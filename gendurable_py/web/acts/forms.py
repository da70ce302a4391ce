"""What an action is made of: a plan, which says what will happen and asks what it needs, and the deed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from starlette.datastructures import QueryParams

from ..look import Look, Page
from ..source import Conn
from ..words import Unreadable

Values: TypeAlias = "Mapping[str, str]"
_LONGEST = 200


@dataclass(frozen=True)
class Field:
    """A field of a form. ``kind``: text, area (several lines), check, or hidden; ``choices`` make it a list."""

    name: str
    label: str
    kind: str = "text"
    help: str = ""
    value: str = ""
    choices: tuple[str, ...] = ()
    needed: bool = False


@dataclass(frozen=True)
class Plan:
    """What a confirmation shows. ``back``: where who changes their mind goes, path and query."""

    title: str
    says: tuple[str, ...]
    button: str
    back: str
    fields: tuple[Field, ...] = ()
    grave: bool = False
    rows: tuple[tuple[object, ...], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of it: done, or why not; or a page that tells it."""

    done: bool
    said: str = ""
    to: str = "/"
    page: Page | None = None


@dataclass(frozen=True)
class Act:
    """Something that operators do. ``needs``: the functions that the role must be able to call, all of them."""

    verb: str
    needs: tuple[str, ...]
    plan: Callable[[Look], Awaitable[Plan]]
    do: Callable[[Conn, QueryParams, Values], Awaitable[Outcome]]


def given(values: Values, name: str) -> str | None:
    """A field that was filled in; None: it was left empty."""
    text = values.get(name, "")
    return text if text.strip() else None


def required(values: Values, name: str) -> str:
    text = given(values, name)
    if text is None:
        raise Unreadable(f"{name} must be filled in")
    return text


def checked(values: Values, name: str) -> bool:
    return values.get(name) == "yes"
