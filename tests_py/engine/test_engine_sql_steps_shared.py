"""Steps in SQL of several kinds, run by several: functions of many, functions alone, engines and gd_run at once."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from conftest import Database
from support.engine import ended, running
from support.wait import wait_until

import gendurable_py as gd
from gendurable_py import FSM, Done, Engine, Next, sql_step, step

SETUP = """
create table account (id int primary key, n int not null default 0);
insert into account select g from generate_series(0, 1000) g;
create function pay(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update account set n = n + 1 where id = (ctx #> '{state,n}')::int;
    return case ctx ->> 'fsm' when 'shared' then jsonb '{"kind": "next", "step": "close"}' else '{"kind": "done"}' end;
end $$;
"""


class Shared(FSM, name="shared"):
    audit = sql_step()

    @step
    def start(self, ctx: gd.Context[dict[str, Any]]) -> Next:
        return Next(self.audit)

    @step
    async def close(self, ctx: gd.Context[dict[str, Any]]) -> Done:
        return Done(ctx.state["n"])


@pytest.fixture(autouse=True)
def functions(conn: psycopg.Connection[Any]) -> None:
    conn.execute(SETUP)
    gd.define_step(conn, "shared", "audit", "pay(jsonb)")
    gd.define_step(conn, "alien", "pay", "pay(jsonb)")


def fill(conn: psycopg.Connection[Any], step: str, count: int) -> list[int]:
    made = gd.insert_many(conn, [{"fsm": "alien", "step": step, "state": {"n": n}} for n in range(1, count + 1)])
    return [one.id for one in made]


def paid(conn: psycopg.Connection[Any]) -> dict[int, int]:
    return dict(conn.execute("select id, n from account where n > 0").fetchall())


def test_functions_of_many_and_functions_alone(conn: psycopg.Connection[Any], db: Database) -> None:
    conn.execute(
        """create function pay_all(ctxs jsonb) returns setof jsonb language plpgsql as $$
        begin
            update account a set n = n + 1 from jsonb_array_elements(ctxs) c where a.id = (c #> '{state,n}')::int;
            return query select jsonb_build_object('id', c -> 'id', 'kind', 'done') from jsonb_array_elements(ctxs) c;
        end $$"""
    )
    gd.define_step(conn, "alien", "all", "pay_all(jsonb)")
    gd.define_step(conn, "alien", "alone", "pay(jsonb)", alone=True)
    ids = [*fill(conn, "all", 100), *fill(conn, "alone", 20), *fill(conn, "pay", 20)]
    with running(Engine(db.dsn, queues={"default": 200})):
        ended(conn, *ids)
    assert paid(conn) == {**dict.fromkeys(range(1, 21), 3), **dict.fromkeys(range(21, 101), 1)}


def test_engines_and_gd_run_share_the_work_while_sessions_are_killed(
    conn: psycopg.Connection[Any], db: Database
) -> None:
    gd.insert_many(conn, [gd.Child(Shared, {"n": n}) for n in range(1, 601)])
    fill(conn, "pay", 600)
    over, spared = threading.Event(), conn.info.backend_pid
    killed: list[int] = []

    def run() -> None:
        while not over.is_set():
            try:
                with psycopg.connect(db.dsn, autocommit=True) as own:
                    gd.run(own, limit=50)
            except psycopg.OperationalError:
                pass

    def kill() -> None:
        query = (
            "select pid from pg_stat_activity where datname = current_database() and state = 'active' "
            "and query ~ 'gd_run|gd_claim|gd_commit' and pid not in (pg_backend_pid(), %s)"
        )
        with psycopg.connect(db.dsn, autocommit=True) as own:
            while not over.is_set() and len(killed) < 12:
                for (pid,) in own.execute(query, (spared,)).fetchall()[:1]:
                    own.execute("select pg_terminate_backend(%s)", (pid,))
                    killed.append(pid)
                over.wait(0.05)  # the pace of a fault

    threads = [threading.Thread(target=each) for each in (run, kill)]
    options: dict[str, Any] = {"lease_ttl": 2, "heartbeat_interval": 0.3, "queues": {"default": 20}}
    try:
        with running(*(Engine(db.dsn, [Shared], reap_interval=0.5, **options) for _ in range(2))):
            for thread in threads:
                thread.start()
            # what a killed gd_run has claimed waits for its lease of a minute: given back, as an operator would
            left = """select id, claim_no from gendurable.instance where status = 'executing' and worker like 'gd_run:%'
                and split_part(worker, ':', 2) not in (select pid::text from pg_stat_activity)"""

            def done() -> bool:
                gd.release(conn, "operator", conn.execute(left).fetchall())
                row = conn.execute("select count(*) from gd_instances where status = 'done'").fetchone()
                return row == (1200,)

            wait_until(done, 60)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert killed
    assert paid(conn) == dict.fromkeys(range(1, 601), 2)
