"""The dispatcher: claims, runs steps, commits outcomes, renews leases, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import psycopg

from .calls import working
from .machine.codec import Seconds, interval
from .dispatch.committer import Committer
from .machine.encode import kind_of
from .dispatch.executor import Executor
from .dispatch.feeder import Feeder
from .dispatch.fork import parted
from .dispatch.held import Held, worker_name
from .dispatch.life import Life
from .dispatch.link import Link, conninfo
from ._log import logger
from .dispatch.offload import counted
from .dispatch.arguments import (
    Options,
    autoload_of,
    dsn_of,
    flag,
    lease_of,
    listener_of,
    machines_of,
    queues_of,
    retention_of,
    seconds,
    whole,
)
from .dispatch.pooled import Shared
from .dispatch.process import drive, frozen, need_thread_of_its_own
from .dispatch.services import Pulse, Services, Upkeep, late_limit
from .telemetry.instrument import Emitter, OnEvent
from .dispatch.sleeper import Sleeper
from .dispatch.watch import Watch
from .dispatch.work import Work, about
from .errors import VersionMismatch
from .install import require_release
from .install import version as package_version
from .machine.outcome import MachineLike

__all__ = ["Engine", "OnEvent"]


class Engine:
    """A dispatcher for one database. The options are keyword arguments; seconds may also be a `timedelta`.

    ::

        engine = Engine(dsn, machines=[Checkout, cleanup], queues={"default": 10, "checkout": 5})
        engine.run()                    # blocks; SIGTERM and SIGINT drain, a second one stops at once
        async with engine: ...          # or on a loop of your own; also: await engine.serve()

    Args:
        machines: registered at start. Every imported machine can be run, whether it is listed or not.
        queues: how many steps run at once, for each queue; ``{}`` is a node for maintenance only.
        autoload: packages from which an unknown default name may be imported; None: those of the machines.
        lease_ttl: how long a claim lives without a heartbeat; heartbeat_interval: how often all are renewed.
        poll_interval, max_poll_interval: looking for work while idle, and the ceiling of its doubling.
        reap_interval: how often `working.maintain` is called; None: not on this node. retention: what it keeps.
        prefetch: rows claimed beyond the free slots. min_demand: do not claim for fewer free slots.
        drain_timeout: how long running steps may take to finish once it is told to stop.
        run_ahead: keep the claim across `Next`, so that an instance's steps follow each other without a claim.
        notify: False behind a proxy that pools transactions: poll only, no prepared statements.
        on_event: telemetry, see `OnEvent`.
    """

    def __init__(
        self,
        dsn: str,
        machines: Iterable[MachineLike] = (),
        queues: Mapping[str, int] | None = None,
        *,
        autoload: Iterable[str] | None = None,
        lease_ttl: Seconds = 60,
        heartbeat_interval: Seconds = 20,
        poll_interval: Seconds = 1,
        max_poll_interval: Seconds = 5,
        reap_interval: Seconds | None = 30,
        retention: Seconds = working.RETENTION,
        prefetch: int = 0,
        min_demand: int = 1,
        drain_timeout: Seconds = 5,
        run_ahead: bool = False,
        notify: bool = True,
        on_event: OnEvent | None = None,
    ) -> None:
        self._dsn = dsn_of(dsn)
        self._specs = machines_of(machines)
        self._options = Options(
            limits=queues_of(queues),
            autoload=autoload_of(autoload, self._specs),
            lease=lease_of(lease_ttl),
            beat_every=seconds(heartbeat_interval, "heartbeat_interval"),
            poll=seconds(poll_interval, "poll_interval"),
            max_poll=seconds(max_poll_interval, "max_poll_interval"),
            reap_every=None if reap_interval is None else seconds(reap_interval, "reap_interval"),
            retention=retention_of(retention),
            prefetch=whole(prefetch, "prefetch", 0),
            min_demand=whole(min_demand, "min_demand", 1),
            drain_for=interval(drain_timeout, "drain_timeout").total_seconds(),
            run_ahead=flag(run_ahead, "run_ahead"),
            notify=flag(notify, "notify"),
        )
        self._options.check(self._specs)
        self._emit = Emitter(listener_of(on_event))
        self._life = Life()
        self._failure: BaseException | None = None
        self._feeder: Feeder

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
        return self._held.worker

    @property
    def _stopping(self) -> asyncio.Event:
        """Set once the engine was told to stop, or has failed."""
        return self._life.stopping

    def _prepare(self) -> None:
        self._failure = None
        self._serving = False
        self._services = Services(self._failed)
        self._stack = contextlib.ExitStack()
        self._held = Held(worker_name())
        self._shared = Shared(pooled=not self._options.notify)
        timeout = min(30.0, self._options.lease.total_seconds())
        self._claims = self._link("claims", durable=False, timeout=timeout)
        self._commits = self._link("commits", timeout=timeout)
        self._aside = self._link("busy commits", timeout=timeout)
        self._beats = self._link("heartbeats", timeout=min(timeout, self._options.lease.total_seconds() / 3))
        self._chores = self._link("maintenance", timeout=600)
        self._links = [self._claims, self._commits, self._aside, self._beats, self._chores]
        loop = asyncio.get_running_loop()
        self._executor = Executor(loop, self._options.limits, self._finished, self._life.draining)
        self._sleeper = Sleeper(self._claims, self._emit, self._options)
        self._committer = Committer(
            self._commits,
            self._aside,
            self._executor,
            self._held,
            self._emit,
            lease=self._options.lease,
            go_on=lambda work, row: self._feeder.go_on(work, row),
            progressed=self._progressed,
        )
        self._feeder = Feeder(
            self._claims,
            self._sleeper,
            self._executor,
            self._held,
            self._emit,
            self._options,
            tidy=self._committer.tidy,
        )

    async def _start(self) -> None:
        if self._life.stopping.is_set():
            return
        loop = asyncio.get_running_loop()
        self._stack.enter_context(parted(loop, self._links))
        self._stack.enter_context(counted(loop))
        introducing = self._services.start(self._introduce(), "start", ends=True)
        told = self._services.start(self._life.stopping.wait(), "stop", ends=True)
        await asyncio.wait({introducing, told}, return_when=asyncio.FIRST_COMPLETED)
        if not introducing.done():
            return
        introducing.result()
        told.cancel()
        self._serving = True
        watch = Watch(late_limit(self._options.beat_every), self._executor.working)
        watch.start()
        self._stack.callback(watch.stop)
        pulse = Pulse(self._beats, watch, self._executor, self._held, self._emit, self._options)
        self._feeding = self._services.start(self._feeder.run(), "feeder")
        self._services.start(self._committer.run(), "committer")
        self._services.start(self._committer.run_busy(), "busy")
        self._services.start(pulse.run(), "pulse")
        if self._options.reap_every is not None:
            upkeep = Upkeep(self._chores, self._emit, self._options.reap_every, self._options.retention)
            self._services.start(upkeep.run(), "maintenance")
        logger.info("engine %s serves %s", self.worker, self._options.limits)

    def _link(self, name: str, *, durable: bool = True, timeout: float) -> Link:
        dsn = conninfo(self._dsn, f"gendurable {self._held.worker}")
        return Link(dsn, name, self._emit, durable=durable, timeout=timeout, shared=self._shared)

    async def _introduce(self) -> None:
        """Check the versions, register the machines, listen: what fails here fails the start."""
        try:
            installed = await self._commits.insist(working.version)
        except psycopg.errors.UndefinedFunction as error:
            raise VersionMismatch(
                "gendurable is not in this database, or not on the search_path of this connection",
                hint="run CREATE EXTENSION gendurable, or gendurable_py.install(conn)",
            ) from error
        require_release(installed, package_version())
        for spec in self._specs:
            await self._commits.insist(working.register, spec.cls)
            _ = spec.steps, spec.codec  # a class that cannot be used is told now, not at its first row
        await self._beats.open()
        await self._claims.open()
        await self._sleeper.prepare()

    def _failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """A task of ours that ends by an error is a defect: the engine stops and tells, it does not limp on."""
        self._failure = error
        logger.critical("%s failed", task.get_name(), exc_info=error)
        self._life.fail()

    # What happens meanwhile

    def _finished(self, works: list[Work]) -> None:
        if self._emit.heard:
            for work in works:
                row = work.row
                self._emit(
                    "step",
                    {"seconds": work.ended - work.started, "attempt": row.attempt},
                    {
                        **about(work),
                        "version": row.version,
                        "queue": row.queue,
                        "outcome": kind_of(work.outcome),
                        "error": work.error,
                    },
                )
        for work in works:
            # What was raised holds the frames of the step, and they hold the work: a cycle that would wait for gc.
            work.error = work.rejection = None
        self._committer.add(works)
        # A queue that is asleep was empty: its free slot is no reason to ask again.
        if not self._sleeper.covers({work.queue for work in works}):
            self._sleeper.poke()

    def _progressed(self) -> None:
        if self._feeder.saturated or self._sleeper.polls:
            self._sleeper.poke()

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
            if self._serving:
                await self._drain()
        finally:
            self._serving = False
            for link in self._links:
                link.hang_up()
            await self._services.stop()
            left = await self._executor.close(time.monotonic() + 0.2)
            if left:
                logger.warning("%d steps go on in their threads; what they hold is left to its lease", left)
            await asyncio.gather(*(link.drop() for link in self._links))
            self._stack.close()
            self._life.end()
        logger.info("engine %s has stopped", self._held.worker)

    async def _drain(self) -> None:
        """Claim nothing more, give back what was not started, let the rest finish and commit."""
        self._life.draining.told = True
        logger.info("engine %s drains: %d steps are running", self.worker, self._executor.running)
        deadline = time.monotonic() + self._options.drain_for
        self._feeder.stopping = True
        self._sleeper.poke()
        # A claim under way is a matter of milliseconds; breaking it off leaves rows that nobody knows of.
        await asyncio.wait([self._feeding], timeout=0.5)
        if not self._feeding.done():
            self._feeding.cancel()
            self._held.rename()  # its claim may have happened
        self._committer.give_back(self._executor.withdraw())
        await self._until(lambda: self._executor.running == 0, deadline)
        await self._executor.cancel_tasks()
        # What has its outcome by now deserves its commit, also when the time is over.
        flushing = self._services.start(self._committer.flush(), "flush", ends=True)
        if await self._until(flushing.done, deadline):
            await asyncio.wait([flushing], timeout=1)
        for work in self._held.works():
            work.ctx._cancelled = True

    async def _until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Answers whether the time was over before, or it had to hurry."""
        while not condition():
            if time.monotonic() >= deadline or self._life.hurry.is_set():
                return True
            await asyncio.sleep(0.002)
        return False
