-- Partition keys: their locks, slots and lanes, and the baton; and unique keys that are let go and taken again.
-- Slots and lanes change only under the key's transaction-level advisory lock.

create or replace function gendurable._key_lock(p_key text) returns bigint
language sql immutable parallel safe as $$
    select hashtextextended(p_key, 7301)
$$;

comment on function gendurable._key_lock(text) is 'The advisory lock of a partition key.';

create or replace function gendurable._try_keys(p_keys text[], p_tries int) returns text[]
language plpgsql as $$
declare
    v_left text[] := p_keys;
    v_got text[] := '{}'::text[];
    v_now text[];
begin
    for v_try in 1 .. p_tries loop
        v_now := array(select k from unnest(v_left) k where pg_try_advisory_xact_lock(gendurable._key_lock(k)));
        v_got := v_got || v_now;
        if cardinality(v_got) = cardinality(p_keys) then
            exit;
        end if;
        v_left := array(select k from unnest(v_left) k where k <> all(v_now));
        if v_try < p_tries then
            -- a claim holds its keys' locks for a few milliseconds: answering busy at once would double the commits
            perform pg_sleep(0.001 * v_try);
        end if;
    end loop;
    return v_got;
end $$;

comment on function gendurable._try_keys(text[], int) is
    'Locks those of the keys that are free within a few tries, a millisecond and more apart; the locked ones.';

create or replace function gendurable._lock_keys(p_keys text[]) returns void
language plpgsql as $$
begin
    -- sorted: two sessions that wait for the same keys wait one way round only
    perform pg_advisory_xact_lock(gendurable._key_lock(k.key))
    from (select distinct u.key from unnest(p_keys) u (key) where u.key is not null order by u.key) k;
end $$;

comment on function gendurable._lock_keys(text[]) is 'Locks the keys, waiting for each.';

create or replace function gendurable._key_limit(p_key text) returns int
language plpgsql stable as $$
begin
    return coalesce((
        select l.max_executing
        from gendurable.key_limit l
        where p_key = l.prefix or starts_with(p_key, l.prefix || ':')
        order by length(l.prefix) desc
        limit 1), 1);
end $$;

comment on function gendurable._key_limit(text) is
    'How many instances of the key may execute at once: the longest matching prefix decides.';

create or replace function gendurable._next_in_keys(p_keys text[])
returns table (partition_key text, id bigint, slot_no int, eligible_at timestamptz, place bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    -- not the caller's: a row may have parked between its clock and the lock of its key
    v_now constant timestamptz := clock_timestamp();
    -- a limit may be any number, what is done at once may not; whoever starts or ends next goes on
    v_most constant int := greatest(1000 / greatest(cardinality(p_keys), 1), 10);
begin
    -- For many keys at once: a call a key would cost more than all the rest of a commit.
    return query
        select k.key, h.id, case when l.most = 1 then 0 else f.free[h.rank] end, h.eligible_at, h.rank
        from unnest(p_keys) k (key)
        cross join lateral (
            select coalesce((
                select l.max_executing
                from gendurable.key_limit l
                where k.key = l.prefix or starts_with(k.key, l.prefix || ':')
                order by length(l.prefix) desc
                limit 1), 1) as most
        ) l
        cross join lateral (
            select coalesce(array_agg(i.slot_no), '{}') as used
            from gendurable.instance i
            where i.partition_key = k.key and i.slot_no is not null
        ) s
        cross join lateral (
            -- a limit that was lowered leaves slots above it in use: they count
            select case when l.most > 1 then array(
                select n::int
                from generate_series(0, least(l.most, v_most + cardinality(s.used)) + cardinality(s.used) - 1) n
                where n <> all(s.used) order by n
            ) end as free
        ) f
        cross join lateral (
            select i.id, i.eligible_at, row_number() over (order by i.priority, i.lane_at, i.id) as rank
            from gendurable.instance i
            where i.partition_key = k.key and i.lane_at <= v_now and i.slot_no is null
                and not exists (select from gendurable.paused_queue q where q.queue = i.queue)
            order by i.priority, i.lane_at, i.id
            limit least(greatest(l.most - cardinality(s.used), 0), v_most)
        ) h;
end $$;

comment on function gendurable._next_in_keys(text[]) is
    'For each key the first waiting rows, as many as it has free slots, and the slots that they would get: rows whose place
in the key has come (lane_at), whether due or parked, in queues that are not paused. Under the keys'' locks.';

create or replace function gendurable._heads(p_key text, p_count int) returns bigint[]
language plpgsql stable as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    return array(
        select i.id
        from gendurable.instance i
        where i.partition_key = p_key and i.lane_at <= v_now and i.slot_no is null
            and not exists (select from gendurable.paused_queue q where q.queue = i.queue)
        order by i.priority, i.lane_at, i.id
        limit p_count);
end $$;

comment on function gendurable._heads(text, int) is
    'The first rows of the key that wait for a slot, due or parked, in queues that are not paused. Under its lock.';

create or replace function gendurable._lift(p_ids bigint[], p_now timestamptz) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lifted bigint[];
    v_queues text[];
begin
    -- Lifted rows get an index range of their own, at its end: with their old time they would lie below the floor
    -- of every session that has passed it. A row written in this very transaction is above all floors already.
    with free as materialized (
        select i.id from gendurable.instance i where i.id = any(p_ids) order by i.id for no key update skip locked
    ), lifted as (
        update gendurable.instance i
        set woken = 0, eligible_at = v_now, updated_at = v_now
        from free f
        where i.id = any(array[f.id]) and i.eligible_at is distinct from p_now
            -- a decision reads them without the keys' locks: one may have started or ended meanwhile
            and i.lane_at is not null and i.slot_no is null
            -- one that was given back for a while waits at its place, as the baton
            and not coalesce(i.lane_at <= v_now and i.eligible_at > v_now + interval '150 ms', false)
        returning i.queue
    )
    select (select array_agg(f.id) from free f), (select array_agg(distinct l.queue) from lifted l)
    into v_lifted, v_queues;
    perform gendurable._wake(v_queues);
    return coalesce(v_lifted, '{}');
end $$;

comment on function gendurable._lift(bigint[], timestamptz) is
    'Makes waiting rows due now, as batons of their keys; the ids of those whose row could be locked.';

create or replace function gendurable._pass_baton(p_keys text[], p_now timestamptz) returns text[]
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
    from gendurable._next_in_keys(p_keys) n
    -- with many free slots all but the first are found where they are, if they are due
    where n.eligible_at is distinct from p_now and (n.place <= 10 or n.eligible_at is null);
    if v_next.ids = '{}' then
        return v_dropped;
    end if;
    v_lifted := gendurable._lift(v_next.ids, p_now);
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
            from unnest(gendurable._heads(v_key, 100)) with ordinality h (id, ord)
            join gendurable.instance i on i.id = any(array[h.id])
            order by h.ord
        loop
            -- one that is due is a baton too, whoever has it locked
            v_held := v_next.eligible_at is not null or v_next.id = any(v_lifted)
                or gendurable._lift(array[v_next.id], p_now) <> '{}';
            exit when v_held;
        end loop;
        if not v_held then
            v_dropped := v_dropped || v_key;
        end if;
    end loop;
    return v_dropped;
end $$;

comment on function gendurable._pass_baton(text[], timestamptz) is
    'Lifts the first waiting rows of each key with a free slot. Keys whose waiting rows are all parked and locked by
somebody are returned: the caller must leave a baton. Under the keys'' locks.';

create or replace function gendurable._keep_baton(p_keys text[], p_ids bigint[], p_now timestamptz) returns void
language plpgsql as $$
declare
    v_key text;
    v_first bigint[];
begin
    if p_keys is null or p_keys = '{}' then
        return;
    end if;
    if not gendurable._settled() then
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
        perform gendurable._lift(v_first, p_now);
        perform gendurable._doubt_once(p_keys);
    end if;
    foreach v_key in array gendurable._pass_baton(p_keys, p_now) loop
        -- Nobody to pass it to: all that wait are parked, and locked by somebody's open transaction. A row that left
        -- its place in the key just now carries the baton: it is due without having a place there (lane_at), and the
        -- claim that meets it tries again.
        update gendurable.instance i
        set eligible_at = p_now + interval '100 ms', woken = 1
        where i.id = (
            select c.id
            from gendurable.instance c
            where c.id = any(p_ids) and c.partition_key = v_key and c.status <> 'executing'
                and not exists (select from gendurable.paused_queue q where q.queue = c.queue)
            limit 1);
        if not found then
            perform gendurable._doubt_once(array[v_key]);
        end if;
    end loop;
end $$;

comment on function gendurable._keep_baton(text[], bigint[], timestamptz) is
    'Passes the keys'' batons on, or leaves each with one of the rows p_ids that were written just now; where neither can be (the
row went to another key, or its queue is paused), the key is put down as doubtful. Under the keys'' locks.';

create or replace function gendurable._take_keys(p_ids bigint[], p_statuses gendurable.status[]) returns void
language plpgsql as $$
declare
    v_row record;
    v_waits int := 0;
    v_timeout constant text := current_setting('lock_timeout');
begin
    -- Only rows with a scope of their own can enter it again. One by one, since each may meet a holder whose
    -- transaction is still open: it is waited for a moment, and the row goes on without the key.
    for v_row in
        select i.id
        from unnest(p_ids, p_statuses) n (id, status)
        cross join lateral (select x.* from gendurable.instance x where x.id = n.id offset 0) i
        where i.unique_scope is not null and i.unique_held is null and n.status = any(i.unique_scope)
        order by i.unique_key
    loop
        begin
            -- 30 ms in all, however many rows meet open transactions: two long waits, ten short ones, then none
            perform set_config('lock_timeout', case when v_waits < 2 then '10ms' else '1ms' end, true);
            update gendurable.instance i
            set unique_held = i.unique_key
            where i.id = v_row.id and not exists (
                select from gendurable.instance h where h.unique_held = i.unique_key);
        exception
            when lock_not_available or deadlock_detected then
                v_waits := v_waits + 1;
                exit when v_waits = 12;
                continue;
            when unique_violation then
                continue;
        end;
        perform set_config('lock_timeout', v_timeout, true);
    end loop;
end $$;

comment on function gendurable._take_keys(bigint[], gendurable.status[]) is
    'Takes the unique keys of rows that are about to enter their scope again, where nobody holds them; it waits for some
30 ms at most in all, and those behind go on without their key.';

create or replace function gendurable._unique_held(
    p_held text, p_scope gendurable.status[], p_status gendurable.status
) returns text
language sql immutable parallel safe as $$
    select case
        when p_held is null then null
        when p_scope is null then case when p_status not in ('done', 'failed', 'cancelled') then p_held end
        when p_status = any(p_scope) then p_held
    end
$$;

comment on function gendurable._unique_held(text, gendurable.status[], gendurable.status) is
    'unique_held of a row that enters a status: a key is let go outside of its scope.';
