"""What an engine has for one database: its connections, what it holds there, and who feeds, commits and sleeps.

Steps are run elsewhere, by the engine's executor, which may serve several of these. A database gets back what has ended
(`finish`), and nothing of it is lost until it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import psycopg

from ..calls import inserting, operating
from ..errors import VersionMismatch
from ..install import require_release
from ..install import version as package_version
from ..machine.outcome import MachineLike
from ..machine.spec import Spec, collect_rate_limits
from ..telemetry.events import Emit
from .ahead import Ahead
from .blocked import Blocked
from .committer import Committer
from .connections import Connections
from .counts import Counts
from .defined import DefinedSteps
from .depth import Depth
from .dial import Connect, Dialer
from .feeder import Feeder
from .fork import Connected
from .health import Pulse
from .heartbeat import Heartbeats
from .hello import Hello
from .journals import Journals
from .limits import Limits
from .link import Link
from .maintenance import Maintenance
from .options import Options
from .pooled import Shared
from .routes import Routes
from .schedules import Schedules
from .services import Failed, Loop, Services
from .sleeper import Sleeper
from .sql_backlog import Backlog
from .sql_steps import SqlSteps
from .steering import Steering
from .timeouts import Timeouts
from .transaction import Transactions
from .work import Held, Holding, Runner, Work, make_worker_name


class Database:
    """One database that an engine serves, from one start to the end of it."""

    def __init__(
        self, dsn: str, connect: Connect | None, options: Options, executor: Runner, emit: Emit, failed: Failed
    ) -> None:
        self._options = options
        self._executor = executor
        self._services = Services(failed)
        self._serving = False
        self.held = Held(make_worker_name())
        self._dialer = Dialer(dsn, f"gendurable {self.held.worker}", connect)
        self._shared = Shared(pooled=not options.notify)
        self._emit = emit
        lease = options.lease_ttl.total_seconds()
        timeout = min(30.0, lease)
        self.claims = self._make_link("claims", durable=False, timeout=timeout)
        self._commits = self._make_link("commits", timeout=timeout)
        self._aside = self._make_link("busy commits", timeout=timeout)
        self._beats = self._make_link("heartbeats", timeout=min(timeout, lease / 3))
        self._chores = self._make_link("maintenance", timeout=600)
        self._timetable = self._make_link("schedules", timeout=timeout)
        self._looks = self._make_link("depth", durable=False, timeout=30)
        self._replays = self._make_link("journals", durable=False, timeout=timeout)
        # A function may take as long as it likes; its connection has the settings that its role has elsewhere.
        self._functions = self._make_link("steps in SQL", ours=False, timeout=3600)
        self._links = [
            self.claims,
            self._commits,
            self._aside,
            self._beats,
            self._chores,
            self._timetable,
            self._looks,
            self._replays,
            self._functions,
        ]
        self.links: list[Connected] = [*self._links]
        self._transactions = Transactions(Connections(self._dialer, options.transactions, self._shared, self.links))
        self._schedules = Schedules(self._timetable, emit)
        self.sleeper = Sleeper(self.claims, emit, options)
        self._blocked = Blocked(self.held, emit)
        self._committer = Committer(
            self._commits,
            self._aside,
            self._blocked,
            executor,
            self.held,
            emit,
            lease_ttl=options.lease_ttl,
            go_on=lambda *kept: self._feeder.go_on(*kept),
            progressed=self._progress,
        )
        self._timeouts = Timeouts(
            executor, self.held, emit, settle=self._committer.add, give_back=self._committer.give_back
        )
        self._defined = DefinedSteps(options.sql_steps, options.reap_interval or 30.0)
        self.counts = Counts()
        self._in_sql = SqlSteps(
            self._functions,
            self._defined,
            Backlog(),
            self.held,
            self.counts.hearing(emit),
            give_back=self._committer.give_back,
            progressed=self._progress,
        )
        self._journals = Journals(
            self.claims,
            self._replays,
            executor,
            self.held.reading,
            settle=self._committer.add,
            give_back=self._committer.give_back,
            progressed=self._progress,
        )
        self._ahead = Ahead(options.prefetch, executor, self._give_back_waiting)
        self._feeder = Feeder(
            self.claims,
            self.sleeper,
            executor,
            self.held,
            emit,
            options,
            tidy=self._committer.tidy,
            watch=self._timeouts.watch,
            transactions=self._transactions,
            in_sql=self._in_sql,
            journals=self._journals,
            ahead=self._ahead,
        )
        self._feeding = Loop("feeder", self._feeder.run)
        steering = Steering(options.queues, executor, self.held, emit, changed=self._steer)
        self._steering = steering
        self._hello = Hello(
            self._beats,
            self.held,
            executor,
            steering,
            self.counts,
            emit,
            options,
            version=package_version(),
            in_sql=lambda: self._in_sql.running,
            stopping=lambda: self._feeder.stopping,
        )
        self._heartbeats = Heartbeats(self._beats, self.held, self._hello, steering, emit, options, self._in_sql.doubt)
        self.pulse = Pulse(
            options,
            self.held,
            executor,
            steering,
            self._hello,
            self._heartbeats,
            claims=self.claims,
            commits=self._commits,
            beating=self._beats,
        )

    def _make_link(self, name: str, *, durable: bool = True, ours: bool = True, timeout: float) -> Link:
        return Link(self._dialer, name, self._emit, durable=durable, ours=ours, timeout=timeout, shared=self._shared)

    async def introduce(self, specs: Iterable[Spec], ours: str) -> None:
        """Check the versions, register machines and limits, listen: what fails here fails the start."""
        try:
            installed = await self._commits.insist(operating.version)
        except psycopg.errors.UndefinedFunction as error:
            raise VersionMismatch(
                "gendurable is not in this database, or not on the search_path of this connection",
                hint="run CREATE EXTENSION gendurable, or gendurable_py.install(conn)",
            ) from error
        require_release(installed, ours)
        specs = list(specs)
        for spec in specs:
            await self._commits.insist(inserting.register, cast("MachineLike", spec.cls))
            _ = spec.steps, spec.codec  # a class that cannot be used is told now, not at its first row
        await Limits(self._commits, self._emit).register(collect_rate_limits(specs))
        await Routes(self._commits, self._options.queues).register(specs)
        await self._schedules.introduce(specs, self._commits)
        await self._defined.read(self._commits)
        self._defined.warn_of_methods(specs)
        await self._beats.open()
        await self.claims.open()
        await self.sleeper.prepare()

    def start(self) -> None:
        """Claim, commit and renew from now on."""
        self._serving = True
        start, options = self._services.start, self._options
        start(self._feeding)
        start(Loop("committer", self._committer.run))
        start(Loop("busy", self._committer.run_busy))
        start(self._in_sql)
        start(self._heartbeats)
        if options.reap_interval is not None:
            start(Maintenance(self._chores, self._emit, options))
        start(self._journals)
        start(Depth(self._looks, self._heartbeats, self._emit))
        if self._schedules.wanted:
            start(self._schedules)

    # What happens meanwhile

    def finish(self, works: list[Work]) -> None:
        """The steps of these have ended."""
        for work in works:
            if work.turn is not None:
                self._timeouts.leave(work)
        self._committer.add(works)
        self._ahead.ended(works)
        # A queue that is asleep was empty: its free slot is no reason to ask again.
        if not self.sleeper.covers({work.queue for work in works}):
            self.sleeper.poke()

    def _give_back_waiting(self, works: Iterable[Holding]) -> None:
        """These have no slot yet, and will have none soon."""
        for work in works:
            if isinstance(work, Work) and work.turn is not None:
                self._timeouts.leave(work)
            self._committer.give_back([work])

    def _steer(self) -> None:
        """It was told something: it may claim more, or less."""
        self._feeder.draining = self._steering.draining
        self.sleeper.poke()

    def _progress(self) -> None:
        room = self._feeder.passes_over and self._in_sql.claims is None
        if self._feeder.saturated or room or self.sleeper.polls:
            self.sleeper.poke()

    # The end

    async def stop_claiming(self) -> None:
        self._feeder.stopping = True
        self.sleeper.poke()
        # A claim under way is a matter of milliseconds; breaking it off leaves rows that nobody knows of.
        feeding = self._feeding.task
        assert feeding is not None
        await asyncio.wait([feeding], timeout=0.5)
        if not feeding.done():
            self._feeding.end()
            self.held.rename()  # its claim may have happened

    def give_back(self, works: Iterable[Work]) -> None:
        """These will not be started, no flows whose journals are still read, and no more steps in SQL."""
        self._committer.give_back([*works, *self._journals.withdraw(), *self._in_sql.withdraw()])

    @property
    def running(self) -> int:
        """Steps in SQL that run, or wait for those in the same call, and what may go on when its commit is answered:
        steps of a flow may run meanwhile."""
        return self._in_sql.running + sum(self.held.kept.values()) + self._blocked.running

    async def break_off(self) -> None:
        """End steps in SQL that still run."""
        await self._in_sql.break_off()

    async def flush(self, until: Callable[[Callable[[], bool]], Awaitable[bool]]) -> None:
        """Commit what has its outcome by now: it deserves it, also when the time is over."""
        flushing = asyncio.get_running_loop().create_task(self._committer.flush(), name="gendurable flush")
        try:
            if await until(flushing.done):
                await asyncio.wait([flushing], timeout=1)
        finally:
            flushing.cancel()
        for work in self.held.all():
            work.tell()

    @property
    def serving(self) -> bool:
        """Whether there is something to drain."""
        return self._serving

    async def stop(self) -> None:
        """End whatever goes on."""
        self._serving = False
        self._timeouts.stop()
        await self._heartbeats.leave()
        for link in self._links:
            link.hang_up()
        await self._services.stop()
        await self._hello.bye()

    async def close(self) -> None:
        """Give up the connections."""
        await asyncio.gather(self._transactions.close(), *(link.drop() for link in self._links))
