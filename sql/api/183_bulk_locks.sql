-- Many instances under one call: every lock that is free is taken, what misses one is answered busy, and the rest is done at once,
-- in halves where that fails.
-- Invariant 8. Next: 184_steer, what is done to rows under these locks.

create or replace function gendurable._operate_many(
    p_what text, p_ids bigint[], p_reason text, p_at timestamptz, p_mail jsonb
)
returns table (id bigint, result text)
language plpgsql as $$
#variable_conflict use_column
declare
    v_some constant int := 1000;
    v_until constant timestamptz := clock_timestamp() + interval '1 second';
    v_ids bigint[];
    v_locked record;
    v_answers jsonb := '{}'::jsonb;
    v_now timestamptz;
    v_count bigint;
begin
    perform gendurable._need_read_committed();
    if p_ids is null or cardinality(p_ids) > 10000 then
        perform gendurable._invalid('p_ids must be an array of at most 10000 ids',
            coalesce('got ' || cardinality(p_ids), 'got null'), 'Pass 500 to 1,000 ids a call.');
    end if;
    v_ids := array(select distinct u.id from unnest(p_ids) u (id) where u.id > 0 order by 1);
    if not (gendurable._can_write() and gendurable._can_note()) then
        -- nor can it be read who is there
        return query select u.id, 'busy' from unnest(v_ids) u (id);
        return;
    end if;
    v_locked := gendurable._lock_many(p_what, v_ids);
    v_ids := v_locked.ids;
    v_answers := v_locked.answers;
    v_now := clock_timestamp();
    -- by id, so that parents end before their children count in their barriers
    for v_at in 0 .. (cardinality(v_ids) - 1) / v_some loop
        v_answers := v_answers || gendurable._operate_isolated(
            p_what, v_ids[v_at * v_some + 1:(v_at + 1) * v_some], v_locked.keys, p_reason, p_at, p_mail, v_now, v_until);
    end loop;
    v_count := (select count(*) from unnest(v_ids) u (id) where not v_answers ? u.id::text);
    if v_count > 0 then
        perform gendurable._note_by_hand('gd_' || p_what || '_many', null,
            gendurable._tell_ids(p_ids) || jsonb_build_object(
                'reason', p_reason, 'eligible_at', p_at, 'name', p_mail -> 'name', 'dedup_key', p_mail -> 'dedup_key'), v_count);
    end if;
    return query
        select u.id, coalesce(
            v_answers ->> u.id::text,
            case when u.id = any(v_ids) then 'done' end,
            case
                when not exists (select from gendurable.instance i where i.id = u.id and i.id > 0) then 'none'
                when gendurable._is_open_to(p_what, (select i.status from gendurable.instance i where i.id = u.id)) then 'busy'
                else 'no'
            end)
        from (select distinct x.id from unnest(p_ids) x (id)) u
        order by u.id;
end $$;

comment on function gendurable._operate_many(text, bigint[], text, timestamptz, jsonb) is
    'Cancels, retries, reschedules, deletes or signals (p_what) instances, and what became of each. Under lock_timeout.';

create or replace function gendurable._is_open_to(p_what text, p_status gendurable.status) returns boolean
language sql immutable parallel safe as $$
    select case p_what
        when 'cancel' then not gendurable._is_terminal(p_status)
        when 'retry' then p_status = 'failed' or p_status = 'cancelled'
        when 'delete' then gendurable._is_terminal(p_status)
        when 'signal' then not gendurable._is_terminal(p_status)
        else p_status = 'runnable' or p_status = 'awaiting_signal'
    end
$$;

comment on function gendurable._is_open_to(text, gendurable.status) is 'Whether an instance in this status can be operated on so.';

create or replace function gendurable._lock_many(
    p_what text, p_ids bigint[], out ids bigint[], out keys text[], out answers jsonb
)
language plpgsql as $$
declare
    v_parents bigint[];
    v_asked text[] := '{}'::text[];
begin
    answers := '{}';
    keys := '{}';
    if p_what = 'delete' then
        ids := array(select u.id from unnest(gendurable._lock_ended(p_ids)) u (id) order by 1);
        select coalesce(jsonb_object_agg(i.id, 'no'), '{}') into answers
        from gendurable.instance i
        where i.id = any(p_ids) and (
            select true from gendurable.instance p where p.id = any(array[i.parent_id]) and p.finished_at is null);
        return;
    end if;
    -- Waits for nobody, so no order can deadlock: whoever misses one is asked about in a later statement.
    select coalesce(array_agg(l.id order by l.id), '{}'),
        coalesce(array_agg(distinct l.parent_id) filter (where l.barrier_no is not null), '{}')
    into ids, v_parents
    from (
        select i.id, i.parent_id, i.barrier_no
        from unnest(p_ids) u (id)
        cross join lateral (
            select x.id, x.parent_id, x.barrier_no
            from gendurable.instance x
            where x.id = u.id and gendurable._is_open_to(p_what, x.status)
            for no key update skip locked
        ) i
    ) l;

    if p_what not in ('reschedule', 'signal') and v_parents <> '{}' then
        v_parents := gendurable._try_rows(v_parents, true);
        select coalesce(jsonb_object_agg(i.id, 'busy'), '{}') into answers
        from gendurable.instance i
        where i.id = any(ids) and i.parent_id = any(v_parents);
    end if;

    if p_what not in ('retry', 'signal') then
        -- The server's lock table is small and shared. Rows of more keys are cancelled without their locks.
        v_asked := array(
            select distinct i.partition_key
            from gendurable.instance i
            where i.id = any(ids) and i.partition_key is not null and not answers ? i.id::text
            order by 1
            limit gendurable._most_keys());
        if v_asked <> '{}' then
            keys := gendurable._try_keys(v_asked, 5);
        end if;
        select answers || coalesce(jsonb_object_agg(i.id, 'busy'), '{}') into answers
        from gendurable.instance i
        -- null-safe: with no key locked, null <> all('{}') is true
        where i.id = any(ids) and i.partition_key is not null and i.partition_key <> all(keys)
            and (p_what = 'reschedule' or i.partition_key = any(v_asked));
    end if;
    ids := array(select u.id from unnest(ids) u (id) where not answers ? u.id::text order by 1);
end $$;

comment on function gendurable._lock_many(text, bigint[]) is
    'Takes every lock that is free: the rows that have all that they need, the keys, and answers for those that miss a key or
their parent. Rows that could not be locked, or are not open to this, are in neither.';

create or replace function gendurable._operate_isolated(
    p_what text, p_ids bigint[], p_keys text[], p_reason text, p_at timestamptz, p_mail jsonb, p_now timestamptz,
    p_until timestamptz
) returns jsonb
language plpgsql as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
    v_ids bigint[] := p_ids;
    v_taken bigint[] := '{}'::bigint[];
    v_state text;
    v_message text;
begin
    if p_ids = '{}' then
        return '{}'::jsonb;
    end if;
    begin
        case p_what
            when 'cancel' then
                perform gendurable._cancel_instances(p_ids, p_keys, p_reason, p_now);
            when 'retry' then
                v_taken := gendurable._find_taken(p_ids);
                v_ids := array(select u.id from unnest(p_ids) u (id) where u.id <> all(v_taken));
                perform gendurable._retry_instances(v_ids, null, null, p_now);
            when 'delete' then
                v_ids := gendurable._remove_locked(p_ids);
                -- what a trigger of the application has kept
                v_taken := array(select u.id from unnest(p_ids) u (id) where u.id <> all(v_ids));
            when 'signal' then
                v_taken := gendurable._signal_instances(p_ids, p_mail, p_now);
            else
                perform gendurable._reschedule_instances(p_ids, p_at, p_now);
        end case;
        return (select coalesce(jsonb_object_agg(t.id, 'no'), '{}') from unnest(v_taken) t (id));
    exception
        when others or assert_failure then
            get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
            if not gendurable._blames_row(v_state) then
                raise;
            end if;
    end;
    if v_half = 0 or (gendurable._blames_lock(v_state) and clock_timestamp() > p_until) then
        if not gendurable._blames_lock(v_state) and v_state <> '23505' then
            raise warning 'instance % cannot be written: %', p_ids[1], v_message using errcode = v_state;
        end if;
        return (
            select jsonb_object_agg(u.id, case when gendurable._blames_lock(v_state) then 'busy' else 'no' end)
            from unnest(p_ids) u (id));
    end if;
    return gendurable._operate_isolated(p_what, p_ids[:v_half], p_keys, p_reason, p_at, p_mail, p_now, p_until)
        || gendurable._operate_isolated(p_what, p_ids[v_half + 1:], p_keys, p_reason, p_at, p_mail, p_now, p_until);
end $$;

comment on function gendurable._operate_isolated(
    text, bigint[], text[], text, timestamptz, jsonb, timestamptz, timestamptz
) is
    'Does it to rows that are locked, in halves where that fails, so that one row that cannot be written costs no other: answers
for those that failed. p_until: from then on whoever has to wait for a lock is not looked for one by one.';
