-- The gate: which of the rows that a claim has locked may start. The time of some is up, some lost their workers again and again
-- and are parted from each other, some only carry a baton, some wait for a slot of their key; whose turn it is in its key may
-- still lack a token.
-- Invariant 2, within a key. Next: 115_limits.

create or replace function gendurable._pass_gate(
    p_queue text, p_priority int, p_picked gendurable.candidate[], p_need int, p_lease interval, p_now timestamptz,
    p_steps jsonb, p_stops boolean,
    out ids bigint[], out slots int[], out heavy boolean[], out keys int, out left_out boolean, out last_id bigint,
    out scoped boolean, out opened gendurable.opened[], out limited gendurable.candidate[], out parked bigint[]
)
language plpgsql as $$
declare
    v_candidates gendurable.candidate[] := p_picked;
    v_known record;
    v_bells bigint[];
    v_heavy bigint[];
    v_admitted record;
    v_waiting int;
    v_over record;
    v_stopped record;
begin
    left_out := false;
    select count(distinct c.partition_key)::int as keys, bool_or(c.crashes >= 2 and c.id > 0) as suspect,
        bool_or(gendurable._is_chore(c.status, c.crashes, c.partition_key, c.lane_at, p_now)) as chores,
        bool_or(c.scoped) as scoped, bool_or(c.heavy) as heavy, count(distinct c.rate_limit)::int as limits,
        bool_or(c.id < 0) as bells, bool_or(c.over) as over
    into v_known
    from unnest(p_picked) c;
    keys := v_known.keys + v_known.limits;
    if v_known.bells then
        v_bells := array(select c.id from unnest(p_picked) c where c.id < 0 and c.rate_limit is null);
        if v_bells <> '{}' then
            perform gendurable._ring_schedules(v_bells, p_now);
        end if;
    end if;
    if v_known.over then
        v_over := gendurable._drop_over(v_candidates);
        v_candidates := v_over.candidates;
        left_out := v_over.ended > 0;
    end if;
    if v_known.suspect then
        v_candidates := gendurable._part_suspects(v_candidates, p_lease, p_now);
    end if;
    if v_known.limits > 0 then
        -- the buckets' locks, and the rows that their lines have to offer
        select o.opened, o.candidates into opened, v_candidates
        from gendurable._open_buckets(p_queue, p_priority, v_candidates, p_need, p_steps) o;
        if (select bool_or(c.over) from unnest(v_candidates) c) then
            v_over := gendurable._drop_over(v_candidates);
            v_candidates := v_over.candidates;
            left_out := left_out or v_over.ended > 0;
        end if;
        if p_stops then
            v_stopped := gendurable._set_paused_aside(v_candidates, p_queue, p_now);
            v_candidates := v_stopped.candidates;
            left_out := left_out or v_stopped.keys > 0;
        end if;
        select count(c.partition_key)::int, bool_or(c.scoped), bool_or(c.heavy)
        into v_known.keys, v_known.scoped, v_known.heavy
        from unnest(v_candidates) c;
    end if;
    scoped := v_known.scoped;
    if v_known.bells then
        v_candidates := array(select c from unnest(v_candidates) c where c.id > 0);
    end if;
    v_waiting := cardinality(v_candidates);
    if v_known.keys > 0 or v_known.chores then
        select coalesce(array_agg(g.id order by g.ord), '{}') as ids, array_agg(g.slot_no order by g.ord) as slots
        into v_admitted
        from gendurable._admit_to_keys(v_candidates, p_now) g;
    else
        select coalesce(array_agg(c.id), '{}') as ids, null::int[] as slots into v_admitted from unnest(v_candidates) c;
    end if;
    left_out := left_out or cardinality(v_admitted.ids) < v_waiting;
    if v_known.limits > 0 then
        limited := v_candidates;
        select r.ids, r.slots, r.parked, r.last_id into ids, slots, parked, last_id
        from gendurable._give_tokens(
            p_queue, p_priority, opened, v_candidates, v_admitted.ids, v_admitted.slots, p_need, p_now) r;
    else
        ids := v_admitted.ids;
        slots := v_admitted.slots;
        if cardinality(ids) > p_need then
            ids := ids[:p_need];
            slots := slots[:p_need];
            last_id := ids[p_need];
        end if;
    end if;
    if v_known.heavy then
        v_heavy := array(select c.id from unnest(v_candidates) c where c.heavy);
        heavy := array(select u.id = any(v_heavy) from unnest(ids) with ordinality u (id, ord) order by u.ord);
    end if;
end $$;

comment on function gendurable._pass_gate(text, int, gendurable.candidate[], int, interval, timestamptz, jsonb, boolean) is
    'Which of the picked rows may start, p_need at most, with their slots, where a key, a scope, a limit or a crash is in play. keys:
of how many keys and limits they are; left_out: some wait for their key. last_id: the last picked row that was dealt with, where
others behind it were not, 0 for none. opened, limited, parked: for _close_buckets.';

create or replace function gendurable._drop_over(
    p_candidates gendurable.candidate[], out candidates gendurable.candidate[], out ended int
)
language plpgsql as $$
begin
    -- who waits behind them in their keys is lifted
    select e.count into ended
    from gendurable._end_over_isolated(array(select c.id from unnest(p_candidates) c where c.over)) e;
    candidates := array(select c from unnest(p_candidates) c where c.over is not true);
end $$;

comment on function gendurable._drop_over(gendurable.candidate[]) is
    'Ends the candidates whose time is up, as far as their keys and parents are free: how many. The others.';

create or replace function gendurable._part_suspects(
    p_candidates gendurable.candidate[], p_lease interval, p_now timestamptz
) returns gendurable.candidate[]
language plpgsql as $$
declare
    v_suspects bigint[];
    v_later bigint[];
begin
    -- A row that kills its worker takes all with it that run beside it, and as their leases end together, the same ones
    -- would run beside it 20 times and fail with it. After three losses in a row chance parts them: each is put off
    -- every second time, and runs while the lease of the guilty one has not ended.
    v_suspects := array(
        select c.id
        from unnest(p_candidates) c
        where c.id > 0 and c.crashes + (c.status = 'executing')::int between 3 and gendurable._crash_cap() - 1
            -- one without a slot may be the baton of its key
            and (c.partition_key is null or c.slot_no is not null));
    if cardinality(v_suspects) < 2 then
        return p_candidates;                         -- one alone has nobody to be parted from
    end if;
    v_later := array(select s from unnest(v_suspects) s where random() < 0.5);
    update gendurable.instance i
    set eligible_at = p_now + random() * least(p_lease, interval '1 minute'), updated_at = p_now
    where i.id = any(v_later);
    return array(select c from unnest(p_candidates) c where c.id <> all(v_later));
end $$;

comment on function gendurable._part_suspects(gendurable.candidate[], interval, timestamptz) is
    'Puts off some of the rows that lost their workers several times in a row, at random; the others.';

create or replace function gendurable._admit_to_keys(p_candidates gendurable.candidate[], p_now timestamptz)
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
    v_settled := gendurable._is_settled();
    if v_settled then
        perform gendurable._do_chores(p_candidates, v_keys, p_now);
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
            select c.id, c.ordinality as ord, c.partition_key as key, c.partition_key = any(v_keys) as locked,
                gendurable._is_chore(c.status, c.crashes, c.partition_key, c.lane_at, p_now) as chore,
                -- who owns a slot keeps it, whoever waits
                case when c.partition_key = any(v_keys) then c.slot_no end as slot
            from unnest(p_candidates) with ordinality c
            union all
            select n.id, null, n.partition_key, true, false, n.slot_no
            from gendurable._find_next_in_keys(v_keys) n
        ) a
        group by a.id
    ) b;

    if v_sorted.wait_ids <> '{}' then
        v_lifted := case
            when v_sorted.stranger_ids = '{}' then '{}' else gendurable._lift_rows(v_sorted.stranger_ids, p_now) end;
        -- A head that is locked by somebody cannot be lifted: the first candidate of its key stays due, a little later,
        -- and is the key's baton. Parking it too would drop the baton; leaving it due now would spin.
        v_waiting := array(
            select s.key
            from unnest(v_sorted.stranger_ids, v_sorted.stranger_keys) s (id, key)
            where s.id <> all(v_lifted));
        update gendurable.instance i
        set eligible_at = case
                when w.first and (not v_settled or w.key = any(v_waiting)) then p_now + gendurable._baton_pause()
                -- nothing may be parked while it is being decided who waits for what, which may take long
                when not v_settled then p_now + gendurable._decision_pause()
            end,
            -- no longer first in its key: out of the line before its limit, into the lane
            bucket_at = null,
            -- so that whoever ends in the key can tell them from rows that were given back for a while, and lift them
            woken = case when v_settled then 1 else 0 end,
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

comment on function gendurable._admit_to_keys(gendurable.candidate[], timestamptz) is
    'Which of the locked due rows may start, with their slots; parks the others in their lanes and lifts who is first.';

create or replace function gendurable._do_chores(
    p_candidates gendurable.candidate[], p_keys text[], p_now timestamptz
) returns void
language plpgsql as $$
declare
    v_crashed bigint[];
    v_carriers bigint[];
    v_keys text[];
begin
    select array_agg(c.id) filter (where c.status = 'executing'),
        array_agg(c.id) filter (where c.status <> 'executing'),
        array_agg(distinct c.partition_key) filter (where c.status <> 'executing')
    into v_crashed, v_carriers, v_keys
    from unnest(p_candidates) c
    where gendurable._is_chore(c.status, c.crashes, c.partition_key, c.lane_at, p_now)
        and (c.partition_key is null or c.partition_key = any(p_keys));
    if v_crashed is not null then
        perform gendurable._end_crashed(v_crashed, p_now);
    end if;
    if v_carriers is not null then
        perform gendurable._relieve_carriers(v_carriers, v_keys, p_now);
    end if;
end $$;

comment on function gendurable._do_chores(gendurable.candidate[], text[], timestamptz) is
    'Does what due rows ask for that are no work for a worker. Under the locks of the given keys.';
