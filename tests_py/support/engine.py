"""An engine in a thread of its own, so that the tests are plain functions on plain connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Engine

TERMINAL = ("done", "failed", "cancelled")


class Events:
    """Collects telemetry; `count` and `named` may be asked from any thread."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def __call__(self, name: str, measurements: Any, metadata: Any) -> None:
        self.seen.append((name, dict(measurements), dict(metadata)))

    def count(self, name: str) -> int:
        return sum(event[0] == name for event in list(self.seen))

    def named(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [event[1:] for event in list(self.seen) if event[0] == name]


@contextmanager
def running(*engines: Engine) -> Iterator[None]:
    """Run the engines on one loop in a thread; entered once they listen, left once they have stopped."""
    ready, failures = threading.Event(), []

    async def main() -> None:
        async def one(engine: Engine) -> None:
            async with engine:
                started.append(engine)
                if len(started) == len(engines):
                    ready.set()
                await engine._life.stopping.wait()

        started: list[Engine] = []
        await asyncio.gather(*(one(engine) for engine in engines))

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="engine under test")
    thread.start()
    ready.wait(20)
    try:
        if not failures:
            yield
    finally:
        for engine in engines:
            engine.stop()
        thread.join(20)
        assert not thread.is_alive()
        if failures:
            raise failures[0]


def ended(conn: psycopg.Connection[Any], *ids: int | None, timeout: float = 15) -> list[gd.Result]:
    """Wait until all have ended."""

    def all_of_them() -> bool:
        row = conn.execute(
            "select count(*) from gd_instances where id = any(%s) and status = any(%s)", (list(ids), list(TERMINAL))
        ).fetchone()
        return row is not None and row[0] == len(set(ids))

    wait_until(all_of_them, timeout)
    found = [gd.result(conn, id or 0) for id in ids]
    return [result for result in found if result is not None]


def field(conn: psycopg.Connection[Any], id: int | None, name: str) -> Any:
    row = conn.execute(f"select {name} from gd_instances where id = %s", (id,)).fetchone()
    assert row is not None
    return row[0]


def asleep(conn: psycopg.Connection[Any], count: int = 1) -> bool:
    """Whether that many dispatchers have announced that they sleep, in this database, and have settled down."""
    row = conn.execute(
        "select count(distinct pid) from pg_locks join pg_database d on d.oid = database "
        "where locktype = 'advisory' and mode = 'ShareLock' and granted and datname = current_database()"
    ).fetchone()
    return row is not None and row[0] >= count
