-- Handing out due rows. gd_claim walks the priorities of a queue; each is two index ranges (woken 0: lifted out of a
-- key's lane, woken 1: all others). A round picks a few due rows of a range, admits what it can and hands it out.

-- The floor: where the scans of this session stand, as {lane: [[epoch us, id] of range 0, of range 1, epoch us of the
-- last full scan, its cost in us]}. It is a hint: lost with the session, and unreadable means none.
create or replace function gendurable._floor() returns jsonb
language plpgsql as $$
begin
    return coalesce(nullif(current_setting('gendurable.floor', true), ''), '{}')::jsonb;
exception when data_exception then
    return '{}'::jsonb;
end $$;

comment on function gendurable._floor() is 'What this session remembers of its scans.';

create or replace function gendurable._pick(
    p_queue text, p_priority int, p_woken smallint, p_after timestamptz, p_after_id bigint, p_now timestamptz,
    p_limit int
) returns gendurable.candidate[]
language plpgsql as $$
begin
    return array(
        select row(
            i.id, i.eligible_at, i.status, i.crashes,
            i.partition_key is null and i.unique_scope is null and i.crashes < 3
                and (i.status = 'runnable' or i.status = 'awaiting_signal'),
            i.partition_key, i.slot_no, i.lane_at)::gendurable.candidate
        from gendurable.instance i
        where i.queue = p_queue and i.priority = p_priority and i.woken = p_woken
            and i.eligible_at <= p_now and (i.eligible_at, i.id) > (p_after, p_after_id)
            -- a live lease is passed over here and not in the index, so that a claim writes no index entry
            and (i.lease_expires_at is null or i.lease_expires_at <= p_now)
        order by i.eligible_at, i.id
        limit p_limit
        for no key update skip locked);
end $$;

comment on function gendurable._pick(text, int, smallint, timestamptz, bigint, timestamptz, int) is
    'Locks the next due rows of an index range.';

create or replace function gendurable._hand_out(
    p_worker text, p_ids bigint[], p_slots int[], p_unique boolean, p_now timestamptz, p_lease interval
) returns setof gendurable.claimed
language plpgsql as $$
#variable_conflict use_column
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
begin
    if p_unique then
        perform gendurable._take_keys(p_ids, array_fill('executing'::gendurable.status, array[cardinality(p_ids)]));
    end if;
    return query
        with mine as (
            update gendurable.instance i
            set status = 'executing',
                worker = p_worker,
                lease_expires_at = p_now + p_lease,
                -- a claim committed asynchronously can be lost in a crash of the server: its number is not used again
                claim_no = greatest(i.claim_no + 1, v_claim_no),
                attempt = i.attempt + (i.status = 'executing')::int,
                crashes = i.crashes + (i.status = 'executing')::int,
                slot_no = w.slot_no,
                updated_at = p_now,
                unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, 'executing'),
                deadline_at = case
                    when i.deadline_at is not null and (
                        select true from gendurable.signal s
                        where s.instance_id = i.id and s.name = any(i.awaits) and s.id <> all(coalesce(i.shown, '{}'))
                        limit 1
                    ) is null then i.deadline_at
                end,
                -- what an await may ignore later: signals presented while the row awaited their name
                shown = case
                    when i.awaits is not null then array(
                        select s.id
                        from unnest(i.awaits) a (name)
                        cross join lateral (
                            -- name by name: one range for all of them would be sorted as a whole before the limit
                            select s.id from gendurable.signal s
                            where s.instance_id = i.id and s.name = a.name
                            order by s.id limit 1000
                        ) s
                        order by s.id
                        limit 1000)
                end
            from unnest(p_ids, p_slots) with ordinality w (id, slot_no, ord)
            -- not "=": see docs/performance.md, "Plans"; the same in all that joins rows to an array of what is asked for
            where i.id = any(array[w.id])
            returning i.*, w.ord
        )
        select
            m.id, m.claim_no, m.fsm, m.fsm_version, m.step, m.state, m.attempt, m.queue, m.partition_key,
            m.unique_key, m.parent_id, m.awaits, m.deadline_at is not null and m.deadline_at <= p_now,
            -- a look at the index spares most rows the call; a limit and not exists, which could become one hash of
            -- the whole table
            case
                when (select true from gendurable.signal s where s.instance_id = m.id limit 1)
                    then gendurable._inbox(m.id, m.awaits)
                else '[]'::jsonb
            end,
            case when m.children_pending is null then '[]'::jsonb else gendurable._children(m.id) end,
            m.meta
        from mine m
        order by m.ord;
end $$;

comment on function gendurable._hand_out(text, bigint[], int[], boolean, timestamptz, interval) is
    'Starts claims on locked rows: with the slot that each got of its key, its inbox and its children.';

create or replace function gendurable._claim_lane(
    p_worker text, p_queue text, p_priority int, p_limit int, p_lease interval, p_now timestamptz
) returns setof gendurable.claimed
language plpgsql as $$
#variable_conflict use_column
declare
    v_lane constant text := p_queue || E'\u0001' || p_priority;
    v_floor jsonb := gendurable._floor();
    v_known constant jsonb := v_floor -> v_lane;
    v_now_us constant bigint := gendurable._epoch_us(p_now);
    -- a row that commits a little late is still above the floor
    v_margin_us constant bigint := v_now_us - 50000;
    v_floor_us bigint[] := array[coalesce((v_known #>> '{0,0}')::bigint, 0), coalesce((v_known #>> '{1,0}')::bigint, 0)];
    v_floor_id bigint[] := array[coalesce((v_known #>> '{0,1}')::bigint, 0), coalesce((v_known #>> '{1,1}')::bigint, 0)];
    v_full_at bigint := coalesce((v_known ->> 2)::bigint, 0);
    v_full_cost bigint := coalesce((v_known ->> 3)::bigint, 0);
    v_at_us bigint[] := v_floor_us;
    v_at_id bigint[] := v_floor_id;
    v_done boolean[] := '{false,false}'::boolean[];
    v_cost bigint[] := '{0,0}'::bigint[];
    v_full boolean := false;
    v_range int := 1;                              -- 1: woken = 0, 2: woken = 1
    v_wanted int := p_limit;
    v_need int := (p_limit + 1) / 2;               -- half for lifted rows first: neither range starves the other
    v_looked int := 0;
    v_keys int := 0;
    v_size int := v_need;
    v_first boolean := true;
    v_picked gendurable.candidate[];
    v_ids bigint[];
    v_slots int[];
    v_plain boolean;
    v_clock timestamptz := p_now;
    v_parked boolean := false;
    v_last gendurable.candidate;
    v_started timestamptz;
begin
    -- A full scan finds what lies below the floor: late commits, past times, expired leases. About once a second, at
    -- most 4 % of the time while it is expensive, and in one session at a time.
    v_full := v_now_us - v_full_at >= greatest(1000000, 25 * v_full_cost)
        and (
            pg_try_advisory_xact_lock(7303, hashtext(v_lane))
            -- overdue: whoever has the lock may keep it for the rest of a long transaction
            or v_now_us - v_full_at >= greatest(3000000, 75 * v_full_cost));
    if v_full then
        v_at_us := '{0,0}';
        v_at_id := '{0,0}';
    end if;

    while v_wanted > 0 and v_looked < greatest(10 * p_limit, 1000) and v_keys < 500 loop
        if v_done[1] and v_done[2] and v_parked then
            -- it parked rows and may have lifted others in their place: these stand at the end of their range now
            v_parked := false;
            v_done[1] := false;
            v_clock := clock_timestamp();
        end if;
        if v_done[1] and v_done[2] then
            -- too little: look below the floor, if the ration allows
            exit when v_full or v_now_us - v_full_at < 25 * v_full_cost
                or not pg_try_advisory_xact_lock(7303, hashtext(v_lane));
            v_full := true;
            v_done := '{false,false}';
            v_at_us := '{0,0}';
            v_at_id := '{0,0}';
        end if;
        if v_done[v_range] then
            v_range := 3 - v_range;
        end if;

        v_started := clock_timestamp();
        v_picked := gendurable._pick(
            p_queue, p_priority, (v_range - 1)::smallint,
            case when v_at_us[v_range] = 0 then '-infinity'
                else timestamptz 'epoch' + v_at_us[v_range] * interval '1 microsecond' end,
            v_at_id[v_range], v_clock, v_size);
        v_cost[v_range] := v_cost[v_range] + gendurable._epoch_us(clock_timestamp()) - gendurable._epoch_us(v_started);
        v_looked := v_looked + cardinality(v_picked);
        v_done[v_range] := cardinality(v_picked) < v_size;
        v_last := v_picked[cardinality(v_picked)];

        if v_picked <> '{}' then
            select array_agg(c.id), array_agg(null::int), bool_and(c.plain) into v_ids, v_slots, v_plain
            from unnest(v_picked) c;
            if not v_plain then
                v_picked := gendurable._part_suspects(v_picked, p_lease, p_now);
                v_keys := v_keys + (select count(distinct c.partition_key)::int from unnest(v_picked) c);
                select array_agg(g.id order by g.ord), array_agg(g.slot_no order by g.ord) into v_ids, v_slots
                from gendurable._admit(v_picked, p_now) g;
                v_parked := v_parked or coalesce(cardinality(v_ids), 0) < cardinality(v_picked);
            end if;
            if cardinality(v_ids) > v_need then
                -- more than wanted, since a round behind a busy key looks at more: the scan ends at the last one taken
                v_ids := v_ids[:v_need];
                v_slots := v_slots[:v_need];
                v_last := (select c from unnest(v_picked) c where c.id = v_ids[v_need]);
                v_done[v_range] := false;
            end if;
            if v_ids <> '{}' then
                return query select * from gendurable._hand_out(p_worker, v_ids, v_slots, not v_plain, p_now, p_lease);
                v_wanted := v_wanted - cardinality(v_ids);
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
        v_size := case when v_first then v_wanted else greatest(least(2 * v_size, 1000), v_wanted) end;
        v_range := case when v_first then 2 else v_range end;
        v_need := v_wanted;
        v_first := false;
    end loop;

    if v_full then
        v_full_cost := v_cost[1] + v_cost[2];
        -- ended below the floor with more to find there: the next one as soon as the ration allows
        v_full_at := v_now_us - case
            when v_at_us[1] < v_floor_us[1] or v_at_us[2] < v_floor_us[2] then 1000000 - least(25 * v_full_cost, 1000000)
            else 0
        end;
    end if;
    for r in 1 .. 2 loop
        if v_at_us[r] >= v_floor_us[r] then
            v_floor_id[r] := case when v_at_us[r] > v_margin_us then 0 else v_at_id[r] end;
            v_floor_us[r] := greatest(least(v_at_us[r], v_margin_us), 0);
        end if;
    end loop;
    perform set_config('gendurable.floor', (v_floor || jsonb_build_object(v_lane, jsonb_build_array(
        jsonb_build_array(v_floor_us[1], v_floor_id[1]), jsonb_build_array(v_floor_us[2], v_floor_id[2]),
        v_full_at, v_full_cost)))::text, false);

    if v_wanted > 0 and not (v_done[1] and v_done[2]) then
        -- It looked at enough for one claim, and there is more. Not _wake: that does not see the caller's own lock, and
        -- who claims here is often the only one who sleeps.
        perform gendurable._notify(p_queue);
    end if;
end $$;

comment on function gendurable._claim_lane(text, text, int, int, interval, timestamptz) is
    'Claims up to p_limit due rows of one queue and priority.';

create or replace function gendurable._claim(p_worker text, p_queue text, p_limit int, p_lease interval)
returns setof gendurable.claimed
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_left int := p_limit;
    v_priority int;
    v_got int;
begin
    if p_limit = 0 or exists (select from gendurable.paused_queue q where q.queue = p_queue) then
        return;
    end if;
    for v_priority in
        select distinct p.priority from gendurable.queue_priority p where p.queue = p_queue order by p.priority
    loop
        return query
            select * from gendurable._claim_lane(p_worker, p_queue, v_priority, v_left, p_lease, v_now);
        get diagnostics v_got = row_count;
        v_left := v_left - v_got;
        exit when v_left = 0;
    end loop;
end $$;

comment on function gendurable._claim(text, text, int, interval) is
    'Claims up to p_limit due rows of a queue, by priority.';

create or replace function gendurable._need_claim(p_worker text, p_lease interval, p_options jsonb) returns void
language plpgsql as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_lease(p_lease);
    perform gendurable._need_options(p_options, '{}');
end $$;

comment on function gendurable._need_claim(text, interval, jsonb) is
    'Raises GD501 or GD504 unless a claim can be made with these arguments.';

create or replace function gd_claim(
    p_worker text, p_queue text = 'default', p_limit int = 1, p_lease interval = '60 seconds', p_options jsonb = '{}'
) returns table (
    id bigint, claim_no bigint, fsm text, fsm_version int, step text, state jsonb, attempt int, queue text,
    partition_key text, unique_key text, parent_id bigint, awaits text[], timed_out boolean,
    signals jsonb, childs jsonb, meta jsonb
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
begin
    perform gendurable._need_claim(p_worker, coalesce(p_lease, '60 seconds'), p_options);
    perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
    perform gendurable._need_limit(p_limit);
    return query
        select * from gendurable._claim(
            p_worker, coalesce(p_queue, 'default'), coalesce(p_limit, 1), coalesce(p_lease, '60 seconds'));
end $$;

comment on function gd_claim(text, text, int, interval, jsonb) is
'Starts up to p_limit due instances of a queue for p_worker, under a lease: commit, renew or release each before it
ends, or it is handed out again with attempt + 1. claim_no is the proof of ownership that gd_commit asks for. Order:
priority, then the time at which a row became due. No rows: nothing is due, or the queue is paused. signals is the
unconsumed inbox [{id, name, payload, inserted_at}], childs the children [{id, fsm, status, state, result, last_error}].
Needs READ COMMITTED (GD504); raises GD501.';

create or replace function gd_claim_many(
    p_worker text, p_queues jsonb, p_lease interval = '60 seconds', p_options jsonb = '{}'
) returns table (
    id bigint, claim_no bigint, fsm text, fsm_version int, step text, state jsonb, attempt int, queue text,
    partition_key text, unique_key text, parent_id bigint, awaits text[], timed_out boolean,
    signals jsonb, childs jsonb, meta jsonb
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_queue text;
    v_limit int;
begin
    perform gendurable._need_claim(p_worker, coalesce(p_lease, '60 seconds'), p_options);
    if jsonb_typeof(p_queues) is distinct from 'object' then
        perform gendurable._invalid('p_queues must be a JSON object', 'got ' || coalesce(jsonb_typeof(p_queues), 'null'),
            'Pass {"queue": limit, …}.');
    end if;
    for v_queue in
        select q.key from jsonb_each(p_queues) q
        where q.key = '' or gendurable._int_problem(q.value, q.key, 0) is not null or q.value = 'null'
    loop
        perform gendurable._invalid('p_queues must map names to limits', format('%s: %s', quote_literal(v_queue),
            p_queues -> v_queue), 'Pass {"queue": limit, …} with limits of 0 or more.');
    end loop;
    for v_queue, v_limit in select q.key, q.value::int from jsonb_each(p_queues) q order by q.key loop
        return query
            select * from gendurable._claim(p_worker, v_queue, v_limit, coalesce(p_lease, '60 seconds'));
    end loop;
end $$;

comment on function gd_claim_many(text, jsonb, interval, jsonb) is
'gd_claim for several queues in one call: p_queues is {"queue": limit, …}, at most so many rows of each.
Needs READ COMMITTED (GD504); raises GD501.';
