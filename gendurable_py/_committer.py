"""Group commit: what has gathered while the last commit ran goes next, without any timer."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import timedelta

import psycopg

from . import _calls, calls
from ._codec import loads
from ._encode import encode_stop
from ._executor import HANDLE, RUN, STOP, Executor, Work
from ._held import Held
from ._link import TROUBLE, Emit, Link
from ._log import logger
from ._rows import kept_row
from .context import ClaimRow
from .errors import from_sqlstate

_MOST_ROWS = 1000
_FEW_ROWS = 100
_MOST_BYTES = 8_000_000
_BUSY_PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_BUSY_ROWS = 60

# The classes in which an error is the fault of one outcome, as in the server's own isolation of a batch.
_POISON = ("22", "23", "54", "P0", "GD")
_GIVE_UP = 5

CANCELLED_DELAY = 10.0
"""Seconds until a row is due again whose step was cancelled by others than the engine."""


_Answered = tuple[list[Work], list[tuple[int, str, str | None]], str, float]
"""A batch, the answers to it, the worker that it was sent as, and the seconds that it took."""


class Committer:
    """Commits outcomes, and does with each what the answer says.

    ok: forget the claim, or run on if it was kept. stale: forget it; the step is never run again from here. busy: send
    it again, apart from the others. rejected: ask `handle` for another outcome, and stop the instance if that is
    refused too.

    A commit whose answer was lost is sent again as it was. If it did happen, its claim_no is no longer the row's, and
    the answer is stale: that settles it, and no step runs twice because of it.
    """

    def __init__(
        self,
        link: Link,
        aside: Link,
        executor: Executor,
        held: Held,
        emit: Emit,
        *,
        lease: timedelta,
        go_on: Callable[[Work, ClaimRow], bool],
        progressed: Callable[[], None],
    ) -> None:
        self._link = link
        self._aside = aside
        self._executor = executor
        self._held = held
        self._emit = emit
        self._lease = lease
        self._go_on = go_on
        self._progressed = progressed
        self._pending: deque[Work] = deque()
        self._busy: list[tuple[float, Work]] = []
        self._handling: set[Work] = set()
        self._tidying = False
        self._event = asyncio.Event()
        self._busy_event = asyncio.Event()
        self._release: defaultdict[tuple[str, float], list[tuple[int, int]]] = defaultdict(list)

    def add(self, works: list[Work]) -> None:
        """Works whose step has ended. One without an outcome was cancelled: there is nothing to say about it."""
        for work in works:
            self._handling.discard(work)
            if work.outcome is None or work.ctx._cancelled:
                self._held.drop(work)
                if not work.ctx._cancelled:
                    self._cancelled(work)
                continue
            self._held.uncommitted += 1
            if work.keep:
                self._held.kept[work.queue] += 1
            self._pending.append(work)
        self._event.set()

    def give_back(self, works: list[Work]) -> None:
        """Works that will not be started here."""
        for work in works:
            self._held.drop(work)
            self._release[work.worker, 0.0].append((work.row.id, work.row.claim_no))
        self._event.set()

    def _cancelled(self, work: Work) -> None:
        """Its task was cancelled: at the end by the engine, else by somebody else or by the step itself."""
        delay = 0.0
        if not self._executor.draining:
            delay = CANCELLED_DELAY  # one that cancels itself each time must not make this spin
            logger.warning(
                "step %s of %s %s was cancelled, and not by the engine: it is given back for %g s",
                work.row.step,
                work.row.fsm,
                work.row.id,
                delay,
            )
        self._release[work.worker, delay].append((work.row.id, work.row.claim_no))

    async def run(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            await self._tidy()
            settled: list[_Answered] = []
            while (batch := self._batch()) or settled:
                # The next batch is on its way while the answers of this one are looked at: with run-ahead that is where
                # the next steps begin, and the server would wait for them.
                sending = asyncio.ensure_future(self._send(self._link, batch)) if batch else None
                try:
                    await asyncio.sleep(0)
                    self._settle_all(settled)
                    self._progressed()
                    settled = [] if sending is None else await sending
                finally:
                    if sending is not None:
                        sending.cancel()
                if not settled or not self._pending:
                    await self._tidy()
            del batch  # nothing is kept while it waits

    async def run_busy(self) -> None:
        """The second lane: outcomes that met a lock of somebody else, with a pause that grows for each."""
        while True:
            if not self._busy:
                self._busy_event.clear()
                await self._busy_event.wait()
            self._busy.sort(key=lambda item: item[0])
            now = time.monotonic()
            if self._busy[0][0] > now:
                await asyncio.sleep(self._busy[0][0] - now)
                continue
            due = [work for at, work in self._busy if at <= now][:_BUSY_ROWS]
            chosen = set(map(id, due))
            self._busy = [item for item in self._busy if id(item[1]) not in chosen]
            self._settle_all(await self._send(self._aside, due))
            del due  # nothing is kept while it waits
            self._progressed()

    def _batch(self) -> list[Work]:
        most = _MOST_ROWS
        if any(self._held.kept.values()):
            # Half of the instances that are run ahead make their step while the other half commits. If one commit took
            # most of them, the server would wait for this process, and then this process for the server.
            most = min(most, max(_FEW_ROWS, len(self._held) // 2))
        batch: list[Work] = []
        size = 0
        while self._pending and len(batch) < most and size < _MOST_BYTES:
            work = self._pending.popleft()
            size += len(work.outcome or b"")
            batch.append(work)
        return batch

    async def _send(self, link: Link, batch: list[Work]) -> list[_Answered]:
        """Send a batch until it is answered; in halves if the server cannot take it as a whole."""
        failures = 0
        while True:
            started = time.perf_counter()
            worker = self._held.worker
            document = b"[" + b",".join([work.outcome or b"null" for work in batch]) + b"]"
            try:
                answers = await link.attempt(_calls.commit_text, worker, document.decode(), self._lease)
            except TROUBLE as error:
                for work in batch:
                    work.uncertain = work.uncertain or link.uncertain
                state = error.sqlstate if isinstance(error, psycopg.Error) else None
                failures += state is not None
                poison = state is not None and state[:2] in _POISON
                if len(batch) > 1 and (poison or failures >= _GIVE_UP):
                    half = len(batch) // 2
                    return await self._send(link, batch[:half]) + await self._send(link, batch[half:])
                if poison:
                    self._reject(batch[0], state, str(error))
                elif failures >= _GIVE_UP:
                    # Nothing says that the outcome is wrong, so it is not given up; but it goes out of the way.
                    logger.error("committing %s %s failed: %s", batch[0].row.fsm, batch[0].row.id, error)
                    self._wait_for(batch[0])
                else:
                    await link.trouble(error)
                    continue
                return []
            return [(batch, answers, worker, time.perf_counter() - started)]

    def _settle_all(self, settled: list[_Answered]) -> None:
        for answered in settled:
            self._settle(*answered)

    def _settle(
        self, batch: list[Work], answers: list[tuple[int, str, str | None]], worker: str, seconds: float
    ) -> None:
        special = {ord: (result, detail) for ord, result, detail in answers}
        counts = {"ok": 0, "stale": 0, "busy": 0, "rejected": 0}
        for ord, work in enumerate(batch):
            result, detail = special.get(ord, ("ok", None)) if special else ("ok", None)
            counts[result] += 1
            if result == "busy":
                self._wait_for(work)
                continue
            if result == "rejected":
                said = loads(detail)
                reason = said if isinstance(said, dict) else {}
                self._reject(work, _text(reason.get("sqlstate")), _text(reason.get("message")) or "rejected")
                continue
            self._forget(work)
            if result == "stale":
                self._stale(work)
            elif detail is not None:
                work.worker = worker
                self._kept(work, detail)
        size = len(batch)
        self._emit("commit", {"rows": size, "seconds": seconds, **counts}, {})

    def _forget(self, work: Work) -> None:
        self._held.uncommitted -= 1
        if work.keep:
            self._held.kept[work.queue] -= 1
        self._held.drop(work)

    def _stale(self, work: Work) -> None:
        work.ctx._cancelled = True
        if work.uncertain:
            # It was committed before the answer was lost. A kept claim then stands under this name, unknown to us.
            if work.keep:
                self._held.rename()
            return
        self._emit("stale", {"count": 1}, {"id": work.row.id, "fsm": work.row.fsm, "step": work.row.step})
        logger.info("the claim of %s %s (step %s) was lost", work.row.fsm, work.row.id, work.row.step)

    def _kept(self, work: Work, detail: str) -> None:
        row = kept_row(detail)
        if not self._go_on(work, row):
            self._release[work.worker, 0.0].append((row.id, row.claim_no))
            self._event.set()

    def _wait_for(self, work: Work) -> None:
        pause = _BUSY_PAUSES[min(work.busy, len(_BUSY_PAUSES) - 1)]
        work.busy += 1
        about: dict[str, object] = {"id": work.row.id, "fsm": work.row.fsm, "step": work.row.step}
        self._emit("busy", {"count": 1, "tries": work.busy}, about)
        self._busy.append((time.monotonic() + pause, work))
        self._busy_event.set()

    def _reject(self, work: Work, sqlstate: str | None, message: str) -> None:
        """The server refuses this outcome: it goes where an error of the step goes."""
        self._emit(
            "rejected",
            {"count": 1},
            {"id": work.row.id, "fsm": work.row.fsm, "step": work.row.step, "sqlstate": sqlstate, "message": message},
        )
        if work.keep:
            self._held.kept[work.queue] -= 1
            work.keep = False
        reason = from_sqlstate(sqlstate, message)
        if work.stage == RUN:
            work.rejection = reason
            work.outcome = None
            self._held.uncommitted -= 1
            self._handling.add(work)
            self._executor.submit(work)
        elif work.stage == HANDLE:
            logger.error("%s %s: the outcome of handle was rejected: %s", work.row.fsm, work.row.id, message)
            work.stage = STOP
            work.outcome = encode_stop(work.ctx, reason)
            self._pending.append(work)
            self._event.set()
        else:
            logger.error("%s %s cannot be stopped: %s; its lease will end", work.row.fsm, work.row.id, message)
            self._held.uncommitted -= 1
            self._held.drop(work)

    async def _tidy(self) -> None:
        """Give back what nobody works on: kept claims that cannot go on here, cancelled steps, unknown claims."""
        self._tidying = True
        try:
            while self._release:
                (worker, delay), pairs = self._release.popitem()
                await self._link.attempt(calls.release, worker, pairs, delay)
                self._emit("release", {"rows": len(pairs), "delay": delay}, {"reason": "unused"})
            for name in self._held.settled():
                rows = await self._link.attempt(calls.release, name, None)
                self._emit("release", {"rows": rows, "delay": 0}, {"reason": "abandoned"})
        except TROUBLE as error:
            logger.info("claims are left to their lease: %s", error)
        finally:
            self._tidying = False

    def tidy(self) -> None:
        """Look soon whether there is something to give back."""
        self._event.set()

    @property
    def idle(self) -> bool:
        waiting = self._pending or self._busy or self._release or self._handling
        return not waiting and not self._tidying and self._held.uncommitted == 0

    async def flush(self) -> None:
        """Wait until everything that has an outcome is settled."""
        while not self.idle:
            self._event.set()
            await asyncio.sleep(0.001)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
