-- What operators do to rows, one or many, under the locks that the calls have taken.
-- Next: 186_edit.

create or replace function gendurable._cut_reason(p_reason text) returns text
language sql immutable parallel safe as $$
    -- handed to the parent, and to whoever reads the views
    select case when length(p_reason) > 8000 then left(p_reason, 8000) || ' [cut]' else p_reason end
$$;

comment on function gendurable._cut_reason(text) is 'The reason of a cancel, of bearable length.';

create or replace function gendurable._need_time(p_eligible_at timestamptz) returns void
language plpgsql as $$
begin
    if p_eligible_at is null or not isfinite(p_eligible_at) then
        perform gendurable._invalid('p_eligible_at must be a finite time', 'got ' || coalesce(p_eligible_at::text, 'null'),
            'Pass when the instance is to be due.');
    end if;
end $$;

comment on function gendurable._need_time(timestamptz) is 'Raises GD501 unless the time is finite.';

create or replace function gendurable._cancel_instances(p_ids bigint[], p_keys text[], p_reason text, p_now timestamptz) returns void
language plpgsql as $$
declare
    v_locked bigint[];
    v_others bigint[];
begin
    select coalesce(array_agg(i.id) filter (where i.partition_key is null or i.partition_key = any(p_keys)), '{}'),
        -- null-safe: where no key is locked, null <> all('{}') is true
        coalesce(array_agg(i.id) filter (where i.partition_key is not null and i.partition_key <> all(p_keys)), '{}')
    into v_locked, v_others
    from gendurable.instance i
    where i.id = any(p_ids);
    perform gendurable._tell_of_cancels(p_ids, p_now);
    if v_others <> '{}' then
        perform gendurable._end_and_carry(v_others, 'cancelled', p_reason, p_now);
    end if;
    begin
        perform gendurable._end_outside(v_locked, 'cancelled', p_reason, false, p_now);
    exception when lock_not_available then
        -- all that wait in one of the keys are locked by somebody, and the queues of those that end are paused
        perform gendurable._end_and_carry(v_locked, 'cancelled', p_reason, p_now);
    end;
end $$;

comment on function gendurable._cancel_instances(bigint[], text[], text, timestamptz) is
    'Cancels instances, and tells the workers that execute some; those of other keys than the locked ones leave carriers of their
batons.';

create or replace function gendurable._find_taken(p_ids bigint[]) returns bigint[]
language plpgsql as $$
begin
    return array(
        select k.id
        from (
            select i.id, i.unique_key, row_number() over (partition by i.unique_key order by i.id) as place
            from gendurable.instance i
            where i.id = any(p_ids) and i.unique_key is not null and 'runnable' = any(coalesce(i.unique_scope, '{runnable}'))
        ) k
        where k.place > 1
            or exists (select from gendurable.instance h where h.unique_held = k.unique_key and h.id <> k.id));
end $$;

comment on function gendurable._find_taken(bigint[]) is
    'Ended rows that cannot run again now: another one holds their unique key, or would have it with them.';

create or replace function gendurable._retry_instances(p_ids bigint[], p_step text, p_state jsonb, p_now timestamptz)
returns int
language plpgsql as $$
declare
    v_waits record;
    v_ids bigint[];
    v_flows record;
begin
    -- children whose parents still wait in their barriers
    select coalesce(array_agg(i.id), '{}') as ids, array_agg(distinct p.id) as parents into v_waits
    from gendurable.instance i
    join gendurable.instance p on p.id = i.parent_id
    where i.id = any(p_ids) and i.status in ('failed', 'cancelled')
        and p.status = 'awaiting_children' and p.claim_no = i.barrier_no;
    perform gendurable._note_event(array(
        select i.id from gendurable.instance i where i.id = any(p_ids) and i.status in ('failed', 'cancelled')
    ), 'retry', p_step, jsonb_build_object('by', gendurable._actor()), p_now);
    v_flows := gendurable._begin_again(array(
        select i.id from gendurable.instance i where i.id = any(p_ids) and i.status in ('failed', 'cancelled')
    ), p_state is not null);
    with again as (
        update gendurable.instance i
        set step = coalesce(p_step, i.step), state = coalesce(p_state, i.state),
            -- the step that ended is shown again what it was shown then, another one awaits nothing
            awaits = case when p_step is null then i.awaits end,
            shown = case when p_step is null then i.shown end,
            deadline_at = case when p_step is null then i.deadline_at end,
            -- whoever lets it run again wants it to run
            paused_at = null, paused_by = null,
            -- a barrier that its parent has left is not entered again
            barrier_no = case when i.id = any(v_waits.ids) then i.barrier_no end
        where i.id = any(p_ids) and i.status in ('failed', 'cancelled')
        returning i.id
    )
    select array_agg(a.id) into v_ids from again a;
    if v_ids is null then
        return 0;
    end if;
    if v_flows.ids <> '{}' then
        -- a flow asks again for what it waits for
        update gendurable.instance i
        set step = f.step, awaits = null, shown = null, deadline_at = null
        from unnest(v_flows.ids, v_flows.steps) f (id, step)
        where i.id = any(array[f.id]);
    end if;
    perform gendurable._to_runnable(v_ids, p_now, false, p_now);
    if v_waits.parents is not null then
        update gendurable.instance p
        set children_pending = p.children_pending + (
                select count(*) from gendurable.instance i where i.id = any(v_waits.ids) and i.parent_id = p.id),
            updated_at = p_now
        where p.id = any(v_waits.parents);
    end if;
    return cardinality(v_ids);
end $$;

comment on function gendurable._retry_instances(bigint[], text, jsonb, timestamptz) is
    'Makes those that are failed or cancelled run again: how many. Raises unique_violation where one cannot have its unique key
back. Under the locks of the rows and their parents.';

create or replace function gendurable._signal_instances(p_ids bigint[], p_mail jsonb, p_now timestamptz) returns bigint[]
language plpgsql as $$
declare
    v_name constant text := p_mail ->> 'name';
    v_key constant text := p_mail ->> 'dedup_key';
    v_ids bigint[] := p_ids;
    v_due record;
begin
    if v_key is not null then
        -- nobody else is at these keys: who puts one down holds the row
        with new as (
            insert into gendurable.signal_seen (instance_id, dedup_key) select u.id, v_key from unnest(p_ids) u (id)
            on conflict do nothing
            returning instance_id
        )
        select coalesce(array_agg(n.instance_id order by n.instance_id), '{}') into v_ids from new n;
    end if;
    insert into gendurable.signal (instance_id, name, payload, inserted_at)
    select u.id, v_name, p_mail -> 'payload', p_now from unnest(v_ids) u (id);
    select coalesce(array_agg(i.id) filter (where i.status = 'awaiting_signal' and v_name = any(i.awaits)), '{}') as ids,
        -- also for rows that were due already: a claim may have passed over them while they were locked here
        array_agg(distinct i.queue) filter (where i.status <> 'executing' and i.eligible_at <= p_now) as queues
    into v_due
    from gendurable.instance i
    where i.id = any(v_ids);
    if v_due.ids <> '{}' then
        perform gendurable._to_runnable(v_due.ids, p_now, false, p_now);
    end if;
    perform gendurable._wake_sleepers(v_due.queues);
    if cardinality(v_ids) = cardinality(p_ids) then
        return '{}'::bigint[];
    end if;
    return array(select u.id from unnest(p_ids) u (id) where u.id <> all(v_ids));
end $$;

comment on function gendurable._signal_instances(bigint[], jsonb, timestamptz) is
    'Puts a signal into inboxes, as _deliver_signal does into one: the ids that had its dedup_key before. Under the locks of rows that
have not ended.';
