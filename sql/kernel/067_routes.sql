-- Queues of steps. A step may have a queue of its own (gd_define_step); all others run in the instance's own queue. So a row
-- stands in one queue, and where that is not its own one, home has that: it is null for nearly all rows. Whoever puts a row
-- before a step asks here: inserts, commits (also of the error that is made where the time of a step is up), and what makes
-- a row runnable from outside of a step, such as a signal or gd_retry. What is claimed again where it stands, after a deadline
-- or a lost lease, stays there; so does what stands in a queue when its step is given another one, until its next transition.
-- While no step has a queue, a call asks for that once, and of a row no more than whether it has a home to go back to.
-- Next: 068_known_steps.

create or replace function gendurable._note_queues(p_queues text[]) returns void
language plpgsql as $$
begin
    insert into gendurable.queue_name (queue)
    select distinct u.queue
    from unnest(p_queues) u (queue)
    where u.queue is not null and not exists (select from gendurable.queue_name q where q.queue = u.queue);
end $$;

comment on function gendurable._note_queues(text[]) is 'Remembers the names of queues, for the views.';

-- A set, since only so what reads a table is inlined.
create or replace function gendurable._find_route(p_fsm text, p_version int, p_step text) returns setof text
language sql stable parallel safe rows 1 as $$
    select s.queue
    from gendurable.step s
    where s.fsm = p_fsm and s.step = p_step and (s.version = p_version or s.version is null)
    order by s.version nulls last
    limit 1
$$;

comment on function gendurable._find_route(text, int, text) is
    'The queue that a step has of its own; null or no row: none. A definition for the version takes the place of that for all, also
where it has no queue.';

create or replace function gendurable._route_outcomes(p_outcomes gendurable.outcome[]) returns gendurable.outcome[]
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_row record;
    v_queues text[];
begin
    for v_row in
        select o.ordinality as at, o.ends, i.home, coalesce(o.queue, i.home, i.queue) as own, r.queue as route
        from unnest(p_outcomes) with ordinality o
        join gendurable.instance i on i.id = any(array[o.id])
        left join lateral gendurable._find_route(i.fsm, i.fsm_version, coalesce(o.step, o.from_step, i.step)) r (queue) on true
        where i.home is not null or (r.queue is not null and not o.ends)
    loop
        if v_row.ends then
            -- it stays where it ended, until gd_retry
            v_outcomes[v_row.at].home := v_row.home;
        else
            v_outcomes[v_row.at].queue := coalesce(v_row.route, v_row.own);
            v_outcomes[v_row.at].home := case when v_row.route <> v_row.own then v_row.own end;
            v_queues := v_queues || coalesce(v_row.route, v_row.own);
        end if;
    end loop;
    perform gendurable._note_queues(v_queues);
    return v_outcomes;
end $$;

comment on function gendurable._route_outcomes(gendurable.outcome[]) is
    'Outcomes with the queue that the next step of each has of its own, or that the instance goes back to. After it was decided what
becomes of the instances, under the locks of their rows.';

create or replace function gendurable._place_rows(p_ids bigint[], p_queue text, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_count int;
    v_queues text[];
    v_due text[];
begin
    with moved as (
        update gendurable.instance i
        set queue = w.queue, home = w.home,
            -- out of the line before its rate limit, which is one of each queue: due, it comes into that of the other
            eligible_at = case when i.bucket_at is null then i.eligible_at else p_now end,
            woken = case when i.bucket_at is null then i.woken else 1 end,
            bucket_at = null
        from (
            select x.id, coalesce(r.queue, p.own) as queue, case when r.queue <> p.own then p.own end as home
            from gendurable.instance x
            cross join lateral (select coalesce(p_queue, x.home, x.queue) as own) p
            left join lateral gendurable._find_route(x.fsm, x.fsm_version, x.step) r (queue) on true
            where x.id = any(p_ids)
            offset 0
        ) w
        where i.id = any(array[w.id]) and (i.queue <> w.queue or i.home is distinct from w.home)
        returning i.queue, i.eligible_at
    )
    select count(*)::int, array_agg(distinct m.queue),
        array_agg(distinct m.queue) filter (where m.eligible_at <= p_now + gendurable._longest_poll())
    into v_count, v_queues, v_due
    from moved m;
    if v_queues is not null then
        perform gendurable._note_queues(v_queues);
        perform gendurable._wake_sleepers(v_due);
    end if;
    return v_count;
end $$;

comment on function gendurable._place_rows(bigint[], text, timestamptz) is
    'Puts rows into the queue of the step that they stand before; p_queue: their own one from now on, null: as it is. How many it was
changed for. For whatever inserts rows, or changes step, version or queue of some that do not execute. Under the locks of
the rows, and of their keys, whose batons the caller keeps.';
