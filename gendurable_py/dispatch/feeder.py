"""Claiming: keep the executor fed, one round trip for all queues, on a connection of its own.

A claimed row becomes a work, or is given back if nothing here can run it. What is claimed is held under the name that
the worker had when it asked. Next: the executor runs the work.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import Protocol

from .._log import logger
from ..calls import dispatching, working
from ..calls.rows import StepsIn
from ..machine.claim import ClaimRow
from ..machine.registry import autoload_async, generation, lookup
from ..machine.spec import Spec, Step
from ..telemetry.events import Claimed, Emit, Released, Saturated
from .link import TROUBLE, Link
from .options import Options
from .work import Held, Runner, Transacting, Work

UNKNOWN_DELAY = 10.0
"""Seconds until a row that this process has no machine for is due again: for a node that does know it."""

# What waits for a lock or for the server does not count against claiming, up to this much of memory.
_MOST_BLOCKED = 10_000
_MOST_BLOCKED_BYTES = 256_000_000

_ANY = ""

# Names come from the database: what is remembered of unknown ones, and what is told, has an end.
_MOST_NAMES = 10_000
_MOST_TOLD = 100

_IMPORT_GRACE = 0.05
_IMPORT_DELAY = 0.5
"""An import is waited for so long; what takes longer goes on aside, and its rows are given back for a moment."""

_SATURATED_FOR = 0.25
"""Seconds for which all slots are taken before steps in SQL alone are claimed; longer while there are none."""

RUN_AHEAD_FOR = 1.0
"""Seconds after its claim that an instance may keep being run ahead: the order across claims is kept to about that."""


class Idle(Protocol):
    """What is done while nothing is due, and how it ends (see `sleeper`)."""

    def claiming(self) -> None: ...

    async def poked(self, seconds: float | None = None) -> bool: ...

    async def busy(self, worker: str, rows: Counter[str]) -> None: ...

    async def idle(self, worker: str, queues: Set[str]) -> None: ...

    async def withdraw(self, worker: str) -> None: ...


class Functions(Protocol):
    """Whoever runs steps that are functions of the database (see `sql_steps`)."""

    @property
    def version(self) -> int: ...

    @property
    def claims(self) -> StepsIn | None: ...

    @property
    def room(self) -> int: ...

    async def look(self, link: Link, unknown: bool = False) -> None: ...

    def take(self, row: ClaimRow, worker: str, sure: bool) -> bool: ...


class Journalled(Protocol):
    """Whoever starts flows, with their journals (see `journals`)."""

    def add(self, work: Work) -> None: ...

    async def begin(self) -> None: ...

    def give_up(self) -> None: ...


class Ahead(Protocol):
    """How many rows are claimed beyond the free slots (see `ahead`)."""

    fixed: int
    allowed: int

    def wanted(self, loads: Mapping[str, tuple[int, int]]) -> dict[str, int]: ...

    def claimed(self, asked: Mapping[str, int], got: Mapping[str, int], ahead: Mapping[str, int]) -> None: ...


class Feeder:
    """Claims for the free slots of each queue, and turns rows into works."""

    def __init__(
        self,
        link: Link,
        sleeper: Idle,
        executor: Runner,
        held: Held,
        emit: Emit,
        options: Options,
        *,
        tidy: Callable[[], None],
        watch: Callable[[Work, float], None],
        transactions: Transacting,
        in_sql: Functions,
        journals: Journalled,
        ahead: Ahead,
    ) -> None:
        self._link = link
        self._sleeper = sleeper
        self._executor = executor
        self._held = held
        self._emit = emit
        self._options = options
        self._limits = executor.limits
        self._tidy = tidy
        self._watch = watch
        self._transactions = transactions
        self._in_sql = in_sql
        self._journals = journals
        self._ahead = ahead
        self._machines: dict[tuple[str, int, str], tuple[Spec, Step]] = {}
        self._warned: set[tuple[str, int, str]] = set()
        self._imported: set[str] = set()
        self._imports: dict[str, asyncio.Task[None]] = {}
        self._generation = generation(), in_sql.version
        self.saturated = False
        self._pause = _SATURATED_FOR
        self.passes_over = False
        """Whether the last claim left out steps in SQL, since enough of them wait here."""
        self.stopping = False
        self.draining = False
        """Whether it was told to claim nothing more, and may be told otherwise."""

    @property
    def _leaves(self) -> bool:
        return self.stopping or self.draining

    def _keeps_up(self) -> bool:
        """Whether the server takes what was finished here."""
        held = self._held
        # What others have locked is no reason to stop; a server that commits nothing is.
        # What is finished but not committed counts, or a slow server would make it grow for ever.
        most = max(100, 2 * (sum(self._limits.values()) + self._ahead.allowed))
        if held.uncommitted + (held.blocked if held.failing else 0) > most:
            return False
        return held.blocked <= _MOST_BLOCKED and held.blocked_bytes <= _MOST_BLOCKED_BYTES

    def _count_demand(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows of each queue to claim, and how many besides that wait here for a slot."""
        if not self._keeps_up():
            return {}, {}
        demand, loads = {}, {}
        for queue, limit in self._limits.items():
            load = self._executor.load(queue) + self._held.kept[queue] + self._held.reading[queue]
            loads[queue] = load, limit
            most = limit + self._ahead.fixed
            free = most - load
            if free >= min(self._options.min_demand, most) and free > 0 < limit:
                demand[queue] = free
        return demand, self._ahead.wanted(loads)

    async def run(self) -> None:
        """Until `stopping` is set and the sleeper is poked."""
        while not self.stopping:
            if self.draining:
                await self._withdraw()
                continue
            demand, ahead = self._count_demand()
            if not demand and not ahead:
                if not self.saturated:
                    self.saturated = True
                    self._pause = _SATURATED_FOR
                    self._emit(Saturated(self._executor.running))
                # Steps in SQL need no slot: where all are taken for longer, those alone are looked for.
                room = self._in_sql.room if self._limits and self._keeps_up() else 0
                if await self._sleeper.poked(self._pause if room else None):
                    continue
                queues = [queue for queue, limit in self._limits.items() if limit]
                await self._attempt(dict.fromkeys(queues, room), {}, "sql")
            else:
                self.saturated = False
                await self._attempt(demand, ahead, None)

    async def _withdraw(self) -> None:
        """Let nobody wake this engine, and wait until it may claim again."""
        try:
            await self._sleeper.withdraw(self._held.worker)
        except TROUBLE as error:
            await self._link.trouble(error)
        else:
            await self._sleeper.poked()

    async def _attempt(self, demand: dict[str, int], ahead: dict[str, int], only: StepsIn | None) -> None:
        """Claim, and start what came; if nothing did, wait as long as nothing is due."""
        try:
            await self._in_sql.look(self._link)
            self._sleeper.claiming()
            worker = self._held.worker
            steps = only or self._in_sql.claims
            self.passes_over = steps == "other"
            started = time.perf_counter()
            asked = dict.fromkeys(ahead, 0) | demand
            lease = self._options.lease_ttl
            rows = await self._link.attempt(dispatching.claim_rows, worker, asked, lease, steps, ahead)
            if rows and self.stopping:
                await self._link.attempt(working.release, worker, [(row.id, row.claim_no) for row in rows])
                self._emit(Released(len(rows), 0, "stopping"))
            elif rows:
                await self.take(rows, worker)
                queues = Counter(row.queue for row in rows)
                seconds = time.perf_counter() - started
                self._emit(Claimed(len(rows), seconds, dict(queues)))
                self._pause = _SATURATED_FOR
                await self._sleeper.busy(worker, queues)
                self._learn(asked, ahead, queues, only)
            elif only is not None:
                self._pause = min(2 * self._pause, self._options.poll_interval)
            else:
                self._learn(asked, ahead, Counter(), only)
                # Where all slots are taken, it may have met nothing but rows that wait for one.
                if demand:
                    await self._sleeper.idle(worker, demand.keys())
        except (*TROUBLE, UnicodeError) as error:
            if self._link.uncertain:
                # The claim may have happened: rows that nobody knows of are held under this name.
                self._held.rename()
            self._journals.give_up()
            await self._link.trouble(error)
            self._tidy()

    def _learn(self, asked: dict[str, int], ahead: dict[str, int], got: Counter[str], only: StepsIn | None) -> None:
        if only is None:
            self._ahead.claimed({queue: count + ahead.get(queue, 0) for queue, count in asked.items()}, got, ahead)

    async def take(self, rows: list[ClaimRow], worker: str) -> None:
        """Start what can be run here, give back the rest."""
        now = time.monotonic()
        self._forget_old_classes()
        missing: list[ClaimRow] = []
        for row in rows:
            machine = self._recall(row)
            if machine is None:
                if not self._in_sql.take(row, worker, sure=False):
                    missing.append(row)
            elif not self._try_start(row, machine, worker, now):
                missing.append(row)
        if missing:  # before anything else is asked: what cannot be run here must not be held
            await self._in_sql.look(self._link, unknown=True)
            await self._find_machines(missing, worker, now)
        await self._journals.begin()

    def _recall(self, row: ClaimRow) -> tuple[Spec, Step] | None:
        """A machine that was met before; of a flow any step will do."""
        return self._machines.get((row.fsm, row.version, row.step)) or self._machines.get((row.fsm, row.version, _ANY))

    async def _find_machines(self, rows: list[ClaimRow], worker: str, now: float) -> None:
        """Rows of machines that were not met before: import what may be imported, give back what is not known here."""
        await self._import_names({row.fsm for row in rows if lookup(row.fsm, row.version) is None})
        self._forget_old_classes()
        away: dict[float, list[tuple[int, int]]] = {}
        for row in rows:
            if self._in_sql.take(row, worker, sure=True):
                continue
            machine = self._resolve_machine(row)
            if machine is None or not self._try_start(row, machine, worker, now):
                delay = _IMPORT_DELAY if self._is_importing(row.fsm) else UNKNOWN_DELAY
                away.setdefault(delay, []).append((row.id, row.claim_no))
        for delay, pairs in away.items():
            await self._link.attempt(working.release, worker, pairs, delay)
            self._emit(Released(len(pairs), delay, "unknown"))

    def _try_start(self, row: ClaimRow, machine: tuple[Spec, Step], worker: str, now: float) -> bool:
        try:
            self.start(row, machine, worker, now)
        except Exception as error:  # noqa: BLE001 - it costs this row its turn, and no other
            logger.error("%s %s cannot be started here", row.fsm, row.id, exc_info=error)
            return False
        return True

    def start(self, row: ClaimRow, machine: tuple[Spec, Step], worker: str, since: float) -> None:
        spec, step = machine
        keep = self._options.run_ahead if spec.run_ahead is None else spec.run_ahead
        if keep:
            keep = not self._leaves and time.monotonic() - since < RUN_AHEAD_FOR
        work = Work(row, spec, step, worker, since, keep)
        if step.transactional:
            work.transactions = self._transactions
        older = self._held.add(work)
        if older is not None:
            # Its lease ran out here, and it came back to us: what still runs is of no use any more.
            older.lose()
        if spec.journals:
            work.transactions = self._transactions
            self._journals.add(work)
            return
        if step.timeout is not None:
            self._watch(work, step.timeout)
        self._executor.submit(work)

    def go_on(self, work: Work, row: ClaimRow | int, halted: bool) -> bool:
        """Run the next step of an instance whose claim was kept; False: it is not known here. ``halted``: of a flow
        only what runs goes on."""
        if work.flow is not None:
            # Steps of it may run still, whose end is waited for where nothing more is to begin.
            work.flow.halted = halted or self._leaves or not self._limits.get(work.queue)
            if work.flow.halted and not work.flow.busy:
                return False
            work.renew(row)
            self._executor.resume(work)
            return True
        assert not isinstance(row, int), "only flows ask for that"
        self._forget_old_classes()
        if self._leaves or not self._limits.get(row.queue):
            return False
        machine = self._recall(row)
        if machine is None and self._in_sql.take(row, work.worker, sure=True):
            return True
        machine = machine or self._look_up(row)
        if machine is None:
            return False
        self.start(row, machine, work.worker, work.since)
        return True

    def _forget_old_classes(self) -> None:
        """A class that was defined again takes the place of the one before it, and a step in SQL that of a method."""
        now = generation(), self._in_sql.version
        if self._generation != now:
            self._generation = now
            self._machines.clear()

    def _look_up(self, row: ClaimRow) -> tuple[Spec, Step] | None:
        spec = lookup(row.fsm, row.version)
        step = None if spec is None else spec.find_step(row.step)
        if spec is None or step is None:
            return None
        _ = spec.codec  # built here: what is wrong with it is the machine's fault
        self._machines[row.fsm, row.version, _ANY if spec.journals else row.step] = spec, step
        return spec, step

    async def _import_names(self, names: set[str]) -> None:
        """Try each name once; an import that takes its time goes on aside."""
        asked: dict[str, list[str]] = {}
        for name in names - self._imported:
            module = name.partition(":")[0]
            # Most are names of other nodes: nothing to wait for.
            if module != name and any(f"{module}.".startswith(f"{each}.") for each in self._options.autoload):
                asked.setdefault(module, []).append(name)
        for module in asked.keys() - self._imports.keys():
            if len(self._imported) >= _MOST_NAMES:
                self._imported.clear()  # trying one again does no harm
            self._imported.update(asked[module])
            self._imports[module] = asyncio.create_task(self._import_all(asked[module]))
        if under_way := [self._imports[module] for module in asked]:
            await asyncio.wait(under_way, timeout=_IMPORT_GRACE)
        for module in [module for module, task in self._imports.items() if task.done()]:
            del self._imports[module]

    async def _import_all(self, names: list[str]) -> None:
        """Names of one module, one after the other: one that it does not define says nothing of the next."""
        for name in names:
            await autoload_async(name, self._options.autoload)

    def _is_importing(self, name: str) -> bool:
        return name.partition(":")[0] in self._imports

    def _resolve_machine(self, row: ClaimRow) -> tuple[Spec, Step] | None:
        """Find a machine by name and version."""
        reason: BaseException | None = None
        try:
            machine = self._look_up(row)
        except BaseException as error:  # noqa: BLE001 - a class may raise anything when it is made, SystemExit too
            machine, reason = None, error
        if machine is None and self._is_importing(row.fsm):
            return None
        key = (row.fsm, row.version, row.step)
        if machine is None and key not in self._warned and len(self._warned) < _MOST_TOLD:
            self._warned.add(key)
            logger.warning(
                "%s v%d has no step %r in this process: its instances are given back for %g s%s%s",
                row.fsm,
                row.version,
                row.step,
                UNKNOWN_DELAY,
                "" if reason is None else f" ({reason!r})",
                "; no more of this kind are told" if len(self._warned) == _MOST_TOLD else "",
            )
        return machine
