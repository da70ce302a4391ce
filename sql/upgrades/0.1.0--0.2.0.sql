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

-- Claims

alter type gendurable.candidate add attribute heavy boolean, add attribute bare boolean;

create table gendurable.doubtful_key (
    partition_key text not null
);

comment on table gendurable.doubtful_key is 'Partition keys whose first rows must be lifted when nobody holds their locks.';

create index doubtful_key_name on gendurable.doubtful_key (partition_key);

alter table gendurable.doubtful_key replica identity full;

-- Logical replication: a table without a key needs an identity

alter table gendurable.watch replica identity full;
alter table gendurable.meta replica identity full;

-- Names of queues in place of pairs of queue and priority, which claims find in the index now

create table gendurable.queue_name (
    queue text not null
);

alter table gendurable.queue_name replica identity full;

comment on table gendurable.queue_name is 'Queues that have or had instances; those that are long empty are forgotten beyond 10,000.';

create index queue_name_queue on gendurable.queue_name (queue);

insert into gendurable.queue_name (queue)
select distinct q.queue from gendurable.queue_priority q;

-- Views: one cannot be written any more, the others walk the index

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

create or replace view gd_queues as
select q.queue, d.due, d.delayed, d.executing, p.parked, d.oldest_due_at, q.paused
from (
    select n.queue, bool_or(n.paused) as paused
    from (
        select x.queue, false as paused from gendurable.queue_name x
        union all
        -- names may be forgotten beside an insert that is under way
        select l.queue, false as paused
        from (
            with recursive l as (
                (select i.queue from gendurable.instance i
                    where i.eligible_at is not null
                    order by i.queue limit 1)
                union all
                select (select i.queue from gendurable.instance i
                    where i.eligible_at is not null and i.queue > l.queue
                    order by i.queue limit 1)
                from l
                where l.queue is not null
            )

            select l.queue from l where l.queue is not null limit 10000
        ) l
        union all
        select x.queue, true as paused from gendurable.paused_queue x
    ) n
    group by n.queue
) q
cross join lateral (
    select
        least(coalesce(sum(c.due), 0), 100000)::bigint as due,
        least(coalesce(sum(c.delayed), 0), 100000)::bigint as delayed,
        least(coalesce(sum(c.executing), 0), 100000)::bigint as executing,
        min(c.oldest_due_at) as oldest_due_at
    from (
        -- from priority to priority through the index, whatever a queue once had
        with recursive p as (
            (select i.priority from gendurable.instance i
                where i.queue = q.queue and i.eligible_at is not null
                order by i.queue, i.priority limit 1)
            union all
            select (select i.priority from gendurable.instance i
                where i.queue = q.queue and i.eligible_at is not null and i.priority > p.priority
                order by i.queue, i.priority limit 1)
            from p
            where p.priority is not null
        )

        select p.priority from p where p.priority is not null limit 1000
    ) y
    cross join (values (0::smallint), (1::smallint)) w (woken)
    cross join lateral (
        select
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status in ('runnable', 'awaiting_signal')
                limit 100000) x) as due,
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at > statement_timestamp()
                limit 100000) x) as delayed,
            (select count(*) from (
                select i.id from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status = 'executing'
                limit 100000) x) as executing,
            (select i.eligible_at from gendurable.instance i
                where i.queue = q.queue and i.priority = y.priority and i.woken = w.woken
                    and i.eligible_at <= statement_timestamp() and i.status in ('runnable', 'awaiting_signal')
                order by i.eligible_at limit 1) as oldest_due_at
    ) c
) d
cross join lateral (
    select count(*) as parked
    from (
        select i.id from gendurable.instance i
        where i.queue = q.queue and i.eligible_at is null and i.finished_at is null
        limit 100000
    ) x
) p;

create or replace view gd_workers as
select h.worker, count(*) as executing, to_timestamp(min(h.claim_no)::double precision / 1000000::double precision) as oldest_claim_at
from (
    with recursive l as (
        (select i.queue, i.priority from gendurable.instance i
            where i.eligible_at is not null
            order by i.queue, i.priority limit 1)
        union all
        select n.queue, n.priority
        from l
        cross join lateral (
            select i.queue, i.priority from gendurable.instance i
            where i.eligible_at is not null and (i.queue, i.priority) > (l.queue, l.priority)
            order by i.queue, i.priority limit 1
        ) n
    )

    select l.queue, l.priority from l limit 10000
) y
cross join (values (0::smallint), (1::smallint)) w (woken)
cross join lateral (
    select i.worker, i.claim_no, i.status
    from gendurable.instance i
    where i.queue = y.queue and i.priority = y.priority and i.woken = w.woken
        and i.eligible_at <= statement_timestamp()
    order by i.eligible_at
    limit 100000
) h
where h.status = 'executing'
group by h.worker;

do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    if exists (select from pg_extension e where e.extname = 'gendurable') then
        -- else its mark for dumps would stay behind
        alter extension gendurable drop table gendurable.queue_priority;
    end if;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

drop table gendurable.queue_priority;

-- Comments in plain ASCII

comment on table gendurable.key_limit is
    'How many instances may execute at once for each partition key "prefix" or "prefix:..."; without a row: one.';
create table gendurable.renewal (
    instance_id bigint not null,
    claim_no bigint not null,
    until timestamptz not null,
    primary key (instance_id, claim_no)
);

comment on table gendurable.renewal is 'Claims that live on although their row could not be renewed.';

create table gendurable.upkeep (
    id bigint generated by default as identity primary key,
    name text not null,
    place jsonb not null
);

comment on table gendurable.upkeep is 'Where each bounded part of the upkeep goes on; the newest row of a name counts.';
