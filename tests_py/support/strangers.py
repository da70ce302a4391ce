"""Who may do anything with what is ours: asked of the catalog alone, so that it holds for every release and way."""

from __future__ import annotations

from typing import Any

import psycopg

# Each object of ours, by name: what others put beside it in the same schema is told apart by `not_ours`.
STRANGERS = """
with ours as (
    select p.oid::regprocedure::text as object, p.proowner as owner,
        coalesce(p.proacl, acldefault('f', p.proowner)) as acl
    from pg_proc p
    where p.pronamespace = 'gendurable'::regnamespace or p.proname like 'gd\\_%'
    union all
    select c.oid::regclass::text, c.relowner,
        coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))
    from pg_class c
    where c.relkind in ('r', 'v', 'm', 'S', 'p')
        and (c.relnamespace = 'gendurable'::regnamespace or c.relname like 'gd\\_%')
    union all
    select a.attrelid::regclass || '.' || a.attname, c.relowner, a.attacl
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'gendurable'::regnamespace or c.relname like 'gd\\_%'
    union all
    select t.oid::regtype::text, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner))
    from pg_type t
    left join pg_class c on c.oid = t.typrelid
    where t.typnamespace = 'gendurable'::regnamespace and t.typelem = 0 and c.relkind is distinct from 'r'
    union all
    select 'schema gendurable', n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
    from pg_namespace n
    where n.nspname = 'gendurable'
)
select distinct o.object, case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, a.privilege_type
from ours o
cross join lateral aclexplode(o.acl) a
where a.grantee <> o.owner
order by 1, 2, 3
"""


def rights(conn: psycopg.Connection[Any]) -> set[tuple[str, str, str]]:
    """(object, role, privilege) of all who have any right on anything of ours and do not own it."""
    with conn.transaction():
        conn.execute("set local search_path to public, api, pg_catalog")
        return {(row[0].removeprefix("api."), row[1], row[2]) for row in conn.execute(STRANGERS.encode())}


def strangers(conn: psycopg.Connection[Any], *known: str, not_ours: tuple[str, ...] = ()) -> set[tuple[str, str, str]]:
    """The same, but for the roles that gd_grant was told of."""
    return {right for right in rights(conn) if right[1] not in known and right[0] not in not_ours}
