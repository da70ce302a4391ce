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

create or replace function gendurable._give_back_isolated(p_ids bigint[], p_now timestamptz, p_due timestamptz) returns int
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
begin
    if p_ids = '{}' then
        return 0;
    end if;
    begin
        return gendurable._give_back(p_ids, p_now, p_due, false);
    exception
        when transaction_rollback or object_not_in_prerequisite_state or data_exception or plpgsql_error
            or integrity_constraint_violation or program_limit_exceeded then
            if v_half = 0 then
                return 0;
            end if;
    end;
    return gendurable._give_back_isolated(p_ids[:v_half], p_now, p_due)
        + gendurable._give_back_isolated(p_ids[v_half + 1:], p_now, p_due);
end $$;

comment on function gendurable._give_back_isolated(bigint[], timestamptz, timestamptz) is
    '_give_back, in halves where it fails: what cannot be given back now is left to its lease.';

create or replace function gendurable._find_held(
    p_worker text, p_place jsonb, p_now timestamptz, p_look int, p_limit int,
    out ids bigint[], out claim_nos bigint[], out place jsonb, out looked int
)
language plpgsql as $$
declare
    v_lane record;
    v_row record;
    v_range smallint := coalesce((p_place ->> 2)::smallint, 0::smallint);
    v_after timestamptz := timestamptz '-infinity';
    v_after_id bigint := coalesce((p_place ->> 4)::bigint, 0);
    v_unheld int;
begin
    ids := '{}';
    claim_nos := '{}';
    looked := 0;
    if p_place is null then
        select n.queue, n.priority into v_lane from gendurable._next_lane('', 0) n;
    else
        select p_place ->> 0 as queue, (p_place ->> 1)::int as priority into v_lane;
        v_after := timestamptz 'epoch' + (p_place ->> 3)::bigint * interval '1 microsecond';
    end if;
    while v_lane.queue is not null loop
        while v_range <= 1 loop
            -- Held rows became due before what waits behind them: after many rows that nobody holds there are no more.
            v_unheld := 0;
            looked := looked + 1;
            for v_row in
                -- one range of the claims' index, in its order: it is left early
                select i.id, i.eligible_at, i.status, i.worker, i.lease_expires_at, i.claim_no, i.updated_at
                from gendurable.instance i
                where i.queue = v_lane.queue and i.priority = v_lane.priority and i.woken = v_range
                    and i.eligible_at <= p_now and (i.eligible_at, i.id) > (v_after, v_after_id)
                order by i.eligible_at, i.id
            loop
                looked := looked + 1;
                if v_row.status <> 'executing' then
                    v_unheld := v_unheld + 1;
                    exit when v_unheld >= 1000;
                else
                    v_unheld := 0;
                    if v_row.worker = p_worker or (p_worker is null and (
                        v_row.lease_expires_at <= p_now or gendurable._is_ahead(v_row.updated_at, p_now)))
                    then
                        ids := ids || v_row.id;
                        claim_nos := claim_nos || v_row.claim_no;
                    end if;
                end if;
                if looked >= p_look or cardinality(ids) >= p_limit then
                    place := jsonb_build_array(
                        v_lane.queue, v_lane.priority, v_range, gendurable._epoch_us(v_row.eligible_at), v_row.id);
                    return;
                end if;
            end loop;
            v_range := v_range + 1::smallint;
            v_after := timestamptz '-infinity';
            v_after_id := 0;
        end loop;
        if looked >= p_look then
            place := jsonb_build_array(v_lane.queue, v_lane.priority, v_range, 0, 0);
            return;
        end if;
        v_range := 0;
        select n.queue, n.priority into v_lane from gendurable._next_lane(v_lane.queue, v_lane.priority) n;
    end loop;
end $$;

comment on function gendurable._find_held(text, jsonb, timestamptz, int, int) is
    'Claims of a worker; for null those that are over, or were made by a clock that was ahead. Up to p_limit of them and of
p_look rows looked at, from p_place on; place: where to go on, null at the end.';

create or replace function gendurable._reap(p_limit int, p_until timestamptz, out count int, out more boolean)
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_look constant int := 20000;
    v_place jsonb := gendurable._place('reap');
    v_behind boolean := v_place is not null;         -- rows before the place were not looked at in this call
    v_looked int := 0;
    v_keyed int := 0;
    v_found record;
    v_some record;
begin
    count := 0;
    while count < p_limit and v_looked < v_look and v_keyed < gendurable._most_keys() and clock_timestamp() < p_until loop
        select h.ids, h.claim_nos, h.place, h.looked into v_found
        from gendurable._find_held(null, v_place, v_now, v_look - v_looked, least(p_limit - count, 100)) h;
        v_place := v_found.place;
        v_looked := v_looked + v_found.looked;
        if v_found.ids <> '{}' then
            select r.count, r.keyed into v_some from gendurable._reap_some(v_found.ids, v_found.claim_nos, v_now) r;
            count := count + v_some.count;
            v_keyed := v_keyed + v_some.keyed;
        end if;
        exit when v_place is null and not v_behind;
        v_behind := v_behind and v_place is not null;
    end loop;
    more := v_place is not null and count > 0;
    if p_limit > 0 then
        perform gendurable._keep_place('reap', v_place);
    end if;
end $$;

comment on function gendurable._reap(int, timestamptz) is
    'Takes back up to p_limit expired claims: how many, and whether there is more to do at once.';

create or replace function gendurable._reap_some(
    p_ids bigint[], p_nos bigint[], p_now timestamptz, out count int, out keyed int
)
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
begin
    count := 0;
    keyed := (select count(distinct i.partition_key) from gendurable.instance i where i.id = any(p_ids));
    begin
        for v_at in 1 .. cardinality(p_ids) loop
            count := count + gendurable._reap_one(p_ids[v_at], p_nos[v_at], p_now);
        end loop;
        return;
    exception
        when transaction_rollback or object_not_in_prerequisite_state or data_exception or plpgsql_error
            or integrity_constraint_violation or program_limit_exceeded then
            count := 0;
    end;
    if v_half > 0 then
        select a.count + b.count into count
        from gendurable._reap_some(p_ids[:v_half], p_nos[:v_half], p_now) a
        cross join gendurable._reap_some(p_ids[v_half + 1:], p_nos[v_half + 1:], p_now) b;
    end if;
end $$;

comment on function gendurable._reap_some(bigint[], bigint[], timestamptz) is
    'Takes expired claims back, in halves where it fails, so that one that cannot be given back costs no other: how many,
and how many keys they have.';

create or replace function gendurable._reap_one(p_id bigint, p_claim_no bigint, p_now timestamptz) returns int
language plpgsql as $$
declare
    v_row record;
begin
    select i.crashes, i.partition_key, i.updated_at into v_row
    from gendurable.instance i
    where i.id = p_id and i.claim_no = p_claim_no and i.status = 'executing'
        and (gendurable._is_ahead(i.updated_at, p_now) or (
            i.lease_expires_at <= p_now and not gendurable._is_renewed(i.id, i.claim_no, p_now)))
    for no key update skip locked;
    if not found then
        return 0;
    end if;
    if gendurable._is_ahead(v_row.updated_at, p_now) then
        perform gendurable._turn_back(array[p_id], p_now);
        return 0;
    end if;
    if v_row.partition_key is not null
        and not pg_try_advisory_xact_lock(gendurable._key_lock(v_row.partition_key))
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
