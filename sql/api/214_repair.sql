-- Keys that lost their baton and schedules that lost their bell, which should never be, and carriers of batons that no claim meets.
-- Invariant 6, once more. Next: 215_lines.

create or replace function gendurable._relieve_stray_carriers(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_ids bigint[];
    v_keys text[];
begin
    -- Claims do this by the way. What stands in a queue that is paused, or that nobody serves, would hold up the rows of
    -- its key in other queues.
    v_ids := array(
        select i.id
        from gendurable.instance i
        where i.partition_key is not null and i.eligible_at is not null and i.lane_at is null
            and i.eligible_at <= p_now and i.status <> 'executing'
        limit gendurable._most_keys()
        for no key update skip locked);
    if v_ids = '{}' then
        return;
    end if;
    v_keys := gendurable._try_keys(array(
        select distinct i.partition_key from gendurable.instance i where i.id = any(v_ids) order by 1), 1);
    if not gendurable._is_settled() then
        return;
    end if;
    perform gendurable._relieve_carriers(
        array(select i.id from gendurable.instance i where i.id = any(v_ids) and i.partition_key = any(v_keys)), v_keys, p_now);
end $$;

comment on function gendurable._relieve_stray_carriers(timestamptz) is
    'Passes on the batons that stand with rows without a place in their keys, wherever these are: 500 a call.';

create or replace function gendurable._repair_batons(p_now timestamptz, p_until timestamptz) returns int
language plpgsql as $$
declare
    v_most constant int := 2000;
    v_pauses constant boolean := gendurable._has_pauses();
    v_key text := gendurable._recall_place('repair') #>> '{}'::text[];
    v_behind boolean := v_key is not null;           -- keys before the place were not looked at in this call
    v_looked int := 0;
    v_count int := 0;
    v_next text;
begin
    v_key := coalesce(v_key, '');
    while v_looked < v_most and v_count < gendurable._most_keys() and clock_timestamp() < p_until loop
        -- from key to key through the index, whatever the number of rows in each
        select i.partition_key into v_next
        from gendurable.instance i
        where i.partition_key > v_key and i.lane_at is not null
        order by i.partition_key
        limit 1;
        if not found then
            v_key := '';
            exit when not v_behind;
            v_behind := false;
            continue;
        end if;
        v_key := v_next;
        v_looked := v_looked + 1;
        if v_pauses then
            perform gendurable._set_lane_aside(v_key, p_now);
        end if;
        v_count := v_count + gendurable._repair_key(v_key, p_now);
    end loop;
    perform gendurable._keep_place('repair', to_jsonb(nullif(v_key, '')));
    return v_count;
end $$;

comment on function gendurable._repair_batons(timestamptz, timestamptz) is
    'Lifts the first row of every key that waits without a slot holder or a due row, for 2,000 keys a call; how many rows.';

create or replace function gendurable._repair_key(p_key text, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_ahead bigint[];
begin
    -- parked by a clock that was ahead: nobody would lift it before that time comes
    v_ahead := array(
        select h.id
        from (
            select i.id, i.lane_at
            from gendurable.instance i
            where i.partition_key = p_key and i.lane_at is not null
            order by i.priority, i.lane_at, i.id
            limit 10
        ) h
        where gendurable._is_ahead(h.lane_at, p_now));
    if v_ahead <> '{}' then
        perform gendurable._turn_rows_back(
            array(select i.id from gendurable.instance i where i.id = any(v_ahead) and i.eligible_at is null), p_now);
    end if;
    if not gendurable._lacks_baton(p_key, p_now) or not pg_try_advisory_xact_lock(gendurable._key_lock(p_key)) then
        return 0;
    end if;
    -- Looked at again under the lock: a commit may just have been passing it on. What is in doubt is known: claims see
    -- to it.
    if not gendurable._lacks_baton(p_key, p_now)
        or exists (select from gendurable.doubtful_key d where d.partition_key = p_key)
    then
        return 0;
    end if;
    return cardinality(gendurable._lift_rows(gendurable._find_heads(p_key, least(gendurable._find_key_limit(p_key), 100)), p_now));
exception
    when others or assert_failure then
        if not gendurable._blames_row(sqlstate) then
            raise;
        end if;
        return 0;                                    -- a later call tries again
end $$;

comment on function gendurable._repair_key(text, timestamptz) is
    'Repairs one key: how many of its rows waited for nobody and were lifted.';

create or replace function gendurable._lacks_baton(p_key text, p_now timestamptz) returns boolean
language plpgsql volatile as $$
begin
    return not exists (
            select from gendurable.instance i where i.partition_key = p_key and i.slot_no is not null)
        -- one that is due later although its turn has come was given back for a while: those behind it wait
        and exists (
            select from gendurable.instance i
            where i.id = any(gendurable._find_heads(p_key, 1)) and i.eligible_at is null and i.bucket_at is null)
        and not exists (
            select from gendurable.instance i
            where i.partition_key = p_key and i.lane_at is not null and i.slot_no is null
                and i.eligible_at <= p_now + gendurable._baton_pause()
                and not exists (select from gendurable.paused_queue q where q.queue = i.queue))
        and not exists (
            -- a row that carries it without a place in the key: in whatever queue, upkeep itself looks at these
            select from gendurable.instance i
            where i.partition_key = p_key and i.eligible_at is not null and i.lane_at is null);
end $$;

comment on function gendurable._lacks_baton(text, timestamptz) is
    'Whether rows of the key wait while nothing will ever look at them. It should never be so.';

create or replace function gendurable._repair_schedules(p_until timestamptz) returns int
language plpgsql as $$
declare
    v_most constant int := 2000;
    v_from text := coalesce(gendurable._recall_place('schedules') #>> '{}'::text[], '');
    v_names text[];
    v_name text;
    v_count int := 0;
begin
    v_names := array(select s.name from gendurable.schedule s where s.name > v_from order by s.name limit v_most);
    for v_name in
        select s.name
        from unnest(v_names) n (name)
        join gendurable.schedule s on s.name = any(array[n.name])
        cross join lateral gendurable._find_bell_place(s.fsm, s.options) p
        where s.paused_at is null and (
            p.queue <> s.queue or p.priority <> s.priority
            or not coalesce((select true from gendurable.instance i where i.id = s.bell_id limit 1), false))
    loop
        begin
            v_count := v_count + gendurable._rehang_bell(v_name)::int;
        exception
            when others or assert_failure then
                if not gendurable._blames_row(sqlstate) then
                    raise;
                end if;                              -- a later call tries again
        end;
        exit when clock_timestamp() > p_until;
    end loop;
    perform gendurable._keep_place(
        'schedules', to_jsonb(case when cardinality(v_names) = v_most then v_names[v_most] end));
    return v_count;
end $$;

comment on function gendurable._repair_schedules(timestamptz) is
    'Puts a bell for each schedule that has none, and moves those that stand in a former queue of their machine, for 2,000 schedules
a call; how many had none.';
