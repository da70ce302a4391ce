-- The work: does the upkeep run, is every queue served, does anything stand still that should not. Read at the heads of the indexes:
-- what nobody takes stands first there. Next: 267_machines.

create or replace function gendurable._check_upkeep(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_ran constant jsonb := gendurable._recall_place('ran');
    v_at constant timestamptz := (v_ran ->> 'at')::timestamptz;
    v_errors constant jsonb := v_ran -> 'errors';
begin
    if v_at is null then
        if (select true from gendurable.instance i where i.id > 0 limit 1) then
            return query select 'warning', 'the upkeep has not run yet',
                'Run an engine, or call gd_maintain every minute, as pg_cron can.', '{}'::jsonb;
        end if;
    elsif v_at < p_now - interval '10 minutes' then
        return query select case when v_at < p_now - interval '1 day' then 'problem' else 'warning' end,
            format('the upkeep has not run since %s', date_trunc('second', v_at)),
            'Run an engine, or call gd_maintain every minute, as pg_cron can.', jsonb_build_object('ran_at', v_at);
    end if;
    if v_errors <> '{}' then
        return query select 'warning', 'parts of the upkeep failed when it ran last: '
            || gendurable._name_few(array(select format('%s (%s)', e.key, e.value ->> 'message') from jsonb_each(v_errors) e)),
            'See the errors in the answer of gd_maintain: it says which part met what.', v_errors;
    end if;
end $$;

comment on function gendurable._check_upkeep(timestamptz) is 'When gd_maintain ran last, and which of its parts failed.';

create or replace function gendurable._check_retention() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_overdue constant double precision := (gendurable._recall_place('ran') ->> 'overdue')::double precision;
begin
    if v_overdue > 3600 then
        return query select case when v_overdue > 86400 then 'problem' else 'warning' end,
            format('the next instance that is to be removed has been waiting for it for %s hours', floor(v_overdue / 3600)),
            'Call gd_gc until it answers 0, and see the errors in the answer of gd_maintain: a foreign key may refer to it.',
            jsonb_build_object('overdue', v_overdue);
    end if;
end $$;

comment on function gendurable._check_retention() is 'How far behind the retention was when the upkeep ran last.';

create or replace function gendurable._check_hold() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select 'warning', format('everything is held since %s by %s: %s', date_trunc('second', h.held_at), left(h.held_by, 100),
                left(h.reason, 200)),
            'gd_release_hold ends it.', jsonb_build_object('held_at', h.held_at, 'held_by', left(h.held_by, 300), 'reason', left(h.reason, 500))
        from gendurable.hold h
        order by h.held_at
        limit 20;
end $$;

comment on function gendurable._check_hold() is 'Who holds everything, and why.';

create or replace function gendurable._check_queues(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    if exists (select from gendurable.hold) then
        return;
    end if;
    select array_agg(n.queue order by n.due_at) as queues, min(n.due_at) as due_at,
        sum(k.serving) as serving, sum(k.draining) as draining,
        jsonb_agg(jsonb_build_object('queue', n.queue, 'oldest_due_at', n.due_at, 'sleepers', n.sleepers, 'workers', k.serving,
            'draining', k.draining) order by n.due_at) filter (where n.place <= 20) as detail
    into v_found
    from (
        select q.queue, q.due_at, row_number() over (order by q.due_at) as place, coalesce(s.sleepers, 0) as sleepers
        from gendurable._look_at_queues(p_now) q
        left join (
            select l.objid::bigint::bit(32)::int as hash, count(*) as sleepers
            from pg_locks l
            where l.locktype = 'advisory' and l.classid = gendurable._lock_of_sleep() and l.objsubid = 2 and l.granted
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
            group by 1
        ) s on s.hash = hashtext(q.queue)
        where q.due_at < p_now - interval '5 minutes' and q.held = 0
            and not exists (select from gendurable.paused_queue p where p.queue = q.queue)
            and not exists (select from gendurable.queue_setting s where s.queue = q.queue and s.max_executing = 0)
        order by q.due_at
        limit 100
    ) n
    cross join lateral gendurable._count_servers(n.queue, p_now) k;
    if v_found.queues is not null then
        return query select case when v_found.due_at < p_now - interval '1 hour' then 'problem' else 'warning' end,
            format('nobody serves %s: rows are due since %s, and nothing executes', gendurable._name_few(v_found.queues),
                date_trunc('second', v_found.due_at))
            || case
                when v_found.serving > 0 then format(', though known workers say that they serve it (%s)', v_found.serving)
                when v_found.draining > 0 then format('; known workers that serve it drain (%s)', v_found.draining)
                else ''
            end,
            case when v_found.serving > 0 then 'See gd_why of the rows, and the logs of the workers: what they claim, they give back.'
                when v_found.draining > 0 then 'Take the drain back with gd_resume_worker, or run another worker.'
                else 'Run a worker for it, pause it with gd_pause_queue so that the keys of its rows go on, or cancel the rows.' end,
            v_found.detail;
    end if;
end $$;

comment on function gendurable._check_queues(timestamptz) is
    'Queues whose first rows, or bells, have been due for minutes while nothing executes.';

create or replace function gendurable._check_pauses(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    if exists (select from gendurable.paused_queue p where p.paused_at < p_now - interval '1 day') then
        select array_agg(n.queue order by n.due_at) as names,
            jsonb_agg(jsonb_build_object('queue', n.queue, 'paused_at', n.paused_at, 'oldest_due_at', n.due_at) order by n.due_at)
                filter (where n.place <= 20) as detail
        into v_found
        from (
            select q.queue, q.due_at, p.paused_at, row_number() over (order by q.due_at) as place
            from gendurable._look_at_queues(p_now) q
            join gendurable.paused_queue p on p.queue = q.queue
            where greatest(q.due_at, p.paused_at) < p_now - interval '1 day'
            order by q.due_at
            limit 100
        ) n;
        if v_found.names is not null then
            return query select 'warning', 'rows have been due for a day in queues that are paused: ' || gendurable._name_few(v_found.names),
                'gd_resume_queue, if nobody needs the pause any more.', v_found.detail;
        end if;
    end if;
    select array_agg(n.name order by n.paused_at) as names,
        jsonb_agg(jsonb_build_object('fsm', n.fsm, 'version', nullif(n.version, 0), 'step', nullif(n.step, ''),
            'paused_at', n.paused_at, 'paused_by', n.paused_by) order by n.paused_at) filter (where n.place <= 20) as detail
    into v_found
    from (
        select m.*, row_number() over (order by m.paused_at) as place, m.fsm
            || case when m.version > 0 then ' version ' || m.version else '' end
            || case when m.step <> '' then ' step ' || m.step else '' end as name
        from gendurable.paused_machine m
        where m.paused_at < p_now - interval '1 day'
        order by m.paused_at
        limit 100
    ) n;
    if v_found.names is not null then
        return query select 'warning', 'machines have been paused for a day: ' || gendurable._name_few(v_found.names),
            'gd_resume_machine, if nobody needs the pause any more.', v_found.detail;
    end if;
    select count(*)::int as count, min(n.paused_at) as since, to_jsonb((array_agg(n.id order by n.paused_at, n.id))[:20]) as ids into v_found
    from (
        select i.id, i.paused_at
        from gendurable.instance i
        where i.paused_at < p_now - interval '1 day' and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null
        order by i.paused_at
        limit 1001
    ) n;
    if v_found.count > 0 then
        return query select 'warning', format('%s instances have been paused for a day, the first since %s', case
                when v_found.count > 1000 then 'more than 1000' else v_found.count::text end, date_trunc('second', v_found.since)),
            'gd_resume, if nobody needs the pause any more; gd_pauses says who paused them.',
            jsonb_build_object('ids', v_found.ids, 'count', v_found.count, 'since', v_found.since);
    end if;
end $$;

comment on function gendurable._check_pauses(timestamptz) is
    'Queues that are paused for a day, with rows that have been due for as long; machines and instances that are paused for a day.';

create or replace function gendurable._check_stuck(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_lost record;
    v_over record;
begin
    select count(*)::int as count, min(q.lost_at) as since, to_jsonb((array_agg(u.id order by u.id))[:20]) as ids into v_lost
    from gendurable._look_at_queues(p_now) q
    cross join lateral unnest(q.lost) u (id);
    if v_lost.count > 0 then
        return query select case when v_lost.since < p_now - interval '1 hour' then 'problem' else 'warning' end,
            format('%s claims are lost and nobody has taken them back; the lease of the first ended at %s', v_lost.count,
                date_trunc('second', v_lost.since)),
            'gd_maintain takes them back; rows that stay are locked by somebody, see pg_locks and the check "horizon".',
            jsonb_build_object('ids', v_lost.ids, 'count', v_lost.count, 'since', v_lost.since);
    end if;
    select count(*)::int as count, min(x.expires_at) as since, to_jsonb((array_agg(x.id order by x.expires_at))[:20]) as ids into v_over
    from (
        select i.id, i.expires_at
        from gendurable.instance i
        where i.expires_at < p_now - interval '5 minutes'
        order by i.expires_at, i.id
        limit 1000
    ) x;
    if v_over.count > 0 then
        return query select case when v_over.since < p_now - interval '1 hour' then 'problem' else 'warning' end,
            format('%s instances are past their deadline and have not ended, the first since %s', v_over.count,
                date_trunc('second', v_over.since)),
            'gd_maintain ends them; rows that stay are locked by somebody, see pg_locks and the check "horizon".',
            jsonb_build_object('ids', v_over.ids, 'count', v_over.count, 'since', v_over.since);
    end if;
end $$;

comment on function gendurable._check_stuck(timestamptz) is
    'Leases that ended minutes ago and deadlines that have passed, where nobody did anything.';

create or replace function gendurable._check_keys(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_found record;
begin
    select array_agg(h.name order by h.until) as names, min(h.until) as since,
        jsonb_agg(jsonb_build_object('id', h.id, h.kind, h.name, 'worker', h.worker, 'lease_expires_at', h.until) order by h.until)
            filter (where h.place <= 20) as detail
    into v_found
    from (
        select s.kind, s.name, s.id, s.worker, s.until, row_number() over (order by s.until) as place
        from (
            (select 'key' as kind, i.partition_key as name, i.id, i.claim_no, i.worker, i.lease_expires_at as until
                from gendurable.instance i
                where i.slot_no is not null
                order by i.partition_key, i.slot_no
                limit 3000)
            union all
            (select 'queue', i.queue, i.id, i.claim_no, i.worker, i.lease_expires_at
                from gendurable.instance i
                where i.queue_slot is not null
                order by i.queue, i.queue_slot
                limit 3000)
        ) s
        where s.until < p_now - interval '1 minute' and not gendurable._is_renewed(s.id, s.claim_no, p_now)
        order by s.until
        limit 1000
    ) h;
    if v_found.names is not null then
        return query select case when v_found.since < p_now - interval '1 hour' then 'problem' else 'warning' end,
            format('lost claims hold the slots of %s; the lease of the first ended at %s', gendurable._name_few(v_found.names),
                date_trunc('second', v_found.since)),
            'gd_maintain takes them back, also in queues that are paused or that nobody serves.', v_found.detail;
    end if;
end $$;

comment on function gendurable._check_keys(timestamptz) is 'Slots of keys and of queues that claims hold whose lease ended minutes ago.';

create or replace function gendurable._check_doubts() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_keys constant text[] := array(select d.partition_key from gendurable.doubtful_key d limit 2001);
begin
    if cardinality(v_keys) > 1000 then
        return query select 'warning',
            format('%s keys wait to be looked at again since a pause, a resume or a limit was decided', case
                when cardinality(v_keys) > 2000 then 'more than 2000' else cardinality(v_keys)::text end),
            'Claims and gd_maintain do so when nobody holds these keys: see the check "horizon" for open transactions.',
            jsonb_build_object('count', cardinality(v_keys), 'keys', to_jsonb(v_keys[:20]));
    end if;
end $$;

comment on function gendurable._check_doubts() is 'Whether keys in doubt are many.';
