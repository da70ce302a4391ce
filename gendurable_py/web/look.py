"""What a page is made of: a look at the database answers a template and what stands in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from starlette.datastructures import QueryParams

from .shown import Shown
from .source import Conn


@dataclass(frozen=True)
class Look:
    """One look: what is asked for, a session to ask it with, and what may be seen of values."""

    conn: Conn
    params: QueryParams
    path: Mapping[str, str]
    shown: Shown


@dataclass(frozen=True)
class Page:
    """A page to be rendered. Blocks of the template whose names begin with ``live_`` are sent again as they change."""

    template: str
    title: str
    data: dict[str, object] = field(default_factory=dict)
    status: int = 200


Handler: TypeAlias = "Callable[[Look], Awaitable[Page]]"
