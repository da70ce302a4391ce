"""Roles that log in, and a schema full of things named like what our functions use."""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support.busy import one
from support.server import Server

_number = itertools.count()

OUR_FUNCTIONS = """
select p.oid, p.proname, p.oid::regprocedure::text, p.pronamespace = 'gendurable'::regnamespace,
    array(select format_type(a.type, null) from unnest(p.proargtypes::oid[]) with ordinality a (type, n) order by a.n)
from pg_proc p
where p.pronamespace = 'gendurable'::regnamespace
    or p.proname like 'gd\\_%'
        and p.pronamespace = (select quote_ident(m.api_schema) from gendurable.meta m)::regnamespace
order by 2, 3
"""


class People:
    """Login roles of one server with a name of their own for this run; removed by `close`, after their databases."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._roles: dict[str, tuple[str, str]] = {}
        self._databases: list[str] = []

    def role(self, name: str) -> str:
        if name not in self._roles:
            role, password = f"gd_{name}_{os.getpid()}_{next(_number)}", secrets.token_hex(8)
            with psycopg.connect(self.server.dsn, autocommit=True) as conn:
                try:
                    conn.execute(f"create role {role} login password '{password}'".encode())
                except psycopg.errors.InsufficientPrivilege:
                    pytest.skip("the server's user may not create roles: give it CREATEROLE or a superuser's dsn")
            self._roles[name] = role, password
        return self._roles[name][0]

    def database(self, *, empty: bool = False, owner: str | None = None) -> str:
        dsn = self.server.new_database(empty=empty)
        self._databases.append(dsn)
        if owner is not None:
            with psycopg.connect(dsn, autocommit=True) as conn:
                name = sql.Identifier(conn.info.dbname)
                conn.execute(sql.SQL("alter database {} owner to {}").format(name, sql.Identifier(self.role(owner))))
        return dsn

    def dsn(self, database: str, name: str) -> str:
        role = self.role(name)
        return make_conninfo(database, user=role, password=self._roles[name][1])

    def connect(self, database: str, name: str, **kwargs: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database, name), autocommit=True, **kwargs)

    def close(self) -> None:
        for dsn in self._databases:
            self.server.drop_database(dsn)
        with psycopg.connect(self.server.dsn, autocommit=True) as conn:
            for role, _ in self._roles.values():
                conn.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


def null_call(signature: str, types: list[str]) -> bytes:
    """A call with every argument null: it fails for its arguments, unless it fails for the rights first."""
    name = signature[: signature.index("(")]
    verb = "call" if name.endswith("gd_run") else "select * from"
    return f"{verb} {name}({', '.join(f'null::{t}' for t in types)})".encode()


def words_of(script: str) -> list[str]:
    """Every word that could be the name of a function in the script."""
    return sorted(set(re.findall(r"[a-z_][a-z0-9_]+", script)))


# What pg_catalog has not exactly: an unqualified operator or function whose arguments need a cast finds these first,
# wherever they stand in the search_path.
INEXACT = """
do $do$
declare
    v_types constant text[] := '{{oid,regnamespace,regclass,regprocedure,regrole,regtype,name,text,\\"char\\",jsonb,
        boolean,smallint,int,bigint,numeric,double precision,timestamptz,interval,text[],bigint[],name[]}}';
    v_body constant text := $b$ language plpgsql as $f$ begin
        raise exception 'hostile code is called: %', 'NAME' using errcode = 'HOST1'; end $f$ $b$;
    v_new record;
    v_number int := 0;
begin
    for v_new in
        select o.name, l.type as l, r.type as r,
            case when o.name in ('||', '->>', '#>>') then 'text' when o.name in ('->', '-') then 'jsonb'
                when o.name in ('+', '*', '/') then 'numeric' else 'boolean' end as result
        from unnest('{{=,<>,<,>,<=,>=,~~,!~~,||,->,->>,#>>,?,-,+,*,/,<@,@>,~}}'::text[]) o (name),
            unnest(v_types) l (type), unnest(v_types) r (type)
        where to_regoperator(format('pg_catalog.%s(%s, %s)', o.name, l.type, r.type)) is null
    loop
        v_number := v_number + 1;
        execute format('create function {schema}.evil_%s(%s, %s) returns %s', v_number, v_new.l, v_new.r, v_new.result)
            || replace(v_body, 'NAME', format('%s(%s, %s)', v_new.name, v_new.l, v_new.r));
        execute format('create operator {schema}.%s (leftarg = %s, rightarg = %s, function = {schema}.evil_%s)',
            v_new.name, v_new.l, v_new.r, v_number);
    end loop;
    for v_new in
        select distinct p.proname as name, t.arguments, p.prorettype::regtype as result
        from pg_catalog.pg_proc p
        cross join lateral (
            select x.type as arguments from unnest(v_types) x (type)
            where p.pronargs = 1 or p.provariadic <> 0
            union all
            select x.type || ', ' || y.type
            from unnest(v_types) x (type), unnest('{{name,oid,int,regprocedure}}'::text[]) y (type)
            where p.pronargs = 2 or p.provariadic <> 0
        ) t
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a') and not p.proretset
            and p.proname = any({words})
            and p.prorettype not in (select q.oid from pg_catalog.pg_type q where q.typtype = 'p')
            and to_regprocedure(format('pg_catalog.%s(%s)', p.proname, t.arguments)) is null
    loop
        begin
            execute format('create function {schema}.%I(%s) returns %s', v_new.name, v_new.arguments, v_new.result)
                || replace(v_body, 'NAME', format('%s(%s)', v_new.name, v_new.arguments));
        exception when duplicate_function then
            null;
        end;
    end loop;
end $do$
"""

# The same arguments as in pg_catalog: found by whoever has this schema before pg_catalog in its search_path.
EXACT = """
do $do$
declare
    v_body constant text := $b$ language plpgsql as $f$ begin
        raise exception 'hostile code is called: %', 'NAME' using errcode = 'HOST1'; end $f$ $b$;
    v_new record;
begin
    for v_new in
        select p.proname as name, pg_get_function_identity_arguments(p.oid) as arguments,
            pg_get_function_result(p.oid) as result
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a') and p.proname = any({words})
    loop
        begin
            execute format('create function {schema}.%I(%s) returns %s', v_new.name, v_new.arguments, v_new.result)
                || replace(v_body, 'NAME', v_new.name);
        exception when feature_not_supported or invalid_function_definition or syntax_error or undefined_object
            or duplicate_function or insufficient_privilege then
            null;   -- internal and polymorphic ones cannot be written in PL/pgSQL
        end;
    end loop;
    for v_new in
        select o.oprname as name, o.oid::int as number, format_type(o.oprleft, null) as l,
            format_type(o.oprright, null) as r, format_type(o.oprresult, null) as result
        from pg_catalog.pg_operator o
        where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
            and o.oprname = any('{{=,<>,<,>,<=,>=,~~,||,->,->>,#>>,?,-,+,*,/,<@,~}}'::text[])
            and o.oprleft in (select t.oid from pg_catalog.pg_type t where t.typtype = 'b')
            and o.oprright in (select t.oid from pg_catalog.pg_type t where t.typtype = 'b')
    loop
        begin
            execute format('create function {schema}.evil_%s(%s, %s) returns %s',
                v_new.number, v_new.l, v_new.r, v_new.result)
                || replace(v_body, 'NAME', v_new.name);
            execute format('create operator {schema}.%s (leftarg = %s, rightarg = %s, function = {schema}.evil_%s)',
                v_new.name, v_new.l, v_new.r, v_new.number);
        exception when feature_not_supported or invalid_function_definition then
            null;
        end;
    end loop;
end $do$
"""


def fill(conn: psycopg.Connection[Any], statement: str, schema: str, script: str) -> int:
    """Run INEXACT or EXACT for a schema; how many functions stand there now."""
    # What is being made here must not be found by the makers.
    conn.execute("set search_path to pg_catalog")
    known = conn.execute(
        "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
        " and proname = any(%s)",
        (words_of(script),),
    ).fetchall()
    words = "'{" + ",".join(f'"{word}"' for (word,) in known) + "}'::text[]"
    conn.execute(statement.format(schema=schema, words=words).encode())
    row = conn.execute("select count(*) from pg_proc where pronamespace = %s::regnamespace", (schema,)).fetchone()
    assert row is not None
    return int(row[0])


def life(conn: psycopg.Connection[Any]) -> None:
    """A bit of everything, by a caller of whatever search_path, with the calls qualified by what it sets up."""
    conn.execute("select gd_register('shadowed', 1, 'first')")
    parent, other = (
        one(conn, "select gd_insert('shadowed', '{\"a\": 1}', p_partition_key => 'k', p_unique_key => $1)", key)
        for key in ("u1", "u2")
    )
    assert one(conn, "select gd_signal('u1', 'go', '1', 'd')") == "delivered"
    id, claim_no = claim(conn)
    assert id == parent
    commit(conn, id, claim_no, kind="schedule_childs", step="b", childs=[{"fsm": "shadowed"}, {"fsm": "shadowed"}])
    for _ in range(3):
        id, claim_no = claim(conn)
        commit(conn, id, claim_no, kind="done", result=[1])
    id, claim_no = claim(conn)
    assert id == parent
    commit(conn, id, claim_no, kind="await", signals=["x", "y"], timeout_ms=100000)
    assert one(conn, "select gd_signal($1::bigint, 'x')", parent) == "delivered"
    id, claim_no = claim(conn)
    commit(conn, id, claim_no, kind="next", step="c", delay_ms=5000)
    assert one(conn, "select gd_reschedule($1, pg_catalog.clock_timestamp())", parent) is True
    assert one(conn, "select gd_cancel($1, 'enough', true)", parent) is True
    assert one(conn, "select gd_retry($1)", parent) is True
    one(conn, "select gd_pause_queue('default')")
    one(conn, "select gd_resume_queue('default')")
    one(conn, "select gd_set_key_limit('k', 2)")
    id, claim_no = claim(conn)
    assert one(conn, "select gd_release('w', null)") == 1
    assert one(conn, "select status from gd_result($1)", other) == "done"
    assert one(conn, "select gd_maintain()")["repaired"] == 0
    one(conn, "select count from gd_instances cross join lateral (select 1 as count) x limit 1")
    one(conn, "select queue from gd_queues")
    conn.execute("select * from gd_workers")


def life_of_steps(conn: psycopg.Connection[Any], schema: str) -> None:
    """The same of what has its caller's rights, and of all that it calls. The schema is the caller's own."""
    conn.execute(
        f"create function {schema}.pays(ctx pg_catalog.jsonb) returns pg_catalog.jsonb language plpgsql "
        "set search_path = pg_catalog, pg_temp as $$ begin "
        f"""insert into {schema}.orders (id, paid) values ((ctx ->> 'id')::int, false), (- (ctx ->> 'id')::int, false);
            if ctx #>> '{{state,fails}}' is not null then raise exception 'no'; end if;
            return '{{"kind": "done"}}'; end $$""".encode()
    )
    conn.execute(
        f"create function {schema}.all_of(ctxs pg_catalog.jsonb) returns setof pg_catalog.jsonb language sql "
        "set search_path = pg_catalog, pg_temp as "
        "$$ select jsonb_build_object('id', c -> 'id', 'kind', 'done') from jsonb_array_elements(ctxs) c $$".encode()
    )
    conn.execute(
        f"create table {schema}.orders (id pg_catalog.int4, paid pg_catalog.bool, "
        f"part pg_catalog.int4, check (paid is not null))".encode()
    )
    for step, function in (("pay", "pays"), ("all", "all_of")):
        one(conn, "select gd_define_step('steps', $1, $2)", step, f"{schema}.{function}(pg_catalog.jsonb)")
    for _ in range(6):
        one(conn, "select gd_insert('steps', p_step => 'pay', p_queue => 's')")
        one(conn, "select gd_insert('steps', p_step => 'all', p_queue => 's', p_partition_key => 'k')")
    one(conn, "select gd_insert('steps', '{\"fails\": 1}', p_step => 'pay', p_queue => 's')")
    waiting = one(conn, "select gd_insert('steps', p_step => 'wait', p_queue => 't', p_unique_key => 'order:7')")
    rehearsed = conn.execute("select result, writes from gd_rehearse('s')").fetchall()
    assert [row[0] for row in rehearsed if row[0] != "ok"] == ["error"] and len(rehearsed) == 13
    assert conn.execute("select result from gd_rehearse(p_id => %s)", (waiting,)).fetchall() == [("no_handler",)]
    claims = conn.execute("select id, claim_no from gd_claim('w', 's', 3)").fetchall()
    ran = conn.execute("select result from gd_run_claims('w', %s)", (json.dumps(claims),)).fetchall()
    assert [row[0] for row in ran] == ["ok"] * 3
    result = one(conn, "call gd_run('s')")
    assert (result["ok"], result["error"], result["refused"]) == (9, 1, []), result
    assert conn.execute("select step from gd_steps").fetchall() != []
    name = one(conn, "select gd_signal_on($1, 'paid', 'order:{id}', 'paid', $2)", f"{schema}.orders", ["part"])
    conn.execute(f"insert into {schema}.orders (id, paid, part) values (7, true, 3)".encode())
    signal = conn.execute("select name, payload from gd_signals(%s)", (waiting,)).fetchone()
    assert signal == ("paid", {"part": 3})
    assert one(conn, "select gd_signal_off($1, $2)", f"{schema}.orders", name) is True
    assert one(conn, "select gd_drop_step('steps', 'pay')") is True


def claim(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    row = conn.execute("select id, claim_no from gd_claim('w')").fetchone()
    assert row is not None
    return row[0], row[1]


def commit(conn: psycopg.Connection[Any], id: int, claim_no: int, **outcome: Any) -> None:
    text = json.dumps([{"id": id, "claim_no": claim_no, **outcome}])
    row = conn.execute("select result, detail from gd_commit('w', %s)", (text,)).fetchone()
    assert row is not None and row[0] == "ok", row
