"""A server, three dispatcher processes and some clients; faults among them; then the calm in which all must end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from _proxy import Proxy
from _wait import wait_until

import gendurable_py as gd
from gendurable_py import _cluster, embedded
from gendurable_py.install import extension_files

from . import TESTS
from .checker import Violation, check
from .clients import Clients, backlog
from .faults import Faults
from .records import LOG, Record, gather

WORKERS = 3
SETTINGS = {"max_connections": "100"}
# Work that has to go on between two faults, in bytes of the workers' journals.
PROGRESS = 4_000
DRAIN_SECONDS = 60


@dataclass
class Report:
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    transitions: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        parts = [
            "faults injected:",
            *(f"  {count:5} {kind}" for kind, count in sorted(self.faults.items())),
            f"instances run: {self.instances.total()}",
            *(f"  {count:5} {kind}" for kind, count in sorted(self.instances.items())),
            f"transitions committed: {self.transitions}, steps run again or in vain: {self.repeated}",
            *(f"  {violation.kind}: {violation.text}" for violation in self.violations[:50]),
            f"violations: {len(self.violations)}, seed: {self.seed}",
        ]
        return "\n".join(parts)


class Unavailable(Exception):
    """There is no server here that may be killed, and how to get one."""


def installation() -> _cluster.Installation:
    """The embedded PostgreSQL, else that of PG_CONFIG."""
    try:
        return embedded.installation()
    except ImportError as error:
        try:
            return _cluster.Installation.of(os.environ.get("PG_CONFIG", "pg_config"))
        except (OSError, subprocess.CalledProcessError):
            raise Unavailable(f"needs a server that it may kill: {error}") from None


def start_server() -> _cluster.Cluster:
    """With durable commits, as in earnest."""
    cluster = _cluster.Cluster(installation(), extension_files=extension_files(), settings=SETTINGS)
    with psycopg.connect(cluster.dsn) as conn:
        conn.execute("create extension gendurable")
    return cluster


class Scene:
    def __init__(self, seed: int, *, cancel: bool = True) -> None:
        self.seed = seed
        self.server = start_server()
        self.dsn = self.server.dsn
        self.folder = Path(tempfile.mkdtemp(prefix="gd-chaos-"))
        with psycopg.connect(self.dsn) as conn:
            conn.execute(LOG.encode())
        self.proxy = Proxy(self.dsn)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        # Workers may be killed by one thread while another looks whether one has ended by itself.
        self._replacing = threading.Lock()
        self.violations: list[Violation] = []
        for _ in range(WORKERS):
            self.workers.append(self._worker())
        self.clients = Clients(self.proxy.dsn, seed, cancel=cancel)
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
        self.proxy.__exit__()
        self.server.stop()
        if error is None and not self.violations:
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()
        else:
            print(f"what was written down is kept in {self.folder}", file=sys.stderr)

    def _worker(self) -> subprocess.Popen[bytes]:
        self._started += 1
        name = f"worker-{self._started}"
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "chaos.worker", self.proxy.dsn, str(self.folder / f"{name}.jsonl")],
                env=os.environ | {"PYTHONPATH": paths},
                stdout=log,
                stderr=log,
            )

    def kill_worker(self, index: int) -> None:
        with self._replacing:
            self.workers[index].kill()
            self.workers[index].wait()
            self.workers[index] = self._worker()

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.jsonl"))

    def go_on(self) -> None:
        """Wait until a good deal of work has been done since now: whatever was broken is overcome."""
        before = self._written()
        try:
            wait_until(lambda: self._written() > before + PROGRESS, 40)
        except TimeoutError:
            self.violations.append(Violation("stuck", f"no progress after {sum(self.faults.injected.values())} faults"))
        with self._replacing:
            for index, process in enumerate(self.workers):
                if process.poll() is not None:
                    self.violations.append(Violation("worker", f"a dispatcher ended by itself: {process.returncode}"))
                    self.workers[index] = self._worker()

    def calm(self) -> None:
        """Clients finish what they promised, and everything ends."""
        self.clients.finish.set()
        try:
            wait_until(lambda: not self.clients.busy, DRAIN_SECONDS)
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                wait_until(lambda: backlog(conn) == 0, DRAIN_SECONDS)
        except TimeoutError as error:
            self.violations.append(Violation("stuck", f"it does not drain: {error}"))
        if self.clients.failure is not None:
            raise self.clients.failure
        for process in self.workers:
            process.terminate()
        for process in self.workers:
            if process.wait(30) != 0:
                self.violations.append(Violation("worker", f"a dispatcher ended with {process.returncode}"))

    def judge(self) -> Report:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            repaired = gd.maintain(conn)["repaired"]
            record = gather(conn, self.folder, self.clients.told)
        assert isinstance(repaired, int)
        record.repaired += repaired
        self.violations += check(record)
        return self._report(record)

    def _report(self, record: Record) -> Report:
        transitions = sum(event.committed for event in record.events)
        return Report(
            self.seed,
            self.faults.injected,
            Counter(f"{row.fsm} {row.status}" for row in record.rows.values()),
            self.violations,
            transitions,
            len(record.runs) - transitions,
        )


def play(seed: int, minutes: float | None = None) -> Report:
    """Each kind of fault once, in the seed's order; with `minutes`, again and again for so long."""
    until = time.monotonic() + (minutes or 0) * 60
    with Scene(seed) as scene:
        scene.go_on()
        while True:
            for kind in scene.faults.plan():
                scene.faults.inject(kind)
                scene.go_on()
            if time.monotonic() >= until:
                break
        scene.calm()
        return scene.judge()
