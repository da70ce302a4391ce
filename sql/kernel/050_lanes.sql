-- Partition keys: their locks, and their lanes, the lines of rows that wait for a slot. Slots and lanes change only under the
-- key's transaction-level advisory lock. Nobody waits for long: keys, and rows, are tried a few times.
-- Invariant 2: at most as many executing rows a key as its limit says, in order. Next: 055_doubt, who is deciding.

create or replace function gendurable._key_lock(p_key text) returns bigint
language sql immutable parallel safe as $$
    select hashtextextended(p_key, gendurable._lock_of_keys())
$$;

comment on function gendurable._key_lock(text) is 'The advisory lock of a partition key.';

create or replace function gendurable._try_rows(p_ids bigint[], p_parents boolean) returns bigint[]
language plpgsql as $$
declare
    v_left bigint[] := p_ids;
    v_held bigint[];
begin
    for v_try in 1 .. 4 loop
        v_held := array(
            select i.id from gendurable.instance i where i.id = any(v_left) for no key update skip locked);
        v_left := array(
            select i.id
            from gendurable.instance i
            -- a subquery, which is hashed; the array would be walked for each row
            where i.id = any(v_left) and i.id not in (select h.id from unnest(v_held) h (id))
                -- a parent that does not wait counts nobody down
                and (not p_parents or i.status = 'awaiting_children'));
        exit when v_left = '{}';
        if v_try < 4 then
            -- siblings that end in other sessions, other signals, and its own commit hold a row for a few milliseconds
            perform pg_sleep(0.001 * v_try);
        end if;
    end loop;
    return v_left;
end $$;

comment on function gendurable._try_rows(bigint[], boolean) is
    'Locks rows, as far as they are free within a few tries; which are not. p_parents: those that do not wait for children may be
left.';

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

create or replace function gendurable._find_key_limit(p_key text) returns int
language plpgsql stable as $$
begin
    return coalesce((
        select l.max_executing
        from gendurable.key_limit l
        where p_key = l.prefix or starts_with(p_key, l.prefix || ':')
        order by length(l.prefix) desc
        limit 1), 1);
end $$;

comment on function gendurable._find_key_limit(text) is
    'How many instances of the key may execute at once: the longest matching prefix decides.';

create or replace function gendurable._find_heads(p_key text, p_count int) returns bigint[]
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

comment on function gendurable._find_heads(text, int) is
    'The first rows of the key that wait for a slot, due or parked, in queues that are not paused. Under its lock.';

create or replace function gendurable._find_next_in_keys(p_keys text[])
returns table (partition_key text, id bigint, slot_no int, eligible_at timestamptz, place bigint)
language plpgsql as $$
#variable_conflict use_column
declare
    -- not the caller's: a row may have parked between its clock and the lock of its key
    v_now constant timestamptz := clock_timestamp();
    -- a limit may be any number, what is done at once may not; whoever starts or ends next goes on
    v_most constant int := greatest(1000 / greatest(cardinality(p_keys), 1), 10);
    v_pauses boolean;
begin
    if not exists (select from gendurable.key_limit) then
        -- nearly always: one slot a key, so who is first is all there is to know, and that only where nobody holds it
        v_pauses := exists (select from gendurable.paused_queue);
        return query
            select k.key, h.id, 0, h.eligible_at, 1::bigint
            from unnest(p_keys) k (key)
            cross join lateral (
                select i.id, i.eligible_at
                from gendurable.instance i
                where i.partition_key = k.key and i.lane_at <= v_now and i.slot_no is null
                    and (not v_pauses or not exists (select from gendurable.paused_queue q where q.queue = i.queue))
                order by i.priority, i.lane_at, i.id
                limit 1
            ) h
            where (
                select true from gendurable.instance i
                where i.partition_key = k.key and i.slot_no is not null
                limit 1) is null;
        return;
    end if;
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

comment on function gendurable._find_next_in_keys(text[]) is
    'For each key the first waiting rows, as many as it has free slots, and the slots that they would get: rows whose place
in the key has come (lane_at), whether due or parked, in queues that are not paused. Under the keys'' locks.';

create or replace function gendurable._find_waiting(p_keys text[]) returns text[]
language plpgsql as $$
declare
    -- as in _find_next_in_keys
    v_now constant timestamptz := clock_timestamp();
begin
    return array(
        select k.key
        from unnest(p_keys) k (key)
        where (
            select true from gendurable.instance i
            where i.partition_key = k.key and i.lane_at <= v_now and i.slot_no is null
            limit 1));
end $$;

comment on function gendurable._find_waiting(text[]) is
    'Keys in which somebody waits for a slot, also in queues that are paused. Under the keys'' locks: in no other one can a row be
parked before these are given back.';

create or replace function gendurable._find_crowded(p_keys text[], p_now timestamptz) returns text[]
language plpgsql as $$
begin
    return array(
        select k.key
        from unnest(p_keys) k (key)
        -- a limit and not exists, which would become a join over all lanes
        where (
            select true from gendurable.instance i
            where i.partition_key = k.key and i.lane_at <= p_now and i.slot_no is null
                and not exists (select from gendurable.paused_queue q where q.queue = i.queue)
            limit 1));
end $$;

comment on function gendurable._find_crowded(text[], timestamptz) is 'Keys in which somebody waits for a slot.';

create or replace function gendurable._next_key(p_rekey boolean, p_new text, p_old text) returns text
language sql immutable parallel safe as $$
    select case when p_rekey then p_new else p_old end
$$;

comment on function gendurable._next_key(boolean, text, text) is 'The partition key that a row has behind an outcome.';
