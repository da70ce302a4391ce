-- The scan of one queue and priority: two index ranges, woken 0 (lifted out of a key's lane) and woken 1 (all others). A
-- round picks a few due rows of a range, lets the gate admit what may start, and hands it out.
-- Next: 114_gate.

create or replace function gendurable._scan(
    p_worker text, p_queue text, p_priority int, p_limit int, p_bytes bigint, p_lease interval, p_now timestamptz,
    p_before timestamptz, p_known jsonb,
    out ids bigint[], out started bigint[], out mail boolean[], out parts jsonb, out bytes bigint, out lane jsonb,
    out more boolean
)
language plpgsql as $$
declare
    v_name constant int := hashtext(p_queue || E'\u0001' || p_priority);
    v_now_us constant bigint := gendurable._epoch_us(p_now);
    -- a row that commits a little late is still above the floor
    v_margin_us constant bigint := v_now_us - 50000;
    v_floor_us bigint[] := array[
        gendurable._past(p_known #>> '{0,0}', v_now_us), gendurable._past(p_known #>> '{1,0}', v_now_us)];
    v_floor_id bigint[] := array[(p_known #>> '{0,1}')::bigint, (p_known #>> '{1,1}')::bigint];
    v_full_at bigint := gendurable._past(p_known ->> 2, v_now_us);
    v_full_cost bigint := coalesce((p_known ->> 3)::bigint, 0);
    v_turn constant int := coalesce((p_known ->> 4)::int, (random() < 0.5)::int);
    v_at_us bigint[] := v_floor_us;
    v_at_id bigint[] := v_floor_id;
    v_done boolean[] := '{false,false}'::boolean[];
    v_cost bigint := 0;
    v_full boolean := false;
    v_range int := 1;                              -- 1: woken = 0, 2: woken = 1
    v_wanted int := p_limit;
    v_need int;
    v_looked int := 0;
    v_keys int := 0;
    v_size int;
    v_first boolean := true;
    v_picked gendurable.candidate[];
    v_ids bigint[];
    v_slots int[];
    v_heavy boolean[];
    v_mail boolean[];
    v_plain boolean;
    v_light boolean;
    v_part record;
    v_taken bigint[];
    v_clock timestamptz := p_now;
    v_parked boolean := false;
    v_last gendurable.candidate;
    v_before bigint;
begin
    bytes := p_bytes;
    -- half for lifted rows first: neither range starves the other. Of an odd number the first gets one more each second time.
    v_need := (p_limit + v_turn) / 2;
    v_size := v_need;

    -- A full scan finds what lies below the floor: late commits, past times, expired leases. About once a second, at most
    -- 4 % of the time while it is expensive, and in one session at a time.
    v_full := v_now_us - v_full_at >= greatest(1000000, gendurable._ration(v_full_cost))
        and (
            v_full_at = 0
            or pg_try_advisory_xact_lock(7303, v_name)
            -- overdue: whoever has the lock may keep it for the rest of a long transaction
            or v_now_us - v_full_at >= 3 * greatest(1000000, gendurable._ration(v_full_cost)));
    if v_full then
        v_at_us := '{0,0}';
        v_at_id := '{0,0}';
        if p_before is not null then
            perform gendurable._shift_back(p_queue, p_priority, p_now, p_before);
        end if;
    end if;

    while v_wanted > 0 and bytes > 0 and v_looked < greatest(10::bigint * p_limit, 1000) and v_keys < 500 loop
        if v_need = 0 then
            v_range := 2;
            v_need := v_wanted;
            v_size := v_wanted;
            v_first := false;
        end if;
        if v_done[1] and v_done[2] and v_parked then
            -- it parked rows and may have lifted others in their place: these stand at the end of their range now
            v_parked := false;
            v_done[1] := false;
            v_clock := clock_timestamp();
        end if;
        if v_done[1] and v_done[2] then
            -- too little: look below the floor, if the ration allows
            exit when v_full or v_now_us - v_full_at < gendurable._ration(v_full_cost)
                or not pg_try_advisory_xact_lock(7303, v_name);
            v_full := true;
            v_taken := ids;                        -- found once more, from the beginning
            v_done := '{false,false}';
            v_at_us := '{0,0}';
            v_at_id := '{0,0}';
        end if;
        if v_done[v_range] then
            v_range := 3 - v_range;
        end if;

        v_before := gendurable._walked();
        v_picked := gendurable._pick(
            p_queue, p_priority, (v_range - 1)::smallint,
            case when v_at_us[v_range] = 0 then '-infinity'
                else timestamptz 'epoch' + v_at_us[v_range] * interval '1 microsecond' end,
            v_at_id[v_range], v_clock, v_size, v_taken);
        v_cost := v_cost + gendurable._walked() - v_before;
        v_looked := v_looked + cardinality(v_picked);
        v_done[v_range] := cardinality(v_picked) < v_size;
        v_last := v_picked[cardinality(v_picked)];

        if v_picked <> '{}' then
            -- Asked after the rows were locked: a signal that came before is here, and none comes now. A limit and not
            -- exists, which could become one hash of the whole table.
            select array_agg(c.id), array_agg(c.heavy), bool_and(c.plain), bool_and(c.plain and not c.heavy),
                array_agg(case
                    when (select true from gendurable.signal s where s.instance_id = c.id limit 1) then true
                    when c.bare then false
                end)
            into v_ids, v_heavy, v_plain, v_light, v_mail
            from unnest(v_picked) c;
            v_light := v_light and gendurable._carries() and not coalesce(true = any(v_mail), false);
            v_slots := null;
            if not v_plain then
                select o.ids, o.slots, o.heavy, v_keys + o.keys, v_parked or o.left_out
                into v_ids, v_slots, v_heavy, v_keys, v_parked
                from gendurable._sort_out(v_picked, p_lease, p_now) o;
            end if;
            if cardinality(v_ids) > v_need then
                -- more than wanted, since a round behind a busy key looks at more: the scan ends at the last one taken
                v_ids := v_ids[:v_need];
                v_slots := v_slots[:v_need];
                v_heavy := v_heavy[:v_need];
                v_mail := v_mail[:v_need];
                v_last := (select c from unnest(v_picked) c where c.id = v_ids[v_need]);
                v_done[v_range] := false;
            end if;
            if v_light and v_ids <> '{}' then
                ids := ids || v_ids;
                mail := mail || v_mail;
                v_wanted := v_wanted - cardinality(v_ids);
            elsif v_ids <> '{}' then
                v_part := gendurable._load(v_ids, v_slots, v_heavy, bytes, p_now);
                if not v_plain and v_part.ids <> '{}' then
                    -- at once: who may follow in a key depends on who has begun
                    perform gendurable._take_keys(
                        v_part.ids, array_fill('executing'::gendurable.status, array[cardinality(v_part.ids)]));
                    perform gendurable._begin(p_worker, v_part.ids, v_part.slots, p_now, p_lease);
                    started := started || v_part.ids;
                end if;
                ids := ids || v_part.ids;
                mail := mail || v_part.mail;
                if v_part.parts is not null then
                    parts := coalesce(parts, '{}') || v_part.parts;
                end if;
                bytes := v_part.bytes;
                v_wanted := v_wanted - cardinality(v_part.ids);
                if v_part.last_id is not null then
                    -- as much as one claim carries: what was picked behind it is due as before
                    v_last := (select c from unnest(v_picked) c where c.id = v_part.last_id);
                    v_done[v_range] := false;
                end if;
            end if;
        end if;
        if v_done[v_range] then
            v_at_us[v_range] := v_now_us;
            v_at_id[v_range] := 0;
        else
            v_at_us[v_range] := gendurable._epoch_us(v_last.eligible_at);
            v_at_id[v_range] := v_last.id;
        end if;

        -- the other range gets the rest; behind a busy key each round looks at more
        v_size := case when v_first then v_wanted else greatest(least(2 * v_size::bigint, 1000), v_wanted) end;
        v_range := case when v_first then 2 else v_range end;
        v_need := v_wanted;
        v_first := false;
    end loop;

    if v_full then
        v_full_cost := v_cost;
        -- ended below the floor with more to find there: the next one as soon as the ration allows
        v_full_at := v_now_us - case
            when v_at_us[1] < v_floor_us[1] or v_at_us[2] < v_floor_us[2]
                then 1000000 - least(gendurable._ration(v_full_cost), 1000000)
            else 0
        end;
    end if;
    for r in 1 .. 2 loop
        if v_at_us[r] >= v_floor_us[r] then
            v_floor_id[r] := case when v_at_us[r] > v_margin_us then 0 else v_at_id[r] end;
            v_floor_us[r] := greatest(least(v_at_us[r], v_margin_us), 0);
        end if;
    end loop;
    more := v_wanted > 0 and not (v_done[1] and v_done[2]);
    -- A lane in which nothing is due and that is scanned in no time is found again when something is: a queue may have
    -- had any number of them.
    if more or v_looked > 0 or v_full_cost > gendurable._dear() then
        lane := jsonb_build_array(
            jsonb_build_array(v_floor_us[1], v_floor_id[1]), jsonb_build_array(v_floor_us[2], v_floor_id[2]),
            v_full_at, v_full_cost, 1 - v_turn);
    end if;
end $$;

comment on function gendurable._scan(
    text, text, int, int, bigint, interval, timestamptz, timestamptz, jsonb) is
    'Due rows of one queue and priority that may be claimed, locked, up to p_limit rows and about p_bytes bytes. started: claims of
keys and scopes, and of what crashed often, which have begun. lane: what to remember of it, null for
nothing. more: it looked at enough for one claim, and there is more.';

create or replace function gendurable._pick(
    p_queue text, p_priority int, p_woken smallint, p_after timestamptz, p_after_id bigint, p_now timestamptz,
    p_limit int, p_taken bigint[]
) returns gendurable.candidate[]
language plpgsql as $$
begin
    return array(
        select row(
            i.id, i.eligible_at, i.status, i.crashes,
            i.partition_key is null and i.unique_scope is null and i.crashes < 3
                and (i.status = 'runnable' or i.status = 'awaiting_signal'),
            i.partition_key, i.slot_no, i.lane_at,
            i.children_pending is not null or case
                when pg_column_size(i.state) + pg_column_size(i.meta) > 200
                    then gendurable._is_large(i.state) or gendurable._is_large(i.meta)
                else false
            end,
            i.status = 'runnable' and i.awaits is null and i.deadline_at is null and i.shown is null
        )::gendurable.candidate
        from gendurable.instance i
        where i.queue = p_queue and i.priority = p_priority and i.woken = p_woken
            and i.eligible_at <= p_now and (i.eligible_at, i.id) > (p_after, p_after_id)
            -- a live lease is passed over here and not in the index, so that a claim writes no index entry
            and (i.lease_expires_at is null or (
                i.lease_expires_at <= p_now and not gendurable._is_renewed(i.id, i.claim_no, p_now)))
            and (p_taken is null or i.id <> all(p_taken))
        order by i.eligible_at, i.id
        limit p_limit
        for no key update skip locked);
end $$;

comment on function gendurable._pick(text, int, smallint, timestamptz, bigint, timestamptz, int, bigint[]) is
    'Locks the next due rows of an index range, without those that this claim has already.';

create or replace function gendurable._shift_back(
    p_queue text, p_priority int, p_now timestamptz, p_before timestamptz
) returns void
language plpgsql as $$
begin
    -- The clock was set back: what was due by the old clock when it was written keeps its order and is due by the new one.
    -- Nobody sleeps for longer than a minute, so what was written since this session's last claim is within that.
    update gendurable.instance i
    set eligible_at = least(i.eligible_at - (p_before - p_now), p_now),
        lane_at = case
            when i.lane_at > p_now then least(i.lane_at - (p_before - p_now), p_now)
            else i.lane_at
        end,
        updated_at = p_now
    from (
        select x.id
        from (values (0::smallint), (1::smallint)) w (woken)
        cross join lateral (
            select i.id
            from gendurable.instance i
            where i.queue = p_queue and i.priority = p_priority and i.woken = w.woken
                and i.eligible_at > p_now and i.eligible_at <= p_before + gendurable._longest_poll()
                and i.eligible_at <= i.updated_at and i.status in ('runnable', 'awaiting_signal')
            order by i.eligible_at, i.id
            limit 1000
            for no key update skip locked
        ) x
    ) late
    where i.id = any(array[late.id]);
end $$;

comment on function gendurable._shift_back(text, int, timestamptz, timestamptz) is
    'Makes rows due that were due when they were written, before the clock was set back.';
