-- The baton of a key: while rows of it are parked, there is a row that somebody will look at, one that holds a slot or one
-- that is due. Whoever takes such a row away, or adds room, lifts the next.
-- Invariant 6, for keys. Next: 065_decide, what a decision does about batons.

create or replace function gendurable._lift_rows(p_ids bigint[], p_now timestamptz) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lifted bigint[];
    v_queues text[];
begin
    -- Lifted rows get an index range of their own, at its end: with their old time they would lie below the floor
    -- of every session that has passed it. A row written in this very transaction is above all floors already.
    with free as materialized (
        select i.id from gendurable.instance i
        where i.id = any(p_ids) and i.bucket_at is null
        order by i.id
        for no key update skip locked
    ), lifted as (
        update gendurable.instance i
        set woken = 0, eligible_at = v_now, updated_at = v_now
        from free f
        where i.id = any(array[f.id]) and i.eligible_at is distinct from p_now
            -- a decision reads them without the keys' locks: one may have started or ended meanwhile
            and i.lane_at is not null and i.slot_no is null
            -- one that was given back for a while waits at its place, as the baton; one that the gate put off, while
            -- something was being decided, stands in the range of the lifted ones and is not meant
            and not coalesce(
                i.woken = 1 and i.lane_at <= v_now and i.eligible_at > v_now + 1.5 * gendurable._baton_pause(), false)
        returning i.queue
    )
    select
        (select array_agg(f.id) from free f)
        -- one that stands in the line before its rate limit is its key's baton by the line's bell, and stays there
        || (select array_agg(i.id) from gendurable.instance i where i.id = any(p_ids) and i.bucket_at is not null),
        (select array_agg(distinct l.queue) from lifted l)
    into v_lifted, v_queues;
    perform gendurable._wake_sleepers(v_queues);
    return coalesce(v_lifted, '{}');
end $$;

comment on function gendurable._lift_rows(bigint[], timestamptz) is
    'Makes waiting rows due now, as batons of their keys; the ids of those whose row could be locked, and of those in a line.';

create or replace function gendurable._pass_batons(p_keys text[], p_now timestamptz) returns text[]
language plpgsql as $$
declare
    v_next record;
    v_lifted bigint[];
    v_key text;
    v_held boolean;
    v_dropped text[] := '{}'::text[];
begin
    -- a row written in this very call is above all floors and needs no lift; a key without a free slot has a holder
    select coalesce(array_agg(n.id), '{}') as ids, coalesce(array_agg(n.partition_key), '{}') as keys into v_next
    from gendurable._find_next_in_keys(p_keys) n
    -- with many free slots all but the first are found where they are, if they are due
    where n.eligible_at is distinct from p_now and (n.place <= 10 or n.eligible_at is null);
    if v_next.ids = '{}' then
        return v_dropped;
    end if;
    v_lifted := gendurable._lift_rows(v_next.ids, p_now);
    if cardinality(v_lifted) = cardinality(v_next.ids) then
        return v_dropped;
    end if;

    for v_key in
        select distinct n.key from unnest(v_next.ids, v_next.keys) n (id, key) where n.id <> all(v_lifted)
    loop
        v_held := false;
        -- A head is locked by somebody: the first row behind it that can be had becomes the baton. The gate keeps the
        -- order: it finds the head before that row and lets it wait a little.
        for v_next in
            select h.id, i.eligible_at
            from unnest(gendurable._find_heads(v_key, 100)) with ordinality h (id, ord)
            join gendurable.instance i on i.id = any(array[h.id])
            order by h.ord
        loop
            -- one that is due is a baton too, whoever has it locked
            v_held := v_next.eligible_at is not null or v_next.id = any(v_lifted)
                or gendurable._lift_rows(array[v_next.id], p_now) <> '{}';
            exit when v_held;
        end loop;
        if not v_held then
            v_dropped := v_dropped || v_key;
        end if;
    end loop;
    return v_dropped;
end $$;

comment on function gendurable._pass_batons(text[], timestamptz) is
    'Lifts the first waiting rows of each key with a free slot. Keys whose waiting rows are all parked and locked by
somebody are returned: the caller must leave a baton. Under the keys'' locks.';

create or replace function gendurable._keep_batons(p_keys text[], p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_key text;
    v_first bigint[];
begin
    if p_keys is null or p_keys = '{}' then
        return;
    end if;
    if not gendurable._is_settled() then
        -- Which queues are paused and how many may execute is being decided: one row of each queue becomes due, and the
        -- gate sorts them out when it is known. What is locked, or far behind, is looked at again then.
        v_first := array(
            select h.id
            from unnest(p_keys) k (key)
            cross join lateral (
                select distinct on (w.queue) w.id
                from (
                    select i.id, i.queue, row_number() over (order by i.priority, i.lane_at, i.id) as place
                    from gendurable.instance i
                    where i.partition_key = k.key and i.lane_at is not null and i.slot_no is null
                        and i.eligible_at is null
                    order by i.priority, i.lane_at, i.id
                    limit 100
                ) w
                order by w.queue, w.place
            ) h);
        perform gendurable._lift_rows(v_first, p_now);
        perform gendurable._note_doubt_once(p_keys);
    end if;
    foreach v_key in array gendurable._pass_batons(p_keys, p_now) loop
        -- Nobody to pass it to: all that wait are parked, and locked by somebody's open transaction. A row that left
        -- its place in the key just now carries the baton: it is due without having a place there (lane_at), and the
        -- claim that meets it tries again.
        update gendurable.instance i
        set eligible_at = p_now + gendurable._baton_pause(), woken = 1
        where i.id = (
            select c.id
            from gendurable.instance c
            where c.id = any(p_ids) and c.partition_key = v_key and c.status <> 'executing'
                and not exists (select from gendurable.paused_queue q where q.queue = c.queue)
            limit 1);
        if not found then
            perform gendurable._note_doubt_once(array[v_key]);
        end if;
    end loop;
end $$;

comment on function gendurable._keep_batons(text[], bigint[], timestamptz) is
    'Passes the keys'' batons on, or leaves each with one of the rows p_ids that were written just now; where neither can be (the
row went to another key, or its queue is paused), the key is put down as doubtful. Under the keys'' locks.';

create or replace function gendurable._relieve_carriers(p_carriers bigint[], p_keys text[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_dropped text[];
begin
    -- hand the baton on and be due when the row itself is, or carry it a little longer
    v_dropped := gendurable._pass_batons(p_keys, p_now);
    update gendurable.instance i
    set eligible_at = case when i.partition_key = any(v_dropped) then p_now + gendurable._baton_pause() else i.lane_at end
    where i.id = any(p_carriers);
end $$;

comment on function gendurable._relieve_carriers(bigint[], text[], timestamptz) is
    'Passes on the batons that rows carry which have no place in their keys. Under the locks of the rows and the keys.';

create or replace function gendurable._is_chore(
    p_status gendurable.status, p_crashes int, p_key text, p_lane_at timestamptz, p_now timestamptz
) returns boolean
language sql immutable parallel safe as $$
    select case
        when p_status = 'executing' then p_crashes + 1 >= gendurable._crash_cap()
        else p_key is not null and (p_lane_at is null or p_lane_at > p_now)
    end
$$;

comment on function gendurable._is_chore(gendurable.status, int, text, timestamptz, timestamptz) is
    'Whether a due row is no work for a worker: it is to be ended, or it has no place in its key and carries its baton.';
