"""Rights that others hand out: default privileges, grants on everything, and functions of the user beside ours."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from support.busy import insert, one
from support.people import People
from support.server import Server
from support.strangers import rights, strangers

from gendurable_py.install import install, plain_script, uninstall, version

Conn = psycopg.Connection[Any]
HOW = ("extension", "python", "migration")
PROFILES = ("client", "worker", "operator", "reader")
VIEWS = ("gd_instances", "gd_queues", "gd_workers")


@pytest.fixture(params=HOW)
def how(request: pytest.FixtureRequest, server: Server) -> str:
    if request.param == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    return str(request.param)


def set_up(conn: Conn, how: str) -> None:
    if how == "extension":
        conn.execute("create extension gendurable")
    elif how == "python":
        install(conn)
    else:
        # As a step of somebody's migration, below a savepoint.
        with conn.transaction(), conn.transaction():
            conn.execute(plain_script().encode())
    assert one(conn, "select gd_version()") == version()


def state_of(conn: Conn, statement: str) -> str | None:
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement.encode())
    except psycopg.Error as error:
        return error.sqlstate
    return None


DEFAULTS = {
    "of the schema": "alter default privileges in schema public grant all on {kind} to {role}",
    "of the database": "alter default privileges grant all on {kind} to {role}",
    "to hand on": "alter default privileges in schema public grant all on {kind} to {role} with grant option",
    "to everybody": "alter default privileges grant all on {kind} to public",
}


@pytest.mark.parametrize("default", DEFAULTS)
def test_what_default_privileges_give_is_taken(people: People, how: str, default: str) -> None:
    dsn, anon = people.database(empty=True), people.role("anon")
    with psycopg.connect(dsn, autocommit=True) as conn:
        kinds = ["functions", "tables", "sequences", "types"]
        # A schema's privileges can only be given for the whole database.
        kinds += ["schemas"] if default != "of the schema" and default != "to hand on" else []
        for kind in kinds:
            conn.execute(DEFAULTS[default].format(kind=kind, role=anon).encode())
        set_up(conn, how)
        assert strangers(conn) == set()
        # What is made afterwards by the user is his, and as open as he wants it.
        conn.execute("create function gd_mine() returns int language sql return 1")
        with people.connect(dsn, "anon") as stranger:
            assert one(stranger, "select gd_mine()") == 1
            for call in ("gd_version()", "gd_insert('m')", "gd_grant(current_user::regrole, 'worker')"):
                assert state_of(stranger, f"select {call}") == InsufficientPrivilege.sqlstate
            for view in VIEWS:
                assert state_of(stranger, f"select * from {view}") == InsufficientPrivilege.sqlstate
        conn.execute("select gd_grant(%s::text::regrole, 'client')", (anon,))
        assert {right[1] for right in rights(conn) if right[0] != "gd_mine()"} == {anon}
        with people.connect(dsn, "anon") as client:
            assert isinstance(one(client, "select gd_insert('m')"), int)
            assert state_of(client, "select gd_cancel(1)") == InsufficientPrivilege.sqlstate
        conn.execute(f"drop owned by {anon}".encode())


NEIGHBOURS = """
create function gd_report() returns int language sql return 7;
create function gd_insert(p_mine int) returns int language sql return p_mine;
create function gd_claim(int) returns int language sql return 8;
create procedure gd_procedure() language sql begin atomic select 1; end;
create aggregate gd_sum(int) (sfunc = int4pl, stype = int, initcond = '0');
create view gd_seen as select 9 as nine;
grant all on function gd_insert(int) to {role} with grant option;
revoke all on function gd_claim(int) from public;
grant select on gd_seen to {role};
"""
ACLS = """
select p.oid::regprocedure::text, p.proacl::text from pg_proc p
where p.pronamespace = 'public'::regnamespace and p.oid = any(%s)
union all
select c.oid::regclass::text, c.relacl::text from pg_class c where c.relname = 'gd_seen'
order by 1
"""


def test_functions_of_the_user_keep_their_rights_and_their_life(people: People, how: str) -> None:
    dsn, role = people.database(empty=True), people.role("neighbour")
    with psycopg.connect(dsn, autocommit=True) as conn:
        # In the transaction of the installation, where it can be one, as before it.
        with conn.transaction():
            conn.execute(NEIGHBOURS.format(role=role).encode())
            own = [row[0] for row in conn.execute("select oid from pg_proc where proname like 'gd\\_%'")]
            before = conn.execute(ACLS, (own,)).fetchall()
            set_up(conn, how)
        assert len(before) == 6 and conn.execute(ACLS, (own,)).fetchall() == before
        # A grant of ours gives nothing of theirs.
        conn.execute("select gd_grant(%s::text::regrole, 'worker')", (people.role("worker"),))
        assert conn.execute(ACLS, (own,)).fetchall() == before
        with people.connect(dsn, "neighbour") as neighbour:
            assert (
                one(neighbour, "select gd_insert(3) + gd_report() + gd_sum(1) + nine from gd_seen group by nine") == 20
            )
            assert state_of(neighbour, "select gd_insert('m')") == InsufficientPrivilege.sqlstate
        with people.connect(dsn, "worker") as worker:
            assert worker.execute("select id from gd_claim('w')").fetchall() == []
            assert state_of(worker, "select gd_claim(1)") == InsufficientPrivilege.sqlstate
        conn.execute(f"drop owned by {role}".encode())
        if how == "extension":
            conn.execute("drop extension gendurable")
        else:
            uninstall(conn)
        assert sorted(row[0] for row in conn.execute("select oid from pg_proc where proname like 'gd\\_%'")) == sorted(
            own
        )


def test_nothing_is_written_through_a_view_whatever_was_granted(people: People) -> None:
    dsn, app = people.database(), people.role("app")
    with psycopg.connect(dsn, autocommit=True) as conn:
        columns = {
            view: [r[0] for r in conn.execute(f"select * from {view} limit 0").description or ()] for view in VIEWS
        }
        first = insert(conn, "q")
        conn.execute(f"grant all on all tables in schema public to {app}".encode())
        updatable = conn.execute(
            "select table_name from information_schema.views where table_name like 'gd\\_%'"
            " and (is_updatable, is_insertable_into, is_trigger_updatable) <> ('NO', 'NO', 'NO')"
        ).fetchall()
        assert updatable == []
        with people.connect(dsn, "app") as other:
            for view, names in columns.items():
                tried = [
                    f"delete from {view}",
                    f"insert into {view} default values",
                    f"merge into {view} v using (select 1) s on true when matched then delete",
                    *(f'update {view} set "{name}" = null' for name in names),
                ]
                for statement in tried:
                    # A merge into any view is a feature of PostgreSQL 17.
                    refused = ("55000", "0A000") if statement.startswith("merge") else ("55000",)
                    assert state_of(other, statement) in refused, statement
                for statement in (
                    f"create rule r as on update to {view} do instead nothing",
                    f"alter view {view} rename to mine",
                    f"truncate {view}",
                ):
                    assert state_of(other, statement) in (InsufficientPrivilege.sqlstate, "42809"), statement
            assert other.execute("select id, queue from gd_instances").fetchall() == [(first, "q")]
        # Not even by who may do everything.
        assert state_of(conn, "update gd_instances set queue = 'x'") == "55000"


def test_no_profile_may_hang_its_own_code_on_a_view(people: People) -> None:
    dsn = people.database()
    with psycopg.connect(dsn, autocommit=True) as conn:
        for profile in PROFILES:
            conn.execute("select gd_grant(%s::text::regrole, %s)", (people.role(profile), profile))
        conn.execute("create function public.own() returns trigger language plpgsql as 'begin return null; end'")
        conn.execute("grant execute on function public.own() to public")
        allowed = {(right[1], right[2]) for right in rights(conn) if right[0] in VIEWS}
        assert allowed == {(people.role(profile), "SELECT") for profile in ("operator", "reader")}
    for profile in PROFILES:
        with people.connect(dsn, profile) as conn:
            for view in VIEWS:
                for statement in (
                    f"create trigger t instead of update on {view} for each row execute function public.own()",
                    f"create rule r as on delete to {view} do instead nothing",
                ):
                    assert state_of(conn, statement) == InsufficientPrivilege.sqlstate


LOOKUPS = {
    "id = {id}": "instance_pkey",
    "id = any('{{1,2,3}}')": "instance_pkey",
    "parent_id = {id}": "instance_children",
    "queue = 'q' and priority = 0 and eligible_at < now() order by eligible_at": "instance_due",
}


def test_a_look_up_through_the_view_uses_the_index_of_the_table(conn: Conn) -> None:
    conn.execute(
        "select count(*) from gd_insert_many((select jsonb_agg(jsonb_build_object('fsm', 'm', 'queue', 'q' || n % 50,"
        " 'unique_key', 'u' || n)) from generate_series(1, 5000) n))"
    )
    conn.execute("analyze gendurable.instance")
    for condition, index in LOOKUPS.items():
        query = f"explain select * from gd_instances where {condition.format(id=7)}"
        plan = "\n".join(row[0] for row in conn.execute(query.encode()))
        assert index in plan and "CTE" not in plan and "Seq Scan" not in plan, plan
    joined = (
        "explain select p.id, c.status from gd_instances p join gd_instances c on c.parent_id = p.id where p.id = 7"
    )
    plan = "\n".join(row[0] for row in conn.execute(joined.encode()))
    assert "instance_pkey" in plan and "instance_children" in plan and "CTE" not in plan, plan


def test_a_grant_is_remembered_once_and_taken_back_by_revoke(people: People) -> None:
    dsn, role = people.database(), people.role("app")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _ in range(2):
            for profile in ("reader", "worker"):
                conn.execute("select gd_grant(%s::text::regrole, %s)", (role, profile))
        remembered = "select role, profile from gendurable.granted order by 2"
        assert conn.execute(remembered).fetchall() == [(role, "reader"), (role, "worker")]
        # Nothing is remembered of what was refused.
        for wrong in ("boss", None):
            with pytest.raises(psycopg.Error) as caught:
                conn.execute("select gd_grant(%s::text::regrole, %s)", (people.role("other"), wrong))
            assert caught.value.sqlstate == "GD502"
        assert conn.execute("select count(*) from gendurable.granted").fetchone() == (2,)
        conn.execute(f"revoke all on all routines in schema public, gendurable from {role}".encode())
        conn.execute(f"revoke usage on schema gendurable from {role}".encode())
        conn.execute(f"revoke all on all tables in schema public from {role}".encode())
        assert strangers(conn) == set()
    with people.connect(dsn, "app") as app:
        assert state_of(app, "select gd_version()") == InsufficientPrivilege.sqlstate
        assert state_of(app, "select * from gendurable.granted") == InsufficientPrivilege.sqlstate
