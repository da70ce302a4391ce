-- What stops work and what starts it: rate limits, schedules, holds and pauses; and the steps in SQL.

create view gd_rate_limits as
select
    r.name, r.allowed, r.period, r.burst, b.bucket,
    case
        when r.us_per_token = double precision 'infinity' then 0::double precision
        else least(greatest(
            r.burst - extract(epoch from b.full_at - statement_timestamp())::double precision * 1000000::double precision
            / r.us_per_token, 0::double precision),
            r.burst)
    end as level,
    l.queue, l.ring_at as next_at, c.until as closed_until
from gendurable.rate_limit r
left join (
    select o.bucket, coalesce(y.full_at, statement_timestamp()) as full_at, y.lines, o.name
    from (
        -- of each bucket its limit, as gendurable._find_rate_limit finds it: not of each limit its buckets, of all that there are
        select distinct on (x.bucket) x.bucket, z.name
        from (
            select k.bucket from gendurable.bucket k
            union
            select k.bucket from gendurable.bucket_closed k where k.until > statement_timestamp()
        ) x
        cross join lateral generate_series(1, pg_catalog.cardinality(string_to_array(x.bucket, ':'::text))) n
        inner join gendurable.rate_limit z
            on z.name = pg_catalog.array_to_string((string_to_array(x.bucket, ':'::text))[1:n], ':'::text)
        order by x.bucket, length(z.name) desc
    ) o
    left join gendurable.bucket y on o.bucket = y.bucket
) b on r.name = b.name
left join lateral unnest(b.lines) l on true
left join lateral (
    select max(k.until) as until
    from gendurable.bucket_closed k
    where k.bucket = b.bucket and k.until > statement_timestamp()
) c on true;

comment on view gd_rate_limits is
'Every rate limit, with each of its buckets out of which something has started lately or that has a line, and each queue
that has a line there: rows that wait. A bucket that is not here is full.';

comment on column gd_rate_limits.name is 'it decides for rate_limit "name" and "name:...", unless a longer name fits';
comment on column gd_rate_limits.allowed is 'how many tokens a bucket gains in each period';
comment on column gd_rate_limits.period is 'null where nothing is allowed';
comment on column gd_rate_limits.burst is 'how many a bucket holds';
comment on column gd_rate_limits.bucket is 'the rate_limit of the rows; null: all buckets are full';
comment on column gd_rate_limits.level is 'how many tokens are in it now';
comment on column gd_rate_limits.queue is 'a queue of which rows wait for tokens; null: none does';
comment on column gd_rate_limits.next_at is 'when the first of them is tried next';
comment on column gd_rate_limits.closed_until is 'gd_close_rate_limit, or close_ms of an outcome: nothing starts before';

create view gd_schedules as
select
    x.name, x.cron, x.timezone, x.fsm, x.queue, x.priority, x.options, x.next_at, x.last_tick_at, x.last_at, x.last_id,
    x.last_error, x.paused_at, x.seen_at
from gendurable.schedule x
cross join (select 1 as one) nothing;

comment on view gd_schedules is
'Every schedule. A next_at that lies behind now means that nobody claims in its queue, or that the queue is paused.';

comment on column gd_schedules.name is 'how all functions call it';
comment on column gd_schedules.cron is 'the expression';
comment on column gd_schedules.timezone is 'the zone whose clock the expression is about';
comment on column gd_schedules.fsm is 'the machine of which each tick inserts an instance';
comment on column gd_schedules.queue is 'whose claims fire it';
comment on column gd_schedules.priority is 'that of what it inserts';
comment on column gd_schedules.options is 'what gd_schedule was told besides';
comment on column gd_schedules.next_at is 'the next tick, or the first one that was missed; null while it is paused';
comment on column gd_schedules.last_tick_at is
'the last tick that inserted, was held back by its overlap, or failed';
comment on column gd_schedules.last_at is 'when a tick inserted last';
comment on column gd_schedules.last_id is 'the instance that it inserted, which may have been removed since';
comment on column gd_schedules.last_error is 'why the last tick inserted nothing; null: it did, or its overlap held it back';
comment on column gd_schedules.paused_at is 'since when gd_pause_schedule has stopped it';
comment on column gd_schedules.seen_at is
'when somebody scheduled it last, or an engine had it in its code: to the hour';

create view gd_holds as
select x.reason, x.held_by, x.held_at
from gendurable.hold x
cross join (select 1 as one) nothing;

comment on view gd_holds is 'While there is a row, nothing is handed out: gd_hold_all has stopped it. gd_release_hold removes all rows.';

comment on column gd_holds.reason is 'why';
comment on column gd_holds.held_by is 'who: the role of the session, behind the name in the setting gendurable.actor if it has one';
comment on column gd_holds.held_at is 'since when';

create view gd_pauses as
with p as not materialized (
    select
        'queue'::text as kind, x.queue, null::text as fsm, null::int as version, null::text as step, null::bigint as id,
        x.paused_at, x.paused_by
    from gendurable.paused_queue x
    union all
    select
        case when x.step <> '' then 'step' when x.version > 0 then 'version' else 'machine' end as kind, null as queue, x.fsm,
        nullif(x.version, 0) as version, nullif(x.step, '') as step, null as id, x.paused_at, x.paused_by
    from gendurable.paused_machine x
    union all
    select 'instance' as kind, x.queue, x.fsm, x.fsm_version, x.step, x.id, x.paused_at, x.paused_by
    from (
        select i.queue, i.fsm, i.fsm_version, i.step, i.id, i.paused_at, i.paused_by
        from gendurable.instance i
        where i.paused_at is not null and i.finished_at is null and coalesce(i.paused_at, i.aside_at) is not null
        order by i.paused_at desc
        limit 10000
    ) x
)

select p.* from p;

comment on view gd_pauses is
'What is paused: queues, machines with their versions and steps, and of the instances that gd_pause has stopped the latest 10,000.
Everything may be held besides: see gd_holds.';

comment on column gd_pauses.kind is '"queue", "machine", "version", "step" or "instance"';
comment on column gd_pauses.queue is 'the queue, or that of the instance';
comment on column gd_pauses.fsm is 'the machine, or that of the instance';
comment on column gd_pauses.version is 'the version, or that of the instance; null: all';
comment on column gd_pauses.step is 'the step, or that of the instance; null: all';
comment on column gd_pauses.id is 'the instance';
comment on column gd_pauses.paused_at is 'since when';
comment on column gd_pauses.paused_by is
'who: the setting gendurable.actor, else the role of the session; null: by a call of an older version';

create view gd_steps as
select
    s.fsm, s.step, s.version, s.handler || '(jsonb)'::text as handler, s.owner, coalesce(p.proretset, false) as set_based,
    s.queue, s.chain, s.alone,
    -- as gendurable._step_problem says it, of the role that asks
    case
        when s.handler is null then 'it is in another language'::text
        when p.oid is null then 'there is no such function'::text
        when p.prokind::text <> 'f'::text or p.prorettype <> 'jsonb'::regtype::oid then 'the function does not return jsonb'::text
        when coalesce(p.proowner <> o.oid, true) then 'the function has another owner than when it was defined'::text
        when exists (
            select from pg_proc q
            where q.proname = p.proname and q.pronamespace = p.pronamespace and q.pronargs > 1
                and q.pronargs - q.pronargdefaults <= 1 and q.proargtypes[0] = 'jsonb'::regtype::oid
        ) then 'another function of this name takes a jsonb, and defaults'::text
        when not (
            has_schema_privilege(p.pronamespace, 'usage'::text) and has_function_privilege(p.oid, 'execute'::text)
        ) then 'the role may not execute the function'::text
        when not p.prosecdef and not (
            pg_has_role(p.proowner, current_user, x.how) and pg_has_role(p.proowner, session_user, x.how)
            and pg_has_role(p.proowner, x.login, x.how)
        ) then 'the owner of the function could not act as the role'::text
    end as problem
from gendurable.step s
cross join (
    select
        case when current_setting('server_version_num'::text)::int < 160000 then 'member'::text else 'set'::text end as how,
        (select a.usesysid from pg_stat_get_activity(pg_backend_pid()) a) as login
) x
left join pg_namespace n on n.nspname = (parse_ident(s.handler))[1]
left join pg_proc p
    on n.oid = p.pronamespace and p.proname = (parse_ident(s.handler))[2]
        and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype::oid
left join pg_roles o on s.owner = o.rolname;

comment on view gd_steps is 'The steps that gd_define_step has defined.';

comment on column gd_steps.fsm is 'the machine';
comment on column gd_steps.step is 'the step';
comment on column gd_steps.version is 'the version of the machine that it is for; null: all that have no definition of their own';
comment on column gd_steps.handler is 'the function that runs it; null: it is in another language';
comment on column gd_steps.owner is 'who owned the function when it was defined; without a function, who defined it';
comment on column gd_steps.set_based is 'the function takes many instances at once: it returns setof jsonb';
comment on column gd_steps.queue is 'the queue in which it always runs; null: in that of the instance';
comment on column gd_steps.chain is 'the step may follow another one without being claimed anew';
comment on column gd_steps.alone is 'each instance runs in a transaction of its own';
comment on column gd_steps.problem is 'why the role that asks cannot run it here; null: it can';
