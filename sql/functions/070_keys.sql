-- The gate of the keys: which of the rows that a claim has locked may start; and the limits.

create or replace function gendurable._admit(p_candidates gendurable.candidate[], p_now timestamptz)
returns table (ord bigint, id bigint, slot_no int)
language plpgsql as $$
#variable_conflict use_column
declare
    v_keys text[];
    v_sorted record;
    v_lifted bigint[];
    v_waiting text[];
    v_settled boolean;
begin
    -- A claim only tries a key's lock: rows of a key that somebody else works on are passed over.
    v_keys := gendurable._try_keys(array(
        select distinct c.partition_key from unnest(p_candidates) c where c.partition_key is not null order by 1), 1);
    -- Asked before anything is read that it decides on. Chores that pass a baton on wait until it is settled.
    v_settled := gendurable._settled();
    if v_settled then
        perform gendurable._end_chores(p_candidates, v_keys, p_now);
    end if;

    -- Read in a later statement than the locks. Candidates and heads meet in one grouping: with joins of arrays it
    -- would be a nested loop of one over the other.
    select
        coalesce(array_agg(b.id) filter (where b.ord is not null and b.fate = 'starts'), '{}') as start_ids,
        coalesce(array_agg(b.ord) filter (where b.ord is not null and b.fate = 'starts'), '{}') as start_ords,
        coalesce(array_agg(b.slot) filter (where b.ord is not null and b.fate = 'starts'), '{}') as start_slots,
        coalesce(array_agg(b.id order by b.ord) filter (where b.fate = 'waits'), '{}') as wait_ids,
        coalesce(array_agg(b.key order by b.ord) filter (where b.fate = 'waits'), '{}') as wait_keys,
        coalesce(array_agg(b.id) filter (where b.ord is null), '{}') as stranger_ids,
        coalesce(array_agg(b.key) filter (where b.ord is null), '{}') as stranger_keys
    into v_sorted
    from (
        select a.id, max(a.ord) as ord, max(a.slot) as slot, max(a.key) as key,
            case
                when bool_or(a.chore) then 'ends'
                when max(a.key) is null or max(a.slot) is not null then 'starts'
                when bool_or(a.locked) then 'waits'
            end as fate
        from (
            select c.id, c.ord, c.partition_key as key, c.partition_key = any(v_keys) as locked,
                gendurable._is_chore(c.status, c.crashes, c.partition_key, c.lane_at, p_now) as chore,
                -- who owns a slot keeps it, whoever waits
                case when c.partition_key = any(v_keys) then c.slot_no end as slot
            from unnest(p_candidates) with ordinality c (
                id, eligible_at, status, crashes, plain, partition_key, slot_no, lane_at, heavy, bare, ord)
            union all
            select n.id, null, n.partition_key, true, false, n.slot_no
            from gendurable._next_in_keys(v_keys) n
        ) a
        group by a.id
    ) b;

    if v_sorted.wait_ids <> '{}' then
        v_lifted := case
            when v_sorted.stranger_ids = '{}' then '{}' else gendurable._lift(v_sorted.stranger_ids, p_now) end;
        -- A head that is locked by somebody cannot be lifted: the first candidate of its key stays due, a little later,
        -- and is the key's baton. Parking it too would drop the baton; leaving it due now would spin.
        v_waiting := array(
            select s.key
            from unnest(v_sorted.stranger_ids, v_sorted.stranger_keys) s (id, key)
            where s.id <> all(v_lifted));
        update gendurable.instance i
        set eligible_at = case
                when w.first and (not v_settled or w.key = any(v_waiting)) then p_now + interval '100 ms'
                -- nothing may be parked while it is being decided who waits for what, which may take long
                when not v_settled then p_now + interval '2 seconds'
            end,
            woken = 1,
            updated_at = p_now
        from (
            select u.id, u.key, row_number() over (partition by u.key order by u.ord) = 1 as first
            from unnest(v_sorted.wait_ids, v_sorted.wait_keys) with ordinality u (id, key, ord)
        ) w
        where i.id = any(array[w.id]);
    end if;

    return query
        select s.ord, s.id, s.slot
        from unnest(v_sorted.start_ids, v_sorted.start_ords, v_sorted.start_slots) s (id, ord, slot);
end $$;

comment on function gendurable._admit(gendurable.candidate[], timestamptz) is
    'Which of the locked due rows may start, with their slots; parks the others in their lanes and lifts who is first.';

create or replace function gendurable._sort_out(
    p_picked gendurable.candidate[], p_lease interval, p_now timestamptz,
    out ids bigint[], out slots int[], out heavy boolean[], out keys int, out left_out boolean
)
language plpgsql as $$
declare
    v_candidates constant gendurable.candidate[] := gendurable._part_suspects(p_picked, p_lease, p_now);
    v_heavy bigint[];
begin
    select count(distinct c.partition_key)::int, array_agg(c.id) filter (where c.heavy)
    into keys, v_heavy
    from unnest(v_candidates) c;
    select coalesce(array_agg(g.id order by g.ord), '{}'), array_agg(g.slot_no order by g.ord)
    into ids, slots
    from gendurable._admit(v_candidates, p_now) g;
    if v_heavy is not null then
        heavy := array(select u.id = any(v_heavy) from unnest(ids) with ordinality u (id, ord) order by u.ord);
    end if;
    left_out := cardinality(ids) < cardinality(v_candidates);
end $$;

comment on function gendurable._sort_out(gendurable.candidate[], interval, timestamptz) is
    'Which of the picked rows may start, with their slots, where a key, a scope or a crash is in play. keys: of how many keys they
are. heavy: null where none is. left_out: some may not start.';

create or replace function gd_set_key_limit(p_prefix text, p_limit int) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '1s' as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_prefix, 'p_prefix');
    if p_limit < 1 then
        perform gendurable._invalid('p_limit must be at least 1', 'got ' || p_limit,
            'Pass how many may execute at once, or null to go back to one.');
    end if;
    perform gendurable._announce();
    if p_limit is null then
        delete from gendurable.key_limit l where l.prefix = p_prefix;
    else
        insert into gendurable.key_limit (prefix, max_executing) values (p_prefix, p_limit)
        on conflict (prefix) do update set max_executing = excluded.max_executing;
    end if;
    perform gendurable._outwait_holders();
    perform gendurable._decide(array(
        select distinct i.partition_key
        from gendurable.instance i
        where i.lane_at is not null and i.slot_no is null
            and (i.partition_key = p_prefix or starts_with(i.partition_key, p_prefix || ':'))
    ), clock_timestamp());
end $$;

comment on function gd_set_key_limit(text, int) is
'Lets p_limit instances execute at once for each partition key "prefix" or "prefix:..."; null: one again. The longest
matching prefix decides; 2147483647 is no limit. Works at once for what waits; what executes above a lowered limit
finishes. Waits for nobody''s open transaction, but for one that is setting this very limit (55P03 after a second).
Raises GD501, GD504.';

create or replace function gendurable._need_rate_limit(p_name text) returns void
language plpgsql as $$
begin
    perform gendurable._need_text(p_name, 'rate_limit');
    raise exception using errcode = 'GD502',
        message = 'no such rate limit', detail = quote_literal(p_name),
        hint = 'This version defines no rate limits: leave rate_limit out.';
end $$;

comment on function gendurable._need_rate_limit(text) is 'Raises GD502: no rate limit can be defined yet.';
