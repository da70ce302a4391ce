"""The dispatcher: claims, runs steps, commits outcomes, renews leases, until it is told to stop.

Here stands what belongs to the process: options, signals, the executor, the start and the end. What belongs to the
database that it serves stands in `dispatch.database`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from ._contract import RETENTION, Seconds
from ._log import logger
from .dispatch.arguments import (
    check_options,
    read_autoload,
    read_connect,
    read_count,
    read_dsn,
    read_flag,
    read_lease,
    read_listener,
    read_machines,
    read_prefetch,
    read_queues,
    read_retention,
    read_seconds,
    read_transactions,
)
from .dispatch.database import Database
from .dispatch.dial import Connect
from .dispatch.executor import Executor
from .dispatch.fork import parted
from .dispatch.health import ABSENT, Health, QueueHealth, RunningStep, State, list_running
from .dispatch.life import Life
from .dispatch.offload import counted
from .dispatch.options import Options, Prefetch
from .dispatch.process import drive, frozen, need_thread_of_its_own
from .dispatch.services import Services
from .dispatch.watch import LoopWatch
from .dispatch.work import Work
from .install import version as package_version
from .machine.encode import read_kind, read_next
from .machine.outcome import MachineLike
from .machine.times import interval
from .telemetry.events import StepEnded
from .telemetry.instrument import Emitter, OnEvent

__all__ = ["Engine", "Health", "OnEvent", "QueueHealth", "RunningStep"]


class Engine:
    """A dispatcher for one database. The options are keyword arguments; seconds may also be a `timedelta`.

    ::

        engine = Engine(dsn, machines=[Checkout, cleanup], queues={"default": 10, "checkout": 5})
        engine.run()                    # blocks; SIGTERM and SIGINT drain, a second one stops at once
        async with engine: ...          # or on a loop of your own; also: await engine.serve()

    Args:
        dsn: a connection string, or psycopg's keyword arguments as a dict.
        connect: makes each connection, in place of ``dsn``: a function, sync or async, that answers a new psycopg
            connection of either kind. For passwords that expire.
        machines: registered at start. Every imported machine can be run, whether it is listed or not.
        queues: how many steps run at once, for each queue; ``{}`` is a node for maintenance only.
        autoload: packages from which an unknown default name may be imported; None: those of the machines.
        lease_ttl: how long a claim lives without a heartbeat; heartbeat_interval: how often all are renewed.
        poll_interval, max_poll_interval: looking for work while idle, and the ceiling of its doubling.
        reap_interval: how often `calls.maintain` is called, and what has ended is collected; None: not on this node.
        retention: how long it is kept, unless its machine says so (``retain``).
        prefetch: rows claimed beyond the free slots; "auto": plain ones, as many as are run in 20 ms.
        min_demand: do not claim for fewer free slots.
        drain_timeout: how long running steps may take to finish once it is told to stop.
        run_ahead: keep the claim across `Next`, so that an instance's steps follow each other without a claim.
        sql_steps: run steps that are functions of the database (`define_step`); False: leave their rows to others.
        transactions: how many connections transactional steps use at once, sync and async ones each; None: as many as
            steps run at once, 20 at most.
        notify: False behind a proxy that pools transactions: poll only, no prepared statements.
        on_event: telemetry, see `OnEvent`.
    """

    def __init__(
        self,
        dsn: str | Mapping[str, Any] = "",
        machines: Iterable[MachineLike] = (),
        queues: Mapping[str, int] | None = None,
        *,
        connect: Connect | None = None,
        autoload: Iterable[str] | None = None,
        lease_ttl: Seconds = 60,
        heartbeat_interval: Seconds = 20,
        poll_interval: Seconds = 1,
        max_poll_interval: Seconds = 5,
        reap_interval: Seconds | None = 30,
        retention: Seconds = RETENTION,
        prefetch: Prefetch = "auto",
        min_demand: int = 1,
        drain_timeout: Seconds = 5,
        run_ahead: bool = False,
        sql_steps: bool = True,
        transactions: int | None = None,
        notify: bool = True,
        on_event: OnEvent | None = None,
    ) -> None:
        self._dsn = read_dsn(dsn)
        self._connect = read_connect(connect, dsn)
        self._specs = read_machines(machines)
        self._options = Options(
            queues=read_queues(queues),
            autoload=read_autoload(autoload, self._specs),
            lease_ttl=read_lease(lease_ttl),
            heartbeat_interval=read_seconds(heartbeat_interval, "heartbeat_interval"),
            poll_interval=read_seconds(poll_interval, "poll_interval"),
            max_poll_interval=read_seconds(max_poll_interval, "max_poll_interval"),
            reap_interval=None if reap_interval is None else read_seconds(reap_interval, "reap_interval"),
            retention=read_retention(retention),
            prefetch=read_prefetch(prefetch),
            min_demand=read_count(min_demand, "min_demand", 1),
            drain_timeout=interval(drain_timeout, "drain_timeout").total_seconds(),
            run_ahead=read_flag(run_ahead, "run_ahead"),
            sql_steps=read_flag(sql_steps, "sql_steps"),
            transactions=read_transactions(transactions, queues),
            notify=read_flag(notify, "notify"),
        )
        check_options(self._options, self._specs)
        self._emit = Emitter(read_listener(on_event))
        self._life = Life()
        self._failure: BaseException | None = None
        self._current: Database | None = None

    # Starting and stopping

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or `stop`: then drain. A second signal stops at once. Main thread only.

        Meanwhile everything that the process held at the start is out of the garbage collector's way (`gc.freeze`).
        Nothing waits for threads and tasks of steps that do not end: they are daemons, and end with the process.
        """
        need_thread_of_its_own()
        self._life.expect()

        async def main() -> None:
            async with self:
                with frozen():
                    await self._life.stopping.wait()

        drive(main, self.stop)

    async def serve(self) -> None:
        """Start, and return after `stop`, once everything has been drained and closed.

        Cancelled, it drains, too, and then raises the cancellation; cancelled again, it hurries.
        """
        async with self:
            await self._life.stopping.wait()

    def stop(self) -> None:
        """Tell it to drain and stop; called again, to stop at once. From any thread, and from signal handlers.

        While it starts, the start is broken off. Before its first start, that start ends at once. After it has stopped
        there is nothing to stop: the next start is not concerned.
        """
        self._life.stop()

    async def __aenter__(self) -> Self:
        self._life.begin()
        try:
            self._prepare()
        except BaseException:
            self._life.end()
            raise
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        failure, self._failure = self._failure, None
        if failure is not None and error is None:
            raise failure

    @property
    def worker(self) -> str:
        """The name that claims are made under now."""
        return self._database.held.worker

    @property
    def running(self) -> tuple[RunningStep, ...]:
        """The steps that run now, the oldest first. From any thread."""
        database = self._current
        return () if database is None else list_running(database.held)

    def health(self) -> Health:
        """How it is doing, for probes: ``live`` and ``ready``, with the reasons. From any thread; it asks no server."""
        database = self._current
        if database is None:
            return ABSENT
        state: State = "running" if database.serving else "starting"
        if self._life.draining.told:
            state = "stopping"
        return database.pulse.feel(state, self._watch.blocked(), self._failure)

    def _prepare(self) -> None:
        self._failure = None
        self._stack = contextlib.ExitStack()
        self._services = Services(self._fail)
        self._starting: list[asyncio.Task[Any]] = []
        loop = asyncio.get_running_loop()
        self._executor = Executor(loop, self._options.queues, self._finish, self._life.draining, self._emit)
        self._database = Database(self._dsn, self._connect, self._options, self._executor, self._emit, self._fail)
        self._watch = LoopWatch(self._options.heartbeat_interval, self._executor.working, self._emit)
        self._current = self._database

    async def _start(self) -> None:
        if self._life.stopping.is_set():
            return
        loop = asyncio.get_running_loop()
        self._stack.enter_context(parted(loop, self._database.links))
        self._stack.enter_context(counted(loop))
        introduce = self._database.introduce(self._specs, package_version())
        introducing = loop.create_task(introduce, name="gendurable start")
        told = loop.create_task(self._life.stopping.wait(), name="gendurable stop")
        self._starting = [introducing, told]
        await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
        if not introducing.done():
            return
        introducing.result()
        told.cancel()
        self._services.start(self._watch)
        self._database.start()
        logger.info("engine %s serves %s", self.worker, self._options.queues)

    def _fail(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """A task of ours that ends by an error is a defect: the engine stops and tells, it does not limp on."""
        self._failure = error
        logger.critical("%s failed", task.get_name(), exc_info=error)
        self._life.fail()

    def _finish(self, works: list[Work]) -> None:
        """The executor has run these."""
        count, heard = self._database.counts.counting(), self._emit.heard
        for work in works:
            row, kind, seconds = work.row, read_kind(work.outcome), work.ended - work.started
            if work.flow is not None:  # its steps have events of their own, and any names
                count(row.fsm, "flow", kind or "none", seconds)
                continue
            count(row.fsm, row.step, kind or "none", seconds, read_next(work.outcome, kind))
            if heard:
                self._emit(
                    StepEnded(seconds, row.attempt, row.id, row.fsm, row.step, row.version, row.queue, kind, work.error)
                )
            # What was raised holds the frames of the step, and they hold the work: a cycle that would wait for gc.
            work.error = work.rejection = None
        self._database.finish(works)

    # The end

    async def _end(self) -> None:
        """Close, whatever happens meanwhile to the task that wants it: each cancellation hurries, and one is raised."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            closing = asyncio.get_running_loop().create_task(self._close(), name="gendurable end")
            while not closing.done():
                try:
                    await asyncio.wait([closing])
                except asyncio.CancelledError as error:
                    cancelled = error
                    self._life.fail()
            if not closing.cancelled():
                break
            self._life.fail()  # somebody cancelled every task that there is
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        try:
            if self._database.serving:
                await self._drain()
        finally:
            await self._database.stop()
            await self._services.stop()
            for task in self._starting:
                task.cancel()
            await asyncio.gather(*self._starting, return_exceptions=True)
            left = await self._executor.close(time.monotonic() + 0.2)
            if left:
                logger.warning("%d steps go on in their threads; what they hold is left to its lease", left)
            await self._database.close()
            self._stack.close()
            self._current = None
            self._life.end()
        logger.info("engine %s has stopped", self.worker)

    async def _drain(self) -> None:
        """Claim nothing more, give back what was not started, let the rest finish and commit."""
        self._life.draining.told = True
        logger.info("engine %s drains: %d steps are running", self.worker, self._executor.running)
        deadline = time.monotonic() + self._options.drain_timeout
        await self._database.stop_claiming()
        self._database.give_back(self._executor.withdraw())
        await self._wait_until(lambda: self._executor.running + self._database.running == 0, deadline)
        await asyncio.gather(self._executor.cancel_tasks(), self._database.break_off())
        await self._database.flush(lambda done: self._wait_until(done, deadline))

    async def _wait_until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Answers whether the time was over before, or it had to hurry."""
        while not condition():
            if time.monotonic() >= deadline or self._life.hurry.is_set():
                return True
            await asyncio.sleep(0.002)
        return False
