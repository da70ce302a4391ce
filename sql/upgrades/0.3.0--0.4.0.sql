-- From 0.3.0 to 0.4.0: what changed in the tables. The functions are made anew after this.

-- Seeing: what is searched by, what failed, what is paused

alter table gendurable.instance add column attributes jsonb, add column failed_at timestamptz, add column paused_at timestamptz;

do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    update gendurable.instance i set failed_at = i.finished_at where i.status > 'done';
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

alter table gendurable.instance
drop constraint instance_status,
add constraint instance_status check (
    (finished_at is not null) = (status >= 'done') and (keep_until is null or status >= 'done')
    and (failed_at is not null) = (status > 'done')
    and case status
        when 'runnable' then eligible_at is not null or lane_at is not null or bucket_at is not null
        when 'executing' then eligible_at is not null
        when 'awaiting_signal' then coalesce(pg_catalog.cardinality(awaits) > 0, false)
        when 'awaiting_children' then coalesce(children_pending > 0, false)
        else true
    end
);

create index instance_failed on gendurable.instance (fsm, failed_at, id)
where failed_at is not null;

create index instance_failed_any on gendurable.instance (failed_at, id)
where failed_at is not null;

create index instance_key on gendurable.instance (partition_key, id)
where partition_key is not null and lane_at is null;

create index instance_unique_past on gendurable.instance (unique_key, id)
where unique_key is not null and unique_held is null;

create or replace view gd_instances as
with i as not materialized (
    select
        x.id, x.fsm, x.fsm_version, x.step, x.status::text as status, x.queue, x.priority, x.eligible_at, x.attempt,
        x.crashes, x.worker, x.lease_expires_at, x.awaits, x.partition_key, x.unique_key, x.parent_id,
        coalesce(x.children_pending, 0) as children_pending, x.state, x.result, x.last_error, x.meta, x.inserted_at,
        x.updated_at, x.finished_at, x.rate_limit, x.expires_at, x.timeout_at, x.keep_until,
        coalesce(x.attributes, '{}'::jsonb) as attributes, x.paused_at
    from gendurable.instance x
    where x.id > 0                       -- not the bells
)

select i.* from i;

comment on column gd_instances.rate_limit is 'the bucket out of which it starts next';
comment on column gd_instances.expires_at is 'its deadline, while it has not ended';
comment on column gd_instances.timeout_at is 'when its claim ends, whatever its worker does: the timeout of its step';
comment on column gd_instances.keep_until is
'until when it is kept after its end; null: as long as those whose machine says nothing';
comment on column gd_instances.attributes is 'what it is searched by';
comment on column gd_instances.paused_at is 'since when gd_pause has stopped it';

-- What is kept: errors, and the history of machines that ask for it

alter table gendurable.machine add column history text check (history in ('steps', 'states'));

create index machine_history on gendurable.machine (fsm, version)
where history is not null;

-- Deploys: the steps of a version, and which version an insert gets

alter table gendurable.machine add column steps text[], add column pinned boolean not null default false;

create index machine_chosen on gendurable.machine (fsm, pinned, version);

-- Called once where a machine says its steps: each insert and each commit looks at it.
create sequence gendurable.steps_asked_seq;

-- What open instances there are, by machine, read at the heads of the indexes of the claims and of the parked rows: up to 100 queues,
-- and 10,000 rows of each index in all. Pure SQL: a function in a view runs with the rights of who asks.
create view gd_machines as
with recursive head as (
    (
        select i.queue from gendurable.instance i
        where i.eligible_at is not null
        order by i.queue limit 1)
    union all
    select (
        select i.queue from gendurable.instance i
        where i.eligible_at is not null and i.queue > h.queue
        order by i.queue limit 1)
    from head h
    where h.queue is not null
),

back as (
    (
        select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null
        order by i.queue limit 1)
    union all
    select (
        select i.queue from gendurable.instance i
        where i.eligible_at is null and i.finished_at is null and i.queue > b.queue
        order by i.queue limit 1)
    from back b
    where b.queue is not null
),

due as materialized (
    select q.queue, greatest(10000 / count(*) over (), 1) as share
    from (select h.queue from head h where h.queue is not null limit 100) q
),

parked as materialized (
    select q.queue, greatest(10000 / count(*) over (), 1) as share
    from (select b.queue from back b where b.queue is not null limit 100) q
),

looked as materialized (
    select d.queue, d.share, i.fsm, i.fsm_version, i.step, i.status, i.id < 0 as bell, count(*) as count
    from due d
    cross join lateral (
        select x.id, x.fsm, x.fsm_version, x.step, x.status
        from gendurable.instance x
        where x.queue = d.queue and x.eligible_at is not null
        order by x.queue, x.priority, x.woken, x.eligible_at, x.id
        limit d.share
    ) i
    group by d.queue, d.share, i.fsm, i.fsm_version, i.step, i.status, i.id < 0
    union all
    select p.queue, p.share, i.fsm, i.fsm_version, i.step, i.status, null::boolean as bell, count(*) as count
    from parked p
    cross join lateral (
        select x.fsm, x.fsm_version, x.step, x.status
        from gendurable.instance x
        -- as a range, so that it is read in the order of the index and left early, and not all of it gathered first
        where x.queue >= p.queue and x.queue <= p.queue and x.eligible_at is null and x.finished_at is null
        order by x.queue
        limit p.share
    ) i
    group by p.queue, p.share, i.fsm, i.fsm_version, i.step, i.status
),

whole as materialized (
    select
        coalesce(bool_and(r.count < r.share), true)
        and (select count(*) < 100 as few from due) and (select count(*) < 100 as few from parked) as whole
    from (
        select sum(l.count)::bigint as count, l.share
        from looked l
        group by l.queue, l.share, l.bell is null
    ) r
),

known as (
    select n.fsm, n.version, n.step, n.status, n.count,
        -- as gendurable._unknown_step says it
        case
            when exists (
                select from gendurable.step s
                where s.fsm = n.fsm and s.step = n.step and (s.version = n.version or s.version is null)
            ) then true
            when m.fsm is null then not exists (select from gendurable.machine o where o.fsm = n.fsm)
            else coalesce(n.step = any(m.steps), true)
        end as known
    from (
        select l.fsm, l.fsm_version as version, l.step, l.status, sum(l.count)::bigint as count
        from looked l
        where l.bell is not true
        group by l.fsm, l.fsm_version, l.step, l.status
    ) n
    left join gendurable.machine m on n.fsm = m.fsm and n.version = m.version
),

counted as materialized (
    select k.fsm, k.version,
        coalesce(sum(k.count) filter (where k.status = 'runnable'), 0)::bigint as runnable,
        coalesce(sum(k.count) filter (where k.status = 'executing'), 0)::bigint as executing,
        coalesce(sum(k.count) filter (where k.status = 'awaiting_signal'), 0)::bigint as awaiting_signal,
        coalesce(sum(k.count) filter (where k.status = 'awaiting_children'), 0)::bigint as awaiting_children,
        coalesce(sum(k.count) filter (where not k.known), 0)::bigint as unrunnable
    from known k
    group by k.fsm, k.version
)

select coalesce(m.fsm, c.fsm) as fsm, coalesce(m.version, c.version) as version, m.initial_step, m.queue, m.steps,
    coalesce(m.pinned, false) as pinned, m.fsm is not null as registered,
    coalesce(c.runnable, 0::bigint) as runnable, coalesce(c.executing, 0::bigint) as executing,
    coalesce(c.awaiting_signal, 0::bigint) as awaiting_signal,
    coalesce(c.awaiting_children, 0::bigint) as awaiting_children,
    coalesce(c.unrunnable, 0::bigint) as unrunnable, w.whole as exact
from gendurable.machine m
full join counted c on m.fsm = c.fsm and m.version = c.version
cross join whole w;

comment on view gd_machines is
'The versions of machines that are registered (gd_register) or that open instances have, and the open instances of each.
It looks at 10,000 instances that are due, delayed or executing and at 10,000 that are parked, an equal part of each of
up to 100 queues, those first that a claim would meet first.';

comment on column gd_machines.fsm is 'the machine';
comment on column gd_machines.version is 'its version';
comment on column gd_machines.initial_step is 'where an instance starts; null: it is not registered';
comment on column gd_machines.queue is 'in which queue; null: it is not registered';
comment on column gd_machines.steps is 'the steps that it has; null: nobody has said it';
comment on column gd_machines.pinned is 'it is the default_version: what is inserted without a version gets it';
comment on column gd_machines.registered is 'false: there are only instances of it';
comment on column gd_machines.runnable is 'open instances by status, as far as it looked';
comment on column gd_machines.executing is 'the same';
comment on column gd_machines.awaiting_signal is 'the same';
comment on column gd_machines.awaiting_children is 'the same';
comment on column gd_machines.unrunnable is
'how many of these nobody can run: their version is not registered while another one of the machine is, or has no such
step, nor does gd_define_step know it';
comment on column gd_machines.exact is 'it looked at all open instances: the counts are whole';

create table gendurable.error (
    instance_id bigint not null,
    no bigint not null,
    at timestamptz not null,
    attempt int not null,
    kind text not null,
    step text not null,
    worker text,                          -- of an end by hand: who did it
    error text,
    traceback text,
    primary key (instance_id, no)
);

comment on table gendurable.error is 'The last 20 errors of each instance.';

create table gendurable.history (
    instance_id bigint not null,
    no bigint not null,
    at timestamptz not null,
    seconds double precision,             -- since the claim; null: it was not executing
    attempt int not null,
    kind text not null,
    step text not null,
    next_step text,
    worker text,
    state jsonb,                          -- before it; null: the machine keeps only its steps
    detail jsonb,
    primary key (instance_id, no)
);

comment on table gendurable.history is 'What happened to the instances of machines that keep a history.';

-- Instances that are gone, and had so long a history that a part of it is left to gd_gc.
create table gendurable.history_left (
    gone_id bigint not null
);

-- without a key, a publication would refuse deletes and updates
alter table gendurable.history_left replica identity full;

comment on table gendurable.history_left is 'Removed instances of whose history a part is still to be removed; almost always empty.';

-- the next one to be worked off, and "is it put down already"
create index history_left_gone on gendurable.history_left (gone_id);

-- Called once where a machine asks for a history: each commit looks at it.
create sequence gendurable.history_asked_seq;
