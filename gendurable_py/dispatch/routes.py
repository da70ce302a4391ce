"""The queues that machines give to their steps, registered when an engine starts: never over what is in the database.

They are registered for the machine's version: what the next one says of a step concerns no instance of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psycopg

from .._log import logger
from ..calls import dispatching, stepping
from ..errors import StepRefused
from ..machine.spec import Spec
from .link import Link

_MISSING = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction)
"""A role without the profile author, or a database of an older release."""
_GO_ON = (*_MISSING, psycopg.errors.LockNotAvailable, StepRefused)
"""Also somebody's open transaction that defines a step, and a step that is somebody else's."""


class Routes:
    """What the machines of an engine say of the queues of their steps, in one database."""

    def __init__(self, link: Link, served: Mapping[str, int]) -> None:
        self._link = link
        self._served = served

    async def register(self, specs: Iterable[Spec]) -> None:
        """Register what is not there yet, and tell what differs, and what this engine does not serve."""
        specs = list(specs)
        names = [spec.name for spec in specs]
        declared = [(spec, step, queue) for spec in specs for step, queue in spec.queues.items()]
        try:
            there = await self._link.insist(dispatching.step_queues, names)
        except _MISSING as error:
            if declared:
                logger.warning("the queues of steps are left out: %s", str(error).strip())
            return
        missing = [one for one in declared if _find(there, one[0], one[1]) is None]
        refused = {(spec.name, step) for spec, step, queue in missing if not await self._define(spec, step, queue)}
        if missing:
            there = await self._link.insist(dispatching.step_queues, names)
        for spec, step, queue in declared:
            found = _find(there, spec, step)
            if found is not None and found[1] != queue and (spec.name, step) not in refused:
                logger.warning(
                    "the step %r of %s v%d has the queue %r in the code, and %s in the database, which stays: see "
                    "gd_steps, and change the code, or the database with gd_define_step for version %s",
                    step,
                    spec.name,
                    spec.version,
                    queue,
                    "none" if found[1] is None else repr(found[1]),
                    "null" if found[0] is None else found[0],
                )
        self._tell_unserved(specs, there)

    async def _define(self, spec: Spec, step: str, queue: str) -> bool:
        try:
            await self._link.insist(
                stepping.define_step, spec.name, step, version=spec.version, queue=queue, ensure=True
            )
        except _GO_ON as error:
            logger.warning(
                "the queue %r of the step %r of %s v%d could not be registered, so it runs in the queue of each "
                "instance: %s",
                queue,
                step,
                spec.name,
                spec.version,
                str(error).strip(),
            )
            return False
        return True

    def _tell_unserved(self, specs: Iterable[Spec], there: Mapping[tuple[str, str, int | None], str | None]) -> None:
        """A node for maintenance only serves nothing, and means it."""
        if not self._served:
            return
        for spec in specs:
            for step in spec.attributes.values():
                found = _find(there, spec, step)
                if found is not None and found[1] is not None and found[1] not in self._served:
                    logger.warning(
                        "the step %r of %s v%d runs in the queue %r, which this engine does not serve",
                        step,
                        spec.name,
                        spec.version,
                        found[1],
                    )


def _find(
    there: Mapping[tuple[str, str, int | None], str | None], spec: Spec, step: str
) -> tuple[int | None, str | None] | None:
    """The definition that counts for a step of this version: its version, and its queue."""
    for version in (spec.version, None):
        if (spec.name, step, version) in there:
            return version, there[spec.name, step, version]
    return None
