"""What the database does around it: logical replication, prepared transactions, schemas that get another name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.busy import claim, fill, goes_on, insert, one
from support.engine import ended, running
from support.people import People
from support.released import SCRIPTS, plain_script
from support.server import FAST, Server
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Await, Context, Done, Engine, embedded, step
from gendurable_py.embedded.cluster import Cluster
from gendurable_py.install import extension_files, install, uninstall, upgrade, version

Conn = psycopg.Connection[Any]
WAYS = ("extension", "plain script", *(f"upgraded from {release}" for release in SCRIPTS))


@pytest.fixture(scope="module")
def logical() -> Iterator[Server]:
    """A server that decodes its log and prepares transactions."""
    try:
        installation = embedded.installation()
    except ImportError as error:
        pytest.skip(str(error))
    settings = FAST | {"wal_level": "logical", "max_prepared_transactions": "10"}
    cluster = Cluster(installation, extension_files=extension_files(), settings=settings)
    yield Server(cluster.dsn, "with logical replication", cluster)
    cluster.stop()


@pytest.fixture
def people(logical: Server) -> Iterator[People]:
    made = People(logical)
    yield made
    made.close()


def set_up(conn: Conn, how: str) -> None:
    if how == "extension":
        conn.execute("create extension gendurable")
    elif how == "plain script":
        install(conn)
    else:
        with conn.transaction():
            conn.execute(plain_script(how.split()[-1]).encode())
        upgrade(conn)
    assert one(conn, "select gd_version()") == version()


@pytest.fixture(params=WAYS)
def dsn(request: pytest.FixtureRequest, people: People) -> str:
    made = people.database(empty=True)
    with psycopg.connect(made, autocommit=True) as conn:
        set_up(conn, request.param)
    return made


class Machine(FSM, name="around"):
    @step
    def start(self, ctx: Context[Any]) -> Await:
        return Await("go", step="finish")

    @step
    def finish(self, ctx: Context[Any]) -> Done:
        return Done(ctx.state["n"])


# -- logical replication


def test_everything_goes_on_under_a_publication_of_all_tables(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create publication everything for all tables")
        conn.execute("select pg_create_logical_replication_slot('around_' || current_database(), 'pgoutput')")
        try:
            made = fill(conn)
            opened: list[Conn] = []

            def connect() -> Conn:
                opened.append(psycopg.connect(dsn, autocommit=True))
                return opened[-1]

            goes_on(connect, made)
            for other in opened:
                other.close()
            # Each change can be told to a replica: also what was deleted from tables without a key.
            told = one(
                conn,
                "select count(*) from pg_logical_slot_peek_binary_changes('around_' || current_database(), null, null,"
                " 'proto_version', '1', 'publication_names', 'everything') where get_byte(data, 0) = ascii('D')",
            )
            assert told > 20
        finally:
            conn.execute("select pg_drop_replication_slot('around_' || current_database())")


def test_an_engine_works_under_a_publication_of_all_tables(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create publication everything for all tables")
        with running(Engine(dsn, [Machine], reap_interval=0.2, retention=0.001, poll_interval=0.1)):
            ids = [row.id for row in gd.insert_many(conn, [{"fsm": "around", "state": {"n": n}} for n in range(50)])]
            wait_until(lambda: one(conn, "select count(*) from gd_instances where status = 'awaiting_signal'") == 50)
            for id in ids[:-1]:
                assert gd.signal(conn, id, "go") == "delivered"
            assert gd.cancel(conn, ids[-1]) is True
            # Ended, and removed after their retention.
            wait_until(lambda: one(conn, "select count(*) from gendurable.instance") == 0)


# -- prepared transactions


@pytest.fixture
def two(logical: Server, people: People) -> Iterator[tuple[Conn, Conn]]:
    dsn = people.database()
    with psycopg.connect(dsn, autocommit=True) as client, psycopg.connect(dsn, autocommit=True) as worker:
        yield client, worker
        # A database with prepared transactions cannot be dropped.
        for (name,) in client.execute(
            "select gid from pg_prepared_xacts where database = current_database()"
        ).fetchall():
            client.execute(f"rollback prepared '{name}'".encode())


def asleep(worker: Conn, queue: str = "q") -> None:
    worker.execute("listen gendurable")
    worker.execute("listen gendurable_done")
    worker.execute("select gd_sleep('w', array[%s])", (queue,))


def heard_of(client: Conn, worker: Conn) -> list[str]:
    """What the worker was told so far; the last word makes sure that all of it has arrived."""
    client.execute("select pg_notify('gendurable', 'the last word')")
    heard = []
    for notify in worker.notifies(timeout=10):
        if notify.payload == "the last word":
            return heard
        heard.append(notify.payload)
    raise AssertionError("the last word was not heard")


def writes(worker: Conn) -> dict[str, str]:
    """Every call of a client or an operator that makes something due in the queue q, or ends what is watched."""
    ids = {}
    for name in ("signalled", "cancelled", "retried", "moved", "watched"):
        ids[name] = insert(worker, "q", delay="10 minutes" if name == "moved" else None)
    (row,) = claim(worker, "q", 1)
    assert row["id"] == ids["signalled"]
    outcome = f'[{{"id": {row["id"]}, "claim_no": {row["claim_no"]}, "kind": "await", "signals": "go", "step": "b"}}]'
    assert one(worker, "select result from gd_commit('w', $1)", outcome) == "ok"
    one(worker, "select gd_cancel($1)", ids["retried"])
    one(worker, "select gd_watch($1)", ids["watched"])
    one(worker, "select gd_pause_queue('paused')")
    insert(worker, "paused")
    return {
        "insert": "gd_insert('m', p_queue => 'q')",
        "insert with keys": "gd_insert('m', p_queue => 'q', p_partition_key => 'k', p_unique_key => 'u')",
        "insert many": 'count(*) from gd_insert_many(\'[{"fsm": "m", "queue": "q"}]\')',
        "signal": f"gd_signal({ids['signalled']}, 'go')",
        "retry": f"gd_retry({ids['retried']})",
        "reschedule": f"gd_reschedule({ids['moved']}, clock_timestamp())",
        "cancel what is watched": f"gd_cancel({ids['watched']})",
        "resume": "gd_resume_queue('paused')",
    }


CALLS = (
    "insert",
    "insert with keys",
    "insert many",
    "signal",
    "retry",
    "reschedule",
    "cancel what is watched",
    "resume",
)


@pytest.mark.parametrize("sleeping", [False, True], ids=["nobody sleeps", "somebody sleeps"])
@pytest.mark.parametrize("call", CALLS)
def test_a_transaction_without_notifications_can_be_prepared(two: tuple[Conn, Conn], call: str, sleeping: bool) -> None:
    client, worker = two
    statement = writes(worker)[call].encode()
    if sleeping:
        asleep(worker)
        asleep(worker, "paused")
    client.execute("set gendurable.notify = off")
    client.execute("begin")
    client.execute(b"select " + statement)
    client.execute("prepare transaction 'around'")
    client.execute("commit prepared 'around'")
    client.execute("reset gendurable.notify")
    if sleeping:
        assert heard_of(client, worker) == []
    # The same with notifications: refused only where somebody would hear of it.
    if call in ("insert", "insert many"):
        client.execute("begin")
        client.execute(b"select " + statement)
        if sleeping:
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                client.execute("prepare transaction 'around'")
        else:
            client.execute("prepare transaction 'around'")
            client.execute("commit prepared 'around'")


def test_prepared_work_is_found_by_an_engine_that_sleeps(two: tuple[Conn, Conn]) -> None:
    client, _ = two
    with running(Engine(client.info.dsn, [Machine], poll_interval=0.1, max_poll_interval=0.2)):
        wait_until(
            lambda: one(client, "select exists (select from pg_locks where locktype = 'advisory' and classid = 7302)")
        )
        client.execute("set gendurable.notify = off")
        client.execute("begin")
        first = gd.insert(client, Machine, {"n": 1})
        client.execute("prepare transaction 'around'")
        # It is not there before it is committed, and everything else goes on.
        with psycopg.connect(client.info.dsn, autocommit=True) as other:
            second = gd.insert(other, Machine, {"n": 2})
            wait_until(lambda: gd.result(other, second).status == "awaiting_signal")  # type: ignore[union-attr]
            assert gd.result(other, first) is None
        client.execute("commit prepared 'around'")
        wait_until(lambda: gd.result(client, first).status == "awaiting_signal")  # type: ignore[union-attr]
        client.execute("begin")
        for id in (first, second):
            assert gd.signal(client, id, "go") == "delivered"
        client.execute("prepare transaction 'around'")
        client.execute("commit prepared 'around'")
        assert [result.status for result in ended(client, first, second)] == ["done", "done"]


@pytest.mark.parametrize(
    "value", ["", " ", "on", "offff", "'; drop table x; --", "null", "{}", "\u00e9" * 5000, "OFF", "0", "No"]
)
def test_any_value_of_the_setting_concerns_its_own_session_only(two: tuple[Conn, Conn], value: str) -> None:
    client, worker = two
    asleep(worker)
    client.execute("select set_config('gendurable.notify', %s, false)", (value,))
    made = insert(client, "q")
    assert heard_of(client, worker) == ([] if value.lower() in ("off", "0", "no") else ["q"])
    with psycopg.connect(client.info.dsn, autocommit=True) as other:
        insert(other, "q")
        assert [notify.payload for notify in worker.notifies(timeout=10, stop_after=1)] == ["q"]
    assert [row["id"] for row in claim(worker, "q")] == [made]


# -- schemas that get another name


@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_everything_goes_on_in_a_schema_that_was_renamed(people: People, logical: Server, how: str) -> None:
    dsn = people.database(empty=True)
    assert logical.cluster is not None
    with psycopg.connect(dsn, autocommit=True) as conn:
        set_up(conn, how)
        made = fill(conn)
        conn.execute("alter schema public rename to jobs")
        # The old name is another schema's by now.
        conn.execute("create schema public")
        conn.execute("set search_path to jobs")
        conn.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
        with people.connect(dsn, "worker") as worker:
            worker.execute("set search_path to jobs")
            assert worker.execute("select id from gd_claim('w')").fetchall() == []
        dump = subprocess.run([logical.cluster.bindir / "pg_dump", "-d", dsn], check=True, capture_output=True).stdout
        opened: list[Conn] = []

        def connect() -> Conn:
            opened.append(psycopg.connect(dsn, autocommit=True, options="-csearch_path=jobs"))
            return opened[-1]

        goes_on(connect, made)
        for other in opened:
            other.close()
        if how == "extension":
            conn.execute("drop extension gendurable")
        else:
            assert upgrade(conn) == version()
            uninstall(conn)
        left = "select count(*) from pg_proc where proname like 'gd\\_%'"
        assert conn.execute(left).fetchone() == (0,)
    # What is restored of it is as good.
    restored = people.database(empty=True)
    psql = [logical.cluster.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored]
    subprocess.run(psql, input=dump, check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(restored, autocommit=True, options="-csearch_path=jobs") as conn:
        conn.execute("select gd_grant(%s::text::regrole, 'reader')", (people.role("reader"),))
        with people.connect(restored, "reader") as reader:
            assert one(reader, "select count(*) from jobs.gd_instances") > 10


def test_functions_left_behind_by_a_former_installation_are_not_taken_for_the_present_one(people: People) -> None:
    with psycopg.connect(people.database(empty=True), autocommit=True) as conn:
        conn.execute("create schema former; create schema present; set search_path to former")
        install(conn)
        # Not as the documentation says.
        conn.execute("drop schema gendurable cascade")
        conn.execute("set search_path to present")
        install(conn)
        role = people.role("client")
        for name in ("present", "renamed"):
            if name == "renamed":
                conn.execute("alter schema present rename to renamed; set search_path to renamed")
            conn.execute("select gd_grant(%s::text::regrole, 'client')", (role,))
            assert one(conn, "select has_function_privilege($1, $2 || '.gd_version()', 'execute')", role, name)
            assert not one(conn, "select has_function_privilege($1, 'former.gd_version()', 'execute')", role)
        uninstall(conn)
        left = conn.execute("select distinct pronamespace::regnamespace::text from pg_proc where proname like 'gd\\_%'")
        assert left.fetchall() == [("former",)]


def test_the_extension_itself_does_not_change_its_schema(people: People) -> None:
    with psycopg.connect(people.database(), autocommit=True) as conn:
        conn.execute("create schema elsewhere")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="does not support SET SCHEMA"):
            conn.execute("alter extension gendurable set schema elsewhere")
        assert one(conn, "select gd_version()") == version()
