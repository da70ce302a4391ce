"""What an engine was told while it runs, and what follows from it: it drains, or a queue has another number of slots.

`hello` brings what the server says; the feeder, the executor and `health` look here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from .._log import logger
from ..calls.rows import Told
from ..telemetry.events import Emit
from ..telemetry.steered import Drained, QueueSet
from .work import Held

State = Literal["running", "draining", "drained"]

_MOST_STEPS = 100_000


class Slots(Protocol):
    """How many steps run at once, by queue."""

    @property
    def limits(self) -> Mapping[str, int]: ...

    def set_limit(self, queue: str, limit: int) -> None: ...


class Steering:
    """One database's say in one engine."""

    def __init__(
        self, own: Mapping[str, int], slots: Slots, held: Held, emit: Emit, *, changed: Callable[[], None]
    ) -> None:
        """``own``: the numbers that the engine was started with. ``changed``: called when it may claim more or less."""
        self._own = own
        self._slots = slots
        self._held = held
        self._emit = emit
        self._changed = changed
        self.draining = False
        self.paused: frozenset[str] = frozenset()
        self.holds = False
        """Whether everything is held."""
        self._told: State = "running"

    @property
    def state(self) -> State:
        if not self.draining:
            return "running"
        return "draining" if len(self._held) else "drained"

    def apply(self, told: Told) -> bool:
        """Do as it is told; answers whether anything has changed."""
        changed = self._set_queues(told.queues)
        self.holds = told.held
        self.draining = told.drain
        if self.tell_state() or changed:
            self._changed()
            return True
        return False

    def tell_state(self) -> bool:
        """Tell if it has begun or ended to drain, or has nothing left; answers whether there was anything to tell."""
        state = self.state
        if state == self._told:
            return False
        self._told = state
        said = {
            "running": "it claims again",
            "draining": "it was told to claim nothing more, and finishes what it has",
            "drained": "it has finished what it had, and claims nothing until gd_resume_worker",
        }
        logger.warning("worker %s: %s", self._held.name, said[state])
        self._emit(Drained(len(self._held), state))
        return True

    def _set_queues(self, told: Mapping[str, Mapping[str, object]]) -> bool:
        changed = False
        paused = set()
        for queue, own in self._own.items():
            said = told.get(queue, {})
            number = said.get("concurrency")
            limit = (
                min(max(number, 0), _MOST_STEPS) if isinstance(number, int) and not isinstance(number, bool) else own
            )
            pauses = said.get("paused") is True
            if pauses:
                paused.add(queue)
            if limit != self._slots.limits[queue] or pauses != (queue in self.paused):
                changed = True
                self._slots.set_limit(queue, limit)
                logger.warning(
                    "queue %r: %d steps at once (%d of its own)%s", queue, limit, own, ", paused" if pauses else ""
                )
                self._emit(QueueSet(limit, own, queue, pauses))
        self.paused = frozenset(paused)
        return changed
