"""What the rules of the model test share: open transactions, calls of clients, the comparison after each rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from hypothesis.stateful import RuleBasedStateMachine, invariant
from support.model import Change
from support.model_inputs import WORKERS, Chance
from support.model_row import Row
from support.model_world import World

Rows = list[dict[str, Any]]


@dataclass
class Open:
    """A client's open transaction: what it will have done, and what it may have locked."""

    conn: psycopg.Connection[Any]
    change: Change | None = None
    ids: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    unique: set[str] = field(default_factory=set)
    everything: bool = False

    def touches(self, row: Row) -> bool:
        return (
            self.everything
            or row.id in self.ids
            or row.parent in self.ids
            or row.key in self.keys
            or row.unique_key in self.unique
        )


class Base(RuleBasedStateMachine):
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.clean()
        self.model = self.world.model
        self.claims: dict[str, dict[int, int]] = {w: {} for w in WORKERS}
        self.open: list[Open] = []
        self.loose: set[int] = set()
        self.chance = Chance(0)
        self.begun = self.agreed = self.tokens = 0

    @invariant()
    def database_agrees(self) -> None:
        self.world.compare(self.loose)
        self.loose.clear()
        if not self.open:
            self.world.check_invariants()
        self.agreed = self.begun

    def token(self) -> int:
        self.tokens += 10
        return self.tokens

    def some_row(self, liked: Callable[[Row], bool]) -> Row | None:
        """One of the rows that are liked, now and then any other."""
        rows = sorted(self.model.rows.values(), key=lambda r: r.id)
        if not self.chance.once_in(6):
            rows = [r for r in rows if liked(r)] or rows
        return self.chance.choice(rows) if rows else None

    def some_worker(self) -> str:
        """A worker that has something to do, if there is one."""
        stands = {r.worker for r in self.model.rows.values() if r.status == "executing"}
        return self.chance.choice([w for w in WORKERS if w in stands] or WORKERS)

    def hold(self) -> bool:
        """Whether a client's transaction stays open; two may."""
        return len(self.open) < len(self.world.holders) and self.chance.once_in(4)

    def touched(self, row: Row) -> bool:
        return any(o.touches(row) for o in self.open)

    def contested(self) -> None:
        """Several rows may have wanted one unique key in that call: who got it is the engine's choice."""
        self.loose |= {n for n, r in self.model.rows.items() if r.scope is not None}

    def call(
        self,
        hold: bool,
        query: str,
        *args: Any,
        rows: list[Row] | None = None,
        unique: str | None = None,
        everything: bool = False,
    ) -> tuple[Rows, Change, Callable[[], None]] | None:
        """A client's call, in a transaction that stays open if `hold`. None: it would have had to wait for another.

        `rows`, `unique`: what it may lock. The third value ends the call: it applies what the model makes of it, now
        or when the transaction commits.
        """
        free = [c for c in self.world.holders if all(o.conn is not c for o in self.open)]
        held = Open(free[0]) if hold and free else None
        try:
            answer, change = self.world.ask(held.conn if held else self.world.client, query, *args)
        except psycopg.errors.LockNotAvailable:
            if held:
                held.conn.rollback()
            assert self.open, "it waited, and no transaction is open"
            return None

        def finish() -> None:
            if self.open:
                self.contested()
            if held is None:
                change.apply()
                return
            every = [*(rows or []), *change.rows.values()]
            held.change = change
            held.ids = {r.id for r in every} | {r.parent for r in rows or [] if r.parent is not None}
            held.keys = {r.key for r in every if r.key}
            held.keys |= {p.key for p in map(self.model.rows.get, held.ids) if p is not None and p.key}
            held.unique = {r.unique_key for r in every if r.unique_key} | ({unique} if unique else set())
            held.everything = everything
            self.open.append(held)

        return answer, change, finish

    def close(self, number: int, commit: bool) -> None:
        held = self.open.pop(number)
        if commit:
            held.conn.commit()
            assert held.change is not None
            held.change.apply()
            self.contested()
        else:
            held.conn.rollback()
