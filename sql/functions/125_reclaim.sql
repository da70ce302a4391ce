-- Claims on their way back: given back by their worker, or taken away when their lease has ended.

create or replace function gendurable._give_back(
    p_ids bigint[], p_now timestamptz, p_due timestamptz, p_crashed boolean
) returns int
language plpgsql as $$
declare
    v_keys text[];
    v_queues text[];
    v_count int;
begin
    v_keys := array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.id = any(p_ids) and i.partition_key is not null);
    perform gendurable._take_keys(p_ids, array_fill('runnable'::gendurable.status, array[cardinality(p_ids)]));
    with back as (
        update gendurable.instance i
        set status = 'runnable', worker = null, lease_expires_at = null, slot_no = null, woken = 1,
            eligible_at = p_due,
            -- it keeps its turn, also where it is not due at once: those behind it wait
            lane_at = case when i.partition_key is not null then coalesce(i.lane_at, p_due) end,
            attempt = i.attempt + p_crashed::int,
            crashes = i.crashes + p_crashed::int,
            unique_held = gendurable._unique_held(i.unique_held, i.unique_scope, 'runnable'),
            updated_at = p_now
        where i.id = any(p_ids)
        returning i.queue
    )
    select count(*)::int, array_agg(distinct b.queue) into v_count, v_queues from back b;
    if p_due <= p_now + gendurable._longest_poll() then
        perform gendurable._wake(v_queues);
    end if;
    perform gendurable._keep_baton(v_keys, p_ids, p_now);
    return v_count;
end $$;

comment on function gendurable._give_back(bigint[], timestamptz, timestamptz, boolean) is
    'Makes executing rows runnable again and passes their keys on. Under the locks of the rows and their keys.';

create or replace function gendurable._reap(p_limit int) returns int
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lane record;
    v_row record;
    v_unheld int;
    v_count int := 0;
begin
    for v_lane in
        select distinct p.queue, p.priority, w.woken
        from gendurable.queue_priority p
        cross join (values (0::smallint), (1::smallint)) w (woken)
        order by 1, 2, 3
    loop
        -- Held rows became due before what waits behind them: after many rows that nobody holds there are no more.
        v_unheld := 0;
        for v_row in
            -- one range of the claims' index, in its order: it is left early
            select i.id, i.status, i.lease_expires_at, i.claim_no
            from gendurable.instance i
            where i.queue = v_lane.queue and i.priority = v_lane.priority and i.woken = v_lane.woken
                and i.eligible_at <= v_now
            order by i.eligible_at, i.id
        loop
            exit when v_count >= p_limit;
            if v_row.status <> 'executing' then
                v_unheld := v_unheld + 1;
                exit when v_unheld >= 1000;
            else
                v_unheld := 0;
                if v_row.lease_expires_at <= v_now then
                    v_count := v_count + gendurable._reap_one(v_row.id, v_row.claim_no, v_now);
                end if;
            end if;
        end loop;
    end loop;
    return v_count;
end $$;

comment on function gendurable._reap(int) is 'Takes back up to p_limit expired claims; how many.';

create or replace function gendurable._reap_one(p_id bigint, p_claim_no bigint, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_row record;
begin
    select i.crashes, i.partition_key, i.parent_id into v_row
    from gendurable.instance i
    where i.id = p_id and i.claim_no = p_claim_no and i.status = 'executing' and i.lease_expires_at <= p_now
    for no key update skip locked;
    if not found or (v_row.partition_key is not null
        and not pg_try_advisory_xact_lock(gendurable._key_lock(v_row.partition_key)))
    then
        return 0;
    end if;
    if v_row.crashes + 1 >= gendurable._crash_cap() then
        return gendurable._end_crashed(array[p_id], p_now);
    end if;
    return gendurable._give_back(array[p_id], p_now, p_now, true);
end $$;

comment on function gendurable._reap_one(bigint, bigint, timestamptz) is
    'Takes one expired claim back if nothing that it needs is locked; 1 if it did.';
