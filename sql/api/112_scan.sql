-- The scan of one queue and priority: two index ranges, woken 0 (lifted out of a key's lane) and woken 1 (all others). A
-- round picks a few due rows of a range, lets the gate admit what may start, and hands it out.
-- Next: 114_gate.

create or replace function gendurable._scan_priority(
    p_worker text, p_queue text, p_priority int, p_limit int, p_any int, p_bytes bigint, p_lease interval, p_now timestamptz,
    p_before timestamptz, p_known jsonb, p_steps jsonb, p_stops boolean,
    out ids bigint[], out started bigint[], out mail boolean[], out parts jsonb, out bytes bigint, out memory jsonb,
    out more boolean, out mixed boolean, out places tid[], out jumps boolean, out smooth boolean
)
language plpgsql as $$
declare
    v_now_us constant bigint := gendurable._epoch_us(p_now);
    v_lock constant int := hashtext(p_queue || E'\u0001' || p_priority);
    -- what the session remembers, by range: up to where it was examined; when it was last scanned in full, and what that cost
    v_floor_us bigint[] := array[
        gendurable._past(p_known #>> '{0,0}', v_now_us), gendurable._past(p_known #>> '{1,0}', v_now_us)];
    v_floor_id bigint[] := array[(p_known #>> '{0,1}')::bigint, (p_known #>> '{1,1}')::bigint];
    v_full_at bigint := gendurable._past(p_known ->> 2, v_now_us);
    v_full_cost bigint := coalesce((p_known ->> 3)::bigint, 0);
    v_turn constant int := coalesce((p_known ->> 4)::int, (random() < 0.5)::int);
    -- where it is now, by range, and which range that is: 1 is woken = 0, 2 is woken = 1
    v_at_us bigint[] := v_floor_us;
    v_at_id bigint[] := v_floor_id;
    v_done boolean[] := '{false,false}'::boolean[];
    v_range int := 1;
    v_first boolean := true;
    v_full boolean;
    v_cost bigint := 0;
    -- what is wanted: in all, of this range, and how many rows the next round looks at
    v_wanted int := p_limit;
    v_need int;
    v_size int;
    -- what was looked at
    v_looked int := 0;
    v_keys int := 0;
    v_taken bigint[];
    v_parked boolean := false;
    v_rang boolean := false;
    v_clock timestamptz := p_now;
    -- a round
    v_picked gendurable.candidate[];
    v_places tid[];
    v_last gendurable.candidate;
    v_ids bigint[];
    v_light boolean;
    v_rings boolean;
    v_ticks int;
    v_mail boolean[];
    v_round record;
    v_stopped record;
    v_walked bigint;
begin
    bytes := p_bytes;
    mixed := false;
    smooth := true;
    -- half for lifted rows first: neither range starves the other. Of an odd number the first gets one more each second time.
    v_need := (p_limit + v_turn) / 2;
    v_size := v_need;

    -- A full scan finds what lies below the floor: late commits, past times, expired leases. About once a second, at most
    -- 4 % of the time while it is expensive, and in one session at a time.
    v_full := gendurable._is_full_due(v_now_us - v_full_at, v_full_cost, 1)
        and (
            v_full_at = 0
            or pg_try_advisory_xact_lock(gendurable._lock_of_scans(), v_lock)
            -- overdue: whoever has the lock may keep it for the rest of a long transaction
            or gendurable._is_full_due(v_now_us - v_full_at, v_full_cost, 3));
    if v_full then
        v_at_us := '{0,0}';
        v_at_id := '{0,0}';
        if p_before is not null then
            perform gendurable._shift_priority_back(p_queue, p_priority, p_now, p_before);
        end if;
    end if;

    while v_wanted > 0 and bytes > 0 and v_looked < greatest(10::bigint * p_limit, 1000) and v_keys < gendurable._most_keys()
    loop
        -- 1. Which range, from where on
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
            v_taken := ids;                        -- by that clock a lease that began just now may be over
        end if;
        if v_done[1] and v_done[2] then
            -- too little: look below the floor, if the ration allows
            exit when v_full or v_now_us - v_full_at < gendurable._ration(v_full_cost)
                or not pg_try_advisory_xact_lock(gendurable._lock_of_scans(), v_lock);
            v_full := true;
            v_taken := ids;                        -- found once more, from the beginning
            v_done := '{false,false}';
            v_at_us := '{0,0}';
            v_at_id := '{0,0}';
        end if;
        if v_done[v_range] then
            v_range := 3 - v_range;
        end if;

        -- 2. Lock the next due rows
        v_walked := gendurable._walked();
        v_picked := gendurable._pick_due(
            p_queue, p_priority, (v_range - 1)::smallint,
            case when v_at_us[v_range] = 0 then '-infinity' else timestamptz 'epoch' + v_at_us[v_range] * interval '1 microsecond' end,
            v_at_id[v_range], v_clock, v_size, v_taken, p_now, p_steps);
        v_cost := v_cost + gendurable._walked() - v_walked;
        v_looked := v_looked + cardinality(v_picked);
        v_done[v_range] := cardinality(v_picked) < v_size;
        v_last := v_picked[cardinality(v_picked)];

        if p_stops and v_picked <> '{}' then
            v_stopped := gendurable._set_paused_aside(v_picked, p_queue, p_now);
            v_looked := v_looked + cardinality(v_picked) - cardinality(v_stopped.candidates);
            v_picked := v_stopped.candidates;
            v_keys := v_keys + v_stopped.keys;
            v_parked := v_parked or v_stopped.keys > 0;
        end if;

        -- 3. Take those that may start
        if v_picked <> '{}' then
            -- After the rows were locked: what signals there are is here. A limit: "exists" may become a hash of the table.
            select array_agg(c.id), bool_and(c.plain and not c.heavy),
                array_agg(case
                    when (select true from gendurable.signal s where s.instance_id = c.id limit 1) then true
                    when c.bare then false
                end), coalesce(bool_or(c.id < 0), false), array_agg(c.at)
            into v_ids, v_light, v_mail, v_rings, v_places
            from unnest(v_picked) c;
            v_light := case when p_any is null or mixed or not v_light then v_light else not gendurable._have_timeouts(v_ids) end;
            if v_light and gendurable._carries_all() and not coalesce(true = any(v_mail), false)
                and cardinality(v_ids) <= v_need
            then
                -- nearly always: no gate asks about them, and nothing has to be measured
                smooth := smooth and v_range = 2;
                ids := ids || v_ids;
                mail := mail || v_mail;
                places := places || v_places;
                v_wanted := v_wanted - cardinality(v_ids);
            else
                smooth := false;
                if p_any is not null and not mixed and not v_light then
                    -- What it takes beyond p_any must hold up nobody. Of these some might: all stay due if it has as many by now.
                    mixed := true;
                    v_wanted := v_wanted - p_limit + p_any;
                    v_need := least(v_need, v_wanted);
                    exit when v_wanted <= 0;
                end if;
                -- what comes out of a line counts for neither range
                v_round := gendurable._take_round(
                    p_worker, p_queue, p_priority, v_picked, case when v_rings then v_wanted else v_need end, bytes, p_lease,
                    p_now, p_steps, p_stops);
                ids := ids || v_round.ids;
                started := started || v_round.started;
                mail := mail || v_round.mail;
                if v_round.parts is not null then
                    parts := coalesce(parts, '{}') || v_round.parts;
                end if;
                bytes := v_round.bytes;
                v_wanted := v_wanted - cardinality(v_round.ids);
                v_keys := v_keys + v_round.keys;
                v_parked := v_parked or v_round.left_out;
                v_rang := v_rang or v_rings or v_round.limited;
                jumps := jumps or v_round.jumps;
                if v_rings then
                    -- What schedules have inserted stands in the second range, which is next, beside what was taken there of
                    -- the same time. A bell of theirs costs as much as some keys.
                    v_ticks := (select count(*) from unnest(v_picked) c where c.id < 0 and c.rate_limit is null);
                    v_keys := v_keys + 5 * v_ticks;
                    v_first := v_first or v_ticks > 0;
                    v_done[2] := v_done[2] and v_ticks = 0;
                    v_taken := case when v_ticks = 0 then v_taken else ids end;
                end if;
                if v_round.last_id is not null then
                    -- It took no more than were wanted, or can be carried: what was picked behind that one is due as before. 0:
                    -- all of it is.
                    v_last := (select c from unnest(v_picked) c where c.id = v_round.last_id);
                    v_done[v_range] := false;
                end if;
            end if;
        end if;

        -- 4. Where it was examined to, and how the next round goes on
        if v_done[v_range] then
            v_at_us[v_range] := v_now_us;
            v_at_id[v_range] := 0;
        elsif v_last.id is not null then
            v_at_us[v_range] := gendurable._epoch_us(v_last.eligible_at);
            v_at_id[v_range] := v_last.id;
        end if;
        -- the other range gets the rest; behind a busy key each round looks at more
        v_size := case when v_first then v_wanted else greatest(least(2 * v_size::bigint, 1000), v_wanted) end;
        v_range := case when v_first then 2 else v_range end;
        v_need := v_wanted;
        v_first := false;
    end loop;

    smooth := smooth and v_wanted = 0;
    more := v_wanted > 0 and (v_rang or not (v_done[1] and v_done[2]));
    if v_full then
        v_full_cost := v_cost;
        -- ended below the floor with more to find there: the next one as soon as the ration allows
        v_full_at := v_now_us - case
            when v_at_us[1] < v_floor_us[1] or v_at_us[2] < v_floor_us[2]
                then gendurable._scan_pause_us() - least(gendurable._ration(v_full_cost), gendurable._scan_pause_us())
            else 0
        end;
    end if;
    -- A priority in which nothing is due and that is scanned in no time is found again when something is: a queue may have
    -- had any number of them.
    if more or v_looked > 0 or v_full_cost > gendurable._dear() then
        memory := jsonb_build_array(
            gendurable._next_floor(v_at_us[1], v_at_id[1], v_floor_us[1], v_floor_id[1], v_now_us),
            gendurable._next_floor(v_at_us[2], v_at_id[2], v_floor_us[2], v_floor_id[2], v_now_us),
            v_full_at, v_full_cost, 1 - v_turn);
    end if;
end $$;

comment on function gendurable._scan_priority(
    text, text, int, int, int, bigint, interval, timestamptz, timestamptz, jsonb, jsonb, boolean) is
    'Due rows of one queue and priority that may be claimed, locked, up to p_limit rows and about p_bytes bytes; as soon as it meets
others than small plain ones (mixed), only up to p_any. started: claims of keys and scopes, and of what crashed often, which have begun.
memory: what to remember of it, null for nothing. smooth: it found as many as it wanted, and nothing but small plain ones, of the second
range. more: it looked at enough for one claim, and there is more. jumps: as of _take_round.';

create or replace function gendurable._take_round(
    p_worker text, p_queue text, p_priority int, p_picked gendurable.candidate[], p_need int, p_bytes bigint, p_lease interval,
    p_now timestamptz, p_steps jsonb, p_stops boolean, out ids bigint[], out started bigint[], out mail boolean[], out parts jsonb,
    out bytes bigint, out keys int, out left_out boolean, out last_id bigint, out limited boolean, out jumps boolean
)
language plpgsql as $$
declare
    v_plain boolean;
    v_lost boolean;
    v_gate record;
    v_slots int[];
    v_heavy boolean[];
    v_load record;
begin
    keys := 0;
    left_out := false;
    select bool_and(c.plain), bool_or(c.status = 'executing') into v_plain, v_lost from unnest(p_picked) c;
    if v_plain then
        select array_agg(c.id), array_agg(c.heavy) into ids, v_heavy from unnest(p_picked) c;
        if cardinality(ids) > p_need then
            -- a round behind a busy key looks at more than are wanted
            ids := ids[:p_need];
            v_heavy := v_heavy[:p_need];
            last_id := ids[p_need];
        end if;
    else
        v_gate := gendurable._pass_gate(p_queue, p_priority, p_picked, p_need, p_lease, p_now, p_steps, p_stops);
        ids := v_gate.ids;
        v_slots := v_gate.slots;
        v_heavy := v_gate.heavy;
        keys := v_gate.keys;
        left_out := v_gate.left_out;
        last_id := v_gate.last_id;
    end if;
    bytes := p_bytes;
    if ids <> '{}' then
        v_load := gendurable._load_round(ids, v_slots, v_heavy, bytes, p_now);
        if v_load.last_id is not null then
            last_id := coalesce((
                select c.id
                from unnest(p_picked) with ordinality c
                where c.id = any(v_load.ids)
                order by c.ordinality desc
                limit 1), 0);
        end if;
        ids := v_load.ids;
        mail := v_load.mail;
        parts := v_load.parts;
        bytes := v_load.bytes;
    end if;
    if not v_plain and ids <> '{}' then
        -- at once: who may follow in a key depends on who has begun
        if v_gate.scoped then
            perform gendurable._take_unique_keys(ids, array_fill('executing'::gendurable.status, array[cardinality(ids)]));
        end if;
        if v_lost then
            perform gendurable._note_crashes(array(
                select i.id from gendurable.instance i where i.id = any(ids) and i.status = 'executing'), p_now);
        end if;
        perform gendurable._to_executing(p_worker, ids, v_load.slots, p_now, p_lease);
        started := ids;
    end if;
    limited := false;
    if not v_plain then
        limited := v_gate.opened is not null;
    end if;
    if limited then
        jumps := (select bool_or(o.bound_priority < p_priority) from unnest(v_gate.opened) o);
        perform gendurable._close_buckets(
            p_queue, p_priority, v_gate.opened, v_gate.limited, ids, v_gate.parked, p_need);
    end if;
end $$;

comment on function gendurable._take_round(
    text, text, int, gendurable.candidate[], int, bigint, interval, timestamptz, jsonb, boolean
) is
    'Of rows that were picked, and those that bells among them call, those that may start and can be carried, p_need at most; where a gate
asked, their claims have begun (started). keys: of how many keys and limits they were. left_out: some had to wait. last_id: the last picked
row that was dealt with, if not all were; 0: none. limited: rate limits were asked and may have set bells. jumps: to earlier priorities.';

create or replace function gendurable._shift_priority_back(
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

comment on function gendurable._shift_priority_back(text, int, timestamptz, timestamptz) is
    'Makes rows due that were due when they were written, before the clock was set back.';
