"""Everything that the catalog says of an installation, as lines: two installations are the same if these are."""

from __future__ import annotations

from typing import Any

import psycopg

OURS = """
with ours as (
    select 'gendurable'::regnamespace as schema
), relation as (
    select c.* from pg_class c, ours o
    where c.relnamespace = o.schema or c.relname like 'gd\\_%' and c.relkind = 'v'
), function as (
    select p.* from pg_proc p, ours o where p.pronamespace = o.schema or p.proname like 'gd\\_%'
)
"""


def acl(column: str) -> str:
    """The order of its entries is the order in which they were given, and says nothing."""
    return f"case when {column} is not null then array(select x::text from unnest({column}) x order by 1) end"


PARTS = {
    "schema": f"select nspname, {acl('nspacl')}, obj_description(oid, 'pg_namespace') from pg_namespace, ours"
    " where oid = schema",
    "relation": f"""
        select oid::regclass, relkind, relpersistence, reloptions::text, {acl("relacl")}, relrowsecurity,
            exists (select from pg_trigger t where t.tgrelid = relation.oid), relreplident,
            obj_description(oid, 'pg_class')
        from relation""",
    "column": f"""
        select r.oid::regclass, row_number() over (partition by r.oid order by a.attnum), a.attname,
            format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
            a.attgenerated, a.attstorage, a.attcompression, {acl("a.attacl")}, a.attcollation,
            col_description(r.oid, a.attnum)
        from relation r
        join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
        where r.relkind in ('r', 'v', 'c')""",
    "constraint": """
        select c.conrelid::regclass, c.conname, c.contype, c.convalidated, c.condeferrable, pg_get_constraintdef(c.oid),
            obj_description(c.oid, 'pg_constraint')
        from pg_constraint c join relation r on r.oid = c.conrelid""",
    "index": """
        select pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisprimary
        from pg_index i join relation r on r.oid = i.indrelid""",
    "view": "select oid::regclass, pg_get_viewdef(oid) from relation where relkind = 'v'",
    "sequence": """
        select r.oid::regclass, s.seqtypid, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle
        from pg_sequence s join relation r on r.oid = s.seqrelid""",
    "trigger": "select t.tgname, pg_get_triggerdef(t.oid) from pg_trigger t join relation r on r.oid = t.tgrelid"
    " where not t.tgisinternal",
    "function": f"""
        select p.oid::regprocedure, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), md5(p.prosrc),
            p.prolang, p.prokind, p.prosecdef, p.proleakproof, p.proisstrict, p.provolatile, p.proparallel, p.procost,
            p.prorows, p.proconfig::text, {acl("p.proacl")}, obj_description(p.oid, 'pg_proc')
        from function p""",
    "type": f"""
        select t.oid::regtype, t.typtype, {acl("t.typacl")}, obj_description(t.oid, 'pg_type'),
            array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder)::text
        from pg_type t, ours o where t.typnamespace = o.schema""",
    "marked for dumps": """
        select m.oid::regclass, m.condition
        from pg_extension e, unnest(e.extconfig, e.extcondition) m (oid, condition)
        where e.extname = 'gendurable'""",
    "member": f"""
        select pg_describe_object(d.classid, d.objid, 0), {acl("i.initprivs")}
        from pg_extension e
        join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
        left join pg_init_privs i on i.classoid = d.classid and i.objoid = d.objid and i.objsubid = 0
        where e.extname = 'gendurable'""",
}
AILMENTS = """
select "check", message from gd_doctor()
where level <> 'ok' and "check" in (
    'version', 'functions', 'privileges', 'tables', 'indexes', 'constraints', 'triggers', 'replication', 'sequences')
"""
OF_EXTENSIONS = {"marked for dumps", "member"}


def fingerprint(conn: psycopg.Connection[Any], *, plain: bool = False) -> dict[str, list[str]]:
    """By kind of object; `plain` leaves out what only an extension has. Set the search_path alike for two of them."""
    return {
        kind: sorted(str(row) for row in conn.execute((OURS + query).encode()))
        for kind, query in PARTS.items()
        if not (plain and kind in OF_EXTENSIONS)
    }


def ailments(conn: psycopg.Connection[Any]) -> list[Any]:
    """What the doctor finds wrong with an installation."""
    return conn.execute(AILMENTS).fetchall()
