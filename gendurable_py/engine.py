"""The dispatcher: claims, runs steps, commits outcomes, renews leases, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import psycopg

from . import calls
from ._codec import Seconds, interval
from ._committer import Committer
from ._encode import kind_of
from ._executor import Executor
from ._feeder import Feeder
from ._held import Held, worker_name
from ._link import Link, conninfo
from ._log import logger
from ._options import Options, seconds
from ._process import frozen, stopped_by_signals
from ._services import Pulse, Services, Upkeep
from ._telemetry import Emitter, OnEvent
from ._wakeup import Sleeper
from ._work import Work, about
from .errors import VersionMismatch
from .fsm import Spec, spec_of
from .install import require_release
from .install import version as package_version
from .outcome import MachineLike

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
        reap_interval: how often `calls.maintain` is called; None: not on this node. retention: what it keeps.
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
        retention: Seconds = calls.RETENTION,
        prefetch: int = 0,
        min_demand: int = 1,
        drain_timeout: Seconds = 5,
        run_ahead: bool = False,
        notify: bool = True,
        on_event: OnEvent | None = None,
    ) -> None:
        self._dsn = dsn
        self._specs: list[Spec] = [spec_of(machine) for machine in machines]
        packages = {spec.cls.__module__.partition(".")[0] for spec in self._specs} - {"__main__"}
        self._options = Options(
            limits={"default": 10} if queues is None else dict(queues),
            autoload=frozenset(packages if autoload is None else autoload),
            lease=interval(lease_ttl, "lease_ttl"),
            beat_every=seconds(heartbeat_interval, "heartbeat_interval"),
            poll=seconds(poll_interval, "poll_interval"),
            max_poll=seconds(max_poll_interval, "max_poll_interval"),
            reap_every=None if reap_interval is None else seconds(reap_interval, "reap_interval"),
            retention=interval(retention, "retention"),
            prefetch=prefetch,
            min_demand=min_demand,
            drain_for=seconds(drain_timeout, "drain_timeout"),
            run_ahead=run_ahead,
            notify=notify,
        )
        self._options.check(self._specs)
        self._emit = Emitter(on_event)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_lock = threading.Lock()
        self._stops = 0
        self._failure: BaseException | None = None
        self._stubborn: list[asyncio.Task[None]] = []
        self._feeder: Feeder

    # Starting and stopping

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or `stop`: then drain. A second signal stops at once. Main thread only.

        Meanwhile everything that the process held at the start is out of the garbage collector's way (`gc.freeze`).
        """

        async def main() -> None:
            try:
                with stopped_by_signals(self.stop):
                    async with self:
                        with frozen():
                            await self._stopping.wait()
            finally:
                for task in self._stubborn:
                    asyncio._unregister_task(task)  # the loop would wait for it for ever

        asyncio.run(main())

    async def serve(self) -> None:
        """Start, and return after `stop`, once everything has been drained and closed."""
        async with self:
            await self._stopping.wait()

    def stop(self) -> None:
        """Tell it to drain and stop; called again, to stop at once. From any thread."""
        with self._stop_lock:
            self._stops += 1
            hurry = self._stops > 1
            loop = self._loop
        if loop is None:
            return

        def tell() -> None:
            self._stopping.set()
            if hurry:
                self._hurry.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped
            loop.call_soon_threadsafe(tell)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        failure, self._failure = self._failure, None
        if failure is not None and error is None:
            raise failure

    @property
    def worker(self) -> str:
        """The name that claims are made under now."""
        return self._held.worker

    async def _start(self) -> None:
        if self._loop is not None:
            raise RuntimeError("this engine is running already")
        self._loop = loop = asyncio.get_running_loop()
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
        self._failure = None
        self._services = Services(self._failed)
        self._held = Held(worker_name())
        timeout = min(30.0, self._options.lease.total_seconds())
        self._claims = self._link("claims", durable=False, timeout=timeout)
        self._commits = self._link("commits", timeout=timeout)
        self._aside = self._link("busy commits", timeout=timeout)
        self._beats = self._link("heartbeats", timeout=min(timeout, self._options.lease.total_seconds() / 3))
        self._chores = self._link("maintenance", timeout=600)
        self._links = [self._claims, self._commits, self._aside, self._beats, self._chores]
        self._executor = Executor(loop, self._options.limits, self._finished)
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
        try:
            await self._introduce()
        except BaseException:
            await self._disconnect()
            self._loop = None
            raise
        self._feeding = self._services.start(self._feeder.run(), "feeder")
        self._services.start(self._committer.run(), "committer")
        self._services.start(self._committer.run_busy(), "busy")
        self._services.start(Pulse(self._beats, self._executor, self._held, self._emit, self._options).run(), "pulse")
        if self._options.reap_every is not None:
            upkeep = Upkeep(self._chores, self._emit, self._options.reap_every, self._options.retention)
            self._services.start(upkeep.run(), "maintenance")
        with self._stop_lock:
            stopped = self._stops
        if stopped:
            self._stopping.set()
        logger.info("engine %s serves %s", self.worker, self._options.limits)

    def _link(self, name: str, *, durable: bool = True, timeout: float) -> Link:
        dsn = conninfo(self._dsn, f"gendurable {self._held.worker}")
        return Link(dsn, name, self._emit, durable=durable, notify=self._options.notify, timeout=timeout)

    async def _introduce(self) -> None:
        """Check the versions, register the machines, listen: what fails here fails the start."""
        try:
            installed = await self._commits.attempt(calls.version)
        except psycopg.errors.UndefinedFunction as error:
            raise VersionMismatch(
                "gendurable is not in this database, or not on the search_path of this connection",
                hint="run CREATE EXTENSION gendurable, or gendurable_py.install(conn)",
            ) from error
        require_release(installed, package_version())
        for spec in self._specs:
            await self._commits.attempt(calls.register, spec.cls)
            _ = spec.steps, spec.codec  # a class that cannot be used is told now, not at its first row
        await self._beats.open()
        await self._claims.open()
        await self._sleeper.prepare()

    def _failed(self, task: asyncio.Task[None], error: BaseException) -> None:
        """A task of ours that ends by an error is a defect: the engine stops and tells, it does not limp on."""
        self._failure = error
        logger.critical("%s failed", task.get_name(), exc_info=error)
        self._stopping.set()
        self._hurry.set()

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
        if self._feeder.saturated or not self._options.notify:
            self._sleeper.poke()

    # The end

    async def _close(self) -> None:
        """Drain: claim nothing more, give back what was not started, let the rest finish and commit."""
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
        self._stubborn = await self._executor.cancel_tasks()
        # What has its outcome by now deserves its commit, also when the time is over.
        deadline = max(deadline, time.monotonic() + 1.0)
        await self._within(self._committer.flush(), deadline)
        for work in self._held.works():
            work.ctx._cancelled = True
        for link in self._links:
            link.hang_up()
        await self._services.stop()
        left = await self._executor.close(time.monotonic() + 0.2)
        if left:
            logger.warning("%d steps go on in their threads; what they hold is left to its lease", left)
        await self._disconnect()
        with self._stop_lock:
            self._loop = None
            self._stops = 0
        logger.info("engine %s has stopped", self._held.worker)

    async def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        while (  # noqa: ASYNC110 - threads are among what it waits for
            not condition() and time.monotonic() < deadline and not self._hurry.is_set()
        ):
            await asyncio.sleep(0.002)

    async def _within(self, coroutine: Coroutine[Any, Any, None], deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await coroutine

    async def _disconnect(self) -> None:
        await asyncio.gather(*(link.drop() for link in self._links))
