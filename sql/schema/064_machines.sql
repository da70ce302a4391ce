-- Called once where a machine says its steps: each insert and each commit looks at it.
create sequence gendurable.steps_asked_seq;

-- What open instances there are, by machine, read at the heads of the indexes of the claims and of the parked rows: up to 100 queues,
-- and 5,000 rows of each index in all. Pure SQL: a function in a view runs with the rights of who asks.
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
    select q.queue, greatest(5000 / count(*) over (), 1) as share
    from (select h.queue from head h where h.queue is not null limit 100) q
),

parked as materialized (
    select q.queue, greatest(5000 / count(*) over (), 1) as share
    from (select b.queue from back b where b.queue is not null limit 100) q
),

looked as materialized (
    -- grouped queue by queue, so few at a time that it is not done by sorting them
    select d.queue, d.share, i.fsm, i.fsm_version, i.step, i.status, i.bell, i.count
    from due d
    cross join lateral (
        select y.fsm, y.fsm_version, y.step, y.status, y.id < 0 as bell, count(*) as count
        from (
            select x.id, x.fsm, x.fsm_version, x.step, x.status
            from gendurable.instance x
            where x.queue = d.queue and x.eligible_at is not null
            order by x.queue, x.priority, x.woken, x.eligible_at, x.id
            limit d.share
        ) y
        group by y.fsm, y.fsm_version, y.step, y.status, y.id < 0
    ) i
    union all
    select p.queue, p.share, i.fsm, i.fsm_version, i.step, i.status, null::boolean as bell, i.count
    from parked p
    cross join lateral (
        select y.fsm, y.fsm_version, y.step, y.status, count(*) as count
        from (
            select x.fsm, x.fsm_version, x.step, x.status
            from gendurable.instance x
            -- as a range, so that it is read in the order of the index and left early, and not all of it gathered first
            where x.queue >= p.queue and x.queue <= p.queue and x.eligible_at is null and x.finished_at is null
            order by x.queue
            limit p.share
        ) y
        group by y.fsm, y.fsm_version, y.step, y.status
    ) i
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
    coalesce(c.unrunnable, 0::bigint) as unrunnable, w.whole as exact,
    (
        select count(*) from gendurable.worker x
        where x.until > statement_timestamp()
            and x.machines @> pg_catalog.jsonb_build_array(
                pg_catalog.jsonb_build_array(coalesce(m.fsm, c.fsm), coalesce(m.version, c.version)))
    ) as workers
from gendurable.machine m
full join counted c on m.fsm = c.fsm and m.version = c.version
cross join whole w;

comment on view gd_machines is
'The versions of machines that are registered (gd_register) or that open instances have, and the open instances of each.
It looks at 5,000 instances that are due, delayed or executing and at 5,000 that are parked, an equal part of each of
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
comment on column gd_machines.workers is 'how many known workers that live have it, as far as they have told all';
