"""Outcomes that cannot be committed now through no fault of theirs: somebody's lock, or a fault of the server.

None is given up, and none holds up the others: the committer sends them on a connection of their own.
"""

from __future__ import annotations

import heapq
import random
import time
from dataclasses import dataclass, field

from .._log import logger
from ..telemetry.events import Busy, Emit, Stuck
from .work import Held, Work

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5
_FIRST_FAULT = 0.5
_LONGEST_FAULT = 60.0
_ROUND = 60
_LOG_EVERY = 30.0
# A lock that is held so long is somebody's forgotten transaction.
_FORGOTTEN = 30.0


@dataclass(order=True, slots=True)
class _Waiting:
    at: float
    number: int
    work: Work = field(compare=False)


class Blocked:
    """They are tried again, apart from all others, each after a pause that grows.

    Those behind a lock come in groups. A fault of the server (its NOTIFY queue is full, its disk, a trigger that
    somebody put on a table) may stop one outcome or all: one alone is tried first, and the rest once one got through.
    """

    def __init__(self, held: Held, emit: Emit) -> None:
        self._held = held
        self._emit = emit
        self._locked: list[_Waiting] = []
        self._stuck: list[_Waiting] = []
        self._faults: dict[Work, int] = {}
        self._entered: dict[Work, tuple[float, int]] = {}
        self._number = 0
        self._turn = 0
        self._told_at = -_LOG_EVERY

    def __len__(self) -> int:
        return len(self._entered)

    def lock(self, work: Work) -> None:
        """The server answered busy."""
        self._faults.pop(work, None)
        self._enter(work)
        # With many of them a round takes longer: the pauses grow with it, so that each has its turn at its time.
        longest = max(_LONGEST_PAUSE, 0.002 * len(self))
        self._wait(self._locked, work, min(_FIRST_PAUSE * 2 ** min(work.busy - 1, 16), longest))
        self._emit(Busy(work.busy, work.row.id, work.row.fsm, work.row.step))
        for_so_long = time.monotonic() - self._entered[work][0]
        if for_so_long > _FORGOTTEN:
            self._tell("the outcome of %s %s waits since %.0f s for a lock of another transaction", work, for_so_long)

    def fault(self, work: Work, sqlstate: str | None, message: str) -> None:
        """The server could not commit it, and the outcome is not to blame."""
        self._enter(work)
        self._held.failing = True
        tries = self._faults[work] = self._faults.get(work, 0) + 1
        if work.keep and not work.uncertain and not _runs(work):
            # It may be the next claim that cannot be answered: without it the outcome is a plain one.
            head, _, tail = (work.outcome or b"").rpartition(b',"keep":true')
            work.outcome, work.keep = head + tail, False
        pause = min(_FIRST_FAULT * 2 ** min(tries - 1, 16), _LONGEST_FAULT)
        self._wait(self._stuck, work, pause)
        self._emit(Stuck(tries, pause, work.row.id, work.row.fsm, work.row.step, sqlstate, message))
        self._tell(
            "the outcome of %s %s cannot be committed now: %s; tried again in about %.1f s", work, message, pause
        )

    def _tell(self, text: str, work: Work, *more: object) -> None:
        now = time.monotonic()
        if now - self._told_at >= _LOG_EVERY:
            self._told_at = now
            logger.warning(text + " (%d outcomes wait)", work.row.fsm, work.row.id, *more, len(self))

    def _enter(self, work: Work) -> None:
        work.busy += 1
        if work not in self._entered:
            row = work.row
            size = len(row.state) + len(row.signals) + len(row.childs) + len(work.outcome or b"")
            self._entered[work] = time.monotonic(), size
            self._held.uncommitted -= 1
            self._held.blocked += 1
            self._held.blocked_bytes += size
            if work.keep:
                self._held.kept[work.queue] -= 1

    def _wait(self, lane: list[_Waiting], work: Work, pause: float) -> None:
        self._number += 1
        # Spread: those that came together must not come together for ever.
        at = time.monotonic() + pause * random.uniform(0.8, 1.2)
        heapq.heappush(lane, _Waiting(at, self._number, work))

    @property
    def running(self) -> int:
        """Flows that are to go on when they are committed, since steps of them run."""
        return sum(1 for work in self._entered if work.keep and _runs(work))

    def leave(self, work: Work) -> bool:
        """It is settled, or goes another way; answers whether it was here."""
        entered = self._entered.pop(work, None)
        if entered is None:
            return False
        self._held.blocked -= 1
        self._held.blocked_bytes -= entered[1]
        self._faults.pop(work, None)
        work.busy = 0
        return True

    def through(self, work: Work) -> None:
        """It was answered: the server works. If a fault had stopped it, that is over, and the others try at once."""
        self._held.failing = False
        if work in self._faults:
            self.hurry(self._stuck)

    def hurry(self, *lanes: list[_Waiting]) -> None:
        """Let all of them, or of one kind, be due now."""
        now = time.monotonic()
        for lane in lanes or (self._locked, self._stuck):
            for waiting in lane:
                waiting.at = min(waiting.at, now)
            heapq.heapify(lane)

    def due(self) -> list[Work]:
        """The next to try, those first that should have been tried longest ago; both kinds in turn."""
        now = time.monotonic()
        for _ in range(2):
            self._turn ^= 1
            lane, most = (self._stuck, 1 if self._held.failing else _ROUND) if self._turn else (self._locked, _ROUND)
            taken: list[Work] = []
            while lane and lane[0].at <= now and len(taken) < most:
                taken.append(heapq.heappop(lane).work)
            if taken:
                return taken
        return []

    def next_at(self) -> float | None:
        """When the next is due, on the monotonic clock."""
        return min((lane[0].at for lane in (self._locked, self._stuck) if lane), default=None)


def _runs(work: Work) -> bool:
    """Whether steps of it run, so that another worker must not have it."""
    return work.flow is not None and work.flow.busy
