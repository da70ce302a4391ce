"""Whose code runs with whose rights, and who says which code that is: handlers of authors whom no runner trusts."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support.handlers import Stage, people, sqlstate, stage

__all__ = ["people", "stage"]

NOT_ITS_RIGHTS = "the owner of the function could not act as the role"
NOT_ITS_OWNER = "the function has another owner than when it was defined"
NOT_ALLOWED = "the role may not execute the function"
NOT_THERE = "there is no such function"


# -- who runs what: a case, who runs it, and what gd_steps says


@dataclass(frozen=True)
class Case:
    """A handler `h` of `of`, what happens behind its definition, and for each runner the problem (None: it runs)."""

    of: str
    runners: dict[str, str | None]
    options: str = ""
    then: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    since: int = 15


ALL_REFUSED = dict.fromkeys(("worker", "boss", "superuser", "superuser set role worker"), NOT_ITS_RIGHTS)
CASES = {
    "code of who could act as the worker": Case(
        "author",
        {
            "worker": None,
            "boss": NOT_ITS_RIGHTS,
            "superuser": NOT_ITS_RIGHTS,
            # RESET ROLE leads out of it
            "superuser set role worker": NOT_ITS_RIGHTS,
            # and so does RESET SESSION AUTHORIZATION
            "superuser set session authorization worker": NOT_ITS_RIGHTS,
            "boss set role worker": NOT_ITS_RIGHTS,
        },
    ),
    "code of a superuser": Case(
        "boss",
        dict.fromkeys(
            (
                "worker",
                "boss",
                "superuser",
                "superuser set role worker",
                "superuser set session authorization worker",
            )
        ),
    ),
    "code of the worker itself": Case("worker", {"worker": None, "superuser": NOT_ITS_RIGHTS}),
    "code of somebody": Case("stranger", {**ALL_REFUSED, "superuser set session authorization worker": NOT_ITS_RIGHTS}),
    "code of somebody with his own rights": Case(
        "stranger", dict.fromkeys(("worker", "boss", "superuser", "superuser set role worker")), "security definer"
    ),
    "a member that inherits and cannot become it": Case(
        "stranger",
        {"worker": NOT_ITS_RIGHTS},
        then=("grant {worker} to {stranger} with inherit true, set false",),
        undo=("revoke {worker} from {stranger}",),
        since=16,
    ),
    "a member that could only let itself become it": Case(
        "stranger",
        {"worker": NOT_ITS_RIGHTS},
        then=("grant {worker} to {stranger} with admin true, inherit false, set false",),
        undo=("revoke {worker} from {stranger}",),
        since=16,
    ),
    "a member that becomes it without inheriting": Case(
        "stranger",
        {"worker": None},
        then=("grant {worker} to {stranger} with inherit false, set true",),
        undo=("revoke {worker} from {stranger}",),
        since=16,
    ),
    "a member of a member": Case(
        "stranger",
        {"worker": None, "superuser": NOT_ITS_RIGHTS},
        then=("grant {author} to {stranger}",),
        undo=("revoke {author} from {stranger}",),
    ),
    "no right to execute": Case(
        "author",
        {"worker": NOT_ALLOWED, "superuser set role worker": NOT_ALLOWED},
        then=("revoke execute on function {s}.h(jsonb) from public",),
    ),
    "no right to execute, of a definer": Case(
        "stranger",
        {"worker": NOT_ALLOWED, "superuser": None},
        "security definer",
        then=("revoke execute on function {s}.h(jsonb) from public",),
    ),
    "a right of its own to execute": Case(
        "author",
        {"worker": None},
        then=("revoke execute on function {s}.h(jsonb) from public", "grant execute on function {s}.h to {worker}"),
    ),
    "no usage of the schema": Case("author", {"worker": NOT_ALLOWED}, then=("revoke usage on schema {s} from public",)),
    "given to another owner": Case(
        "author",
        {"worker": NOT_ITS_OWNER, "superuser": NOT_ITS_OWNER},
        then=("alter function {s}.h(jsonb) owner to {heir}",),
    ),
    "given to a superuser": Case(
        "author",
        {"worker": NOT_ITS_OWNER, "superuser": NOT_ITS_OWNER},
        then=("alter function {s}.h(jsonb) owner to {boss}",),
    ),
    "an owner that was renamed": Case(
        "heir",
        {"worker": NOT_ITS_OWNER},
        "security definer",
        then=("alter role {heir} rename to {heir}_x",),
        undo=("alter role {heir}_x rename to {heir}",),
    ),
    "dropped": Case("author", {"worker": NOT_THERE}, then=("drop function {s}.h(jsonb)",)),
    "dropped and made again by another": Case(
        "author",
        {"worker": NOT_ITS_OWNER, "superuser": NOT_ITS_OWNER},
        then=(
            "drop function {s}.h(jsonb)",
            "create function {s}.h(jsonb) returns jsonb language sql as 'select null::jsonb'",
            "alter function {s}.h(jsonb) owner to {heir}",
        ),
    ),
    "another signature in its place": Case(
        "author",
        {"worker": NOT_THERE, "boss": NOT_THERE},
        then=(
            "drop function {s}.h(jsonb)",
            *(
                f"create function {{s}}.h({takes}) returns jsonb language plpgsql as $$ begin"
                " perform nextval('{s}.calls'); return '{{\"kind\": \"done\"}}'; end $$"
                for takes in ("json", "anyelement", "variadic jsonb[]", "jsonb, int default 1", "text")
            ),
        ),
    ),
    "a function beside it that takes as much": Case(
        "author",
        {"worker": "another function of this name takes a jsonb, and defaults"},
        then=(
            "create function {s}.h(jsonb, int default 1) returns jsonb language sql as 'select null::jsonb'",
            "alter function {s}.h(jsonb, int) owner to {heir}",
        ),
    ),
    "in another schema under the old name": Case(
        "author",
        {"worker": NOT_THERE},
        then=(
            "create schema {s}_x",
            "alter function {s}.h(jsonb) set schema {s}_x",
        ),
        undo=("drop schema {s}_x cascade",),
    ),
    "returns something else now": Case(
        "author",
        {"worker": "the function does not return jsonb"},
        then=(
            "drop function {s}.h(jsonb)",
            "create function {s}.h(jsonb) returns json language sql as 'select null::json'",
            "alter function {s}.h(jsonb) owner to {author}",
        ),
    ),
    "is a procedure now": Case(
        "author",
        {"worker": "the function does not return jsonb"},
        then=(
            "drop function {s}.h(jsonb)",
            "create procedure {s}.h(jsonb) language sql as 'select 1'",
            "alter procedure {s}.h(jsonb) owner to {author}",
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_handler_runs_where_gd_steps_tells_of_no_problem(stage: Stage, name: str) -> None:
    case = CASES[name]
    with psycopg.connect(stage.database) as conn:
        if conn.info.server_version < case.since * 10000:
            pytest.skip(f"memberships without SET or INHERIT are of PostgreSQL {case.since}")
    stage.handler("h", of=case.of, options=case.options)
    stage.define("h", case.of if case.of != "worker" else "superuser")
    stage.do(*case.then)
    try:
        for who, problem in case.runners.items():
            before = stage.calls()
            id = stage.insert("h")
            assert stage.problem(who, "h") == problem, who
            result = stage.run(who)
            refused = [one["problem"] for one in result["refused"] if one["fsm"] == stage.name]
            status, answer = stage.status(id)
            # what it was given by hand it refuses as well
            conn = stage.connect(who)
            claimed = conn.execute("select id, claim_no from gd_claim('w', %s, 10)", (stage.name,)).fetchall()
            by_hand = [
                conn.execute("select * from gd_run_claims('w', %s)", (Jsonb([[c["id"], c["claim_no"]]]),)).fetchone()
                for c in claimed
            ]
            if problem is None:
                role = conn.execute("select current_user as r").fetchone()
                assert role is not None
                wanted = stage.role(case.of) if "definer" in case.options else role["r"]
                assert (status, answer) == ("done", wanted), who
                assert (result["ok"], refused, claimed, stage.calls()) == (1, [], [], before + 1), who
            else:
                assert (status, result["claimed"], refused, stage.calls()) == ("runnable", 0, [problem], before), who
                assert [(one["result"], one["detail"]) for one in by_hand if one] == [
                    ("no_handler", {"problem": problem})
                ], who
                stage.connect("superuser").execute("select gd_cancel(%s, 'over', true)", (id,))
    finally:
        stage.do(*case.undo)


def test_the_exact_function_is_called_whatever_stands_beside_it(stage: Stage) -> None:
    for takes in ("json", "anyelement", "anynonarray", "variadic jsonb[]", "json, int default 1", "jsonb, int", "text"):
        stage.do(
            f"create function {{s}}.h({takes}) returns jsonb language plpgsql as $$ begin"
            " perform nextval('{s}.calls'); raise 'another one'; end $$"
        )
    stage.handler("h", of="author")
    stage.define("h", "author")
    ids = [stage.insert("h") for _ in range(40)]
    assert stage.run("worker")["ok"] == 40
    assert {stage.status(id)[0] for id in ids} == {"done"} and stage.calls() == 40


def test_a_trojan_reaches_nothing_of_who_runs_it(stage: Stage) -> None:
    """What it would do if it were called: each way out of the role that it is called as."""
    ways = ("reset role", "reset session authorization", "set role none", "set session authorization default")
    for n, way in enumerate(ways):
        stage.handler(
            f"h{n}", of="author", body=f"execute '{way}'; execute 'alter role {stage.role('author')} superuser';"
        )
        stage.define(f"h{n}", "author")
        stage.insert(f"h{n}")
    for who in (
        "superuser",
        "superuser set role worker",
        "superuser set session authorization worker",
        "boss set role worker",
    ):
        assert stage.run(who)["claimed"] == 0 and stage.calls() == 0, who
    # The worker's own session leads nowhere: it has no right to that.
    result = stage.run("worker")
    assert result["claimed"] == result["error"] == len(ways)
    conn = stage.connect("superuser")
    found = conn.execute("select rolsuper from pg_roles where rolname = %s", (stage.role("author"),)).fetchone()
    assert found == {"rolsuper": False}


def test_a_definer_reads_what_the_runner_may_not(stage: Stage) -> None:
    stage.do("create table {s}.secret as select 42 as n", "alter table {s}.secret owner to {author}")
    for name, options in (("mine", "security definer"), ("yours", "")):
        stage.handler(name, of="author", options=options, body=f"perform n from {stage.name}.secret;")
        stage.define(name, "author")
    mine, yours = stage.insert("mine"), stage.insert("yours")
    result = stage.run("worker")
    assert (result["ok"], result["error"]) == (1, 1)
    assert stage.status(mine)[0] == "done" and stage.status(yours)[0] == "runnable"
    [row] = stage.connect("superuser").execute("select last_error from gd_instances where id = %s", (yours,)).fetchall()
    assert "42501" in row["last_error"]


# -- who defines what


@pytest.mark.parametrize(
    ("grant", "allowed", "since"),
    [
        (None, False, 15),
        ("with inherit true, set false", True, 16),
        ("with inherit false, set true", True, 16),
        ("with admin true, inherit false, set false", False, 16),
    ],
)
def test_a_step_belongs_to_who_has_the_rights_of_its_owner(
    stage: Stage, grant: str | None, allowed: bool, since: int
) -> None:
    stage.handler("h", of="author")
    stage.define("h", "author")
    stranger = stage.connect("stranger")
    if stranger.info.server_version < since * 10000:
        pytest.skip(f"memberships without SET or INHERIT are of PostgreSQL {since}")
    if grant is not None:
        stage.do(f"grant {{author}} to {{stranger}} {grant}")
    try:
        wanted = None if allowed else "GD507"
        define = stage.text("select gd_define_step('{s}', 'h', '{s}.h(jsonb)')")
        assert sqlstate(stranger, define) == wanted
        assert sqlstate(stranger, stage.text("select gd_define_step('{s}', 'other', '{s}.h(jsonb)')")) == wanted
        assert sqlstate(stranger, stage.text("select gd_define_step('{s}', 'h')")) == wanted
        stage.define("h", "superuser")
        assert sqlstate(stranger, stage.text("select gd_drop_step('{s}', 'h')")) == wanted
    finally:
        stage.do("revoke {author} from {stranger}")


def test_a_step_of_an_owner_who_is_gone_belongs_to_the_owner_of_gendurable(stage: Stage) -> None:
    stage.do(
        "create role {heir}_gone",
        "create function {s}.h(jsonb) returns jsonb language sql as 'select null::jsonb'",
        "alter function {s}.h(jsonb) owner to {heir}_gone",
        "select gd_define_step('{s}', 'h', '{s}.h(jsonb)')",
        "reassign owned by {heir}_gone to {stranger}",
        "drop role {heir}_gone",
    )
    assert stage.problem("worker", "h") == NOT_ITS_OWNER
    define = stage.text("select gd_define_step('{s}', 'h', '{s}.h(jsonb)')")
    assert sqlstate(stage.connect("stranger"), define) == "GD507"
    assert sqlstate(stage.connect("superuser"), define) is None


def test_a_step_defines_none_whoever_runs_it(stage: Stage) -> None:
    """gd_define_step asks who the session is: a definer's code in the session of another would be that one."""
    stage.handler("prey", of="boss")
    stage.define("prey", "boss")
    stage.do(
        "create function {s}.h(ctx jsonb) returns jsonb language plpgsql security definer as $$"
        " begin"
        "   perform nextval('{s}.calls');"
        "   perform set_config('gendurable.running', '', false);"
        "   execute ctx #>> '{{state,sql}}';"
        '   return \'{{"kind": "done"}}\';'
        " end $$",
        "alter function {s}.h(jsonb) owner to {stranger}",
    )
    stage.define("h", "stranger")
    statements = (
        "select gd_define_step('{s}', 'prey', '{s}.h(jsonb)')",
        "select gd_define_step('{s}', 'prey')",
        "select gd_define_step('{s}', 'mine', '{s}.prey(jsonb)')",
        "select gd_drop_step('{s}', 'prey')",
    )
    for statement in statements:
        stage.insert("h", sql=stage.text(statement).decode())
    assert stage.run("superuser")["error"] == len(statements)
    conn = stage.connect("superuser")
    rows = conn.execute("select step, owner from gd_steps where fsm = %s order by 1", (stage.name,)).fetchall()
    assert [tuple(row.values()) for row in rows] == [("h", stage.role("stranger")), ("prey", stage.role("boss"))]
    errors = conn.execute("select distinct last_error from gd_instances where fsm = %s", (stage.name,)).fetchall()
    assert len(errors) == 1 and "GD507" in errors[0]["last_error"]
