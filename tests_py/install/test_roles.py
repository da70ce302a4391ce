"""Who may do what, tried by roles that log in; and code of others that no call of ours may run into."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from support.people import EXACT, INEXACT, OUR_FUNCTIONS, People, fill, life, life_of_steps, null_call
from support.server import Server

from gendurable_py.install import extension_files, install, plain_script, uninstall, version

VIEWS = {
    "gd_instances",
    "gd_queues",
    "gd_workers",
    "gd_rate_limits",
    "gd_holds",
    "gd_schedules",
    "gd_pauses",
    "gd_machines",
}
STEPS = {"gd_steps"}
UPKEEP = {"gd_reap", "gd_gc", "gd_maintain"}
CLIENT = {
    "gd_insert", "gd_insert_many", "gd_find", "gd_signal", "gd_signal_on", "gd_signal_off", "gd_result", "gd_watch",
    "gd_childs", "gd_journal", "gd_version",
}  # fmt: skip
CLAIMS = {"gd_claim", "gd_claim_many", "gd_commit", "gd_commit_one", "gd_heartbeat", "gd_release"}
LIMITS = {"gd_ensure_rate_limit", "gd_close_rate_limit"}
# What gd_run, gd_run_claims and gd_rehearse consist of, which run with the rights of who calls.
RUNNER = {
    *("_answer_claims", "_run_claims", "_run_group", "_match_outcomes", "_deferred_constraints", "_end_badly"),
    *("_blames_lock", "_is_nobodys_fault", "_tally_call", "_step_call", "_open_call", "_open_run", "_plan_run"),
    *("_read_run", "_holds_run", "_resolves_run", "_suspect_run", "_refused_steps", "_claim_run", "_commit_run"),
    *("_release_run", "_pin_handler", "_is_pinned", "_call_text"),
    *("_next_links", "_sign_outcomes", "_carry", "_setting_ms"),
    *("_rehearse", "_claim_this", "_open_rehearsal", "_show_rehearsed"),
    *("_count_writes", "_diff_writes"),
}
# What gd_migrate consists of.
MIGRATION = {
    *("gd_migrate", "_migrate", "_migrate_group", "_open_migration", "_prepare_state", "_write_migration"),
    *("_is_pinned", "_blames_lock"),
}
LOOKING = {
    *("gd_signals", "gd_match", "gd_get", "gd_tree", "gd_list", "gd_count", "gd_why", "gd_line", "gd_failures"),
    *("gd_errors", "gd_history", "gd_doctor", "gd_audit", "gd_stats", "gd_crashes", "gd_list_queues"),
    *("gd_journal_page", "gd_transitions"),
}
# The table of the contract.
MAY: dict[str, set[str]] = {
    "client": CLIENT,
    "worker": CLIENT
    | UPKEEP
    | CLAIMS
    | {"gd_register", "gd_sleep", "gd_wake", "gd_signals", "gd_schedule", "gd_announce_schedules"}
    | {"gd_hello", "gd_bye", "gd_journals", "gd_journal_entries"}
    | {"gd_run", "gd_run_claims", "gd_rehearse"}
    | RUNNER
    | STEPS
    | LIMITS,
    "operator": CLIENT
    | VIEWS
    | UPKEEP
    | {"gd_pause", "gd_resume", "gd_pause_machine", "gd_resume_machine"}
    | {"gd_drain_worker", "gd_resume_worker"}
    | {"gd_cancel", "gd_retry", "gd_reschedule", "gd_pause_queue", "gd_resume_queue", "gd_set_key_limit"}
    | LIMITS
    | LOOKING
    | MIGRATION
    | {"gd_cancel_many", "gd_retry_many", "gd_reschedule_many"}
    | {"gd_edit", "gd_delete", "gd_delete_many", "gd_signal_many"}
    | {"gd_fork", "gd_export", "gd_import"}
    | {"gd_set_queue", "gd_hold_all", "gd_release_hold"}
    | {"gd_set_rate_limit", "gd_schedule", "gd_unschedule"}
    | {"gd_pause_schedule", "gd_resume_schedule", "gd_trigger"},
    "reader": VIEWS | LOOKING | {"gd_result", "gd_find", "gd_childs", "gd_journal", "gd_version"},
    "author": STEPS | {"gd_define_step", "gd_drop_step", "gd_version"},
    "nobody": set(),
}
RUNS_CODE = {"worker", "operator"}
PROFILES = ("client", "worker", "operator", "reader", "author")


class Place(NamedTuple):
    people: People
    database: str

    def as_(self, name: str) -> psycopg.Connection[Any]:
        return self.people.connect(self.database, name)


@pytest.fixture(scope="module")
def place(server: Server) -> Iterator[Place]:
    """A database with a role of each profile and one without any."""
    people = People(server)
    database = people.database()
    with psycopg.connect(database, autocommit=True) as conn:
        for profile in PROFILES:
            conn.execute("select gd_grant(%s::text::regrole, %s)", (people.role(profile), profile))
    people.role("nobody")
    yield Place(people, database)
    people.close()


def outcome_of(conn: psycopg.Connection[Any], statement: bytes) -> str | None:
    """The SQLSTATE of a statement that is then undone."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


# -- the profiles


@pytest.mark.parametrize("profile", MAY)
def test_every_function_is_open_to_the_profiles_that_name_it_and_to_no_other(place: Place, profile: str) -> None:
    with psycopg.connect(place.database, autocommit=True) as owner:
        functions = owner.execute(OUR_FUNCTIONS.encode()).fetchall()
    named = set().union(*MAY.values()) | {"gd_grant"}
    assert {name for _, name, _, private, _ in functions if not private} <= named, "a function without a profile"
    wrong = []
    with place.as_(profile) as conn:
        for oid, name, signature, private, types in functions:
            if private and profile in RUNS_CODE:
                # who runs code of his own has usage of the schema: what cannot be called at all fails for that
                [allowed] = conn.execute("select has_function_privilege(%s::oid, 'execute')", (oid,)).fetchone()  # type: ignore[misc]
            else:
                allowed = outcome_of(conn, null_call(signature, types)) != InsufficientPrivilege.sqlstate
            if allowed != (name in MAY[profile]):
                wrong.append((signature, allowed))
    assert wrong == []


@pytest.mark.parametrize("profile", MAY)
def test_every_view_is_open_to_the_profiles_that_name_it_and_is_written_by_nobody(place: Place, profile: str) -> None:
    with psycopg.connect(place.database, autocommit=True) as owner:
        views = [row[0] for row in owner.execute("select viewname from pg_views where viewname like 'gd\\_%'")]
    assert set(views) <= VIEWS | STEPS and len(views) >= 3
    with place.as_(profile) as conn:
        for view in views:
            wanted = None if view in MAY[profile] else InsufficientPrivilege.sqlstate
            assert outcome_of(conn, f"select * from {view}".encode()) == wanted, view
        for statement in (
            "insert into gd_instances (fsm) values ('m')",
            "update gd_instances set step = 'x'",
            "delete from gd_instances",
        ):
            # Before any right is looked at: see test_around_privileges.py.
            assert outcome_of(conn, statement.encode()) == "55000"


@pytest.mark.parametrize("profile", MAY)
def test_what_is_private_is_out_of_reach(place: Place, profile: str) -> None:
    with psycopg.connect(place.database, autocommit=True) as owner:
        relations = owner.execute(
            "select oid::regclass::text, relkind from pg_class"
            " where relnamespace = 'gendurable'::regnamespace and relkind in ('r', 'v', 'S')"
        ).fetchall()
    assert len(relations) > 8
    with place.as_(profile) as conn:
        for name, kind in relations:
            tried = [f"select * from {name}"]
            if kind != "S":
                tried += [f"insert into {name} default values", f"delete from {name}", f"lock table {name}"]
            for statement in tried:
                assert outcome_of(conn, statement.encode()) == InsufficientPrivilege.sqlstate, statement
        if profile not in RUNS_CODE:  # who runs code of his own has usage of the schema
            assert outcome_of(conn, b"select null::gendurable.status") == InsufficientPrivilege.sqlstate
        for statement in (
            "create table gendurable.mine (id int)",
            "create function gendurable.mine() returns int language sql return 1",
            "select nextval('gendurable.instance_id_seq')",
            "create or replace view gd_workers as select 1",
            "alter function gd_version() security invoker",
            "create temp table t (s gendurable.status)",
        ):
            assert outcome_of(conn, statement.encode()) == InsufficientPrivilege.sqlstate, statement


def test_the_profiles_suffice_for_their_work(place: Place) -> None:
    with place.as_("client") as client, place.as_("worker") as worker, place.as_("operator") as operator:
        made = [client.execute("select gd_insert('m', p_queue => 'rights')").fetchone()[0] for _ in range(3)]  # type: ignore[index]
        client.execute("select gd_signal(%s, 'go')", (made[0],))
        claims = worker.execute("select id, claim_no, signals from gd_claim('w', 'rights', 10)").fetchall()
        assert [claim[0] for claim in claims] == made and claims[0][2][0]["name"] == "go"
        done = [{"id": id, "claim_no": claim_no, "kind": "done"} for id, claim_no, _ in claims[:2]]
        worker.execute("select gd_commit('w', %s)", (json.dumps(done),))
        operator.execute("select gd_cancel(%s)", (made[2],))
        with place.as_("reader") as reader:
            rows = reader.execute("select status from gd_instances where id = any(%s) order by id", (made,))
            assert [row[0] for row in rows] == ["done", "done", "cancelled"]


def test_a_grant_goes_with_revoke_and_names_only_real_roles(place: Place) -> None:
    with psycopg.connect(place.database, autocommit=True) as owner:
        for call in ("0::oid", "999999999::oid"):
            assert outcome_of(owner, f"select gd_grant({call}, 'client')".encode()) == "GD501", call
        role = place.people.role("nobody")
        with owner.transaction(force_rollback=True):
            owner.execute("select gd_grant(%s::text::regrole, 'reader')", (role,))
            owner.execute(f"revoke all on function gd_find(text) from {role}".encode())
            owner.execute(f"set role {role}")
            with pytest.raises(InsufficientPrivilege), owner.transaction():
                owner.execute("select gd_find('x')")
            owner.execute("select gd_version()")


def test_api_schema_and_roles_with_odd_names(people: People) -> None:
    database = people.database(empty=True)
    odd = "we\"ird $$ 'sch"
    with psycopg.connect(database, autocommit=True) as owner:
        name = psycopg.sql.Identifier(odd)
        owner.execute(psycopg.sql.SQL("create schema {}").format(name))
        owner.execute(psycopg.sql.SQL("set search_path to {}").format(name))
        install(owner)
        owner.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("client"),))
    with people.connect(database, "client") as client:
        client.execute(psycopg.sql.SQL("set search_path to {}").format(name))
        assert client.execute("select gd_insert('m')").fetchone() is not None


# -- the owner of a database


def owner_of_all(conn: psycopg.Connection[Any]) -> set[str]:
    rows = conn.execute(
        "select proowner::regrole::text from pg_proc"
        " where proname like 'gd\\_%' or pronamespace = 'gendurable'::regnamespace"
        " union select relowner::regrole::text from pg_class where relnamespace = 'gendurable'::regnamespace"
    )
    return {row[0] for row in rows}


@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_the_owner_of_a_database_installs_grants_and_works(people: People, server: Server, how: str) -> None:
    if how == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    database = people.database(empty=True, owner="landlord")
    with people.connect(database, "landlord") as conn:
        assert conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (False,)
        if how == "extension":
            conn.execute("create extension gendurable")
        else:
            install(conn)
        # A definer's rights are the owner's: what they could be led to do is no more than he may do himself.
        assert owner_of_all(conn) == {people.role("landlord")}
        conn.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("tenant"),))
        conn.execute("select gd_insert('m', p_unique_key => 'a')")
        assert conn.execute("select count(*) from gd_claim('w')").fetchone() == (1,)
        assert conn.execute("select gd_maintain() ->> 'repaired'").fetchone() == ("0",)
    with people.connect(database, "tenant") as conn:
        assert conn.execute("select gd_signal('a', 's')").fetchone() == ("delivered",)
    if server.cluster is not None:
        dump = subprocess.run(
            [server.cluster.bindir / "pg_dump", "-d", people.dsn(database, "landlord")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert "COPY gendurable.instance" in dump
        # The roles of a dump are there where it is restored: this is the same server.
        restored = people.database(empty=True, owner="landlord")
        subprocess.run(
            [server.cluster.bindir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", people.dsn(restored, "landlord")],
            input=dump,
            check=True,
            text=True,
            stdout=subprocess.DEVNULL,
        )
        with people.connect(restored, "tenant") as conn:
            assert conn.execute("select gd_signal('a', 't')").fetchone() == ("delivered",)
    with people.connect(database, "landlord") as conn:
        if how == "extension":
            conn.execute("drop extension gendurable")


# -- code of others


@pytest.mark.parametrize("how", ["extension", "plain script"])
def test_installing_into_a_schema_where_others_create_runs_nothing_of_theirs(
    people: People, server: Server, how: str
) -> None:
    if how == "extension" and not server.as_extension:
        pytest.skip("the server runs the plain script: the extension needs its files on the server's host")
    database = people.database(empty=True)
    script = plain_script() + extension_script()
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(f"create schema shared; grant all on schema shared to {people.role('evil')}".encode())
        with people.connect(database, "evil") as evil:
            assert fill(evil, INEXACT, "shared", script) > 2000
        owner.execute("set search_path to shared")
        if how == "extension":
            owner.execute("create extension gendurable")
        else:
            # As CREATE EXTENSION does it. Else bodies are parsed with this path, though never run with it, and who may
            # create objects in a schema can stop an installation there anyway.
            owner.execute("set check_function_bodies to off")
            install(owner)
        owner.execute("set search_path to pg_catalog")
        # Neither called, nor bound into a view, a default, a constraint or an index for later.
        bound = owner.execute(
            """
            select d.classid::regclass, d.objid, p.oid::regprocedure
            from pg_depend d
            join pg_proc p on p.pronamespace = 'shared'::regnamespace and p.proowner = %s::regrole
            left join pg_operator o on o.oprcode = p.oid
            where (d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid
                or d.refclassid = 'pg_operator'::regclass and d.refobjid = o.oid)
                and d.classid <> 'pg_operator'::regclass
            """,
            (people.role("evil"),),
        ).fetchall()
        assert bound == []
        owner.execute("set search_path to pg_catalog, shared")
        owner.execute("select gd_grant(%s::text::regrole, 'client')", (people.role("client"),))
        life(owner)
        owner.execute("set search_path to shared")
        if how == "extension":
            owner.execute("drop extension gendurable")
        else:
            uninstall(owner)


def extension_script() -> str:
    (path,) = [file for file in extension_files() if file.name == f"gendurable--{version()}.sql"]
    return path.read_text()


def test_a_callers_search_path_changes_nothing(people: People) -> None:
    """Functions and operators of the same names and arguments, before pg_catalog; temporary tables named like ours."""
    database = people.database()
    with psycopg.connect(database, autocommit=True) as owner:
        evil = people.role("evil")
        owner.execute(f"create schema evil authorization {evil}".encode())
        for profile in ("worker", "operator", "author"):
            owner.execute("select gd_grant(%s::text::regrole, %s)", (evil, profile))
        owner.execute(f"grant temporary on database {owner.info.dbname} to {evil}".encode())
        tables = [r[0] for r in owner.execute("select tablename from pg_tables where schemaname = 'gendurable'")]
    with people.connect(database, "evil") as conn:
        assert fill(conn, EXACT, "evil", plain_script()) > 300
        for table in (*tables, "gd_instances", "pg_proc", "pg_class"):
            conn.execute(f'create temp table "{table}" (id int, mine int)'.encode())
        for name in ("status", "outcome", "claimed"):
            conn.execute(f"create type pg_temp.{name} as (mine int)".encode())
        conn.execute("create function pg_temp.clock_timestamp() returns timestamptz language sql return now()")
        # A driver's own statements are not ours to protect: only the functions and views run with this path.
        conn.execute("set search_path to evil, public, pg_temp, pg_catalog")
        with pytest.raises(psycopg.Error, match="hostile code is called"):
            conn.execute("select clock_timestamp()")
        conn.execute("set search_path to evil, public, pg_catalog, pg_temp")
        life(conn)
        life_of_steps(conn, "evil")
