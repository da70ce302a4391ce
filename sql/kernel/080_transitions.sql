-- The transitions between statuses.
-- Next: 085_memory, what a session remembers of where it looked for rows.

create or replace function gendurable._begin(
    p_worker text, p_ids bigint[], p_slots int[], p_now timestamptz, p_lease interval
) returns void
language plpgsql as $$
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
begin
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
    from unnest(p_ids, p_slots) w (id, slot_no)
    -- not "=": see docs/performance.md, "Plans"; the same in all that joins rows to an array of what is asked for
    where i.id = any(array[w.id]);
end $$;

comment on function gendurable._begin(text, bigint[], int[], timestamptz, interval) is
    'Begins claims on locked rows, with the slot that each got of its key.';

create or replace function gendurable._start_bare(
    p_worker text, p_ids bigint[], p_now timestamptz, p_lease interval
) returns setof gendurable.claimed
language plpgsql as $$
#variable_conflict use_column
declare
    v_claim_no constant bigint := gendurable._epoch_us(p_now);
begin
    -- As _begin and _hand_out do, without what these rows have not: setting that up is a good part of a claim of a few rows.
    return query
        with mine as (
            update gendurable.instance i
            set status = 'executing',
                worker = p_worker,
                lease_expires_at = p_now + p_lease,
                claim_no = greatest(i.claim_no + 1, v_claim_no),
                updated_at = p_now
            from unnest(p_ids) with ordinality w (id, ord)
            where i.id = any(array[w.id])
            returning i.id, i.claim_no, i.fsm, i.fsm_version, i.step, i.state, i.attempt, i.queue, i.unique_key,
                i.parent_id, i.meta, w.ord
        )
        select
            m.id, m.claim_no, m.fsm, m.fsm_version, m.step, m.state, m.attempt, m.queue, null::text,
            m.unique_key, m.parent_id, null::text[], false, '[]'::jsonb, '[]'::jsonb, m.meta
        from mine m
        order by m.ord;
end $$;

comment on function gendurable._start_bare(text, bigint[], timestamptz, interval) is
    'Begins claims on locked rows that are runnable, in no key or scope, have no await, no signal and no children, and hands them
out.';

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
