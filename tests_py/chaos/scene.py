"""A server, three dispatcher processes and some clients; faults among them; then the calm in which all must end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import psycopg
from psycopg.conninfo import make_conninfo
from support.proxy import Proxy
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import embedded
from gendurable_py.embedded.cluster import SUPERUSER, Cluster, Installation
from gendurable_py.install import extension_files

from . import TESTS, flows
from .checker import Violation, check
from .clients import Clients, backlog
from .faults import Faults
from .machines import BURST, FEW, LIMIT, MOST, RATE, SCHEDULES, tick
from .records import LOG, Record, gather
from .sabotage import DEFECTS
from .worker import STYLES

WORKERS = 3
SETTINGS = {"max_connections": "100"}
# Work that has to go on between two faults, in bytes of the workers' journals.
PROGRESS = 6_000
PATIENCE = 40
DRAIN_SECONDS = 60
UNDONE = """
select format('%s: %s %s, of which %s due', queue, count(*), status, count(*) filter (where eligible_at <= now()))
from gendurable.instance
where finished_at is null
group by queue, status
union all
select format('open for %s s: %s', extract(epoch from now() - xact_start)::int, left(query, 60))
from pg_stat_activity
where now() - xact_start > interval '5 s'
union all
select format('prepared for %s s', extract(epoch from now() - prepared)::int) from pg_prepared_xacts
"""
MOST_SHOWN = 50


@dataclass
class Report:
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    transitions: int = 0
    repeated: int = 0
    stale: int = 0
    maintained: int = 0
    # What else there is to say.
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            "faults injected:",
            *(f"  {count:5} {kind}" for kind, count in sorted(self.faults.items())),
            f"instances run: {self.instances.total()}",
            *(f"  {count:5} {kind}" for kind, count in sorted(self.instances.items())),
            f"clients asked for: {', '.join(f'{count} {what}' for what, count in sorted(self.asked.items()))}",
            f"transitions committed: {self.transitions}, steps run again, failed or in vain: {self.repeated}",
            f"outcomes refused as stale: {self.stale}, looks of gd_maintain for lost batons: {self.maintained}",
            *self.remarks,
            *(f"  {violation}" for violation in self.violations[:MOST_SHOWN]),
            f"violations: {len(self.violations)}, seed: {self.seed}",
        ]
        return "\n".join(parts)


class Unavailable(Exception):
    """There is no server here that may be killed, and how to get one."""


def installation() -> Installation:
    """The embedded PostgreSQL, else that of PG_CONFIG."""
    try:
        return embedded.installation()
    except ImportError as error:
        try:
            return Installation.of(os.environ.get("PG_CONFIG", "pg_config"))
        except (OSError, subprocess.CalledProcessError):
            raise Unavailable(f"needs a server that it may kill: {error}") from None


def start_server(sabotage: str | None) -> Cluster:
    """With durable commits, as in earnest."""
    cluster = Cluster(installation(), extension_files=extension_files(), settings=SETTINGS)
    with psycopg.connect(cluster.dsn) as conn:
        conn.execute("create extension gendurable")
        if sabotage is not None:
            DEFECTS[sabotage].plant(conn)
    return cluster


class Crowd(Protocol):
    """Those who put work in: until `finish`, and then what they promised."""

    finish: threading.Event
    failure: BaseException | None
    told: list[dict[str, Any]]

    @property
    def busy(self) -> bool: ...


class Scene:
    """`server`: another one than it would start for itself; `more`: what is added to the styles of the workers;
    `with_flows`: flows run beside the machines."""

    def __init__(
        self,
        seed: int,
        *,
        cancel: bool = True,
        sabotage: str | None = None,
        server: Cluster | None = None,
        user: str = SUPERUSER,
        more: str = "",
        with_flows: bool = False,
    ) -> None:
        self.seed = seed
        self.server = server or start_server(sabotage)
        self.dsn = self.server.dsn
        self._more = more
        self.folder = Path(tempfile.mkdtemp(prefix="gd-chaos-"))
        with psycopg.connect(self.dsn) as conn:
            self._prepare(conn)
            if with_flows:
                flows.prepare(conn)
        self.proxy = Proxy(self.dsn)
        self._workers_dsn = make_conninfo(self.proxy.dsn, user=user)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        # Workers may be killed by one thread while another looks whether one has ended by itself.
        self._replacing = threading.Lock()
        self.violations: list[Violation] = []
        self.stepped = False
        for index in range(WORKERS):
            self.workers.append(self._worker(index))
        self.flows = flows.Customers(self.proxy.dsn, seed) if with_flows else None
        self._begin(seed, cancel)

    def _prepare(self, conn: psycopg.Connection[Any]) -> None:
        """What there has to be before the first worker."""
        conn.execute(LOG.encode())
        gd.set_rate_limit(conn, LIMIT, RATE, 1, BURST)
        gd.set_queue(conn, FEW, limit=MOST)
        for name, options in SCHEDULES.items():
            # Where the clock goes on by an hour, all that it has left out would be the work.
            missed = {"catch_up": "one"} if self._more else {}
            gd.schedule(conn, name, "@every 1 second", tick, {"n": 0}, **{**options, **missed})

    def _begin(self, seed: int, cancel: bool) -> None:
        self.clients: Crowd = Clients(self.proxy.dsn, seed, cancel=cancel)
        self.faults = Faults(self, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.workers:
            process.kill()
            process.wait()
        self.clients.finish.set()
        if self.flows is not None:
            self.flows.finish.set()
        self.proxy.__exit__()
        self.server.stop()
        if error is None and not self.violations:
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()
        else:
            print(f"what was written down is kept in {self.folder}", file=sys.stderr)

    def _worker(self, index: int) -> subprocess.Popen[bytes]:
        self._started += 1
        name = f"worker-{self._started}"
        style = tuple(STYLES)[index % len(STYLES)] + self._more
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "chaos.worker", self._workers_dsn, str(self.folder / f"{name}.jsonl"), style],
                env=os.environ | {"PYTHONPATH": paths},
                stdout=log,
                stderr=log,
            )

    def kill_worker(self, index: int) -> None:
        with self._replacing:
            self.workers[index].kill()
            self.workers[index].wait()
            self.workers[index] = self._worker(index)

    def restart_worker(self, index: int) -> None:
        """As a deployment does: it drains and ends, and another one starts."""
        with self._replacing:
            self.workers[index].terminate()
            self._end(self.workers[index])
            self.workers[index] = self._worker(index)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """After SIGTERM."""
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code == -signal.SIGTERM and not self._is_up(process):
            return  # it was still importing
        if code != 0:
            self.violations.append(Violation("worker", f"a dispatcher ended with {code}"))

    def _is_up(self, process: subprocess.Popen[bytes]) -> bool:
        journal = Path(str(process.args[-2]))  # type: ignore[index]
        return journal.exists() and journal.stat().st_size > 0

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("worker-*.jsonl"))

    def watch(self, kind: str, when: str) -> None:
        """Wait until a good deal of work has been done since now."""
        before = self._written()
        try:
            wait_until(lambda: self._written() > before + PROGRESS, PATIENCE)
        except TimeoutError:
            self.violations.append(Violation(kind, f"no progress {when}: {self._left()}"))

    def _left(self) -> str:
        """What there is to do, and who may be in the way."""
        try:
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                return "; ".join(row[0] for row in conn.execute(UNDONE.encode()))
        except psycopg.Error as error:
            return f"the server does not tell: {error}"

    def go_on(self) -> None:
        """Whatever was broken is overcome, and no dispatcher gave up."""
        self.watch("stuck", f"after {sum(self.faults.injected.values())} faults")
        with self._replacing:
            for index, process in enumerate(self.workers):
                if process.poll() is not None:
                    self.violations.append(Violation("worker", f"a dispatcher ended by itself: {process.returncode}"))
                    self.workers[index] = self._worker(index)

    def calm(self) -> None:
        """Clients finish what they promised, and everything ends."""
        self.clients.finish.set()
        if self.flows is not None:
            self.flows.finish.set()
        try:
            wait_until(lambda: not self.clients.busy, DRAIN_SECONDS)
            if self.flows is not None:
                wait_until(lambda: self.flows is None or not self.flows.busy, DRAIN_SECONDS)
                if self.flows.failure is not None:
                    self.violations.append(Violation("client", f"was refused: {self.flows.failure!r}"))
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                self._drain(conn)
        except TimeoutError:
            who = "clients are still busy" if self.clients.busy else "instances have not ended"
            self.violations.append(Violation("stuck", f"after {DRAIN_SECONDS} s of calm {who}"))
        if self.clients.failure is not None:
            self.violations.append(Violation("client", f"was refused: {self.clients.failure!r}"))
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            self._end(process)

    def _drain(self, conn: psycopg.Connection[Any]) -> None:
        for name in SCHEDULES:
            gd.pause_schedule(conn, name)
        wait_until(lambda: backlog(conn) == 0, DRAIN_SECONDS)

    def judge(self) -> Report:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            repaired = gd.maintain(conn)["repaired"]
            record = gather(conn, self.folder, [*self.clients.told])
            remarks: list[str] = []
            if self.flows is not None:
                self.violations += [Violation("flow", text) for text in flows.judge(conn, self.folder, self.flows)]
                remarks.append(flows.tell(conn, self.folder, self.flows))
        record.stepped = self.stepped
        assert isinstance(repaired, int)
        record.repaired += repaired
        self.violations += check(record)
        if self.violations:
            (self.folder / "record.json").write_text(json.dumps(asdict(record), indent=1))
        return self._report(record, remarks)

    def _report(self, record: Record, remarks: list[str]) -> Report:
        transitions = sum(event.committed for event in record.events)
        return Report(
            self.seed,
            self.faults.injected,
            Counter(f"{row.fsm} {row.status}" for row in record.rows.values()),
            Counter(line["what"] for line in record.told),
            self.violations,
            transitions,
            len(record.runs) - transitions,
            record.stale,
            record.maintained,
            remarks=remarks,
        )


def play(seed: int, minutes: float | None = None, sabotage: str | None = None) -> Report:
    """Each kind of fault once, in the seed's order; with `minutes`, again and again for so long."""
    until = time.monotonic() + (minutes or 0) * 60
    with Scene(seed, sabotage=sabotage, with_flows=True) as scene:
        scene.go_on()
        while True:
            for kind in scene.faults.plan():
                scene.faults.inject(kind)
                scene.go_on()
            if time.monotonic() >= until:
                break
        scene.calm()
        return scene.judge()
