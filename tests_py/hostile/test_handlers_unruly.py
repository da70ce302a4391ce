"""Handlers that leave something behind in a transaction and a session that others use: settings, tables, locks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg.types.json import Jsonb
from support.handlers import Stage, on_stage, people
from support.people import People

__all__ = ["people"]


@pytest.fixture
def stage(people: tuple[People, str]) -> Iterator[Stage]:
    with on_stage(*people) as made:
        made.do(
            "create table {s}.done (id bigint primary key)",
            "grant all on {s}.done to public",
            # what it is told to do, once; the others are its neighbours
            """create function {s}.h(ctx jsonb) returns jsonb language plpgsql as $$
            begin
                perform nextval('{s}.calls');
                insert into {s}.done values ((ctx ->> 'id')::bigint);
                if ctx #>> '{{state,sql}}' is not null then
                    execute ctx #>> '{{state,sql}}';
                end if;
                return coalesce(ctx #> '{{state,outcome}}', '{{"kind": "done"}}');
            end $$""",
            "alter function {s}.h(jsonb) owner to {boss}",
        )
        made.define("h", "boss")
        yield made


# What one handler leaves behind, and the result of its own step. Its neighbours are as they would be without it.
LEFT_BEHIND = {
    "plan settings": (
        "set local enable_indexscan = off; set local enable_bitmapscan = off; set local enable_nestloop = off;"
        " set local enable_sort = off; set local plan_cache_mode = force_custom_plan; set local work_mem = '64kB'",
        "done",
    ),
    "session settings": (
        "set enable_indexscan = off; set transform_null_equals = on; set \"DateStyle\" = 'German, DMY';"
        " set \"IntervalStyle\" = 'sql_standard'; set \"TimeZone\" = 'Asia/Kathmandu'; set extra_float_digits = -15;"
        " set row_security = off; set bytea_output = 'escape'; set standard_conforming_strings = off",
        "done",
    ),
    "no waiting": ("set local lock_timeout = '1ms'", "done"),
    "no triggers": ("set local session_replication_role = replica", "done"),
    "the marker of a run": ("set gendurable.running = ''", "done"),
    "the marker for good": ("set gendurable.running = 'on'", "done"),
    "a floor of its own": ("set gendurable.floor = 'x'", "done"),
    "temporary tables by our names": (
        "create temp table instance (id int); create temp table step (id int); create temp table signal (id int);"
        " create temp table pg_proc (id int); create temp table pg_roles (id int)",
        "done",
    ),
    "temporary functions and operators": (
        "create function pg_temp._is_wanted(jsonb, text, int, text) returns boolean language sql as 'select 1/0 = 1';"
        " create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select null::timestamptz';"
        " create function pg_temp.same(jsonb, jsonb) returns boolean language sql as 'select 1/0 = 1';"
        " create operator pg_temp.= (leftarg = jsonb, rightarg = jsonb, function = pg_temp.same)",
        "done",
    ),
    "a temporary type": ("create type pg_temp.jsonb as (n int); create type pg_temp.candidate as (n int)", "done"),
    "a cursor": ("declare c cursor for select 1", "done"),
    "a channel": ("listen gendurable", "done"),
    "locks of its own": (
        "select pg_advisory_xact_lock(c, n), pg_advisory_lock(c, n)"
        " from generate_series(7301, 7312) c, generate_series(0, 3) n",
        "done",
    ),
    "locks on the tables of gendurable": ("lock table gendurable.instance, gendurable.step in share mode", "done"),
    "deferred constraints that hold": ("set constraints all deferred", "done"),
    "another role": ("set role {worker}", "error"),
    "another local role": ("set local role {worker}", "error"),
    "another session": ("set session authorization {worker}", "error"),
    "another search_path": ("set search_path = pg_temp, {s}", "error"),
    "a transaction that only reads": ("set transaction read only", "error"),
    "the end of the transaction": ("commit", "error"),
    "its own function": ("drop function {s}.h(jsonb)", "done"),
    "its own claim": ("select gd_release('x', (select jsonb_agg(jsonb_build_array(i.id, i.claim_no))"
        " from gendurable.instance i where i.fsm = '{s}' and i.status = 'executing' and i.state ? 'sql'))", "error"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_a_handler_leaves_behind_costs_its_own_step_alone(stage: Stage, name: str) -> None:
    statement, wanted = LEFT_BEHIND[name]
    first = [stage.insert("h") for _ in range(6)]
    its = stage.insert("h", sql=stage.text(statement).decode())
    last = [stage.insert("h") for _ in range(50)]
    conn = stage.connect("boss")
    result = stage.run(conn)
    if name == "its own function":
        # those behind it in the batch may have had their turn or not: none has an error
        assert result["error"] == 0 and stage.status(its)[0] == "done"
        return
    assert (result["ok"], result["error"], result["busy"]) == ((57, 0, 0) if wanted == "done" else (56, 1, 0)), result
    assert {stage.status(id)[0] for id in first + last} == {"done"}
    assert stage.status(its)[0] == ("done" if wanted == "done" else "runnable")
    rows = conn.execute(stage.text("select id from {s}.done order by 1")).fetchall()
    assert [row["id"] for row in rows] == sorted([*first, *last, *([its] if wanted == "done" else [])])
    # and the session goes on
    more = [stage.insert("h") for _ in range(3)]
    assert stage.run(conn)["ok"] == 3 and {stage.status(id)[0] for id in more} == {"done"}


def test_a_constraint_that_a_handler_defers_does_not_take_the_batch_with_it(stage: Stage) -> None:
    stage.do(
        "create table {s}.child (id bigint references {s}.done deferrable initially immediate)",
        "grant all on {s}.child to public",
    )
    ids = [stage.insert("h") for _ in range(10)]
    bad = stage.insert("h", sql=stage.text("set constraints all deferred; insert into {s}.child values (-1)").decode())
    ids += [stage.insert("h") for _ in range(10)]
    result = stage.run("boss")
    assert (result["ok"], result["error"]) == (20, 1)
    assert {stage.status(id)[0] for id in ids} == {"done"} and stage.status(bad)[0] == "runnable"
    [row] = stage.connect("superuser").execute("select last_error from gd_instances where id = %s", (bad,)).fetchall()
    assert "23503" in row["last_error"]


def test_a_handler_runs_no_steps_whatever_it_sets(stage: Stage) -> None:
    inner = stage.insert("h")
    conn = stage.connect("boss")
    [claim] = conn.execute("select id, claim_no from gd_claim('w', %s)", (stage.name,)).fetchall()
    statement = (
        "select set_config('gendurable.running', '', true);"
        f" select gd_run_claims('w', '[[{claim['id']}, {claim['claim_no']}]]')"
    )
    outer = stage.insert("h", sql=statement)
    assert stage.run(conn)["error"] == 1
    assert (stage.status(inner)[0], stage.status(outer)[0]) == ("executing", "runnable")
    answer = conn.execute(
        "select result from gd_run_claims('w', %s)", (Jsonb([[claim["id"], claim["claim_no"]]]),)
    ).fetchone()
    assert answer == {"result": "ok"}
