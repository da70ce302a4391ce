-- Limits that nobody can meet, schedules that do not fire, times from the future, and rights. Next: 269_heads.

create or replace function gendurable._check_limits(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_lines record;
    v_full text[];
begin
    select array_agg(distinct l.bucket) filter (where l.us = 'infinity') as shut,
        array_agg(distinct l.bucket) filter (where l.weight > l.burst) as heavy,
        array_agg(distinct l.bucket) filter (where l.until > p_now + interval '1 hour') as closed,
        array_agg(distinct l.bucket) filter (where l.ring_at < p_now - interval '5 minutes') as silent
    into v_lines
    from (
        select b.bucket, r.us, r.burst, u.weight, u.ring_at, (
            select max(c.until) from gendurable.bucket_closed c where c.bucket = b.bucket) as until
        from (
            -- the highest number of a bucket counts
            select distinct on (k.bucket) k.bucket, k.lines
            from (
                select x.bucket, x.no, x.lines from gendurable.bucket x order by x.bucket desc, x.no desc limit 500
            ) k
            order by k.bucket desc, k.no desc
        ) b
        cross join lateral unnest(b.lines) u
        left join lateral gendurable._find_rate_limit(b.bucket) r on true
        -- what does not start for another reason is told by another check
        where not exists (select from gendurable.paused_queue q where q.queue = u.queue)
    ) l;
    if exists (select from gendurable.queue_setting s where s.max_executing = 0) then
        v_full := array(
            select q.queue
            from gendurable._look_at_queues(p_now) q
            join gendurable.queue_setting s on s.queue = q.queue
            where s.max_executing = 0 and q.due_at is not null
            order by q.queue);
    end if;
    return query
        select f.level, f.message || gendurable._name_few(f.names), f.hint, to_jsonb(f.names[:20])
        from (values
            ('warning', 'rows wait for rate limits that allow nothing: ', 'Allow something with gd_set_rate_limit, or cancel them.',
                v_lines.shut),
            ('problem', 'rows weigh more than their rate limit ever holds: ', 'Raise p_burst with gd_set_rate_limit, or cancel them.',
                v_lines.heavy),
            ('warning', 'rows wait for buckets that are closed for an hour and more: ',
                'gd_close_rate_limit with a time that has passed does not open one: wait, or move the rows to another limit.', v_lines.closed),
            ('warning', 'lines before rate limits are not called up: ', 'Nobody claims in the queues of their rows: run a worker.',
                case when not exists (select from gendurable.hold) then v_lines.silent end),
            ('warning', 'rows are due in queues whose limit is 0: ', 'gd_set_queue with a limit, or null for none.', nullif(v_full, '{}'))
        ) f (level, message, hint, names)
        where f.names is not null;
end $$;

comment on function gendurable._check_limits(timestamptz) is
    'Rate limits and limits of queues for which rows wait that can never start, or not for long.';

create or replace function gendurable._check_schedules(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_failed record;
    v_late record;
begin
    select array_agg(s.name order by s.name) filter (where s.last_error is not null) as names,
        jsonb_object_agg(s.name, left(s.last_error, 200) order by s.name) filter (where s.last_error is not null and s.place <= 20) as detail
    into v_failed
    from (
        select x.name, x.last_error, row_number() over (order by x.last_error is null, x.name) as place
        from (select y.name, y.last_error, y.paused_at from gendurable.schedule y order by y.name limit 2000) x
        where x.paused_at is null
    ) s;
    if v_failed.names is not null then
        return query select 'problem', 'the last tick inserted nothing of ' || gendurable._name_few(v_failed.names),
            'See last_error in gd_schedules.', v_failed.detail;
    end if;
    if exists (select from gendurable.hold) then
        return;
    end if;
    select array_agg(s.name order by s.name) as names, min(s.next_at) as since,
        jsonb_object_agg(s.name, jsonb_build_object('queue', s.queue, 'next_at', s.next_at)) filter (where s.place <= 20) as detail
    into v_late
    from (
        select x.name, x.queue, x.next_at, row_number() over (order by x.next_at) as place
        from (select y.name, y.queue, y.next_at from gendurable.schedule y order by y.name limit 2000) x
        where x.next_at < p_now - interval '5 minutes'
    ) s;
    if v_late.names is not null then
        return query select case when v_late.since < p_now - interval '1 hour' then 'problem' else 'warning' end,
            format('ticks of %s are overdue, the first since %s', gendurable._name_few(v_late.names), date_trunc('second', v_late.since)),
            'Nobody claims in the queue of the schedule, or it is paused.', v_late.detail;
    end if;
end $$;

comment on function gendurable._check_schedules(timestamptz) is 'Schedules whose last tick failed, or whose next one is minutes late.';

create or replace function gendurable._check_clock(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_newest constant timestamptz := (
        -- restored and moved rows may have any time; what counts is the newest by its number
        select i.inserted_at from gendurable.instance i where i.id > 0 order by i.id desc limit 1);
    v_ran constant timestamptz := (gendurable._recall_place('ran') ->> 'at')::timestamptz;
    v_ahead record;
    v_workers record;
begin
    select count(*)::int as count, to_jsonb((array_agg(u.id order by u.id))[:20]) as ids into v_ahead
    from gendurable._look_at_queues(p_now) q
    cross join lateral unnest(q.ahead) u (id);
    if v_ahead.count > 0 or gendurable._is_ahead(greatest(v_newest, v_ran), p_now) then
        return query select 'warning', format('the clock of the server says %s, but something was written at %s', p_now,
                coalesce(greatest(v_newest, v_ran), p_now)) || case when v_ahead.count > 0
                then format(', and %s due rows later than now', v_ahead.count) else '' end,
            'The clock was set back, or another server was ahead: keep it by NTP. gd_maintain turns the times of rows back.',
            jsonb_build_object('now', p_now, 'newest', v_newest, 'ran_at', v_ran, 'rows', v_ahead.count, 'ids', v_ahead.ids);
    end if;
    select array_agg(w.worker order by w.worker) as names, max(abs(w.skew)) as most,
        jsonb_object_agg(w.worker, round(w.skew::numeric, 3)) filter (where w.place <= 20) as detail
    into v_workers
    from (
        select x.worker, x.skew, row_number() over (order by abs(x.skew) desc, x.worker) as place
        from (select y.worker, y.skew from gendurable.worker y where y.until > p_now limit 10000) x
        where abs(x.skew) > 5
    ) w;
    if v_workers.names is not null then
        return query select 'warning', format('the clocks of workers are off by up to %s s: %s', ceil(v_workers.most),
                gendurable._name_few(v_workers.names)),
            'Keep the clocks of these hosts by NTP. Times that a step computes are wrong by so much; those of the server are not.',
            v_workers.detail;
    end if;
end $$;

comment on function gendurable._check_clock(timestamptz) is
    'Claims, inserts and upkeep that say a later time than the clock of the server does, and workers whose clock is another one.';

create or replace function gendurable._check_privileges() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_schema constant text := gendurable._api_schema();
    v_profiles constant jsonb := (
        select jsonb_object_agg(p.name, to_jsonb(d.functions || d.views || case when p.name in ('worker', 'operator') then '{gendurable}' else '{}' end::text[]))
        from unnest(gendurable._profile_names()) p (name)
        cross join lateral gendurable._describe_profile(p.name) d);
    v_more record;
    v_gone text[];
    v_lacking record;
begin
    select array_agg(r.role order by r.role) as roles, bool_or(r.grantee = 0) as everybody,
        jsonb_object_agg(r.role, to_jsonb(r.objects)) filter (where r.place <= 20) as detail
    into v_more
    from (
        select h.grantee, case when h.grantee = 0 then 'PUBLIC' else h.grantee::regrole::text end as role,
            (array_agg(h.object order by h.object))[:20] as objects, row_number() over (order by h.grantee) as place
        from gendurable._list_rights(v_schema) h
        where not exists (
            select from gendurable.granted g
            join pg_roles r on r.rolname = g.role::name
            where r.oid = h.grantee and v_profiles -> g.profile ? h.name and (
                h.bare or (h.kind = 'schema' and not has_schema_privilege(r.oid, 'gendurable', 'create'))))
        group by h.grantee
    ) r;
    v_gone := array(
        select distinct g.role from gendurable.granted g
        where not exists (select from pg_roles r where r.rolname = g.role::name)
        order by g.role
        limit 1000);
    -- a role without the telling right of a profile: somebody took it away
    select array_agg(distinct l.role order by l.role) as roles,
        jsonb_object_agg(l.role || ' as ' || l.profile, to_jsonb(l.objects[:20])) filter (where l.place <= 20) as detail
    into v_lacking
    from (
        select g.role, g.profile, array_agg(o.name order by o.name) as objects, row_number() over (order by g.role, g.profile) as place
        from (
            select x.role, x.profile, r.oid
            from gendurable.granted x
            join pg_roles r on r.rolname = x.role::name
            order by x.role, x.profile
            limit 100
        ) g
        cross join lateral (
            select split_part(a.signature, '(', 1) as name, to_regprocedure(format('%I.%s', v_schema, a.signature))::oid as id, a.kind,
                to_regclass(format('%I.%I', v_schema, a.signature))::oid as view
            from gendurable._api() a
        ) o
        where v_profiles -> g.profile ? o.name and not case o.kind
                when 'function' then has_function_privilege(g.oid, o.id, 'execute')
                else has_table_privilege(g.oid, o.view, 'select')
            end
        group by g.role, g.profile
        having gendurable._telling_right(g.profile) <> all(array_agg(o.name))
    ) l;
    return query
        select f.level, f.message, f.hint, f.detail
        from (values
            (case when v_more.everybody then 'problem' else 'warning' end,
                'rights that gd_grant did not give: ' || gendurable._name_few(v_more.roles),
                'Revoke them, or call gd_grant with the profile that is meant. The next upgrade takes them away.', v_more.detail,
                v_more.roles is not null),
            ('warning', 'roles that gd_grant remembers are gone: ' || gendurable._name_few(v_gone),
                'Create them again, or ask the owner of gendurable to delete their rows from gendurable.granted.', to_jsonb(v_gone[:20]),
                v_gone <> '{}'),
            ('warning', 'roles lack rights of their profile: ' || gendurable._name_few(v_lacking.roles),
                'Call gd_grant with it once more; to take a profile away, revoke all of it.', v_lacking.detail,
                v_lacking.roles is not null)
        ) f (level, message, hint, detail, speaks)
        where f.speaks;
end $$;

comment on function gendurable._check_privileges() is
    'Rights that nobody gave by gd_grant, roles that are gone, and profiles that are held in part.';
