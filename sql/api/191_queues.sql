-- Queues, a page at a time, for people and dashboards: the counts of gd_queues, but of those that are asked for, and what is counted is
-- shared among these alone.
-- Next: 192_look.

create or replace function gd_list_queues(
    p_filter jsonb = '{}', p_after text = null, p_limit int = 100, p_look int = 10000
) returns table (
    queue text, due bigint, delayed bigint, executing bigint, parked bigint, oldest_due_at timestamptz, paused boolean,
    limited bigint, max_executing int, concurrency int, workers bigint, slots bigint, counted_to bigint
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := coalesce(p_look, 10000);
    v_names text[];
    v_most bigint;
    v_lines record;
    v_served jsonb;
begin
    perform gendurable._need_limit(p_limit);
    if p_limit > 1000 then
        -- each queue is counted, however little of it is looked at
        perform gendurable._invalid('p_limit must be at most 1000', 'got ' || p_limit,
            'Go on behind the last name, as p_after, for more.');
    end if;
    perform gendurable._need_look(v_look, 'instances');
    v_names := gendurable._find_queues(coalesce(p_filter, '{}'), p_after, coalesce(p_limit, 100), v_now);
    if v_names = '{}' then
        return;
    end if;
    v_most := gendurable._share_counts(v_names, v_look);
    v_lines := gendurable._find_lines(v_names);
    v_served := (
        select coalesce(jsonb_object_agg(g.queue, jsonb_build_array(g.workers, g.slots)), '{}')
        from (
            select e.key as queue, count(*) as workers, sum(e.value::int) as slots
            from gendurable.worker w
            cross join lateral jsonb_each_text(w.queues) e
            where w.until > v_now and w.state = 'running' and e.value::int > 0 and e.key = any(v_names)
                and not exists (select from gendurable.draining x where x.worker = w.worker)
            group by e.key
        ) g);
    return query
        select n.queue, c.due, c.delayed, c.executing, c.parked, c.oldest_due_at,
            exists (select from gendurable.paused_queue x where x.queue = n.queue),
            (
                -- of all lines of a queue together
                select count(*)
                from (
                    select r.id
                    from unnest(v_lines.limits, v_lines.queues) y (rate_limit, queue)
                    cross join lateral (
                        select i.id from gendurable.instance i
                        where i.rate_limit = y.rate_limit and i.queue = n.queue and i.bucket_at is not null
                        order by i.priority, i.bucket_at, i.id
                        limit v_most
                    ) r
                    where y.queue = n.queue
                    limit v_most
                ) l
            ),
            s.max_executing, s.concurrency, coalesce((v_served -> n.queue ->> 0)::bigint, 0),
            coalesce((v_served -> n.queue ->> 1)::bigint, 0), v_most
        from unnest(v_names) with ordinality n (queue, ord)
        cross join lateral gendurable._count_queue(n.queue, v_most, v_now) c
        left join gendurable.queue_setting s on s.queue = any(array[n.queue])
        order by n.ord;
end $$;

comment on function gd_list_queues(jsonb, text, int, int) is
'Queues as gd_queues has them, by name: up to p_limit, 1,000 at most, behind the name p_after, the last one of the page before. p_filter:

  queue: one name, or an array of them; what is no queue is left out
  limited: true: those of which so many may execute at once, as gd_set_queue says

It counts p_look instances that are due or executing, as many that are delayed, and as many that are parked, in all queues
of the page together: counted_to is where the counts of each are cut, at 10,000 or their share of p_look where more are
full, and at 20 at least. limited counts those that wait in the first 1,000 lines before rate limits. The cost goes with the page,
and not with how many queues there are. Raises GD501.';

create or replace function gendurable._find_queues(p_filter jsonb, p_after text, p_limit int, p_now timestamptz) returns text[]
language plpgsql stable as $$
declare
    v_after constant text := coalesce(p_after, '');
    v_wanted text[];
begin
    perform gendurable._need_object(p_filter, 'p_filter', 'Pass {} for all queues.');
    if p_filter - '{queue,limited}'::text[] <> '{}' then
        perform gendurable._invalid('unknown key of a filter', left((p_filter - '{queue,limited}'::text[])::text, 200),
            'Known keys: queue, limited.');
    end if;
    if p_filter -> 'limited' <> 'true' then
        perform gendurable._invalid('limited must be true', left((p_filter -> 'limited')::text, 200), 'Leave it out for all queues.');
    end if;
    if p_filter ? 'queue' then
        v_wanted := gendurable._filter_names(p_filter -> 'queue', 'queue');
        return array(
            select distinct n.queue
            from unnest(v_wanted) n (queue)
            where n.queue > v_after
                and (
                    not p_filter ? 'limited'
                    or exists (
                        select from gendurable.queue_setting s where s.queue = n.queue and s.max_executing is not null)
                )
                and (
                    exists (select from gendurable.queue_name x where x.queue = n.queue)
                    or exists (
                        select from gendurable.instance i where i.queue = n.queue and i.eligible_at is not null)
                    or exists (select from gendurable.paused_queue x where x.queue = n.queue)
                    or exists (select from gendurable.queue_setting x where x.queue = n.queue)
                    or exists (select from gendurable.worker x where x.until > p_now and x.queues ? n.queue)
                )
            order by n.queue
            limit p_limit);
    end if;
    if p_filter ? 'limited' then
        return array(
            select s.queue from gendurable.queue_setting s
            where s.queue > v_after and s.max_executing is not null
            order by s.queue
            limit p_limit);
    end if;
    -- from name to name through each index, and no further than the page
    return array(
        select n.queue
        from (
            (
                with recursive l as (
                    (select x.queue from gendurable.queue_name x
                        where x.queue > v_after
                        order by x.queue limit 1)
                    union all
                    select (select x.queue from gendurable.queue_name x
                        where x.queue > l.queue
                        order by x.queue limit 1)
                    from l
                    where l.queue is not null
                )

                select l.queue from l where l.queue is not null limit p_limit
            )
            union
            (
                with recursive l as (
                    (select i.queue from gendurable.instance i
                        where i.eligible_at is not null and i.queue > v_after
                        order by i.queue limit 1)
                    union all
                    select (select i.queue from gendurable.instance i
                        where i.eligible_at is not null and i.queue > l.queue
                        order by i.queue limit 1)
                    from l
                    where l.queue is not null
                )

                select l.queue from l where l.queue is not null limit p_limit
            )
            union
            (select x.queue from gendurable.paused_queue x where x.queue > v_after order by x.queue limit p_limit)
            union
            (select x.queue from gendurable.queue_setting x where x.queue > v_after order by x.queue limit p_limit)
            union
            (
                select e.key from gendurable.worker x cross join lateral jsonb_object_keys(x.queues) e (key)
                where x.until > p_now and e.key > v_after
            )
        ) n
        order by n.queue
        limit p_limit);
end $$;

comment on function gendurable._find_queues(jsonb, text, int, timestamptz) is
    'The names of the queues that a filter asks for, behind a name: a page of them. Raises GD501.';

create or replace function gendurable._share_counts(p_queues text[], p_look int) returns bigint
language plpgsql stable as $$
declare
    v_least constant bigint := greatest(p_look / cardinality(p_queues), 20);
begin
    if cardinality(p_queues) = 1 then
        return least(p_look, 10000);
    end if;
    -- how many have more than they would get if all of them were full
    return (
        select least(greatest(p_look / greatest(count(f.due), count(f.parked), 1), v_least), 10000)
        from (
            select
                (
                    select true from gendurable.instance i
                    where i.queue = n.queue and i.eligible_at is not null
                    order by i.queue, i.priority, i.woken, i.eligible_at, i.id
                    limit 1 offset v_least
                ) as due,
                (
                    select true from gendurable.instance i
                    where i.queue between n.queue and n.queue and i.eligible_at is null and i.finished_at is null
                    order by i.queue
                    limit 1 offset v_least
                ) as parked
            from unnest(p_queues) n (queue)
        ) f);
end $$;

comment on function gendurable._share_counts(text[], int) is
    'Where the counts of each of these queues are cut, so that all of them together stay at about p_look.';

create or replace function gendurable._find_lines(p_queues text[], out limits text[], out queues text[])
language plpgsql stable as $$
begin
    with recursive l as (
        (select i.rate_limit, i.queue from gendurable.instance i
            where i.bucket_at is not null
            order by i.rate_limit, i.queue limit 1)
        union all
        select n.rate_limit, n.queue
        from l
        cross join lateral (
            select i.rate_limit, i.queue from gendurable.instance i
            where i.bucket_at is not null and (i.rate_limit, i.queue) > (l.rate_limit, l.queue)
            order by i.rate_limit, i.queue limit 1
        ) n
    )

    select array_agg(x.rate_limit), array_agg(x.queue) into limits, queues
    from (select l.rate_limit, l.queue from l limit 1000) x
    where x.queue = any(p_queues);
end $$;

comment on function gendurable._find_lines(text[]) is
    'The lines before rate limits in which instances of these queues wait, of the first 1,000: of each its bucket and its queue.';

create or replace function gendurable._count_queue(
    p_queue text, p_most bigint, p_now timestamptz, out due bigint, out executing bigint, out delayed bigint,
    out oldest_due_at timestamptz, out parked bigint
)
language plpgsql stable as $$
declare
    v_priorities int[];
begin
    -- from priority to priority through the index, whatever a queue once had
    v_priorities := array(
        with recursive p as (
            (select i.priority from gendurable.instance i
                where i.queue = p_queue and i.eligible_at is not null
                order by i.queue, i.priority limit 1)
            union all
            select (select i.priority from gendurable.instance i
                where i.queue = p_queue and i.eligible_at is not null and i.priority > p.priority
                order by i.queue, i.priority limit 1)
            from p
            where p.priority is not null
        )

        select p.priority from p where p.priority is not null limit 1000);
    select
        count(*) filter (where x.status in ('runnable', 'awaiting_signal')), count(*) filter (where x.status = 'executing')
    into due, executing
    from (
        select r.status
        from unnest(v_priorities) y (priority)
        cross join (values (0::smallint), (1::smallint)) w (woken)
        cross join lateral (
            select i.status from gendurable.instance i
            where i.queue = p_queue and i.priority = y.priority and i.woken = w.woken and i.eligible_at <= p_now and i.id > 0
            order by i.eligible_at, i.id
            limit p_most
        ) r
        limit p_most
    ) x;
    delayed := (
        select count(*)
        from (
            select r.id
            from unnest(v_priorities) y (priority)
            cross join (values (0::smallint), (1::smallint)) w (woken)
            cross join lateral (
                select i.id from gendurable.instance i
                where i.queue = p_queue and i.priority = y.priority and i.woken = w.woken and i.eligible_at > p_now
                    and i.id > 0
                order by i.eligible_at, i.id
                limit p_most
            ) r
            limit p_most
        ) x);
    if due > 0 or due + executing >= p_most then
        oldest_due_at := (
            select min(r.eligible_at)
            from unnest(v_priorities) y (priority)
            cross join (values (0::smallint), (1::smallint)) w (woken)
            cross join lateral (
                select x.eligible_at
                from (
                    select i.status, i.eligible_at from gendurable.instance i
                    where i.queue = p_queue and i.priority = y.priority and i.woken = w.woken and i.eligible_at <= p_now
                        and i.id > 0
                    order by i.eligible_at, i.id
                    limit 10000
                ) x
                where x.status in ('runnable', 'awaiting_signal')
                limit 1
            ) r);
    end if;
    parked := (
        select count(*)
        from (
            select i.queue from gendurable.instance i
            where i.queue between p_queue and p_queue and i.eligible_at is null and i.finished_at is null
            order by i.queue
            limit p_most
        ) x);
end $$;

comment on function gendurable._count_queue(text, bigint, timestamptz) is
    'What stands in a queue, as gd_queues counts it: each count up to p_most.';
