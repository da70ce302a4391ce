"""What becomes of what a step does when it fails once behind it and runs again: the table of docs/exactly-once.md.

Tried in transactional steps in Python and in steps in SQL. The other half is in install/test_effects_elsewhere.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from conftest import Database
from support.busy import one
from support.engine import ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import Context, Engine, job

Conn = psycopg.Connection[Any]

KINDS = ("python", "sql")


class Effect(NamedTuple):
    does: str
    """What the step does, in SQL."""
    seen: str
    """A query of what there is of it in the end."""
    twice: Any
    """Its answer, after a run that failed behind it and one that did not."""


EFFECTS = {
    "a row": Effect("insert into effect values (1)", "select count(*) from effect where n = 1", 1),
    "a counter": Effect("update counter set n = n + 1", "select n from counter", 1),
    "a row of a trigger": Effect("insert into caused values (2)", "select count(*) from effect where n = 2", 1),
    "an emptied table": Effect("truncate full_one", "select count(*) from full_one", 0),
    "a new table": Effect("create table made ()", "select count(*) from pg_class where relname = 'made'", 1),
    "a large object": Effect("select lo_from_bytea(0, 'x')", "select count(*) from pg_largeobject_metadata", 1),
    "an instance": Effect(
        "select gd_insert('elsewhere', p_queue => 'nobody')",
        "select count(*) from gd_instances where fsm = 'elsewhere'",
        1,
    ),
    "a signal": Effect("select gd_signal('target', 'told')", "select count(*) from gd_signals(gd_find('target'))", 1),
    "a value of a sequence": Effect("select nextval('numbers')", "select last_value from numbers", 2),
    "a sequence that is set": Effect(
        "select setval('settable', last_value + 10) from settable", "select last_value from settable", 21
    ),
}

TABLES = """
create table effect (n int);
create table counter (n int);
insert into counter values (0);
create table full_one (n int);
insert into full_one values (0);
create table caused (n int);
create function cause() returns trigger language plpgsql as $$
begin
    insert into effect values (new.n);
    return null;
end $$;
create trigger cause after insert on caused for each row execute function cause();
create sequence numbers;
create sequence settable;
select gd_insert('target', p_unique_key => 'target', p_queue => 'nobody');
"""


def play(
    conn: Conn, db: Database, kind: str, *does: str, count: int = 1, runner: Conn | None = None
) -> list[gd.Result]:
    """Instances of a step that does this, and of which the first run fails behind it. In it {id} is the instance's."""

    @job(name="effects.python", transactional=True, max_attempts=2, backoff=lambda attempt: 0.01)
    def act(args: dict[str, Any], ctx: Context[Any]) -> None:
        for each in does:
            ctx.conn.execute(each.replace("{id}", str(ctx.id)))
        if ctx.attempt == 0:
            raise ValueError("the step fails behind it")

    executes = "".join(f"execute replace($does${each}$does$, '{{id}}', ctx ->> 'id');" for each in does)
    conn.execute(
        f"""
        create or replace function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            {executes}
            if ctx -> 'attempt' = '0' then
                raise exception 'the step fails behind it';
            end if;
            return '{{"kind": "done"}}';
        end $$;
        select gd_define_step('effects.sql', 'start', 'act(jsonb)');
        """.encode()
    )
    ids = [gd.insert(conn, f"effects.{kind}") for _ in range(count)]
    if kind == "python":
        with running(Engine(db.dsn, [act])):
            return ended(conn, *ids)
    mine = runner or db.connect()
    while one(conn, "select exists (select from gd_instances where fsm = 'effects.sql' and finished_at is null)"):
        gd.run(mine, for_=0.2)
    return ended(conn, *ids)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_leaves_that_fails_behind_it(conn: Conn, db: Database, kind: str) -> None:
    conn.execute(TABLES)
    (result,) = play(conn, db, kind, *(effect.does for effect in EFFECTS.values()))
    assert result.status == "done", result
    found = {name: one(conn, effect.seen) for name, effect in EFFECTS.items()}
    assert found == {name: effect.twice for name, effect in EFFECTS.items()}


class Listener:
    """What is notified on the channel `news`."""

    def __init__(self, db: Database) -> None:
        self.conn = db.connect()
        self.heard: list[str] = []
        self.conn.add_notify_handler(lambda told: self.heard.append(told.payload))
        self.conn.execute("listen news")

    def all_of_it(self, conn: Conn) -> list[str]:
        """Up to now: notifications come in the order of their commits."""
        conn.execute("notify news, 'end'")

        def ended() -> bool:
            self.conn.execute("select 1")
            return self.heard[-1:] == ["end"]

        wait_until(ended)
        return self.heard[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_notification_goes_out_with_the_commit_to_who_listens_then(conn: Conn, db: Database, kind: str) -> None:
    listener = Listener(db)
    results = play(conn, db, kind, "notify news, 'of {id}'", count=5)
    assert {result.status for result in results} == {"done"}
    told = listener.all_of_it(conn)
    assert len(told) == len(set(told)) == 5
    late = Listener(db)
    assert late.all_of_it(conn) == []


def test_equal_notifications_of_one_transaction_are_one(conn: Conn, db: Database) -> None:
    """Many SQL steps are one transaction: what tells them apart has to be in the payload."""
    listener = Listener(db)
    conn.execute(
        """
        create function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            notify news, 'done';
            return '{"kind": "done"}';
        end $$;
        select gd_define_step('effects.sql', 'start', 'act(jsonb)')
        """
    )
    for _ in range(20):
        gd.insert(conn, "effects.sql")
    assert gd.run(conn, budget_ms=60000)["ok"] == 20
    assert listener.all_of_it(conn) == ["done"]


@pytest.mark.parametrize("transactional", [True, False])
def test_what_a_step_does_elsewhere_happens_once_a_run(
    conn: Conn, db: Database, tmp_path: Path, transactional: bool
) -> None:
    """Another connection, though to the same database; a file; an instance inserted by a call of its own."""
    conn.execute("create table effect (n int)")
    file = tmp_path / "lines"

    @job(name="effects.elsewhere", transactional=transactional, max_attempts=2, backoff=lambda attempt: 0.01)
    def act(args: dict[str, Any], ctx: Context[Any]) -> None:
        with psycopg.connect(db.dsn) as own:
            own.execute("insert into effect values (1)")
            gd.insert(own, "elsewhere", queue="nobody")
        with file.open("a") as out:
            out.write("line\n")
        if ctx.attempt == 0:
            raise ValueError("the step fails behind it")

    with running(Engine(db.dsn, [act])):
        assert ended(conn, gd.insert(conn, act, {}))[0].status == "done"
    assert one(conn, "select count(*) from effect") == 2
    assert one(conn, "select count(*) from gd_instances where fsm = 'elsewhere'") == 2
    assert file.read_text() == "line\n" * 2


def test_an_outbox_is_of_the_outcome_that_is_committed(conn: Conn, db: Database) -> None:
    """A step whose worker is lost behind its outcome: another run has another outbox, and the first one is nowhere."""
    gd.insert(conn, "target", unique_key="target", queue="nobody")
    id = gd.insert(conn, "effects.outbox")
    (lost,) = gd.claim(conn, "lost")
    outcome = {
        "kind": "done",
        "insert": [{"fsm": "elsewhere", "queue": "nobody", "state": {"run": lost.attempt}}],
        "signal": [{"unique_key": "target", "name": "told", "payload": lost.attempt}],
    }
    gd.release(conn, "lost", [(lost.id, lost.claim_no)], crashed=True)
    (then,) = gd.claim(conn, "then")
    late = gd.commit(conn, "lost", [{**outcome, "id": lost.id, "claim_no": lost.claim_no}])
    assert [answer.result for answer in late] == ["stale"]
    once = {
        **outcome,
        "id": then.id,
        "claim_no": then.claim_no,
        "insert": [{"fsm": "elsewhere", "queue": "nobody", "state": {"run": then.attempt}}],
    }
    for result in ("ok", "stale"):  # the second time its answer was lost
        assert [answer.result for answer in gd.commit(conn, "then", [once])] == [result]
    assert conn.execute("select state from gd_instances where fsm = 'elsewhere'").fetchall() == [({"run": 1},)]
    assert one(conn, "select count(*) from gd_signals(gd_find('target'))") == 1
    assert ended(conn, id)[0].status == "done"


def test_what_belongs_to_a_session_is_not_the_instances(conn: Conn, db: Database) -> None:
    """A lock that is taken for the session and a temporary table outlive the step, in whoever ran it."""
    with db.connect() as runner:
        does = "select pg_advisory_lock(4711, 1)"
        (result,) = play(
            conn, db, "sql", does, "create temporary table mine on commit preserve rows as select 1 as n", runner=runner
        )
        assert result.status == "done"
        locks = "select count(*) from pg_locks where locktype = 'advisory' and classid = 4711"
        assert one(conn, locks) == 1
        assert one(runner, "select n from mine") == 1
        # It was taken in both runs: the rollback of the first did not let it go.
        assert one(runner, "select pg_advisory_unlock(4711, 1)") is True
        assert one(runner, "select pg_advisory_unlock(4711, 1)") is True
        # The next instance finds the table that it wanted to make.
        id = gd.insert(conn, "effects.sql", max_attempts=1)
        gd.run(runner)
        assert "already exists" in str(ended(conn, id)[0].last_error)


def test_a_temporary_table_of_a_transaction_of_its_own(conn: Conn) -> None:
    """Alone, each instance makes it anew; in company it is there already, and each is run once more by itself."""
    conn.execute(
        """
        create sequence numbers;
        create function act(ctx jsonb) returns jsonb language plpgsql as $$
        begin
            perform nextval('numbers');
            create temporary table mine on commit drop as select 1 as n;
            return '{"kind": "done"}';
        end $$
        """
    )
    runs = []
    for alone in (True, False):
        gd.define_step(conn, "effects.sql", "start", "act(jsonb)", alone=alone)
        ids = [gd.insert(conn, "effects.sql") for _ in range(10)]
        gd.run(conn)
        assert {result.status for result in ended(conn, *ids)} == {"done"}
        assert one(conn, "select max(attempt) from gd_instances") == 0
        runs.append(one(conn, "select last_value from numbers"))
    assert runs[0] == 10 and runs[1] > 20


def test_attempt_0_is_no_mark(conn: Conn, db: Database) -> None:
    """A step that was cancelled when its engine stopped has begun, and begins again with the same attempt."""
    attempts: list[int] = []

    @job(name="effects.cancelled")
    async def act(args: Any, ctx: Context[Any]) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    id = gd.insert(conn, act, {})
    with running(Engine(db.dsn, [act], drain_timeout=0.01)):
        wait_until(lambda: attempts)
    with running(Engine(db.dsn, [act])):
        assert ended(conn, id)[0].status == "done"
    assert attempts == [0, 0]


def test_at_most_once_by_a_mark(conn: Conn, db: Database) -> None:
    """A mark that is committed before the call: where it is found, the call may have been made."""
    conn.execute("create table mark (key text primary key)")
    calls: list[str] = []

    @job(name="effects.mark", max_attempts=3, backoff=lambda attempt: 0.01)
    def act(args: dict[str, Any], ctx: Context[Any]) -> str:
        with psycopg.connect(db.dsn, autocommit=True) as own:
            first = own.execute("insert into mark values (%s) on conflict do nothing", (args["key"],)).rowcount
        if not first:
            return "perhaps"
        calls.append(args["key"])
        raise ConnectionError("no answer")

    with running(Engine(db.dsn, [act])):
        assert ended(conn, gd.insert(conn, act, {"key": "order:1:mail"}))[0].result == "perhaps"
    assert calls == ["order:1:mail"]
