"""What this process holds: one claimed row on its way (`Holding`), and all of them (`Held`).

The row of a Python step is a `Work`: made by the feeder, run by an executor, and settled by the committer. Whoever runs
works is known here only as a `Runner`, so that those who feed and commit need not know how steps are run. A row whose
step is a function of the database is an `InSql`, which `sql_steps` runs and settles.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from .._log import logger
from ..errors import from_sqlstate
from ..machine.claim import ClaimRow
from ..machine.context import Context
from ..machine.last_resort import encode_stop
from ..machine.spec import Spec, Step
from .answers import RUN, STOP, Fate, Meaning, read_refusal


class Holding:
    """One claimed row on its way through this process, whoever runs its step."""

    __slots__ = ("queue", "row", "uncertain", "worker")

    def __init__(self, row: ClaimRow, worker: str) -> None:
        self.row = row
        self.worker = worker
        self.queue = row.queue
        self.uncertain = False
        """Whether something was sent that may have settled it, and the answer was lost."""

    def tell(self) -> None:
        """Whatever its step comes to, it will not be committed."""
        raise NotImplementedError

    def lose(self) -> None:
        """Tell, and end what can be ended."""
        raise NotImplementedError

    def doubt(self) -> bool:
        """A heartbeat says that the claim is not ours. Answers whether that is news: where its outcome is on its way,
        it may be committed by now, and the answer tells."""
        raise NotImplementedError


class Work(Holding):
    """One run of a Python step; ``stage`` says what its outcome came from."""

    __slots__ = (
        "busy",
        "ctx",
        "ended",
        "error",
        "fate",
        "flow",
        "handed_over",
        "keep",
        "outcome",
        "rejection",
        "since",
        "spec",
        "stage",
        "started",
        "step",
        "task",
        "timer",
        "transactions",
        "turn",
        "waits_since",
    )

    def __init__(self, row: ClaimRow, spec: Spec, step: Step, worker: str, since: float, keep: bool) -> None:
        super().__init__(row, worker)
        self.spec = spec
        self.step = step
        self.ctx: Context[Any] = Context(row, spec.codec)
        self.since = since  # when it was claimed as a due row: run-ahead does not go on for ever
        self.keep = keep
        self.stage = RUN
        self.outcome: bytes | None = None
        self.error: BaseException | None = None
        self.rejection: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.handed_over: set[Future[Any]] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.turn: threading.Lock | None = None  # of a timed step: who has it starts the step, or gives it back
        self.transactions: Transacting | None = None  # who runs it, if the step is transactional
        self.flow: Flowing | None = None  # what drives it, if it is a flow
        self.fate: Fate | None = None
        self.busy = 0
        self.waits_since = 0.0  # for a slot
        self.started = 0.0
        self.ended = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether what it comes to will not be committed."""
        return self.ctx._cancelled

    def encode_own(self, returned: object) -> bytes | None:
        """What a transactional step gave back, as its outcome; None: it is an outcome."""
        return None

    def tell(self) -> None:
        self.ctx._cancelled = True

    def lose(self) -> None:
        self.ctx._cancelled = True
        if self.task is not None:
            self.task.cancel()
        if self.flow is not None:
            self.flow.lose()

    def end_flow(self) -> None:
        """It is settled. The flow has the work, so the work lets it go: in a circle nothing is freed."""
        if self.flow is not None:
            self.flow.close()
            self.flow = None

    def renew(self, row: ClaimRow | int) -> None:
        """Its claim was kept, and it is a flow: the same run goes on. Of such a claim there comes what is new of it."""
        assert self.flow is not None
        self.row = self.ctx._row = self.row.renewed(row, self.flow.step)
        self.outcome = None
        self.keep = self.uncertain = False
        self.busy = 0

    def doubt(self) -> bool:
        if self.outcome is not None:
            return False
        self.lose()
        return True


class InSql(Holding):
    """A claimed row whose step is a function of the database."""

    __slots__ = ("faults", "locked", "losses", "lost", "running", "verdict")

    def __init__(self, row: ClaimRow, worker: str) -> None:
        # The function reads what it needs: nothing large is kept here.
        super().__init__(row._replace(state="", signals="", childs=""), worker)
        self.running = False
        self.lost = False
        self.locked = 0
        """How often it met a lock."""
        self.faults = 0
        """How often the server could not commit it, through no fault of its function."""
        self.losses = 0
        """How often it was alone in a call that lost its connection."""
        self.verdict: str | None = None
        """The error that its function came to, to be committed in the place of what it would return."""

    def tell(self) -> None:
        self.lost = True

    def lose(self) -> None:
        self.lost = True

    def doubt(self) -> bool:
        self.lost = True
        return not self.running


class Flowing(Protocol):
    """What drives a flow from its claim to its end (see `flowing`)."""

    begun: bool
    """Whether it has had a slot."""
    halted: bool
    """Whether no steps of it are to begin any more."""
    reserves: bool
    """Whether its slot waits for it."""

    @property
    def busy(self) -> bool:
        """Whether steps of it run, or have ended and are not on their way to the journal."""

    @property
    def step(self) -> str:
        """The step of its row, by the last of its outcomes that goes on."""

    def close(self) -> None:
        """It is over here."""

    def lose(self) -> None:
        """Nothing of it will be committed."""


class Transacting(Protocol):
    """Whoever runs transactional steps. Afterwards the work has its fate, or the step's error is raised: then all that
    it wrote is rolled back."""

    def run(self, work: Work) -> None: ...

    async def run_async(self, work: Work) -> None: ...


def break_off(work: Work, error: BaseException) -> None:
    """Neither the step nor `handle` gave an outcome, and what they raised came this far."""
    logger.critical("the executor failed on %s %s", work.row.fsm, work.row.id, exc_info=error)
    work.outcome = encode_stop(work.row, error)


def refuse(work: Work, sqlstate: str | None, message: str) -> Meaning:
    """The server refuses its outcome: what is to be done instead, for which the work is ready afterwards."""
    meaning = read_refusal(work.stage)
    reason = from_sqlstate(sqlstate, message)
    if meaning is Meaning.HANDLE:
        work.rejection = reason
        work.outcome = None
    elif meaning is Meaning.STOP:
        logger.error("%s %s: the outcome of handle was rejected: %s", work.row.fsm, work.row.id, message)
        work.stage = STOP
        work.outcome = encode_stop(work.row, reason)
    else:
        logger.error("%s %s cannot be stopped: %s; its lease will end", work.row.fsm, work.row.id, message)
    return meaning


class Runner(Protocol):
    """Whoever runs works, within the limits of their queues."""

    @property
    def running(self) -> int: ...

    @property
    def draining(self) -> bool: ...

    @property
    def limits(self) -> Mapping[str, int]: ...

    def set_limit(self, queue: str, limit: int) -> None: ...

    def load(self, queue: str) -> int: ...

    def submit(self, work: Work) -> None: ...

    def take_back(self, work: Work) -> bool: ...

    def prepare(self, work: Work, journal: Sequence[Mapping[str, Any]], seed: str) -> None: ...

    def resume(self, work: Work) -> None: ...

    def waiting_since(self, queue: str) -> float | None: ...

    def take_waiting(self, queue: str) -> list[Work]: ...


class Aside(Protocol):
    """Where outcomes wait that cannot be committed now (see `blocked`)."""

    def __len__(self) -> int: ...

    def lock(self, work: Work) -> None: ...

    def fault(self, work: Work, sqlstate: str | None, message: str) -> None: ...

    def leave(self, work: Work) -> bool: ...

    def through(self, work: Work) -> None: ...

    def hurry(self) -> None: ...

    def due(self) -> list[Work]: ...

    def next_at(self) -> float | None: ...


def make_worker_name() -> str:
    """Unique for each engine in each process."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Held:
    """The claims of one engine.

    After a claim whose answer was lost the server may hold rows for us that we do not know of. They can only be given
    back with everything else under the same name, so from then on claims are made under a new one; once the last known
    claim under the old name is settled, all that is left there is given back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._generation = 0
        self.worker = name
        self._works: dict[int, Holding] = {}
        self._abandoned: set[str] = set()
        self.uncommitted = 0
        """Outcomes that wait for their first commit, or are on their way."""
        self.blocked = 0
        """Outcomes that met a lock or a fault of the server, and their bytes: they wait apart from the others."""
        self.blocked_bytes = 0
        self.failing = False
        """Whether the last such outcome that was tried met a fault of the server."""
        self.kept: Counter[str] = Counter()
        """Claims by queue that go on if their commit says so."""
        self.reading: Counter[str] = Counter()
        """Flows by queue whose journals are still read."""

    def __len__(self) -> int:
        return len(self._works)

    @property
    def name(self) -> str:
        """The name of the engine, whatever its claims are made under."""
        return self._name

    def add(self, work: Holding) -> Holding | None:
        """Hold a claim; answers an older one of the same instance, which is lost with that."""
        older = self._works.get(work.row.id)
        self._works[work.row.id] = work
        return older

    def drop(self, work: Holding) -> None:
        if self._works.get(work.row.id) is work:
            del self._works[work.row.id]

    def get(self, id: int, claim_no: int) -> Holding | None:
        work = self._works.get(id)
        return work if work is not None and work.row.claim_no == claim_no else None

    def all(self) -> list[Holding]:
        return list(self._works.values())

    def claims(self) -> list[tuple[int, int]]:
        return [(work.row.id, work.row.claim_no) for work in self._works.values()]

    def rename(self) -> None:
        """Claim under a new name from now on."""
        self._abandoned.add(self.worker)
        self._generation += 1
        self.worker = f"{self._name}#{self._generation}"

    @property
    def abandoning(self) -> bool:
        """Whether something under an old name is to be given back."""
        return bool(self._abandoned)

    def settled(self) -> list[str]:
        """The old names under which nothing is held any more that is known; each is answered once."""
        if not self._abandoned:
            return []
        used = {work.worker for work in self._works.values()}
        free = [name for name in self._abandoned if name not in used]
        self._abandoned.difference_update(free)
        return free
