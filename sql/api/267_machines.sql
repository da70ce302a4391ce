-- The work, continued: does everything stand at a step that somebody knows, read at the heads of the index of the claims, up to 100
-- queues and 5,000 rows in all; and does something lose its worker again and again. Next: 268_limits.

create or replace function gendurable._check_machines() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    if not exists (select from gendurable.machine) then
        return;
    end if;
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
    ), served as materialized (
        select q.queue, 5000 / count(*) over () as share
        from (select h.queue from head h where h.queue is not null limit 100) q
    ), looked as materialized (
        select i.fsm, i.fsm_version, i.step, count(*) as count, min(i.id) as id
        from served s
        cross join lateral (
            select x.fsm, x.fsm_version, x.step, x.id
            from gendurable.instance x
            where x.queue = s.queue and x.eligible_at is not null
            order by x.queue, x.priority, x.woken, x.eligible_at, x.id
            limit s.share
        ) i
        where i.id > 0                   -- not the bells
        group by i.fsm, i.fsm_version, i.step
    )
    select sum(u.count)::bigint as count,
        array_agg(format('%s v%s at %s', u.fsm, u.fsm_version, u.step) order by u.count desc, u.fsm, u.fsm_version, u.step) as names,
        jsonb_agg(jsonb_build_object('fsm', u.fsm, 'version', u.fsm_version, 'step', u.step, 'unknown', u.unknown, 'count', u.count,
            'id', u.id) order by u.count desc, u.fsm, u.fsm_version, u.step) filter (where u.place <= 20) as detail
    into v_found
    from (
        select l.*, k.unknown, row_number() over (order by l.count desc, l.fsm, l.fsm_version, l.step) as place
        from looked l
        cross join lateral (select gendurable._unknown_step(l.fsm, l.fsm_version, l.step) as unknown offset 0) k
        where k.unknown is not null
        limit 1000
    ) u;
    if v_found.count > 0 then
        return query select 'problem', format('nobody can run %s%s instances: %s', v_found.count,
                case when v_found.count >= 1000 then ' or more' else '' end, gendurable._name_few(v_found.names)),
            'Start an engine that has this version, or move them to another one with gd_migrate.', v_found.detail;
    end if;
end $$;

comment on function gendurable._check_machines() is
    'Due, delayed and executing instances whose version is not registered, or does not have their step.';

create or replace function gendurable._check_crashes(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    select count(*)::int as count, max(n.crashes) as most, min(n.first_at) as since,
        array_agg(n.id::text order by n.crashes desc, n.id) as ids,
        jsonb_agg(jsonb_build_object('id', n.id, 'fsm', n.fsm, 'step', n.step, 'queue', n.queue, 'crashes', n.crashes, 'last_at', n.last_at)
            order by n.crashes desc, n.id) filter (where n.place <= 20) as detail
    into v_found
    from (
        select i.id, i.fsm, i.step, i.queue, i.crashes, c.first_at, c.last_at, row_number() over (order by i.crashes desc, i.id) as place
        from gendurable._find_crashed(p_now - interval '1 hour', 1000) c
        join gendurable.instance i on i.id = any(array[c.id])
        where i.crashes >= 3 and i.finished_at is null
    ) n;
    if v_found.count > 0 then
        return query select 'warning',
            format('instances lose their worker again and again, up to %s times in a row: %s', v_found.most,
                gendurable._name_few(v_found.ids)),
            'The first of them mostly is the one that kills its workers: see gd_crashes, and gd_errors of it; gd_pause stops it.',
            jsonb_build_object('count', v_found.count, 'since', v_found.since, 'crashes', v_found.detail);
    end if;
end $$;

comment on function gendurable._check_crashes(timestamptz) is
    'What has not ended and has lost its worker three times in a row, the last time within the hour.';
