-- Locking due rows: the next ones of a range, for the scan; and all that a claim wants, where the scan would find nothing but plain
-- ones.
-- Next: 114_gate.

create or replace function gendurable._pick_due(
    p_queue text, p_priority int, p_woken smallint, p_after timestamptz, p_after_id bigint, p_now timestamptz,
    p_limit int, p_taken bigint[], p_started timestamptz, p_steps jsonb
) returns gendurable.candidate[]
language plpgsql as $$
begin
    return array(
        select gendurable._candidate(
            p_id => i.id,
            p_eligible_at => i.eligible_at,
            p_status => i.status,
            p_crashes => i.crashes,
            p_plain => i.partition_key is null and i.unique_scope is null and i.rate_limit is null and i.id > 0
                and i.expires_at is null and i.timeout_at is null and i.crashes < 3
                and (i.status = 'runnable' or i.status = 'awaiting_signal'),
            p_partition_key => i.partition_key,
            p_slot_no => i.slot_no,
            p_lane_at => i.lane_at,
            p_heavy => i.children_pending is not null or case
                when pg_column_size(i.state) + pg_column_size(i.meta) > 200
                    then gendurable._is_large(i.state) or gendurable._is_large(i.meta)
                else false
            end,
            p_bare => i.status = 'runnable' and i.awaits is null and i.deadline_at is null and i.shown is null,
            p_rate_limit => i.rate_limit,
            p_weight => i.weight,
            -- of a bell: from which place on others came to the line
            p_place => case when i.id < 0 then i.deadline_at else coalesce(i.lane_at, i.eligible_at) end,
            p_lined => false,
            p_priority => i.priority,
            p_scoped => i.unique_scope is not null,
            p_over => i.expires_at <= p_now or (i.status = 'executing' and i.timeout_at <= p_now),
            p_at => i.ctid
        )
        from gendurable.instance i
        where i.queue = p_queue and i.priority = p_priority and i.woken = p_woken
            and i.eligible_at <= p_now and (i.eligible_at, i.id) > (p_after, p_after_id)
            -- a live lease is passed over here and not in the index, so that a claim writes no index entry
            and (i.lease_expires_at is null or (
                i.lease_expires_at <= p_now and not gendurable._is_renewed(i.id, i.claim_no, p_now)))
            and (p_taken is null or i.id <> all(p_taken))
            -- a bell that was set since this claim began is for others: it would go round for ever
            and (i.id > 0 or i.eligible_at <= p_started)
            and (p_steps is null or case
                when i.id > 0 then gendurable._is_wanted(p_steps, i.fsm, i.fsm_version, i.step)
                    -- it carries a baton, which is everybody's
                    or (i.partition_key is not null and (i.lane_at is null or i.lane_at > p_now))
                -- bells are for everybody, but for those of lines whose turn it is not
                else i.rate_limit is null or gendurable._is_line_wanted(p_steps, i.rate_limit, i.queue, i.eligible_at)
            end)
        order by i.eligible_at, i.id
        limit p_limit
        for no key update skip locked);
end $$;

comment on function gendurable._pick_due(
    text, int, smallint, timestamptz, bigint, timestamptz, int, bigint[], timestamptz, jsonb
) is
    'Locks the next due rows of an index range whose steps are wanted (p_steps; null: all), without those that this claim has already, and
bells that were due at its start.';

-- What a scan does where it meets nothing special, in one statement: most of the time of a claim of a few rows is the set-up of
-- all the expressions of the scan. Whatever a claim has to look after stands in the conditions, and whoever does not meet them
-- goes the long way. The rows that were locked for nothing are due as before, and the same session may lock them again.
-- Signals are looked for in the statement that locks. One that is committed between its beginning and the lock is not seen, as
-- if the claim had come first: the row waits for none, and the next await of its step finds it.
create or replace function gendurable._pick_plain(
    p_queue text, p_priority int, p_limit bigint, p_memory jsonb,
    out ids bigint[], out places tid[], out now timestamptz, out timed boolean
)
language plpgsql as $$
declare
    v_now_us constant bigint := gendurable._epoch_us(clock_timestamp());
    v_known constant jsonb := p_memory -> p_queue -> p_priority::text;
    v_floor_us constant bigint := (v_known #>> '{1,0}')::bigint;
    v_plain boolean;
    v_last_us bigint;
    v_text text;
begin
    now := clock_timestamp();
    timed := false;
    -- a full scan is due, or the clock was set back
    if gendurable._is_full_due(v_now_us - (v_known ->> 2)::bigint, (v_known ->> 3)::bigint, 1)
        or v_now_us < (p_memory #>> '{"",0}')::bigint or p_limit not between 1 and 1000 or not gendurable._carries_all()
    then
        return;
    end if;
    select array_agg(d.id), array_agg(d.place), gendurable._epoch_us((array_agg(d.eligible_at))[p_limit]),
        -- a limit: "exists" may become a hash of the table
        bool_and(d.plain and (select true from gendurable.signal s where s.instance_id = d.id limit 1) is null)
    into ids, places, v_last_us, v_plain
    from (
        select i.id, i.ctid as place, i.eligible_at,
            i.status = 'runnable' and i.id > 0 and i.crashes < 3
            and coalesce(i.partition_key, i.rate_limit) is null and i.unique_scope is null
            and coalesce(i.expires_at, i.timeout_at, i.deadline_at) is null
            and i.awaits is null and i.shown is null and i.children_pending is null
            and case
                when pg_column_size(i.state) + pg_column_size(i.meta) > 200
                    then not (gendurable._is_large(i.state) or gendurable._is_large(i.meta))
                else true
            end as plain
        from gendurable.instance i
        where i.queue = p_queue and i.priority = p_priority and i.woken = 1
            and i.eligible_at <= now
            and (i.eligible_at, i.id) > (
                timestamptz 'epoch' + v_floor_us * interval '1 microsecond', (v_known #>> '{1,1}')::bigint)
            and (i.lease_expires_at is null or (
                i.lease_expires_at <= now and not gendurable._is_renewed(i.id, i.claim_no, now)))
            and not exists (select from gendurable.special)
            -- nothing before them: an earlier priority, or a lifted row that is due
            and not exists (
                select from gendurable.instance x
                where x.queue = p_queue and x.priority < p_priority and x.eligible_at is not null)
            and not exists (
                select from gendurable.instance x
                where x.queue = p_queue and x.priority = p_priority and x.woken = 0 and x.eligible_at <= now
                    and x.eligible_at >= timestamptz 'epoch' + (v_known #>> '{0,0}')::bigint * interval '1 microsecond')
        order by i.eligible_at, i.id
        limit p_limit
        for no key update skip locked
    ) d;
    if not coalesce(v_plain and v_last_us is not null, false) then
        ids := null;
        return;
    end if;
    -- the range of lifted rows keeps its floor until the next scan
    v_text := jsonb_set(
        jsonb_set(p_memory, '{"",0}', to_jsonb(v_now_us)), array[p_queue, p_priority::text, '1'],
        gendurable._next_floor(v_last_us, ids[p_limit], 0, 0, v_now_us))::text;
    v_text := set_config('gendurable.floor', gendurable._sealed(v_text), false);
end $$;

comment on function gendurable._pick_plain(text, int, bigint, jsonb) is
    'Locks p_limit due rows, if all that are next in the queue are small plain ones without signals, of this priority (the first one, where
the last scan was smooth), and if nothing special is at hand and no full scan is due. Else null, and the memory stays as it was.';
