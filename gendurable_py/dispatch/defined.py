"""What the database says of its steps in SQL (`gd_steps`): which they are, and which of them this engine can run.

It is read at start, now and then, and when a row comes whose step nobody here knows. Where the role has no rights for
it, the engine says so and goes on: such rows are left to others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import psycopg

from .._log import logger
from ..calls import dispatching
from ..calls.rows import Defined, StepsIn
from ..machine.claim import ClaimRow
from ..machine.registry import lookup
from ..machine.spec import Spec
from .link import Link

_MOST_AT_ONCE = 10
"""Rows of unknown steps come from whoever may insert: they make it read so often, and then once a second."""
_MOST_TOLD = 100

RUNS = ""
"""In the place of a problem: there is none."""


class Definitions:
    """What runs the steps that are defined."""

    def __init__(self, rows: list[Defined]) -> None:
        self.rows = rows
        self._steps: dict[tuple[str, str], dict[int | None, str | None]] = {}
        for row in rows:
            problem = (RUNS if row.problem is None else row.problem) if row.in_sql else None
            self._steps.setdefault((row.fsm, row.step), {})[row.version] = problem

    def find(self, fsm: str, version: int, step: str) -> str | None:
        """None: it is no step in SQL; `RUNS`: this role can run it; else why not."""
        versions = self._steps.get((fsm, step))
        if versions is None:
            return None
        return versions[version] if version in versions else versions.get(None)


class DefinedSteps:
    """``wanted``: whether this engine is to run such steps; ``interval``: seconds between two readings."""

    def __init__(self, wanted: bool, interval: float) -> None:
        self.wanted = wanted
        self._interval = interval
        self._found = Definitions([])
        self._read_at = -interval
        self._spared_at = -float(_MOST_AT_ONCE)
        self._refused = False
        self._told: set[tuple[str, ...]] = set()
        self.home: str | None = None
        """The schema of the functions; None: this role may not use them."""
        self.version = 0
        """Raised when the definitions have changed."""

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self._read_at >= self._interval

    def may_ask(self) -> bool:
        """Whether a row of an unknown step is a reason to read now."""
        now = time.monotonic()
        self._spared_at = max(self._spared_at, now - _MOST_AT_ONCE)
        if now - self._spared_at < 1:
            return False
        self._spared_at += 1
        return True

    def expire(self) -> None:
        """Something was not as it was read."""
        self._read_at = -self._interval

    @property
    def claims(self) -> StepsIn | None:
        """What to claim: all, or what is no step in SQL that this role could run."""
        return None if self.wanted and self.home is not None else "other"

    @property
    def runs(self) -> bool:
        """Whether there is one that can be run here."""
        return self.claims is None and any(row.in_sql and row.problem is None for row in self._found.rows)

    async def read(self, link: Link) -> None:
        home = await link.insist(dispatching.home_of_steps)
        rows: list[Defined] = []
        if home is not None:
            try:
                rows = await link.insist(dispatching.defined_steps, home)
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
                home = None  # since a moment ago
        self.home = home
        self._read_at = time.monotonic()
        if home is not None:
            self._refused = False
        elif self.wanted:
            self._say_refused("the role may not use gd_steps and gd_run_claims")
        if rows != self._found.rows:
            self._found = Definitions(rows)
            self.version += 1

    def refuse(self, reason: str) -> None:
        """The server would not let us run any: rights that were taken away, functions that are gone."""
        self.home = None
        self.version += 1
        self._say_refused(reason)

    def _say_refused(self, reason: str) -> None:
        if not self._refused:
            self._refused = True
            logger.warning(
                "steps in SQL are not run here: %s. They are left to others; the profile worker has the rights", reason
            )

    def find(self, fsm: str, version: int, step: str) -> str | None:
        """None: it is no step in SQL; `RUNS`: it can be run here; else why not."""
        problem = self._found.find(fsm, version, step)
        if problem == RUNS and self.claims is not None:
            return "this engine does not run steps in SQL"
        return problem

    # What is told, once each

    def warn_of_methods(self, specs: Iterable[Spec]) -> None:
        """A step that is in SQL is run there, whatever methods there are."""
        for spec in specs:
            for step in spec.attributes.values():
                if self.find(spec.name, spec.version, step) is not None:
                    self._tell(
                        "%s v%d: step %r is a function of the database (gd_steps), so its method is not called",
                        spec.name,
                        spec.version,
                        step,
                    )

    def warn_of_row(self, row: ClaimRow, problem: str) -> None:
        spec = lookup(row.fsm, row.version)
        if spec is not None:
            self.warn_of_methods([spec])
        if problem != RUNS:
            self._tell(
                "%s v%d: step %r is in SQL, and not run here: %s. Its instances are given back",
                row.fsm,
                row.version,
                row.step,
                problem,
            )

    def _tell(self, text: str, *about: object) -> None:
        key = (text, *map(str, about))
        if key not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(key)
            logger.warning(text, *about)
