-- What an insert does about the holder of its unique key, where it is asked to do something (p_on_conflict): answer its id, or move
-- the time, or the state too, of one that has not begun. The holder is locked only if nobody else has it at that moment; whether
-- it has begun is told by its claim number, which the first claim sets. Moving rows in time serves gd_reschedule as well.
-- Next: 088_remove.

create or replace function gendurable._need_conflict(p_on_conflict text) returns void
language plpgsql as $$
begin
    if p_on_conflict not in ('nothing', 'id', 'reschedule', 'replace') then
        perform gendurable._invalid('p_on_conflict must be nothing, id, reschedule or replace',
            'got ' || quote_literal(left(p_on_conflict, 200)), 'Leave it out, and null is answered where the key is held.');
    end if;
    if p_on_conflict in ('reschedule', 'replace') then
        perform gendurable._need_read_committed();
    end if;
end $$;

comment on function gendurable._need_conflict(text) is 'Raises unless an insert can do that about the holder of its key.';

create or replace function gendurable._reschedule_instances(p_ids bigint[], p_at timestamptz, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_moved record;
begin
    perform gendurable._note_event(
        p_ids, 'reschedule', null, jsonb_build_object('until', p_at, 'by', gendurable._actor()), p_now);
    with moved as (
        update gendurable.instance i
        set eligible_at = p_at, bucket_at = null, aside_at = null, woken = 1, updated_at = p_now,
            lane_at = case when i.partition_key is not null then p_at end,
            deadline_at = case when i.status = 'awaiting_signal' then p_at else i.deadline_at end
        where i.id = any(p_ids)
        returning i.queue, i.partition_key
    )
    select array_agg(distinct m.queue) as queues,
        array_agg(distinct m.partition_key) filter (where m.partition_key is not null) as keys
    into v_moved
    from moved m;
    perform gendurable._keep_batons(v_moved.keys, p_ids, p_now);
    if p_at <= p_now + gendurable._longest_poll() then
        perform gendurable._wake_sleepers(v_moved.queues);
    end if;
end $$;

comment on function gendurable._reschedule_instances(bigint[], timestamptz, timestamptz) is
    'Moves when rows are due that are runnable or await a signal. Under the locks of the rows and their keys.';

create or replace function gendurable._meet_holder(
    p_new gendurable.new_instance, p_on_conflict text, p_try int, out id bigint, out again boolean
)
language plpgsql as $$
#variable_conflict use_column
declare
    v_most constant int := 10;
    v_now timestamptz;
    v_row record;
begin
    -- statements of their own: they see who holds it now
    if p_on_conflict = 'id' then
        id := gendurable._find_holder(p_new.unique_key);
        again := id is null and p_try < v_most;
        return;
    end if;
    select i.id, i.partition_key into v_row
    from gendurable.instance i
    where i.unique_held = p_new.unique_key and i.fsm = p_new.fsm and i.claim_no = 0 and i.status = 'runnable'
    for no key update skip locked;
    if not found then
        -- One that has begun stays as it is. Else it was let go, or somebody has it locked: a claim for a few milliseconds, and an
        -- open transaction is not waited for.
        again := p_try < v_most and not exists (
            select from gendurable.instance i
            where i.unique_held = p_new.unique_key and (i.fsm <> p_new.fsm or i.claim_no > 0 or i.status <> 'runnable'));
        if again then
            perform pg_sleep(0.001 * p_try);
        end if;
        return;
    end if;
    if v_row.partition_key is not null and gendurable._try_keys(array[v_row.partition_key], 5) = '{}' then
        again := p_try < v_most;
        return;
    end if;
    id := v_row.id;
    again := false;
    v_now := clock_timestamp();
    if p_on_conflict = 'replace' then
        perform gendurable._note_event(array[v_row.id], 'replace', null, jsonb_build_object('by', gendurable._actor()), v_now);
        update gendurable.instance i
        -- what can read the state comes with it
        set fsm_version = coalesce(p_new.version, m.version, 1), step = coalesce(p_new.step, m.initial_step, 'start'),
            state = coalesce(p_new.state, '{}'),
            aside_step = case when i.aside_at is not null then coalesce(p_new.step, m.initial_step, 'start') end
        from (select v_row.id as id) w
        left join lateral (
            select x.version, x.initial_step
            from gendurable.machine x
            where x.fsm = p_new.fsm and (p_new.version is null or x.version = p_new.version)
            order by x.pinned desc, x.version desc
            limit 1
        ) m on true
        where i.id = any(array[w.id]);
        perform gendurable._place_rows(array[v_row.id], null, v_now);
    end if;
    perform gendurable._reschedule_instances(array[v_row.id], gendurable._due_at(p_new.eligible_at, p_new.delay, v_now), v_now);
end $$;

comment on function gendurable._meet_holder(gendurable.new_instance, text, int) is
    'Does what an insert is to do about the holder of its unique key: answers its id, or gives it the time, and if asked the step, version
and state, of the new one, where it is of the same machine and no worker has ever had it. again: nobody holds it any more, or
somebody has it locked, and the insert may be tried again.';

create or replace function gendurable._insert_or_meet(p_new gendurable.new_instance[], p_on_conflict text) returns bigint
language plpgsql as $$
declare
    v_id bigint;
    v_again boolean;
    v_try int := 0;
begin
    perform gendurable._need_conflict(p_on_conflict);
    loop
        v_id := (gendurable._insert_instances(p_new, null, null, '{}'))[1];
        exit when v_id is not null;
        v_try := v_try + 1;
        select m.id, m.again into v_id, v_again from gendurable._meet_holder(p_new[1], p_on_conflict, v_try) m;
        exit when not v_again;
    end loop;
    return v_id;
end $$;

comment on function gendurable._insert_or_meet(gendurable.new_instance[], text) is
    'Inserts an instance with a unique key, or does what is asked about the holder of that: the id of the one or the other; null: the holder
has begun, or could not be had.';
