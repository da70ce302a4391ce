-- Clocks that were set back: rows written before that have times in the future, and would wait for them.
-- Next: 218_retention.

create or replace function gendurable._turn_ahead_back(p_now timestamptz, p_until timestamptz) returns int
language plpgsql as $$
declare
    v_look constant int := gendurable._most_looks();
    v_place jsonb := gendurable._recall_place('clock');
    v_level record;
    v_row record;
    v_next jsonb;
    v_ids bigint[] := '{}'::bigint[];
    v_looked int := 0;
    v_fitting int;
begin
    -- What was due when it was written stands before what is delayed, but for what is due within the jump: after many
    -- rows in a row that are as they should be there are no more. A priority at a time, and the next call goes on there.
    select n.queue, n.priority into v_level
    from gendurable._skip_to_next_priority(coalesce(v_place ->> 0, ''), coalesce((v_place ->> 1)::int, 0)) n;
    while v_level.queue is not null loop
        if v_looked >= v_look or cardinality(v_ids) >= 2000 or clock_timestamp() > p_until then
            v_next := v_place;
            exit;
        end if;
        for v_range in 0 .. 1 loop
            v_fitting := 0;
            v_looked := v_looked + 1;
            for v_row in
                select i.id, i.eligible_at, i.status, i.updated_at
                from gendurable.instance i
                where i.queue = v_level.queue and i.priority = v_level.priority and i.woken = v_range::smallint
                    and i.eligible_at > p_now
                order by i.eligible_at, i.id
                limit 5000
            loop
                v_looked := v_looked + 1;
                v_fitting := v_fitting + 1;
                if gendurable._is_ahead(v_row.updated_at, p_now)
                    and (v_row.status = 'executing' or v_row.eligible_at <= v_row.updated_at)
                then
                    v_ids := v_ids || v_row.id;
                    v_fitting := 0;
                end if;
                exit when v_fitting >= 1000 or cardinality(v_ids) >= 2000;
            end loop;
        end loop;
        v_place := jsonb_build_array(v_level.queue, v_level.priority);
        select n.queue, n.priority into v_level from gendurable._skip_to_next_priority(v_level.queue, v_level.priority) n;
    end loop;
    perform gendurable._keep_place('clock', v_next);
    return gendurable._turn_rows_back(v_ids, p_now);
end $$;

comment on function gendurable._turn_ahead_back(timestamptz, timestamptz) is
    'Finds rows that wait for a time which the clock showed before it was set back, and makes them due; how many.';

create or replace function gendurable._turn_rows_back(p_ids bigint[], p_now timestamptz) returns int
language plpgsql as $$
declare
    v_count int;
    v_queues text[];
begin
    with free as materialized (
        select i.id from gendurable.instance i where i.id = any(p_ids) order by i.id for no key update skip locked
    ), turned as (
        update gendurable.instance i
        set lease_expires_at = case
                when i.lease_expires_at > i.updated_at
                    then least(p_now + (i.lease_expires_at - i.updated_at), i.expires_at)
                else i.lease_expires_at                  -- renewed since, by the clock of now
            end,
            timeout_at = p_now + (i.timeout_at - i.updated_at),
            eligible_at = least(i.eligible_at, p_now),
            bucket_at = null,
            lane_at = case when i.lane_at is not null then least(i.lane_at, p_now) end,
            deadline_at = case when i.deadline_at is not null and i.deadline_at <= i.updated_at
                then least(i.deadline_at, p_now) else i.deadline_at end,
            updated_at = p_now
        from free f
        where i.id = any(array[f.id]) and gendurable._is_ahead(i.updated_at, p_now)
            and (i.status = 'executing' or coalesce(i.eligible_at, i.lane_at) <= i.updated_at)
        returning i.id, i.queue
    )
    select count(*)::int, array_agg(distinct t.queue) into v_count, v_queues from turned t;
    if v_count > 0 then
        delete from gendurable.renewal r
        where (r.instance_id, r.claim_no) in (
            select x.instance_id, x.claim_no
            from gendurable.renewal x
            where x.instance_id = any(p_ids) and gendurable._is_ahead(x.until, p_now)
            for update skip locked);
        perform gendurable._wake_sleepers(v_queues);
    end if;
    return v_count;
end $$;

comment on function gendurable._turn_rows_back(bigint[], timestamptz) is
    'Rows that a clock wrote which was ahead: a lease and a timeout get the length that they had, from now on, and what was due then is due
now, with its place in its key; how many.';
