-- Known workers: those that said hello and are not overdue. Who is told what, over the channel gendurable_control: a payload is
-- "cancel NAME" (one of its claims is gone) or "hello NAME" (it is to ask what it is told), and "hello" alone is for all. NOTIFY takes
-- a lock of the whole server until the commit, so it is sent only where a known worker that listens is concerned; the same payload
-- twice in a transaction is sent once. A notice says that there is something, and never what: whoever misses one finds it at the
-- next heartbeat.
-- Next: 040_unique.

create or replace function gendurable._find_worker(p_label text, p_now timestamptz) returns text
language plpgsql stable as $$
begin
    -- after a claim whose answer was lost, an engine goes on under its name with a number behind it
    return (
        select w.worker
        from gendurable.worker w
        where w.worker = any(array[p_label, regexp_replace(p_label, '#[0-9]+$', '')]) and w.until > p_now
        order by length(w.worker) desc
        limit 1);
end $$;

comment on function gendurable._find_worker(text, timestamptz) is
    'The known worker that makes claims under a label; null: none does.';

create or replace function gendurable._tell_worker(p_worker text, p_what text, p_now timestamptz) returns void
language plpgsql as $$
begin
    if gendurable._may_notify() and exists (
        select from gendurable.worker w where w.worker = p_worker and w.until > p_now and w.about -> 'listens' = 'true'
    ) then
        -- a payload ends at 7,999 bytes, a name at 2,000
        perform pg_notify('gendurable_control', p_what || ' ' || p_worker);
    end if;
end $$;

comment on function gendurable._tell_worker(text, text, timestamptz) is
    'Notifies a known worker, if it listens, at commit: "cancel" or "hello".';

create or replace function gendurable._tell_of_cancels(p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    perform gendurable._tell_worker(gendurable._find_worker(c.worker, p_now), 'cancel', p_now)
    from (
        select distinct i.worker
        from gendurable.instance i
        where i.id = any(p_ids) and i.status = 'executing' and i.worker is not null
    ) c;
end $$;

comment on function gendurable._tell_of_cancels(bigint[], timestamptz) is
    'Notifies the workers that execute some of these instances, which are about to be cancelled.';

create or replace function gendurable._tell_servers(p_queue text) returns void
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    if gendurable._may_notify() and exists (
        select from gendurable.worker w
        where w.until > v_now and w.queues ? p_queue and w.about -> 'listens' = 'true'
    ) then
        perform pg_notify('gendurable_control', 'hello');
    end if;
end $$;

comment on function gendurable._tell_servers(text) is
    'Notifies the known workers, if one that listens serves a queue, that something was set of it.';

create or replace function gendurable._count_servers(
    p_queue text, p_now timestamptz, out known bigint, out serving bigint, out draining bigint
)
language plpgsql stable as $$
begin
    select count(*),
        count(*) filter (where coalesce((w.queues -> p_queue)::int, 0) > 0 and not w.drains),
        count(*) filter (where w.queues ? p_queue and w.drains)
    into known, serving, draining
    from (
        select x.queues, x.state <> 'running' or exists (select from gendurable.draining d where d.worker = x.worker) as drains
        from gendurable.worker x
        where x.until > p_now
        limit 10000
    ) w;
end $$;

comment on function gendurable._count_servers(text, timestamptz) is
    'How many workers are known, how many of them serve a queue, and how many would if they did not drain.';

create or replace function gendurable._find_servers(p_queue text, p_now timestamptz) returns table (about jsonb, machines jsonb)
language plpgsql stable as $$
#variable_conflict use_column
begin
    return query
        select w.about, w.machines
        from gendurable.worker w
        where w.until > p_now and w.state = 'running' and coalesce((w.queues -> p_queue)::int, 0) > 0
            and not exists (select from gendurable.draining d where d.worker = w.worker)
        limit 1000;
end $$;

comment on function gendurable._find_servers(text, timestamptz) is
    'The known workers that serve a queue and do not drain, a thousand of them.';

create or replace function gendurable._forget_workers(p_now timestamptz) returns void
language plpgsql as $$
begin
    delete from gendurable.worker d
    where d.worker = any(array(
        select w.worker from gendurable.worker w where w.until <= p_now limit 1000 for update skip locked));
    -- one that was cut off for a while comes back to what it was told
    delete from gendurable.draining d
    where d.worker = any(array(
        select x.worker
        from gendurable.draining x
        where x.drained_at < p_now - interval '1 day'
            and not exists (select from gendurable.worker w where w.worker = x.worker)
        limit 1000
        for update skip locked));
end $$;

comment on function gendurable._forget_workers(timestamptz) is
    'Forgets workers that are overdue, and a day later that they were to drain.';

create or replace function gendurable._sum_counts(p_now timestamptz) returns void
language plpgsql as $$
begin
    delete from gendurable.minute_count d
    where d.ctid = any(array(
        select c.ctid from gendurable.minute_count c
        where c.at < p_now - gendurable._longest_stats()
        order by c.at
        limit 10000
        for update skip locked));
    -- whoever reports now, in whatever transaction, reports of the minute in which it was called
    with taken as (
        delete from gendurable.minute_count d
        where d.ctid = any(array(
            select c.ctid from gendurable.minute_count c
            where not c.summed and c.at < p_now - interval '3 minutes'
            order by c.at
            limit 20000
            for update skip locked))
        returning d.at, d.fsm, d.step, d.outcome, d.count, d.seconds, d.next_step
    )
    insert into gendurable.minute_count (at, fsm, step, outcome, count, seconds, summed, next_step)
    select t.at, t.fsm, t.step, t.outcome, sum(t.count), sum(t.seconds), true, t.next_step
    from taken t
    group by t.at, t.fsm, t.step, t.outcome, t.next_step;
end $$;

comment on function gendurable._sum_counts(timestamptz) is
    'Puts together what was counted in a minute, and removes what is a day old.';

create or replace function gendurable._longest_stats() returns interval
language sql immutable parallel safe as $$
    select interval '1 day'
$$;

comment on function gendurable._longest_stats() is 'How long it is kept what workers have counted.';
