"""What is broken, one thing after the other: the server, its backends, its network, its locks, the workers."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from support.wait import wait_until

from .checker import Violation
from .machines import is_slow

if TYPE_CHECKING:
    from .scene import Scene

ENGINES = "datname = current_database() and application_name like 'gendurable %'"
LIVE = "select count(*) from gendurable.instance where worker like %s and lease_expires_at > clock_timestamp()"
SLOW = "select id from gendurable.instance where worker like %s and fsm = 'chaos.steps' and step = 'second'"
TAKEN = "select count(*) from gendurable.instance where id = any(%s) and status = 'executing' and worker not like %s"


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
            "disk slow": self.slow_disk,
            "backends terminated one by one": self.terminate_each,
            "all backends terminated": self.terminate_all,
            "backend stopped": self.stop_backend,
            "connections cut": self.cut,
            "connections refused": self.refuse,
            "network silent": self.silence,
            "rows held by a client": self.hold_rows,
            "a key held by a client": self.hold_key,
            "a decision left open": self.leave_open,
            "worker killed": self.kill_worker,
            "worker restarted": self.restart_worker,
            "worker stopped past its lease": self.stop_worker,
        }

    def plan(self) -> list[str]:
        """All kinds once, in an order that the seed decides."""
        kinds = list(self.kinds)
        self._random.shuffle(kinds)
        return kinds

    def inject(self, kind: str) -> None:
        try:
            done = self.kinds[kind]() is not False
        except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
            pass  # it met an operator, and was the one to give in
        except psycopg.OperationalError:
            raise
        except (psycopg.DatabaseError, TimeoutError) as error:
            self._scene.violations.append(Violation("fault", f"{kind}: {error!r}"))
        else:
            self.injected[kind] += done

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

    def slow_disk(self) -> None:
        """Each durable commit takes a tenth of a second."""
        with psycopg.connect(self._scene.dsn, autocommit=True) as conn:
            conn.execute("alter system set commit_delay = 100000")
            conn.execute("alter system set commit_siblings = 0")
            conn.execute("select pg_reload_conf()")
            last(self._random.uniform(0.5, 1.5))
            conn.execute("alter system reset commit_delay")
            conn.execute("alter system reset commit_siblings")
            conn.execute("select pg_reload_conf()")

    def terminate_each(self) -> bool:
        pids = self._ask(f"select pid from pg_stat_activity where {ENGINES} order by pid")
        self._random.shuffle(pids)
        hit = [pid for pid in pids if self._ask("select pg_terminate_backend(%s, 1000)", pid) == [True]]
        return bool(hit)

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

    @contextmanager
    def _open_transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """What a client has touched in it is held until much else was done: nobody but those behind it waits."""
        with psycopg.connect(self._scene.dsn) as conn:
            try:
                yield conn
            finally:
                self._scene.watch("blocked", "while a client's transaction was open")
                conn.rollback()

    def hold_rows(self) -> None:
        with self._open_transaction() as conn:
            conn.execute(
                # by id, as all do that wait for rows
                "select gd_signal(id, 'even', 'null') from (select id from ("
                "select id from gendurable.instance where finished_at is null and id > 0 order by random() limit 5"
                ") chosen order by id) sorted"
            )
            conn.execute(
                "select from gendurable.instance where finished_at is null order by random() limit 20 "
                "for update skip locked"
            )
            # Of a key of its own, or it is the producer that is held.
            conn.execute("select gd_insert('chaos.unique', '{\"n\": 0}', p_unique_key => 'nobody else''s')")

    def hold_key(self) -> None:
        with self._open_transaction() as conn:
            conn.execute(
                "select gd_cancel(id) from (select id from gendurable.instance "
                "where finished_at is null and partition_key is not null order by random() limit 1) chosen"
            )

    def leave_open(self) -> None:
        """Who may execute, and where, is being decided all the while; in the end nothing changes."""
        with self._open_transaction() as conn:
            conn.execute(
                self._random.choice(("select gd_pause_queue('nobody''s')", "select gd_set_key_limit('nobody''s', 2)"))
            )

    def kill_worker(self) -> None:
        self._scene.kill_worker(self._random.randrange(len(self._scene.workers)))

    def restart_worker(self) -> None:
        self._scene.restart_worker(self._random.randrange(len(self._scene.workers)))

    def stop_worker(self) -> None:
        """It sleeps with claims in its hands until their leases are over, and goes on as if nothing had been."""
        first = self._random.randrange(len(self._scene.workers))

        def busy() -> tuple[Any, list[int]] | None:
            # that one, or the next that has a slow step: it alone may have nothing for a while
            for process in [*self._scene.workers[first:], *self._scene.workers[:first]]:
                if slow := [id for id in self._ask(SLOW, f"%:{process.pid}:%") if is_slow(id)]:
                    return process, slow
            return None

        found = wait_until(busy, 30)
        assert found is not None
        process, slow = found
        name = f"%:{process.pid}:%"
        process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: self._ask(LIVE, name)[0] == 0, 30)
            if self._random.random() < 0.7:
                # Until somebody else runs what it ran. An operator may have cancelled it, or paused its queue.
                with suppress(TimeoutError):
                    wait_until(lambda: self._ask(TAKEN, slow, name)[0] > 0, 3)
        finally:
            process.send_signal(signal.SIGCONT)
