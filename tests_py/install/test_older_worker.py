"""Workers of the release before on a database of this one: the real package, out of the repository."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
from chaos.checker import JUDGES
from chaos.records import LOG, gather
from support.busy import one
from support.engine import running
from support.older import RELEASE, older_package
from support.people import People
from support.released import past
from support.server import Server
from support.wait import wait_until
from support.workers import worker

import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, step

__all__ = ["past"]

Conn = psycopg.Connection[Any]

# What runs in the old package: one that has been there before the rename.
OLD = """
import sys
import gendurable_py as gd
from gendurable_py import FSM, Context, Done, Engine, Next, step
from gendurable_py.install import version

class Strict(FSM, name="chaos.strict", version=1, queue="roll"):
    @step
    def start(self, ctx: Context[dict]) -> Next:
        return Next(self.second, {**ctx.state, "n": 1})

    @step
    def second(self, ctx: Context[dict]) -> Next:
        return Next(self.last, {**ctx.state, "n": 2})

    @step
    def last(self, ctx: Context[dict]) -> Done:
        return Done({"n": 3, "by": version()})

print("package", version(), gd.__file__)
engine = Engine(sys.argv[1], [Strict], queues={"roll": 4}, lease_ttl=3, heartbeat_interval=0.5, poll_interval=0.2,
    max_poll_interval=0.5, reap_interval=1, drain_timeout=2)
engine.run()
print("ended")
"""


class Strict(FSM, name="chaos.strict", version=2, queue="roll"):
    """The same behind the deploy: its second step has another name, and its state another field."""

    @step
    def start(self, ctx: Context[dict[str, Any]]) -> Next:
        return Next(self.middle, {**ctx.state, "n": 1, "new": True})

    @step
    def middle(self, ctx: Context[dict[str, Any]]) -> Next:
        assert ctx.state["new"]
        return Next(self.last, {**ctx.state, "n": 2})

    @step
    def last(self, ctx: Context[dict[str, Any]]) -> Done:
        return Done({"n": 3, "by": "new", "new": ctx.state["new"]})


@pytest.fixture
def dsn(past: Server) -> Iterator[str]:
    """A database of the release before."""
    people = People(past)
    made = people.database(empty=True)
    with psycopg.connect(made, autocommit=True) as conn:
        conn.execute(f"create extension gendurable version '{RELEASE}'".encode())
    yield made
    people.close()


BY = "result ->> 'by'"


def ended(conn: Conn, by: str | None = None) -> int:
    return cast(
        "int",
        one(conn, f"select count(*) from gd_instances where status = 'done' and {BY} = coalesce($1, {BY})", by),
    )


INSERT = "select gd_insert('chaos.strict', $1::jsonb, 'start', $2, 'roll', p_partition_key => $3)"


class Inserts:
    """Somebody who inserts all the while, of a version, plain ones, delayed ones, and ones of a few keys."""

    def __init__(self, dsn: str, version: int) -> None:
        self._dsn, self._version = dsn, version
        self.stopping = threading.Event()
        self.ids: list[int] = []
        self.met: list[str] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as conn:
                while not self.stopping.wait(0.01):
                    n = len(self.ids)
                    key = f"key{n % 5}" if n % 3 == 0 else None
                    try:
                        self.ids.append(one(conn, INSERT, json.dumps({"n": 0}), self._version, key))
                    except psycopg.errors.InternalError as error:
                        # the one call that the upgrade met on its way: it is undone, and made again
                        self.met.append(str(error))
        except BaseException as error:  # noqa: BLE001 - told to who ends it
            self.error = error

    def end(self) -> list[int]:
        self.stopping.set()
        self._thread.join(20)
        assert self.error is None and not self._thread.is_alive(), self.error
        assert len(self.met) <= 1 and all("cache lookup failed" in each for each in self.met), self.met
        return self.ids


def test_a_worker_of_the_release_before_goes_on_and_is_started_anew(
    dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = older_package(tmp_path_factory.mktemp("older"))
    with psycopg.connect(dsn, autocommit=True) as conn, worker(OLD, dsn, package=package) as old:
        assert old.says("package").split()[1:] == [RELEASE, str(package / "gendurable_py" / "__init__.py")]
        inserts = Inserts(dsn, 1)
        wait_until(lambda: ended(conn) > 20, 20)
        conn.execute("alter extension gendurable update")
        assert gd.version(conn) != RELEASE
        before = ended(conn)
        wait_until(lambda: ended(conn) > before + 20, 20)
        inserts.end()
        wait_until(lambda: one(conn, "select count(*) from gd_instances where status <> 'done'") == 0, 20)
        assert ended(conn, RELEASE) == len(inserts.ids)
        old.signal(15)
        old.says("ended")
        assert old.ends() == 0
        with worker(OLD, dsn, package=package) as another:
            another.says("package")
            inserts = Inserts(dsn, 1)
            wait_until(lambda: len(inserts.ids) > 20, 20)
            inserts.end()
            wait_until(lambda: one(conn, "select count(*) from gd_instances where status <> 'done'") == 0, 20)
        assert one(conn, "select count(*) from gd_instances where last_error is not null or attempt > 0") == 0


def test_a_worker_of_this_release_refuses_the_database_before(dsn: str) -> None:
    with (
        pytest.raises(gd.VersionMismatch, match=f"the database has gendurable {RELEASE}") as caught,
        running(Engine(dsn, [Strict])),
    ):
        pass
    assert "ALTER EXTENSION gendurable UPDATE" in str(caught.value)


def test_a_rolling_deploy(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    package = older_package(tmp_path_factory.mktemp("older"))
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        worker(OLD, dsn, package=package) as first,
        worker(OLD, dsn, package=package) as second,
    ):
        conn.execute(LOG)
        first.says("package")
        second.says("package")
        inserts = Inserts(dsn, 1)
        waits = [
            one(conn, "select gd_insert('chaos.strict', '{\"n\": 1}', 'second', 1, 'roll', p_delay => '1 day')")
            for _ in range(20)
        ]
        wait_until(lambda: ended(conn) > 30, 30)

        # 1. the database, under load
        conn.execute("alter extension gendurable update")
        before = ended(conn)
        wait_until(lambda: ended(conn) > before + 30, 30)

        # 2. new workers beside the old ones
        gd.register(conn, Strict, options={"default_version": None})
        conn.execute("select gd_register('chaos.strict', 1, 'start', 'roll', '{\"default_version\": 1}')")
        with running(Engine(dsn, [Strict], queues={"roll": 4}, lease_ttl=3, heartbeat_interval=1, reap_interval=1)):
            newer = Inserts(dsn, 2)
            old_before, new_before = ended(conn, RELEASE), 0
            wait_until(lambda: ended(conn, RELEASE) > old_before + 20 and ended(conn, "new") > new_before + 20, 30)

            # 3. the old ones end: one as it should, one does not
            first.signal(15)
            first.ends()
            second.signal(9)
            second.ends()

            # 4. who inserts goes over, and what is left is moved
            inserts.end()
            conn.execute(
                "create function up(s jsonb) returns jsonb language sql as $$ select s || '{\"new\": true}' $$"
            )

            def moved() -> bool:
                after: int | None = 0
                while after is not None:
                    page = gd.migrate(
                        conn, Strict, 1, steps={"second": Strict.middle}, state="up(jsonb)", after=after, limit=50
                    )
                    assert {each.result for each in page.instances} <= {"done", "busy", "executing"}
                    after = page.next
                return not one(conn, "select count(*) from gd_instances where fsm_version = 1 and status <> 'done'")

            wait_until(moved, 60)
            newer.end()
            conn.execute("select gd_reschedule(id, now()) from unnest(%s::bigint[]) id", (waits,))
            wait_until(lambda: one(conn, "select count(*) from gd_instances where status <> 'done'") == 0, 60)

        # nothing lost, nothing twice, no gap
        older = waits + inserts.ids
        there = "select count(*) from gd_instances where id = any($1)"
        assert one(conn, there, older + newer.ids) == len(older + newer.ids)
        assert one(conn, f"{there} and fsm_version = 2", older) >= len(waits)
        record = gather(conn, tmp_path_factory.mktemp("journal"), [])
        assert len(record.rows) > 150
        for name in ("transition", "claim", "key", "order", "limit"):
            assert list(JUDGES[name].find(record)) == [], name
        [version_1, version_2] = [each for each in gd.machines(conn) if each.fsm == "chaos.strict"]
        assert version_1.unrunnable == version_2.unrunnable == version_1.runnable == 0
