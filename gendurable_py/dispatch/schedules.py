"""The schedules in the code of an engine's machines: announced at start, and now and then, so that they count as seen.

An engine schedules what is not there. It never changes what is: an operator may have changed or paused it, and engines
of the release before may still run. Where the two differ, it says so.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable

import psycopg

from .._log import logger
from ..calls.dispatching import announce
from ..calls.rows import Announced
from ..errors import GendurableError
from ..machine.schedule import encode_schedules
from ..machine.spec import Spec
from ..telemetry.events import Emit, Scheduled
from .link import TROUBLE, Link
from .services import Service

_EVERY = 3600.0
_SOON = 10.0
_MISSING = (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege)
"""A database of an older release, or a role that was not given what is new."""


class Schedules(Service):
    """Announces the schedules of some machines."""

    name = "schedules"

    def __init__(self, link: Link, emit: Emit) -> None:
        super().__init__()
        self._link = link
        self._emit = emit
        self._specs: list[Spec] = []
        self._document = b"[]"
        self._told: set[tuple[str, str, str]] = set()
        self._refused = False
        self._pause = _EVERY

    @property
    def wanted(self) -> bool:
        """Whether there is something to announce again."""
        return bool(self._specs) and not self._refused

    async def introduce(self, specs: Iterable[Spec], link: Link) -> None:
        """Announce the schedules of these machines from now on, for the first time on this link.

        Raises:
            GendurableError: one of them is not valid.
        """
        self._specs = list(specs)
        self._document = encode_schedules(self._specs)
        if self._specs:
            await self._announce(link)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._pause * random.uniform(0.8, 1.2))
            try:
                await self._announce(self._link)
            except GendurableError as error:
                logger.warning("the schedules could not be announced: %s", error)
                self._pause = _EVERY
            except TROUBLE as error:
                await self._link.trouble(error)
            await self._link.drop()

    async def _announce(self, link: Link) -> None:
        try:
            answers = await link.insist(announce, self._document, [spec.name for spec in self._specs])
        except _MISSING as error:
            self._refused = True
            self._tell(None, None, "refused", f"schedules in the code are left out: {str(error).strip()}")
            return
        for row in answers:
            if row.result in ("made", "differs", "gone"):
                self._tell(row.name, row.fsm, row.result, self._explain(row))
        self._pause = _SOON if any(row.result == "busy" for row in answers) else _EVERY

    def _explain(self, row: Announced) -> str:
        there = _show(row.cron, row.timezone, row.fsm, row.options)
        if row.result == "made":
            return f"scheduled {row.name!r}: {there}"
        if row.result == "gone":
            return (
                f"the schedule {row.name!r} of {row.fsm} is no longer in the code, and goes on: {there}; "
                f"last seen at {row.seen_at}. unschedule({row.name!r}) ends it"
            )
        here = next(
            _show(made.cron, made.timezone, spec.name, json.loads(made.encode(spec))["options"])
            for spec in self._specs
            for made in spec.schedules
            if made.name == row.name
        )
        return (
            f"the schedule {row.name!r} is another one in the database, which stays: {there}; in the code: {here}. "
            f"unschedule({row.name!r}) and a start of an engine take the code's"
        )

    def _tell(self, schedule: str | None, fsm: str | None, result: str, message: str) -> None:
        if (key := (schedule or "", result, message if result == "differs" else "")) in self._told:
            return
        self._told.add(key)
        if result == "made":
            logger.info("%s", message)
        else:
            logger.warning("%s", message)
        self._emit(Scheduled(schedule, fsm, result, message))


def _show(cron: str, timezone: str, fsm: str, options: object) -> str:
    text = json.dumps(options)
    return f"{cron!r} in {timezone} for {fsm}, options {text if len(text) < 300 else text[:300] + ' ...'}"
