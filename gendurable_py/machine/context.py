"""What a step sees of its instance: one claim, read lazily, and the same for as long as the step runs.

What it takes of the inbox is remembered here, and used up when the outcome commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

from pydantic import JsonValue

from ..errors import InvalidArgument
from .claim import ClaimRow
from .codec import StateCodec, loads
from .outcome import ChildResult, Signal

S = TypeVar("S")


class Draining:
    """Whether an engine was told to stop: one for all that it runs, read in any thread."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told = False


class Context(Generic[S]):
    """One run of one step: the claimed instance, its inbox, the children it waited for.

    Everything is as it was when the row was claimed. Only ``cancelled`` and ``draining`` change while the step runs.
    """

    __slots__ = ("_cancelled", "_childs", "_codec", "_conn", "_draining", "_row", "_signals", "_state", "_taken")

    _draining: Draining
    _state: S
    _signals: tuple[Signal, ...]
    _childs: tuple[ChildResult, ...]

    def __init__(self, row: ClaimRow, codec: StateCodec[S]) -> None:
        self._row = row
        self._codec = codec
        self._cancelled = False
        self._taken: list[int] | None = None
        self._conn: Any = None

    def __repr__(self) -> str:
        row = self._row
        return f"<Context {row.fsm} {row.id} step={row.step!r} attempt={row.attempt}>"

    @property
    def id(self) -> int:
        return self._row.id

    @property
    def fsm(self) -> str:
        return self._row.fsm

    @property
    def version(self) -> int:
        return self._row.version

    @property
    def step(self) -> str:
        return self._row.step

    @property
    def attempt(self) -> int:
        """0 on the first run of this step; raised by a replay, a retry and a crash."""
        return self._row.attempt

    @property
    def queue(self) -> str:
        return self._row.queue

    @property
    def partition_key(self) -> str | None:
        return self._row.partition_key

    @property
    def unique_key(self) -> str | None:
        return self._row.unique_key

    @property
    def parent_id(self) -> int | None:
        return self._row.parent_id

    @property
    def timed_out(self) -> bool:
        """The deadline of the await passed, and no awaited signal that had not been shown before has come."""
        return self._row.timed_out

    @property
    def meta(self) -> Mapping[str, JsonValue]:
        return cast("dict[str, JsonValue]", loads(self._row.meta))

    @property
    def attributes(self) -> Mapping[str, JsonValue]:
        """What the instance is searched by; ``attributes=`` of an outcome changes it."""
        return cast("dict[str, JsonValue]", loads(self._row.attributes))

    @property
    def state(self) -> S:
        """Decoded once, and always the same object.

        Raises:
            pydantic.ValidationError: what is stored does not fit the machine's ``State``.
        """
        try:
            return self._state
        except AttributeError:
            self._state = self._codec.decode(self._row.state)
            return self._state

    @property
    def conn(self) -> Any:
        """In a transactional step: the connection on which it writes, a `psycopg.Connection`, of an async step an
        `psycopg.AsyncConnection`, or what its hook gave.

        Raises:
            InvalidArgument: the step is not transactional, or its transaction is over (as in `handle`).
        """
        if self._conn is None:
            raise InvalidArgument(
                "there is no transaction here", hint="ctx.conn is for steps with transactional=, until they return"
            )
        return self._conn

    @property
    def cancelled(self) -> bool:
        """The claim is lost or the instance was cancelled: what this step returns will not be committed."""
        return self._cancelled

    @property
    def draining(self) -> bool:
        """The engine was told to stop: what this step returns within its ``drain_timeout`` is still committed."""
        try:
            return self._draining.told
        except AttributeError:  # no engine runs it
            return False

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The whole inbox, oldest first. Looking uses nothing up."""
        try:
            return self._signals
        except AttributeError:
            self._signals = read_signals(self._row.signals)
            return self._signals

    @property
    def awaited(self) -> tuple[Signal, ...]:
        """The part of the inbox that this step awaited."""
        names = self._row.awaits
        return tuple(signal for signal in self.signals if signal.name in names) if names else ()

    @property
    def childs(self) -> tuple[ChildResult, ...]:
        """The children that this step waited for, by id: the first 10,000 (`gendurable_py.childs` pages on)."""
        try:
            return self._childs
        except AttributeError:
            self._childs = read_childs(self._row.childs)
            return self._childs

    def signal(self, name: str) -> Signal | None:
        """Take the next oldest signal of this name, each call another, or None.

        What was taken is used up when the outcome commits, unless that is a `Replay` or an error.
        """
        taken = self._taken
        for signal in self.signals:
            if signal.name == name and (taken is None or signal.id not in taken):
                if taken is None:
                    taken = self._taken = []
                taken.append(signal.id)
                return signal
        return None


def read_signals(text: str) -> tuple[Signal, ...]:
    if text == "[]":
        return ()
    return tuple(
        Signal(
            item["id"],
            item["name"],
            item["payload"],
            datetime.fromisoformat(item["inserted_at"]),
            item.get("cut", False),
        )
        for item in cast("list[dict[str, Any]]", loads(text))
    )


def read_childs(text: str) -> tuple[ChildResult, ...]:
    if text == "[]":
        return ()
    return tuple(
        ChildResult(
            item["id"],
            item["fsm"],
            item["status"],
            item["state"],
            item.get("result"),
            item.get("last_error"),
            item.get("cut", False),
        )
        for item in cast("list[dict[str, Any]]", loads(text))
    )
