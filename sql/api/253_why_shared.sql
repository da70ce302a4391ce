-- What many instances wait for together: what operators have stopped, the slots of a key or of a queue, the tokens of a rate limit.
-- Next: 254_why_around.

create or replace function gendurable._why_stopped(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_held jsonb;
    v_instance jsonb;
    v_machines jsonb;
    v_queue jsonb;
begin
    select i.queue, i.fsm, i.fsm_version, i.step, i.paused_at, i.paused_by into v_row
    from gendurable.instance i where i.id = p_id;
    v_held := (
        select gendurable._cause('everything held', min(h.held_at), null,
            format('is held with everything else for %s, by %s: %s', gendurable._span(min(h.held_at), p_now),
                gendurable._name((array_agg(h.held_by order by h.held_at))[1]),
                gendurable._excerpt((array_agg(h.reason order by h.held_at))[1])),
            jsonb_build_object('reasons', (array_agg(h.reason order by h.held_at))[:10],
                'held_by', (array_agg(h.held_by order by h.held_at))[:10]))
        from (select x.reason, x.held_by, x.held_at from gendurable.hold x limit 1000) h
        having count(*) > 0);
    if v_row.paused_at is not null then
        v_instance := gendurable._cause('instance paused', v_row.paused_at, null,
            'is paused for ' || gendurable._span(v_row.paused_at, p_now) || gendurable._by(v_row.paused_by),
            jsonb_build_object('paused_by', v_row.paused_by));
    end if;
    -- that of the whole machine first
    v_machines := (
        select coalesce(jsonb_agg(
            case
                when m.step = '' then gendurable._cause('machine paused', m.paused_at, null, 'is of ' || m.told, m.detail)
                else gendurable._cause('step paused', m.paused_at, null,
                    format('is at the step %s of ', gendurable._name(m.step)) || m.told, m.detail)
            end
            order by m.step, m.version), '[]')
        from (
            select x.step, x.version, x.paused_at,
                case when x.version = 0 then '' else format('version %s of ', x.version) end
                || format('the machine %s, which is paused for %s', gendurable._name(v_row.fsm), gendurable._span(x.paused_at, p_now))
                || gendurable._by(x.paused_by) as told,
                jsonb_build_object('fsm', v_row.fsm, 'version', nullif(x.version, 0), 'step', nullif(x.step, ''),
                    'paused_by', x.paused_by) as detail
            from gendurable._find_pause(v_row.fsm, v_row.fsm_version, v_row.step) x
        ) m);
    v_queue := (
        select gendurable._cause('queue paused', q.paused_at, null,
            format('stands in the queue %s, which is paused for %s', gendurable._name(q.queue),
                gendurable._span(q.paused_at, p_now)) || gendurable._by(q.paused_by),
            jsonb_build_object('queue', q.queue, 'paused_by', q.paused_by))
        from gendurable.paused_queue q
        where q.queue = v_row.queue);
    return jsonb_build_array(v_held, v_instance) || v_machines || jsonb_build_array(v_queue);
end $$;

comment on function gendurable._why_stopped(bigint, timestamptz) is
    'The causes "everything held", "instance paused", "machine paused", "step paused" and "queue paused".';

create or replace function gendurable._why_key(p_id bigint, p_parked boolean, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_most int;
    v_held record;
    v_ahead record;
    v_says text;
    v_first bigint;
begin
    select i.partition_key as key, i.priority, coalesce(i.lane_at, i.aside_at, p_now) as place_at into v_row
    from gendurable.instance i
    where i.id = p_id and i.partition_key is not null and i.slot_no is null;
    if not found then
        return null;
    end if;
    v_most := gendurable._find_key_limit(v_row.key);
    select count(*) as count, (array_agg(h.id order by h.claim_no, h.id))[:10] as ids into v_held
    from (
        select i.id, i.claim_no from gendurable.instance i
        where i.partition_key = v_row.key and i.slot_no is not null
        limit 1000
    ) h;
    -- as the gate orders them: api/114_gate
    select count(*) as count, (array_agg(a.id order by a.ord))[:10] as ids, max(a.ord) >= gendurable._most_before() as more
    into v_ahead
    from (
        select i.id, i.lane_at, i.queue, row_number() over (order by i.priority, i.lane_at, i.id) as ord
        from gendurable.instance i
        where i.partition_key = v_row.key and i.lane_at is not null and i.slot_no is null
            and (i.priority, i.lane_at, i.id) < (v_row.priority, v_row.place_at, p_id)
        order by i.priority, i.lane_at, i.id
        limit gendurable._most_before()
    ) a
    -- read once, and not for each of them
    where a.lane_at <= p_now and a.queue not in (select q.queue from gendurable.paused_queue q);
    if v_held.count >= v_most then
        v_first := v_held.ids[1];
        v_says := format('waits for a slot of its key %s as number %s of the line, behind instance %s',
            gendurable._name(v_row.key), v_ahead.count + 1, v_first)
            || case when v_most > 1 then format(', the first of %s that hold its slots', v_held.count) else '' end;
    elsif v_held.count + v_ahead.count >= v_most then
        v_first := v_ahead.ids[1];
        v_says := format('waits for its turn in its key %s as number %s of the line, behind instance %s',
            gendurable._name(v_row.key), v_ahead.count + 1, v_first);
    elsif p_parked then
        v_says := format('is next in its key %s, and the next claim that looks at the key makes it due',
            gendurable._name(v_row.key));
    else
        return null;
    end if;
    return gendurable._cause('key', v_row.place_at, null, v_says,
        jsonb_build_object('key', v_row.key, 'place', v_ahead.count + 1, 'slots', v_most,
            'holders', coalesce(v_held.ids, '{}'), 'ahead', coalesce(v_ahead.ids, '{}'))
        || gendurable._more(v_ahead.more), v_first);
end $$;

comment on function gendurable._why_key(bigint, boolean, timestamptz) is
    'The cause "key": somebody else holds the slots, or comes before it, or it is parked (p_parked) and nobody has looked yet.';

create or replace function gendurable._why_queue_full(p_id bigint) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_held record;
begin
    select i.queue, i.queue_slot, s.max_executing as most, s.changed_in is not null as settling into v_row
    from gendurable.instance i
    join gendurable.queue_setting s on s.queue = any(array[i.queue])
    where i.id = p_id and s.max_executing is not null;
    if not found or v_row.queue_slot is not null then
        return null;
    end if;
    select count(*) as count, (array_agg(h.id order by h.claim_no, h.id))[:10] as ids into v_held
    from (
        select i.id, i.claim_no from gendurable.instance i
        where i.queue = v_row.queue and i.queue_slot is not null
        limit gendurable._most_before()
    ) h;
    if v_held.count < v_row.most and not v_row.settling then
        return null;
    end if;
    return gendurable._cause('queue full', null, null,
        case
            when v_row.most = 0 then format('stands in the queue %s, whose limit of 0 lets nothing start',
                gendurable._name(v_row.queue))
            when v_held.count < v_row.most then format(
                'stands in the queue %s, whose limit of %s is new: claims from before it are counted first',
                gendurable._name(v_row.queue), v_row.most)
            else format('stands in the queue %s, in which %s of %s execute, for the longest time instance %s',
                gendurable._name(v_row.queue), v_held.count, v_row.most, v_held.ids[1])
        end,
        jsonb_build_object('queue', v_row.queue, 'limit', v_row.most, 'executing', v_held.count,
            'holders', coalesce(v_held.ids, '{}'), 'settling', v_row.settling),
        case when v_row.most > 0 and v_held.count >= v_row.most then v_held.ids[1] end);
end $$;

comment on function gendurable._why_queue_full(bigint) is 'The cause "queue full".';

create or replace function gendurable._why_limits(p_id bigint, p_now timestamptz) returns jsonb
language plpgsql stable as $$
declare
    v_row record;
    v_bucket record;
    v_line gendurable.line;
    v_ahead record;
    v_level double precision;
    v_need double precision;
    v_until timestamptz;
    v_closed jsonb;
    v_limit jsonb;
begin
    select i.rate_limit as bucket, i.queue, i.priority, i.bucket_at, coalesce(i.bucket_at, i.lane_at, i.eligible_at) as place_at,
        coalesce(i.weight, 1) as weight
    into v_row
    from gendurable.instance i
    where i.id = p_id and i.rate_limit is not null;
    if not found then
        return '[]'::jsonb;
    end if;
    -- as a claim opens it: api/115_limits
    select b.full_at, coalesce(b.lines, '{}') as lines, l.us, l.burst, c.until as closed_until into v_bucket
    from (select 1) one
    left join lateral (
        select x.full_at, x.lines from gendurable.bucket x where x.bucket = v_row.bucket order by x.no desc limit 1
    ) b on true
    left join lateral gendurable._find_rate_limit(v_row.bucket) l on true
    left join lateral (
        select max(x.until) as until
        from gendurable.bucket_closed x
        where x.bucket = v_row.bucket and x.until > p_now and l.us is not null
    ) c on true;
    v_level := gendurable._level(v_bucket.full_at, v_bucket.us, v_bucket.burst, p_now);
    v_line := (select l from unnest(v_bucket.lines) l where l.queue = v_row.queue);
    select count(*) as count, coalesce(sum(least(a.weight, v_bucket.burst)), 0) as weight, (array_agg(a.id order by a.ord))[:10] as ids
    into v_ahead
    from (
        select i.id, coalesce(i.weight, 1) as weight, row_number() over (order by i.priority, i.bucket_at, i.id) as ord
        from gendurable.instance i
        where i.rate_limit = v_row.bucket and i.queue = v_row.queue and i.bucket_at is not null
            and (i.priority, i.bucket_at, i.id) < (v_row.priority, v_row.place_at, p_id)
        order by i.priority, i.bucket_at, i.id
        limit gendurable._most_before()
    ) a;
    v_need := least(v_row.weight, v_bucket.burst) + v_ahead.weight + gendurable._reserved(
        v_bucket.lines, v_row.queue, coalesce((v_line).turn_at, p_now), v_bucket.burst, p_now);
    if v_bucket.closed_until is not null then
        v_closed := gendurable._cause('bucket closed', null, v_bucket.closed_until,
            format('waits at the rate limit %s, out of which nothing starts for another %s', gendurable._name(v_row.bucket),
                gendurable._span(p_now, v_bucket.closed_until)),
            jsonb_build_object('bucket', v_row.bucket));
    end if;
    if v_need > v_level * gendurable._token_slack() or (v_row.bucket_at is not null and v_closed is null) then
        v_until := case
            when v_bucket.us = 'infinity' then null
            when v_level >= v_need or v_bucket.us is null then greatest((v_line).ring_at, p_now)
            else gendurable._later(p_now, (v_need - v_level) * v_bucket.us)
        end;
        v_limit := gendurable._cause('limit', v_row.place_at, greatest(v_until, v_bucket.closed_until),
            case
                when v_bucket.us is null then format('waits at the rate limit %s, which is gone: the next claim starts it',
                    gendurable._name(v_row.bucket))
                when v_bucket.us = 'infinity' then format('waits at the rate limit %s, which lets nothing start',
                    gendurable._name(v_row.bucket))
                when v_level >= v_need then format(
                    'waits at the rate limit %s, whose tokens are there: a claim of its queue starts it in %s',
                    gendurable._name(v_row.bucket), gendurable._span(p_now, v_until))
                else format('waits for tokens of the rate limit %s as number %s of the line: %s of %s are there, enough for it in %s',
                    gendurable._name(v_row.bucket), v_ahead.count + 1, gendurable._amount(v_level),
                    gendurable._amount(v_need), gendurable._span(p_now, v_until))
            end,
            jsonb_build_object('bucket', v_row.bucket, 'place', v_ahead.count + 1, 'ahead', coalesce(v_ahead.ids, '{}'),
                'level', case when v_bucket.us is not null then gendurable._amount(v_level) end, 'burst', v_bucket.burst,
                'needed', gendurable._amount(v_need), 'weight', v_row.weight,
                'next_token_at', case
                    when v_level >= 1 or v_bucket.us is null then p_now
                    when v_bucket.us < 'infinity' then gendurable._later(p_now, (1 - v_level) * v_bucket.us)
                end,
                'rings_at', (v_line).ring_at)
            || gendurable._more(v_ahead.count >= gendurable._most_before()));
    end if;
    return jsonb_build_array(v_closed, v_limit);
end $$;

comment on function gendurable._why_limits(bigint, timestamptz) is 'The causes "bucket closed" and "limit".';
