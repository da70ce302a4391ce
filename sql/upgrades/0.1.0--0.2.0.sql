-- From 0.1.0 to 0.2.0: what changed in the tables. The functions are made anew after this.

-- Grants, from the rights as they are: first, since what is dropped below has none any more

create table gendurable.granted (
    role text not null,
    profile text not null,
    primary key (role, profile)
);

comment on table gendurable.granted is 'The profiles that gd_grant gave to roles; an upgrade renews them.';

do $$
declare
    v_schema constant text := pg_catalog.current_schema();
    v_path constant text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    insert into gendurable.granted (role, profile)
    with object as (
        select p.proname as name, p.proacl as acl
        from pg_proc p
        where p.pronamespace = quote_ident(v_schema)::regnamespace and p.prosecdef
            and p.proowner = (select n.nspowner from pg_namespace n where n.nspname = 'gendurable')
            and p.proname in ('gd_insert', 'gd_claim', 'gd_cancel', 'gd_grant')
        union all
        select c.relname, c.relacl
        from pg_class c
        where c.relnamespace = quote_ident(v_schema)::regnamespace and c.relkind = 'v' and c.relname = 'gd_instances'
    ), role as (
        select r.rolname as name, array_agg(o.name::text) as may
        from object o
        cross join lateral aclexplode(o.acl) a
        join pg_roles r on r.oid = a.grantee and r.rolname <> pg_get_userbyid(
            (select n.nspowner from pg_namespace n where n.nspname = 'gendurable'))
        where a.privilege_type in ('EXECUTE', 'SELECT')
        group by r.rolname
    )
    select r.name, x.profile
    from role r
    cross join lateral (values
        ('worker', 'gd_claim' = any(r.may)),
        ('operator', 'gd_cancel' = any(r.may)),
        ('client', 'gd_insert' = any(r.may) and not r.may && '{gd_claim,gd_cancel}'),
        ('reader', 'gd_instances' = any(r.may) and 'gd_cancel' <> all(r.may))
    ) x (profile, holds)
    -- Who may call gd_grant got everything at once, by default privileges or by hand, and keeps nothing of it.
    where x.holds and 'gd_grant' <> all(r.may);
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

-- Helpers are private, and all that are still there are made anew: what is called otherwise now, or answers otherwise, goes.
do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
    v_helper record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    for v_helper in
        select p.oid::regprocedure as signature from pg_proc p where p.pronamespace = 'gendurable'::regnamespace
    loop
        execute 'drop function ' || v_helper.signature;
    end loop;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

-- Claims

alter type gendurable.candidate add attribute heavy boolean;

create table gendurable.doubtful_key (
    partition_key text not null
);

comment on table gendurable.doubtful_key is 'Partition keys whose first rows must be lifted when nobody holds their locks.';

alter table gendurable.doubtful_key replica identity full;

-- Logical replication: a table without a key needs an identity

alter table gendurable.watch replica identity full;
alter table gendurable.queue_priority replica identity full;
alter table gendurable.meta replica identity full;

-- A view that cannot be written

create or replace view gd_instances as
with i as not materialized (
    select
        x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
        x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
        coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
        x.updated_at, x.finished_at
    from gendurable.instance x
)

select i.* from i;

-- Comments in plain ASCII

comment on table gendurable.key_limit is
    'How many instances may execute at once for each partition key "prefix" or "prefix:..."; without a row: one.';
