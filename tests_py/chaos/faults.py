"""What is broken, one thing after the other: the server, its backends, its network, its locks, the workers."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from _wait import wait_until

if TYPE_CHECKING:
    from .scene import Scene

ENGINES = "datname = current_database() and application_name like 'gendurable %'"
LIVE = "select count(*) from gendurable.instance where worker like %s and lease_expires_at > clock_timestamp()"


def last(seconds: float) -> None:
    """How long a fault lasts: nothing is expected to have happened by then."""
    threading.Event().wait(seconds)


class Faults:
    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene = scene
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.kinds: dict[str, Callable[[], bool | None]] = {
            "server killed": self.kill_server,
            "server restarted": self.restart_server,
            "backend terminated": self.terminate_one,
            "all backends terminated": self.terminate_all,
            "backend stopped": self.stop_backend,
            "connections cut": self.cut,
            "connections refused": self.refuse,
            "network silent": self.silence,
            "rows locked": self.lock_rows,
            "worker killed": self.kill_worker,
            "worker stopped past its lease": self.stop_worker,
        }

    def plan(self) -> list[str]:
        """All kinds once, in an order that the seed decides."""
        kinds = list(self.kinds)
        self._random.shuffle(kinds)
        return kinds

    def inject(self, kind: str) -> None:
        if self.kinds[kind]() is not False:
            self.injected[kind] += 1

    def _ask(self, query: str, *arguments: Any) -> list[Any]:
        with psycopg.connect(self._scene.dsn, autocommit=True) as conn:
            return [row[0] for row in conn.execute(query.encode(), arguments or None).fetchall()]

    def kill_server(self) -> None:
        self._scene.server.kill()
        last(self._random.uniform(0, 0.5))
        self._scene.server.restart()

    def restart_server(self) -> None:
        self._scene.server.restart()

    def _backend(self) -> int | None:
        pids = self._ask(f"select pid from pg_stat_activity where {ENGINES} order by pid")
        return self._random.choice(pids) if pids else None

    def terminate_one(self) -> bool:
        pid = self._backend()
        return pid is not None and bool(self._ask("select pg_terminate_backend(%s)", pid))

    def terminate_all(self) -> bool:
        # Clients too.
        found = self._ask(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        return bool(found)

    def stop_backend(self) -> bool:
        pid = self._backend()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGSTOP)
        except (ProcessLookupError, PermissionError):
            return False
        last(self._random.uniform(0.2, 1.0))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        return True

    def cut(self) -> None:
        self._scene.proxy.cut()

    def refuse(self) -> None:
        self._scene.proxy.refusing = True
        self._scene.proxy.cut()
        last(self._random.uniform(0.3, 1.0))
        self._scene.proxy.refusing = False

    def silence(self) -> None:
        self._scene.proxy.silence()
        last(self._random.uniform(0.3, 1.5))
        self._scene.proxy.heal()

    def lock_rows(self) -> None:
        """A client that has rows and keys locked in a transaction and takes its time."""
        with psycopg.connect(self._scene.dsn) as conn:
            conn.execute(
                "select gd_signal(id, 'even', 'null') from ("
                "select id from gendurable.instance where finished_at is null order by random() limit 5) chosen"
            )
            conn.execute(
                "select from gendurable.instance where finished_at is null order by random() limit 20 "
                "for update skip locked"
            )
            conn.execute("select pg_sleep(%s)", (self._random.uniform(0.2, 1.0),))
            conn.rollback()

    def kill_worker(self) -> None:
        self._scene.kill_worker(self._random.randrange(len(self._scene.workers)))

    def stop_worker(self) -> None:
        """It sleeps with claims in its hands until their leases are over, and goes on as if nothing had been."""
        process = self._scene.workers[self._random.randrange(len(self._scene.workers))]
        name = f"%:{process.pid}:%"
        wait_until(lambda: self._ask(LIVE, name)[0] > 0, 30)
        process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: self._ask(LIVE, name)[0] == 0, 30)
        finally:
            process.send_signal(signal.SIGCONT)
