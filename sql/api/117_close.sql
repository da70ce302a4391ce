-- Closing the buckets that a claim has opened (115_limits): what has started is paid for, and the lines get their bells.
-- Next: 118_stops.

create or replace function gendurable._close_buckets(
    p_queue text, p_priority int, p_opened gendurable.opened[], p_candidates gendurable.candidate[], p_started bigint[],
    p_parked bigint[], p_need int
) returns void
language plpgsql as $$
declare
    v_one record;
    v_taken double precision := 0;
begin
    if cardinality(p_opened) = 1 and p_parked is null and cardinality(p_started) <= 10 then
        for v_at in 1 .. cardinality(p_candidates) loop
            if (p_candidates[v_at]).id = any(p_started) and (p_candidates[v_at]).rate_limit = (p_opened[1]).bucket then
                v_taken := v_taken + (p_candidates[v_at]).weight;
            end if;
        end loop;
        if v_taken > 0 or (p_opened[1]).bells is not null then
            perform gendurable._close_bucket(
                p_queue, p_priority, p_opened[1], v_taken, null, cardinality(p_started) >= p_need);
        end if;
        return;
    end if;
    for v_one in
        select o.opened, s.taken, s.parked_at
        from (
            select g.bucket, max(g.place_no) as place_no, sum(g.weight) filter (where g.started) as taken,
                min(g.place) filter (where g.parked) as parked_at
            from (
                select u.id, max(u.bucket) as bucket, max(u.place_no) as place_no, max(u.weight) as weight, max(u.place) as place,
                    bool_or(u.started) as started, bool_or(u.parked) as parked
                from (
                    select c.id, c.rate_limit as bucket, null::bigint as place_no, c.weight, c.place,
                        null::boolean as started, null::boolean as parked
                    from unnest(p_candidates) c
                    where c.rate_limit is not null
                    union all
                    select x.id, null, null, null, null, true, null from unnest(p_started) x (id)
                    union all
                    select x.id, null, null, null, null, null, true from unnest(p_parked) x (id)
                    union all
                    select -o.ordinality, o.bucket, o.ordinality, null, null, null, null
                    from unnest(p_opened) with ordinality o
                ) u
                group by u.id
            ) g
            where g.bucket is not null
            group by g.bucket
        ) s
        cross join lateral (select p_opened[s.place_no] as opened) o
        where s.place_no is not null
    loop
        if v_one.taken is not null or v_one.parked_at is not null or (v_one.opened).bells is not null then
            perform gendurable._close_bucket(
                p_queue, p_priority, v_one.opened, coalesce(v_one.taken, 0), v_one.parked_at,
                cardinality(p_started) >= p_need);
        end if;
    end loop;
end $$;

comment on function gendurable._close_buckets(
    text, int, gendurable.opened[], gendurable.candidate[], bigint[], bigint[], int
) is
    'Takes the tokens of what has started out of the buckets, and sets the bells of their lines.';

create or replace function gendurable._close_bucket(
    p_queue text, p_priority int, p_opened gendurable.opened, p_taken double precision, p_parked_at timestamptz, p_full boolean
) returns void
language plpgsql as $$
declare
    v_full_at timestamptz;
    v_level double precision;
    v_line gendurable.line := p_opened.line;
    v_old constant gendurable.line := p_opened.line;
    v_first record;
    v_now timestamptz;
    v_need double precision;
    v_bell boolean;
begin
    v_full_at := gendurable._full_at(
        p_opened.full_at, p_opened.us, p_opened.burst, least(p_taken, p_opened.level), p_opened.clock);
    if p_taken > 0 and current_setting('synchronous_commit') = 'off' then
        -- lost in a crash of the server, the starts would have their tokens come back
        perform set_config('synchronous_commit', 'on', true);
    end if;
    -- The exact first row: all that came since did so under the lock, or left a bell that tells from where on.
    select i.priority, i.bucket_at, i.id, i.weight into v_first
    from gendurable.instance i
    where i.rate_limit = p_opened.bucket and i.queue = p_queue and i.bucket_at is not null
        and (i.priority, i.bucket_at, i.id) >= (
            case when p_parked_at is null then p_opened.bound_priority else least(p_opened.bound_priority, p_priority) end,
            case
                when p_parked_at is null or p_opened.bound_priority < p_priority then p_opened.bound_at
                when p_opened.bound_priority > p_priority then p_parked_at
                else least(p_opened.bound_at, p_parked_at)
            end,
            case when p_parked_at is null or p_opened.bound_priority < p_priority then p_opened.bound_id else 0 end)
    order by i.priority, i.bucket_at, i.id
    limit 1;
    v_now := clock_timestamp();
    if v_first.id is null then
        v_line := null;
    else
        v_line.queue := p_queue;
        v_line.priority := v_first.priority;
        v_line.at := v_first.bucket_at;
        v_line.id := v_first.id;
        v_line.weight := v_first.weight;
        -- one that was tried in vain keeps its turn, a new first row stands behind the other lines
        if v_line.id is distinct from v_old.id then
            v_line.turn_at := v_now;
        end if;
        v_level := case
            when p_opened.closed_until is null then gendurable._level(v_full_at, p_opened.us, p_opened.burst, p_opened.clock)
            else 0
        end;
        v_need := least(v_line.weight, p_opened.burst)
            + gendurable._reserved(p_opened.lines, p_queue, v_line.turn_at, p_opened.burst, v_now);
        v_line.ring_at := greatest(p_opened.closed_until, case
            when p_opened.us is null or v_level >= v_need then v_now + case
                when p_full or (p_taken > 0 and not p_opened.ends) or v_first.priority > p_priority then interval '0'
                -- a token is there, and the row could not be had
                else interval '25 ms'
            end
            when p_opened.us = 'infinity' then v_now + gendurable._longest_ring()
            else gendurable._later(p_opened.clock, greatest(
                (v_need - v_level) * p_opened.us,
                least(extract(epoch from gendurable._ring_quantum())::double precision * 1000000, p_opened.burst / 2 * p_opened.us)))
        end);
        v_line.ring_at := least(v_line.ring_at, v_now + case
            when p_opened.settled then gendurable._longest_ring()
            -- somebody is setting a limit, perhaps this one
            else gendurable._decision_pause()
        end);
        -- One that is set already and rings early enough is left as it is; one that rang here is gone.
        v_bell := p_opened.bells is not null or v_old.ring_at is null or v_old.ring_at < v_now - gendurable._ring_quantum()
            or v_old.ring_at > v_line.ring_at + gendurable._ring_quantum() or v_line.priority < v_old.priority;
        if v_bell then
            v_line.bell_id := gendurable._put_bell(p_queue, v_line.priority, v_line.ring_at, p_opened.bucket, null);
        else
            v_line.ring_at := v_old.ring_at;
        end if;
    end if;
    -- Inserted and not updated: readers would walk over all dead versions while somebody holds a snapshot.
    with old as (
        delete from gendurable.bucket b where b.bucket = p_opened.bucket and b.no = p_opened.no
    )
    insert into gendurable.bucket (bucket, no, full_at, lines)
    values (
        p_opened.bucket, greatest(p_opened.no + 1, gendurable._epoch_us(p_opened.clock)), v_full_at,
        array(select l from unnest(p_opened.lines) l where l.queue <> p_queue)
            || case when v_line.queue is null then '{}' else array[v_line] end);
    if p_opened.bells is not null then
        delete from gendurable.instance i where i.id = any(p_opened.bells);
    end if;
end $$;

comment on function gendurable._close_bucket(
    text, int, gendurable.opened, double precision, timestamptz, boolean
) is
    'Takes tokens out of a bucket and sets the bell of the line: for when its first row has its tokens and those before it in turn have
theirs; for at once, where the claim was full.';
