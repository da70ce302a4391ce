-- Lines before rate limits that lost their bell, which should never be, or whose bell is too far away; and buckets that are full.
-- Invariant 6, for rate limits. Next: 216_clock.

create or replace function gendurable._repair_lines(p_until timestamptz) returns int
language plpgsql as $$
declare
    v_most constant int := 2000;
    v_place jsonb := gendurable._recall_place('lines');
    v_behind boolean := v_place is not null;         -- lines before the place were not looked at in this call
    v_looked int := 0;
    v_count int := 0;
    v_line record;
begin
    while v_looked < v_most and clock_timestamp() < p_until loop
        -- from line to line through the index, whatever the number of rows in each
        select i.rate_limit as bucket, i.queue into v_line
        from gendurable.instance i
        where i.bucket_at is not null
            and (i.rate_limit, i.queue) > (coalesce(v_place ->> 0, ''), coalesce(v_place ->> 1, ''))
        order by i.rate_limit, i.queue
        limit 1;
        if not found then
            v_place := null;
            exit when not v_behind;
            v_behind := false;
            continue;
        end if;
        v_place := jsonb_build_array(v_line.bucket, v_line.queue);
        v_looked := v_looked + 1;
        v_count := v_count + gendurable._repair_line(v_line.bucket, v_line.queue);
    end loop;
    perform gendurable._keep_place('lines', v_place);
    return v_count;
end $$;

comment on function gendurable._repair_lines(timestamptz) is
    'Sets a bell for every line that has none, for 2,000 lines a call; how many.';

create or replace function gendurable._repair_line(p_bucket text, p_queue text) returns int
language plpgsql as $$
declare
    v_now timestamptz;
    v_ring timestamptz;
    v_fills timestamptz;
    v_priority int;
    v_level bigint := -2147483649;
    v_levels int := 0;
begin
    v_ring := gendurable._find_bell(p_bucket, p_queue);
    v_now := clock_timestamp();
    if v_ring <= v_now + interval '1 second' then
        return 0;
    end if;
    -- a claim may be at it
    if not gendurable._try_bucket(p_bucket) then
        return 0;
    end if;
    v_ring := gendurable._find_bell(p_bucket, p_queue);
    select i.priority into v_priority
    from gendurable.instance i
    where i.rate_limit = p_bucket and i.queue = p_queue and i.bucket_at is not null
    order by i.priority, i.bucket_at, i.id
    limit 1;
    if v_priority is null then
        return 0;
    end if;
    v_now := clock_timestamp();
    if v_ring is null then
        -- Rows that came without the lock of the bucket have a bell that no bucket knows of, and one that met a locked bucket was
        -- put off under another id: in any priority, since who set it may have gone.
        while v_levels < 100 loop
            v_level := gendurable._find_next_priority(p_queue, v_level, null);
            exit when v_level is null;
            if exists (
                select from gendurable.instance i
                where i.queue = p_queue and i.priority = v_level and i.woken = 0
                    and i.eligible_at <= v_now + interval '1 second' and i.id < 0 and i.rate_limit = p_bucket)
            then
                return 0;
            end if;
            v_levels := v_levels + 1;
        end loop;
        perform gendurable._put_bell(p_queue, v_priority, v_now, p_bucket, null);
        return 1;
    end if;
    -- Set by a clock that was ahead, or by a claim that did not know of a limit: it is no defect. By then the bucket is full.
    select case
            when l.us is null then v_now
            -- nothing is allowed: any time will do
            when l.us = 'infinity' then v_now + gendurable._longest_ring()
            else gendurable._later(v_now, l.burst * l.us)
        end
    into v_fills
    from (select 1) one
    left join lateral gendurable._find_rate_limit(p_bucket) l on true;
    v_fills := greatest(v_fills, (select max(c.until) from gendurable.bucket_closed c where c.bucket = p_bucket));
    if v_ring > least(v_fills, v_now + gendurable._longest_ring()) + interval '1 second' then
        perform gendurable._put_bell(p_queue, v_priority, v_now, p_bucket, null);
    end if;
    return 0;
end $$;

comment on function gendurable._repair_line(text, text) is
    'Sets a bell for a line that has none: 1; and one for now where it rings later than its bucket takes to fill: 0.';

create or replace function gendurable._find_bell(p_bucket text, p_queue text) returns timestamptz
language plpgsql as $$
begin
    return (
        select i.eligible_at
        from (select b.lines from gendurable.bucket b where b.bucket = p_bucket order by b.no desc limit 1) b
        cross join lateral unnest(b.lines) l
        join gendurable.instance i on i.id = any(array[l.bell_id])
        where l.queue = p_queue);
end $$;

comment on function gendurable._find_bell(text, text) is 'When the bell of a line rings; null: it has none.';

create or replace function gendurable._forget_buckets(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_bucket record;
begin
    for v_bucket in
        select b.bucket, b.no
        from gendurable.bucket b
        where b.full_at <= p_now and b.lines = '{}'
        limit 2000
    loop
        -- under its lock: a claim that reads it may just be taking tokens
        if gendurable._try_bucket(v_bucket.bucket) then
            delete from gendurable.bucket b where b.bucket = v_bucket.bucket and b.no = v_bucket.no;
        end if;
    end loop;
    delete from gendurable.bucket_closed c
    where c.ctid = any(array(
        select x.ctid from gendurable.bucket_closed x where x.until <= p_now limit 10000 for update skip locked));
end $$;

comment on function gendurable._forget_buckets(timestamptz) is
    'Removes what is known of buckets that are full and have no line, 2,000 a call, and what was closed until a time that has passed.';
