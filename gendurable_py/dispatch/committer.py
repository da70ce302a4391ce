"""Group commit: what has gathered while the last commit ran goes next, without any timer.

The last stage of a step. No outcome is given up that can still be committed, and none is committed twice. What an
answer means stands in `answers`, what waits for a lock or a fault in `blocked`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import timedelta

import psycopg

from .._contract import BAD_OUTCOME
from .._log import logger
from ..calls import dispatching, working
from ..calls.rows import Answer
from ..machine.claim import ClaimRow
from ..telemetry.events import Committed, Emit, Rejected, Released, Stale
from .answers import CONFLICTS, Fate, Meaning, is_unsendable, read_answer
from .link import TROUBLE, Link
from .work import Aside, Held, Holding, Runner, Work, refuse

_MOST_ROWS = 1000
_FEW_ROWS = 100
_MOST_BYTES = 8_000_000

# The connection, or the server as a whole: nothing is wrong with what was sent.
_AWAY = ("08", "25", "57P")
_TRIES = 3
_RELEASE_AGAIN = 1.0

CANCELLED_DELAY = 10.0
"""Seconds until a row is due again whose step was cancelled by others than the engine."""

UNSTARTED_DELAY = 5.0
"""Seconds until a row is due again for whose step there was no connection."""


_Answered = tuple[list[Work], list[Answer], str, float]
"""A batch, the answers to it, the worker that it was sent as, and the seconds that it took."""


class Committer:
    """Commits outcomes, and does with each what the answer says.

    ok: forget the claim, or run on if it was kept. stale: forget it; the step is never run again from here. busy: send
    it again, apart from the others. rejected: ask `handle` for another outcome, and stop the instance if that is
    refused too. A commit that fails as a whole is no reason to give an outcome up, unless the server cannot even read
    it: that is the server's fault, and the outcome waits until it is over.

    A commit whose answer was lost is sent again as it was. If it did happen, its claim_no is no longer the row's, and
    the answer is stale: that settles it, and no step runs twice because of it.
    """

    def __init__(
        self,
        link: Link,
        aside: Link,
        blocked: Aside,
        executor: Runner,
        held: Held,
        emit: Emit,
        *,
        lease_ttl: timedelta,
        go_on: Callable[[Work, ClaimRow | int, bool], bool],
        progressed: Callable[[], None],
    ) -> None:
        self._link = link
        self._aside = aside
        self._blocked = blocked
        self._executor = executor
        self._held = held
        self._emit = emit
        self._lease_ttl = lease_ttl
        self._go_on = go_on
        self._progressed = progressed
        self._pending: deque[Work] = deque()
        self._handling: set[Work] = set()
        self._tidying = False
        self._event = asyncio.Event()
        self._busy_event = asyncio.Event()
        self._release: defaultdict[tuple[str, float, bool], list[tuple[int, int]]] = defaultdict(list)

    def add(self, works: list[Work]) -> None:
        """Works whose step has ended. One without an outcome was cancelled: there is nothing to say about it."""
        for work in works:
            self._handling.discard(work)
            if work.fate is not None or work.outcome is None or work.ctx._cancelled:
                self._held.drop(work)
                work.end_flow()
            if work.fate is not None:
                self._settle_fate(work, work.fate)
                if work.fate is Fate.COMMITTED and not self._held.abandoning:
                    continue  # nothing to send
                self._event.set()
                continue
            self._event.set()
            if work.outcome is None or work.ctx._cancelled:
                if not work.ctx._cancelled:
                    self._release_cancelled(work)
                continue
            self._held.uncommitted += 1
            if work.keep:
                self._held.kept[work.queue] += 1
            self._pending.append(work)

    def give_back(self, works: Iterable[Holding], delay: float = 0.0, crashed: bool = False) -> None:
        """What will not be run here. ``crashed``: it may have been, and what became of it is not known."""
        for work in works:
            self._held.drop(work)
            self._release[work.worker, delay, crashed].append((work.row.id, work.row.claim_no))
        self._event.set()

    def _settle_fate(self, work: Work, fate: Fate) -> None:
        """The step had a transaction, which is over."""
        claim = (work.row.id, work.row.claim_no)
        if fate is Fate.COMMITTED:
            self._emit(Committed(1, work.ended - work.started, 1, 0, 0, 0))
        elif fate is Fate.LOST:
            if not work.ctx._cancelled:
                self._emit(Committed(1, work.ended - work.started, 0, 1, 0, 0))
                self._lose(work)
        elif fate is Fate.CRASHED:
            # If it was committed the claim is gone, and this finds nothing.
            self._release[work.worker, 0.0, True].append(claim)
        else:
            delay = 0.0 if fate is Fate.HALTED or self._executor.draining else UNSTARTED_DELAY
            self._release[work.worker, delay, False].append(claim)

    def _release_cancelled(self, work: Work) -> None:
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
        self._release[work.worker, delay, False].append((work.row.id, work.row.claim_no))

    async def run(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            await self._tidy()
            settled: list[_Answered] = []
            while (batch := self._take_batch()) or settled:
                # The next batch is on its way while the answers of this one are looked at: with run-ahead that is where
                # the next steps begin, and the server would wait for them.
                sending = asyncio.ensure_future(self._send(self._link, batch)) if batch else None
                try:
                    await asyncio.sleep(0)
                    self._settle_batches(settled)
                    self._progressed()
                    settled = [] if sending is None else await sending
                finally:
                    if sending is not None:
                        sending.cancel()
                if not settled or not self._pending:
                    await self._tidy()
            del batch  # nothing is kept while it waits

    async def run_busy(self) -> None:
        """The second lane: outcomes that met a lock or a fault, so many at a time, with a pause that grows for each."""
        while True:
            self._busy_event.clear()
            if due := self._blocked.due():
                self._settle_batches(await self._send(self._aside, due))
                self._progressed()
            else:
                at = self._blocked.next_at()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                        await self._busy_event.wait()
            del due  # nothing is kept while it waits

    def _take_batch(self) -> list[Work]:
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
        faults = 0
        brief = any(work.keep and work.flow is not None for work in batch)
        while True:
            started = time.perf_counter()
            worker = self._held.worker
            document = (b"[" + b",".join([work.outcome or b"null" for work in batch]) + b"]").decode("utf-8", "replace")
            try:
                answers = await link.attempt(dispatching.commit_text, worker, document, self._lease_ttl, brief)
            except (*TROUBLE, UnicodeError) as error:
                for work in batch:
                    work.uncertain = work.uncertain or link.uncertain
                state = error.sqlstate if isinstance(error, psycopg.Error) else None
                if not is_unsendable(error):
                    if not link.sent or state is None or state.startswith(_AWAY):
                        await link.trouble(error)
                        continue
                    faults += 1
                    if not (state.startswith(BAD_OUTCOME) and await self._is_unreadable(link, document, state)):
                        if faults < _TRIES and link is not self._aside:
                            await asyncio.sleep(0.05 * 2**faults * random.uniform(0.5, 1.5))
                            continue
                        if len(batch) == 1 or link is not self._aside:
                            for work in batch:
                                self._block(work, state, str(error))
                            return []
                if len(batch) == 1:
                    self._reject(batch[0], state, str(error))
                    return []
                half = len(batch) // 2
                return await self._send(link, batch[:half]) + await self._send(link, batch[half:])
            return [(batch, answers, worker, time.perf_counter() - started)]

    async def _is_unreadable(self, link: Link, document: str, state: str) -> bool:
        """Whether the server says the same of the document alone, without doing anything with it."""
        try:
            await link.attempt(dispatching.unreadable, document)
        except TROUBLE as error:
            return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] == state[:2]
        return False

    def _block(self, work: Work, sqlstate: str | None, message: str) -> None:
        if sqlstate in CONFLICTS:
            self._blocked.lock(work)
        else:
            self._blocked.fault(work, sqlstate, message)
        self._busy_event.set()

    def _settle_batches(self, settled: list[_Answered]) -> None:
        for batch, answers, worker, seconds in settled:
            special = {answer.ord: answer for answer in answers}
            counts = {"stale": 0, "busy": 0, "rejected": 0}
            for ord, work in enumerate(batch):
                answer = special.get(ord) if special else None
                if answer is None and not work.busy:
                    self._uncount(work)
                    self._held.drop(work)
                    work.end_flow()
                    continue
                try:
                    self._settle(work, answer, worker)
                    if answer is not None and answer.result in counts:
                        counts[answer.result] += 1
                except Exception as error:  # noqa: BLE001 - it is about this row, and the others have their answers
                    logger.error("what became of %s %s is lost", work.row.fsm, work.row.id, exc_info=error)
            stale, busy, rejected = counts.values()
            ok = len(batch) - stale - busy - rejected
            if ok:
                self._held.failing = False
            self._emit(Committed(len(batch), seconds, ok, stale, busy, rejected))

    def _settle(self, work: Work, answer: Answer | None, worker: str) -> None:
        meaning = read_answer(answer, work.stage, work.uncertain)
        if meaning is Meaning.BUSY:
            assert answer is not None
            # Words come with what is no lock: a fault that the server found in this one alone.
            self._block(work, answer.sqlstate or CONFLICTS[-1], answer.message or "busy")
            return
        self._blocked.through(work)
        if meaning is Meaning.KEPT:
            assert answer is not None
            self._uncount(work)
            self._keep(work, answer, worker)
            return
        if meaning in (Meaning.HANDLE, Meaning.STOP, Meaning.HOPELESS):
            assert answer is not None
            self._reject(work, answer.sqlstate, answer.message or "rejected")
            return
        self._uncount(work)
        self._held.drop(work)
        work.end_flow()
        if meaning is Meaning.LOST:
            self._lose(work)
        elif meaning is Meaning.REPEATED:
            work.ctx._cancelled = True
            if work.keep:  # a kept claim then stands under this name, unknown to us
                self._held.rename()

    def _uncount(self, work: Work) -> None:
        if work.busy and self._blocked.leave(work):
            return
        self._held.uncommitted -= 1
        if work.keep:
            self._held.kept[work.queue] -= 1

    def _lose(self, work: Work) -> None:
        work.ctx._cancelled = True
        self._emit(Stale(work.row.id, work.row.fsm, work.row.step))
        logger.info("the claim of %s %s (step %s) was lost", work.row.fsm, work.row.id, work.row.step)

    def _keep(self, work: Work, answer: Answer, worker: str) -> None:
        delay, row = 0.0, answer.kept
        assert row is not None
        work.worker = worker
        if work.flow is None:
            self._held.drop(work)
        try:
            if self._go_on(work, row, answer.halted):
                return
        except Exception as error:  # noqa: BLE001 - a row that cannot be run here is given back, as a claimed one is
            delay = CANCELLED_DELAY
            logger.error("%s %s cannot go on here", work.row.fsm, work.row.id, exc_info=error)
        if work.flow is not None:
            self._held.drop(work)
            work.end_flow()
        claim_no = row if isinstance(row, int) else row.claim_no
        self._release[work.worker, delay, False].append((work.row.id, claim_no))
        self._event.set()

    def _reject(self, work: Work, sqlstate: str | None, message: str) -> None:
        """The server refuses this outcome: it goes where an error of the step goes."""
        self._emit(Rejected(work.row.id, work.row.fsm, work.row.step, sqlstate, message))
        self._uncount(work)
        work.keep = False
        if work.flow is not None:
            work.flow.close()
        meaning = refuse(work, sqlstate, message)
        if meaning is Meaning.HOPELESS:
            self._held.drop(work)
        elif meaning is Meaning.HANDLE:
            self._handling.add(work)
            self._executor.submit(work)
        else:
            self._held.uncommitted += 1
            self._pending.append(work)
            self._event.set()

    async def _tidy(self) -> None:
        """Give back what nobody works on: kept claims that cannot go on here, cancelled steps, unknown claims."""
        self._tidying = True
        try:
            while self._release:
                how, pairs = self._release.popitem()
                try:
                    await self._link.attempt(working.release, how[0], pairs, *how[1:])
                except TROUBLE as error:
                    if not self._executor.draining and (getattr(error, "sqlstate", None) or "08").startswith(_AWAY):
                        self._release[how] += pairs  # a lease that ends would count as an attempt
                        asyncio.get_running_loop().call_later(_RELEASE_AGAIN, self._event.set)
                    raise
                self._emit(Released(len(pairs), how[1], "crashed" if how[2] else "unused"))
            for name in self._held.settled():
                rows = await self._link.attempt(working.release, name, None)
                self._emit(Released(rows, 0, "abandoned"))
        except TROUBLE as error:
            logger.info("claims cannot be given back now: %s", error)
        finally:
            self._tidying = False

    def tidy(self) -> None:
        """Look soon whether there is something to give back."""
        self._event.set()

    @property
    def idle(self) -> bool:
        waiting = self._pending or len(self._blocked) or self._release or self._handling
        return not waiting and not self._tidying and self._held.uncommitted == 0

    async def flush(self) -> None:
        """Wait until everything that has an outcome is settled."""
        self._blocked.hurry()
        self._busy_event.set()
        while not self.idle:
            self._event.set()
            await asyncio.sleep(0.001)
