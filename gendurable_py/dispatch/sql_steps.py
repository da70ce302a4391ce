"""Steps that are functions of the database: their rows go to one connection, gathered like commits.

A call of `gd_run_claims` runs the functions of some claims and commits what they return, in one transaction. Nothing is
locked before, so heartbeats cover what waits here and what runs there. What was not reached goes again, and so does
what met a lock, and everything where an answer was lost: what was committed then is stale now.

The connection has the settings of the role, and nothing else uses it: a slow function holds up no commit. Which steps
there are stands in `defined`, what goes with a call in `sql_backlog`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import psycopg

from .._contract import BAD_OUTCOME
from .._log import logger
from ..calls import dispatching
from ..calls.rows import Ran, StepsIn
from ..errors import from_sqlstate
from ..machine.claim import ClaimRow
from ..machine.last_resort import encode_error
from ..telemetry import instrument as telemetry
from ..telemetry.events import Busy, Committed, Emit, Stale, StepEnded, Stuck
from .answers import CONFLICTS
from .link import TROUBLE, Link
from .services import Service
from .work import Held, Holding, InSql

_SHORT_WAIT = 50
"""Milliseconds for which one that has met a lock waits for it again, where others wait for the connection."""

REFUSED_DELAY = 10.0
"""Seconds until a row is due again whose step is in SQL and cannot be run here."""
_NO_HANDLER_DELAY = 1.0

_TELL_EACH = 12
"""Of so many locks that one meets, about half a minute at first and a minute later, it is told of one."""

_LOSSES = 2
"""How often a function that ran alone may take the connection with it before its claim is given back as crashed."""
_PATIENCE = 1.0
"""Seconds after which a call is broken off in which a claim seems to be lost: it is one function that takes so long."""

_WAIT, _WAITS = 0.01, 100
"""How long the end of a cancelled call is waited for: so many times so many seconds."""

# The connection, the session, or the server as a whole. A function may have set what begins each transaction.
_AWAY = ("08", "25", "57P", "GD504")
_CANCELLED = "57014"
# What only our own call raises: what a function raises is answered.
_NOT_OURS = ("42501", "42883", "42P01", "3F000")


class Definitions(Protocol):
    """Which steps are in SQL (see `defined`)."""

    home: str | None
    version: int

    @property
    def is_old(self) -> bool: ...

    def may_ask(self) -> bool: ...

    @property
    def claims(self) -> StepsIn | None: ...

    @property
    def runs(self) -> bool: ...

    async def read(self, link: Link) -> None: ...

    def expire(self) -> None: ...

    def refuse(self, reason: str) -> None: ...

    def find(self, fsm: str, version: int, step: str) -> str | None: ...

    def warn_of_row(self, row: ClaimRow, problem: str) -> None: ...


class Waiting(Protocol):
    """What waits for the connection (see `sql_backlog`)."""

    @property
    def others(self) -> bool: ...

    @property
    def room(self) -> int: ...

    def is_full(self, running: int) -> bool: ...

    def add(self, work: InSql) -> None: ...

    def put_back(self, works: list[InSql]) -> None: ...

    def lock(self, work: InSql) -> None: ...

    def fault(self, work: InSql) -> float: ...

    def next(self) -> list[InSql]: ...

    def next_at(self) -> float | None: ...

    def learn(self, sent: int, ran: int, left: int, seconds: float) -> None: ...

    def narrow(self, size: int) -> None: ...

    def clear(self) -> list[InSql]: ...


class GiveBack(Protocol):
    """Gives claims back; ``crashed``: they may have been committed, and nobody knows."""

    def __call__(self, works: Iterable[Holding], delay: float = 0.0, crashed: bool = False) -> None: ...


class SqlSteps(Service):
    """Runs them for one database: one call at a time."""

    name = "steps in SQL"

    def __init__(
        self,
        link: Link,
        defined: Definitions,
        backlog: Waiting,
        held: Held,
        emit: Emit,
        *,
        give_back: GiveBack,
        progressed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._link = link
        self._defined = defined
        self._held = held
        self._emit = emit
        self._give_back = give_back
        self._progressed = progressed
        self._backlog = backlog
        self._running: list[InSql] = []
        self._began = 0.0
        self._event = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None
        self.stopping = False

    # What the feeder asks

    @property
    def version(self) -> int:
        """Raised when the definitions have changed."""
        return self._defined.version

    @property
    def room(self) -> int:
        """How many more may wait here; 0 also where there is nothing that could be run."""
        return 0 if self.claims is not None or not self._defined.runs else self._backlog.room

    async def look(self, link: Link, unknown: bool = False) -> None:
        """Read the definitions, if that is some time ago. ``unknown``: a row is held whose step is not known, and goes
        on its way whether they can be read or not."""
        if not unknown:
            if self._defined.is_old:
                await self._defined.read(link)
        elif self._defined.may_ask():
            with contextlib.suppress(*TROUBLE):
                await self._defined.read(link)

    @property
    def claims(self) -> StepsIn | None:
        """What to claim now: where enough waits here, nothing more of it."""
        return self._defined.claims or ("other" if self._backlog.is_full(len(self._running)) else None)

    def take(self, row: ClaimRow, worker: str, sure: bool) -> bool:
        """Whether the step of a claimed row is in SQL: then it is looked after. ``sure``: the definitions were read
        just now, or cannot be; else one that cannot be run here is not decided about."""
        problem = self._defined.find(row.fsm, row.version, row.step)
        if problem is None or (problem and not sure):
            return False
        self._defined.warn_of_row(row, problem)
        work = InSql(row, worker)
        if self.stopping or problem:
            self._give_back([work], REFUSED_DELAY if problem else 0.0)
        else:
            older = self._held.add(work)
            if older is not None:
                older.lose()
            self._backlog.add(work)
            self._event.set()
        return True

    # Running

    async def run(self) -> None:
        while True:
            self._event.clear()
            if taken := [] if self.stopping else self._backlog.next():
                if batch := self._still(taken):
                    await self._call(batch)
                del batch
                self._progressed()
            else:
                at = self._backlog.next_at()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                        await self._event.wait()
            del taken  # nothing is kept while it waits

    def _still(self, works: list[InSql]) -> list[InSql]:
        """Without those whose claims were lost while they waited: they are let go."""
        for work in works:
            if work.lost:
                self._held.drop(work)
        return [work for work in works if not work.lost]

    async def _call(self, batch: list[InSql]) -> None:
        home, worker = self._defined.home, self._held.worker
        if home is None:
            self._give_back(batch, REFUSED_DELAY)
            return
        self._running, self._began = batch, time.monotonic()
        for work in batch:
            work.running = True
        try:
            if batch[0].verdict is not None:
                answers = [await self._commit_verdict(home, worker, batch[0])]
            else:
                claims = [(work.row.id, work.row.claim_no) for work in batch]
                lock_ms = _SHORT_WAIT if batch[0].locked and self._backlog.others else None
                answers = await self._link.attempt(dispatching.run_claims_text, home, worker, claims, lock_ms)
        except (*TROUBLE, UnicodeError) as error:
            self._stand()
            await self._fail(batch, error)
        else:
            self._stand()
            self._settle(batch, answers, time.monotonic() - self._began)

    def _stand(self) -> None:
        for work in self._running:
            work.running = False
        self._running = []

    async def _commit_verdict(self, home: str, worker: str, work: InSql) -> Ran:
        """It is alone."""
        row = work.row
        outcome = encode_error(row, work.verdict or "").decode()
        result = await self._link.attempt(dispatching.commit_apart, home, worker, outcome)
        answer = {"ok": "error", "stale": "stale"}.get(result, "busy")
        return Ran(0, row.id, row.claim_no, answer, {"message": work.verdict})

    # What came of it

    def _settle(self, batch: list[InSql], answers: list[Ran], seconds: float) -> None:
        counts = Counter(answer.result for answer in answers)
        ran, stale, busy = counts["ok"] + counts["error"], counts["stale"], counts["busy"]
        first: list[InSql] = []
        left: list[InSql] = []
        for answer in answers:
            work = batch[answer.ord]
            match answer.result:
                case "ok" | "error":
                    self._held.drop(work)
                    self._tell(work.row, answer, seconds / ran)
                case "stale":
                    self._held.drop(work)
                    if not work.uncertain:
                        self._lose(work.row)
                case "busy":
                    self._lock(work)
                    self._emit(Busy(work.locked, work.row.id, work.row.fsm, work.row.step))
                case "no_handler":
                    self._defined.expire()
                    self._give_back([work], _NO_HANDLER_DELAY)
                case _:
                    again = answer.detail.get("again") if isinstance(answer.detail, dict) else None
                    if again == "last":
                        self._lock(work)
                    else:
                        (first if again == "first" else left).append(work)
        self._put_back([*first, *left])
        self._backlog.learn(len(batch), ran, len(left), seconds)
        if answered := ran + stale + busy:
            self._emit(Committed(answered, seconds, ran, stale, busy, 0))

    def _tell(self, row: ClaimRow, answer: Ran, seconds: float) -> None:
        """A step has ended. Its time is its part of the call."""
        error: Exception | None = None
        if answer.result == "error" and isinstance(answer.detail, dict):
            state, message = answer.detail.get("sqlstate"), str(answer.detail.get("message"))
            error = from_sqlstate(state if isinstance(state, str) else None, message)
            logger.warning("step %s of %s %s failed: %s", row.step, row.fsm, row.id, message)
        self._emit(
            StepEnded(seconds, row.attempt, row.id, row.fsm, row.step, row.version, row.queue, answer.result, error)
        )
        if telemetry.current is not None:
            telemetry.current.ran(row, seconds, answer.result, error)

    def _lose(self, row: ClaimRow) -> None:
        self._emit(Stale(row.id, row.fsm, row.step))
        logger.info("the claim of %s %s (step %s) was lost", row.fsm, row.id, row.step)

    def _lock(self, work: InSql) -> None:
        if self.stopping:
            self._give_back([work])
            return
        self._backlog.lock(work)
        if work.locked % _TELL_EACH == 0:
            row = work.row
            logger.warning("step %s of %s %s waits for a lock of another transaction", row.step, row.fsm, row.id)

    def _put_back(self, works: list[InSql]) -> None:
        if self.stopping:
            self._give_back(works)
        else:
            self._backlog.put_back(works)

    async def _fail(self, batch: list[InSql], error: BaseException) -> None:
        """The call failed as a whole: nothing of it is committed, unless its answer was lost."""
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        if self._link.uncertain and state != _CANCELLED:
            for work in batch:
                work.uncertain = True
        if state is None or state.startswith(_AWAY) or not self._link.sent:
            await self._reconnect(batch, error)
        elif state in _NOT_OURS:
            self._defined.refuse(str(error).strip())
            self._give_back(batch, REFUSED_DELAY)
        elif len(batch) > 1 or self.stopping:
            self._backlog.narrow(len(batch) // 2)
            self._put_back(batch)
        elif state == _CANCELLED or state.startswith(BAD_OUTCOME):
            # It took longer than the role may, or what it left for the end of the transaction has failed.
            batch[0].verdict = batch[0].verdict or f"{str(error).strip()} ({state})"
            self._lock(batch[0])
        elif state in CONFLICTS:
            self._lock(batch[0])
        else:
            self._stick(batch[0], state, str(error).strip())

    async def _reconnect(self, batch: list[InSql], error: BaseException) -> None:
        if self._link.sent:
            # One of them may be what ended the session: each by itself, until they get through.
            self._backlog.narrow(1)
            batch[0].losses += len(batch) == 1
        if batch[0].losses >= _LOSSES:
            self._give_back(batch, crashed=True)
        else:
            self._put_back(batch)
        await self._link.drop()
        if not self.stopping:
            await self._link.trouble(error)

    def _stick(self, work: InSql, state: str, message: str) -> None:
        """Its function is not to blame: a full disk, a trigger that somebody made."""
        row, pause = work.row, self._backlog.fault(work)
        self._emit(Stuck(work.faults, pause, row.id, row.fsm, row.step, state, message))
        logger.warning("%s %s cannot be run now: %s; tried again in about %.1f s", row.fsm, row.id, message, pause)

    def doubt(self) -> None:
        """A heartbeat says that claims are lost. One whose function runs on and on is broken off."""
        late = time.monotonic() - self._began > _PATIENCE
        if late and any(work.lost for work in self._running):
            self._cancelling = asyncio.get_running_loop().create_task(self._link.cancel(), name="gendurable cancel")

    # The end

    @property
    def running(self) -> int:
        """Claims of the call that is under way."""
        return len(self._running)

    def withdraw(self) -> list[InSql]:
        """Run nothing more; answers what was not begun."""
        self.stopping = True
        return self._still(self._backlog.clear())

    async def break_off(self) -> None:
        """End the call that is under way. What does not answer is left to its lease."""
        if not self._running:
            return
        await self._link.cancel()
        for _ in range(_WAITS):
            if not self._running:
                return
            await asyncio.sleep(_WAIT)
        logger.warning("%d steps in SQL do not end; what they hold is left to its lease", len(self._running))
