-- Rate limits in a claim. A start is a claim, and takes tokens under the lock of its bucket. What finds none stands in a line, one
-- for each bucket and queue, in which rows are in the order of (priority, time of becoming due, id) and no longer due; a bell
-- (kernel/058_bells) rings when the first of them may start, and the claim that meets it serves the line. So a waiting row is
-- written once, and goes straight from the line to its start. Nobody waits for a bucket: a row whose bucket is locked stands in
-- line without the lock, and leaves a bell that tells from which place on. Several lines of a bucket take turns.
-- A claim opens the buckets, asks the keys (114_gate), gives tokens to those whose turn it is, and closes the buckets when it is
-- known what has started. Next: 116_hand_out.

create or replace function gendurable._open_buckets(
    p_queue text, p_priority int, p_picked gendurable.candidate[], p_need int, p_steps jsonb,
    out opened gendurable.opened[], out candidates gendurable.candidate[]
)
language plpgsql as $$
declare
    -- who sets a limit waits for those who put rows into lines and do not know of it yet
    v_settled constant boolean := pg_try_advisory_xact_lock_shared(gendurable._lock_of_lines(), 0)
        and gendurable._is_settled();
    v_group record;
    v_one gendurable.opened;
    v_tried int := 0;
begin
    opened := '{}';
    candidates := p_picked;
    for v_group in
        select c.rate_limit as bucket, array_agg(c.id) filter (where c.id < 0) as bells,
            min(c.place) filter (where c.id < 0) as since, max(c.crashes) filter (where c.id < 0) as tries
        from unnest(p_picked) c
        where c.rate_limit is not null
        group by c.rate_limit
        order by c.rate_limit
    loop
        v_tried := v_tried + 1;
        -- the server's lock table is small
        if v_tried <= gendurable._most_keys() and gendurable._try_bucket(v_group.bucket) then
            v_one := gendurable._open_bucket(
                v_group.bucket, p_queue, p_priority, p_need, v_group.bells, v_group.since, v_settled, p_steps);
            candidates := candidates || v_one.rows;
            v_one.rows := null;
            opened := opened || v_one;
        elsif v_group.bells is not null then
            delete from gendurable.instance i where i.id = any(v_group.bells);
            perform gendurable._put_bell(
                p_queue, p_priority, clock_timestamp() + least(v_group.tries + 1, 20) * interval '5 ms', v_group.bucket, null,
                v_group.since, v_group.tries + 1);
        end if;
    end loop;
end $$;

comment on function gendurable._open_buckets(text, int, gendurable.candidate[], int, jsonb) is
    'Locks the buckets of picked rows and bells as far as they are free. candidates: the picked ones, and behind them the first rows
of the lines whose time has come.';

create or replace function gendurable._open_bucket(
    p_bucket text, p_queue text, p_priority int, p_need int, p_bells bigint[], p_since timestamptz, p_settled boolean,
    p_steps jsonb
) returns gendurable.opened
language plpgsql as $$
declare
    -- behind the lock: with an older time a bell that was rung here would seem to be still to come
    v_clock constant timestamptz := clock_timestamp();
    v_most int := 0;
    v_found record;
    v_wanted bigint[];
    -- up to where it looks in the line
    v_to_priority int := 2147483647;
    v_to_at timestamptz := timestamptz 'infinity';
    v_one gendurable.opened;
begin
    v_one.bucket := p_bucket;
    v_one.clock := v_clock;
    v_one.bells := p_bells;
    v_one.settled := p_settled;
    v_one.bound_priority := -2147483648;
    v_one.bound_at := '-infinity';
    v_one.bound_id := 0;
    v_one.rows := '{}';
    select b.no, b.full_at, coalesce(b.lines, '{}'), l.us, l.burst, c.until
    into v_one.no, v_one.full_at, v_one.lines, v_one.us, v_one.burst, v_one.closed_until
    from (select 1) one
    left join lateral (
        select x.no, x.full_at, x.lines from gendurable.bucket x where x.bucket = p_bucket order by x.no desc limit 1
    ) b on true
    left join lateral gendurable._find_rate_limit(p_bucket) l on true
    left join lateral (
        select x.until
        from gendurable.bucket_closed x
        -- what has no limit any more cannot be closed
        where x.bucket = p_bucket and x.until > v_clock and l.us is not null
        order by x.until desc limit 1
    ) c on true;
    v_one.level := case
        when v_one.closed_until is null then gendurable._level(v_one.full_at, v_one.us, v_one.burst, v_clock)
        else 0
    end;
    if v_one.lines <> '{}' then
        v_one.line := (select l from unnest(v_one.lines) l where l.queue = p_queue);
        if (v_one.line).queue is not null then
            v_one.bound_priority := (v_one.line).priority;
            v_one.bound_at := (v_one.line).at;
            v_one.bound_id := (v_one.line).id;
        end if;
    end if;
    v_one.reserved := gendurable._reserved(
        v_one.lines, p_queue, coalesce((v_one.line).turn_at, v_clock), v_one.burst, v_clock);

    if p_bells is null and coalesce((v_one.line).ring_at > v_clock or (
        p_steps is not null and not gendurable._is_line_wanted(p_steps, p_bucket, p_queue, (v_one.line).ring_at)), true)
    then
        -- its time has not come, or there is none: what has just come may go before its first row, if that is its place
        if (v_one.line).queue is null then
            v_one.ends := true;
            v_one.bound_priority := 2147483647;
            v_one.bound_at := 'infinity';
            return v_one;
        end if;
        v_one.ends := false;
        v_one.last_priority := v_one.bound_priority;
        v_one.last_at := v_one.bound_at;
        v_one.last_id := v_one.bound_id;
        return v_one;
    end if;
    if (p_priority, p_since, 0::bigint) < (v_one.bound_priority, v_one.bound_at, v_one.bound_id) then
        v_one.bound_priority := p_priority;
        v_one.bound_at := p_since;
        v_one.bound_id := 0;
    end if;
    if v_one.level > 0 and v_one.level > v_one.reserved then
        v_most := least(p_need, ceil(least(v_one.level - v_one.reserved, 1000)) + 1, 500)::int;
        if p_steps is not null then
            v_found := gendurable._find_wanted_in_line(
                p_steps, p_bucket, p_queue, v_one.bound_priority, v_one.bound_at, v_one.bound_id);
            v_wanted := v_found.ids;
            v_to_priority := v_found.to_priority;
            v_to_at := v_found.to_at;
        end if;
        v_one.rows := array(
            select gendurable._candidate(
                p_id => i.id,
                p_eligible_at => i.eligible_at,
                p_status => i.status,
                p_crashes => i.crashes,
                p_plain => false,
                p_partition_key => i.partition_key,
                p_slot_no => i.slot_no,
                p_lane_at => i.lane_at,
                p_heavy => i.children_pending is not null or gendurable._is_large(i.state) or gendurable._is_large(i.meta),
                p_bare => false,
                p_rate_limit => i.rate_limit,
                p_weight => i.weight,
                p_place => i.bucket_at,
                p_lined => true,
                p_priority => i.priority,
                p_scoped => i.unique_scope is not null,
                p_over => i.expires_at <= v_clock,
                p_at => i.ctid
            )
            from gendurable.instance i
            where i.rate_limit = p_bucket and i.queue = p_queue and i.bucket_at is not null
                and (i.priority, i.bucket_at, i.id) >= (v_one.bound_priority, v_one.bound_at, v_one.bound_id)
                -- those behind it have a bell in their priority: rows without a limit may come before them
                and i.priority <= p_priority
                and (i.priority, i.bucket_at) <= (v_to_priority, v_to_at)
                and (v_wanted is null or i.id = any(v_wanted))
            order by i.priority, i.bucket_at, i.id
            limit v_most
            for no key update skip locked);
    end if;
    v_one.ends := cardinality(v_one.rows) < v_most;
    v_one.last_priority := (v_one.rows[cardinality(v_one.rows)]).priority;
    v_one.last_at := (v_one.rows[cardinality(v_one.rows)]).place;
    v_one.last_id := (v_one.rows[cardinality(v_one.rows)]).id;
    return v_one;
end $$;

comment on function gendurable._open_bucket(text, text, int, int, bigint[], timestamptz, boolean, jsonb) is
    'A locked bucket: its limit (us a token, burst; nulls: none), its level, what of it is reserved for other lines, the line of the
queue, from where on to look in it (bound_...), and up to where rows may start (ends: there is no more in the line; else up to
last_...). rows: the first of the line, if a bell rang or its time has come, as many as there may be tokens for.';

create or replace function gendurable._is_line_wanted(
    p_steps jsonb, p_bucket text, p_queue text, p_ring_at timestamptz
) returns boolean
language plpgsql as $$
declare
    v_first record;
begin
    select gendurable._is_wanted(p_steps, i.fsm, i.fsm_version, i.step) as wanted into v_first
    from gendurable.instance i
    where i.rate_limit = p_bucket and i.queue = p_queue and i.bucket_at is not null
    order by i.priority, i.bucket_at, i.id
    limit 1;
    -- Who wants the first row has as long as another line has; then those behind it do not wait for it.
    return coalesce(v_first.wanted, true) or (
        p_ring_at <= clock_timestamp() - gendurable._turn_length()
        and (gendurable._find_wanted_in_line(p_steps, p_bucket, p_queue, -2147483648, '-infinity', 0)).ids <> '{}');
end $$;

comment on function gendurable._is_line_wanted(jsonb, text, text, timestamptz) is
    'Whether a claim that wants some steps alone serves a line whose bell has rung: it wants the first row, or nobody came for that.';

create or replace function gendurable._find_wanted_in_line(
    p_steps jsonb, p_bucket text, p_queue text, p_priority int, p_at timestamptz, p_id bigint,
    out ids bigint[], out to_priority int, out to_at timestamptz
)
language plpgsql as $$
begin
    select array_agg(x.id order by x.no) filter (where x.wanted), (array_agg(x.priority order by x.no desc) filter (where x.wanted))[1],
        (array_agg(x.bucket_at order by x.no desc) filter (where x.wanted))[1]
    into ids, to_priority, to_at
    from (
        select i.id, i.priority, i.bucket_at, gendurable._is_wanted(p_steps, i.fsm, i.fsm_version, i.step) as wanted,
            row_number() over (order by i.priority, i.bucket_at, i.id) as no
        from gendurable.instance i
        where i.rate_limit = p_bucket and i.queue = p_queue and i.bucket_at is not null
            and (i.priority, i.bucket_at, i.id) >= (p_priority, p_at, p_id)
        order by i.priority, i.bucket_at, i.id
        limit 1000
    ) x;
    ids := coalesce(ids, '{}');
end $$;

comment on function gendurable._find_wanted_in_line(jsonb, text, text, int, timestamptz, bigint) is
    'Of the next 1,000 rows of a line those whose steps are wanted, and the place of the last of them.';

create or replace function gendurable._give_tokens(
    p_queue text, p_priority int, p_opened gendurable.opened[], p_candidates gendurable.candidate[], p_ids bigint[],
    p_slots int[], p_need int, p_now timestamptz,
    out ids bigint[], out slots int[], out parked bigint[], out last_id bigint
)
language plpgsql as $$
declare
    v_cut bigint;
    v_lost bigint[];
    v_places timestamptz[];
    v_buckets text[];
    v_sum double precision := 0;
begin
    if cardinality(p_opened) = 1 and cardinality(p_ids) = cardinality(p_candidates) and (p_candidates[1]).lined
        and (p_candidates[cardinality(p_candidates)]).lined
    then
        -- Mostly a bell has called the first rows of one line, and nobody else is there: one after the other.
        ids := '{}';
        for v_at in 1 .. least(cardinality(p_ids), p_need) loop
            v_sum := v_sum + least((p_candidates[v_at]).weight, (p_opened[1]).burst);
            exit when v_sum > ((p_opened[1]).level - (p_opened[1]).reserved) * gendurable._token_slack();
            ids := ids || p_ids[v_at];
        end loop;
        slots := p_slots[:cardinality(ids)];
        return;
    end if;
    select coalesce(array_agg(x.id order by x.lined desc, x.ord) filter (where x.starts and x.rank <= p_need), '{}'),
        array_agg(x.slot order by x.lined desc, x.ord) filter (where x.starts and x.rank <= p_need),
        array_agg(x.id order by x.ord) filter (where x.parks),
        array_agg(x.place order by x.ord) filter (where x.parks),
        array_agg(distinct x.bucket) filter (where x.parks and not x.open),
        array_agg(x.id) filter (where x.parks and x.lost),
        max(x.cut)
    into ids, slots, parked, v_places, v_buckets, v_lost, v_cut
    from (
        select s.*, not s.starts and not s.lined and coalesce(s.ord < s.cut, true) as parks
        from (
            -- Cut behind the gate: what is cut pays nothing and is not parked, and what comes behind it is not looked at.
            select r.*, min(r.ord) filter (where r.starts and r.rank > p_need and not r.lined) over () as cut
            from (
                select y.*, row_number() over (partition by y.starts order by y.lined desc, y.ord) as rank
                from gendurable._weigh_starts(p_opened, p_candidates, p_ids, p_slots) y
            ) r
        ) s
    ) x;
    if v_cut is not null then
        last_id := case when v_cut = 1 then 0 else (p_candidates[v_cut - 1]).id end;
    end if;
    if v_lost is not null then
        -- its worker was lost: it is given back, with its slot, and stands in line like all others
        perform gendurable._give_back(v_lost, p_now, p_now, true);
    end if;
    if parked is not null then
        update gendurable.instance i
        set bucket_at = w.place, eligible_at = null, woken = 1, updated_at = p_now
        from unnest(parked, v_places) w (id, place)
        where i.id = any(array[w.id]);
    end if;
    if v_buckets is not null then
        -- without the lock of the bucket: whoever gets it next looks from this place on
        perform gendurable._put_bell(p_queue, p_priority, clock_timestamp() + interval '2 ms', b.bucket, null, (
            select min(c.place) from unnest(p_candidates) c where c.rate_limit = b.bucket and c.id > 0))
        from unnest(v_buckets) b (bucket);
    end if;
end $$;

comment on function gendurable._give_tokens(
    text, int, gendurable.opened[], gendurable.candidate[], bigint[], int[], int, timestamptz
) is
    'Which of the rows that their keys admit (p_ids, p_slots) get tokens, p_need at most; puts the others into their lines. last_id: as
of _pass_gate.';

create or replace function gendurable._weigh_starts(
    p_opened gendurable.opened[], p_candidates gendurable.candidate[], p_ids bigint[], p_slots int[]
) returns table (
    id bigint, slot int, ord bigint, lined boolean, lost boolean, bucket text, place timestamptz, open boolean, starts boolean
)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
        select t.id, t.slot, t.ord, t.lined, t.lost, t.bucket, t.place, t.level is not null,
            t.bucket is null or coalesce(
                t.sum <= t.level
                -- nobody starts before a row that is left in the line
                and (t.lined or t.ends or (t.priority, t.place, t.id) < (t.last_priority, t.last_at, t.last_id)), false)
        from (
            -- One grouping and two windows: joins of arrays would be nested loops. In the order of the line, and without gaps: a heavy row is waited for. One that is heavier than the burst, which was
            -- lowered, counts as a whole burst.
            select w.*, sum(least(w.weight, w.burst)) over (
                partition by w.bucket order by w.priority, w.place, w.id rows unbounded preceding) as sum
            from (
                select g.*, max(g.o_level) over b as level, max(g.o_burst) over b as burst, bool_or(g.o_ends) over b as ends,
                    max(g.o_priority) over b as last_priority, max(g.o_at) over b as last_at, max(g.o_id) over b as last_id
                from (
                    select u.id, max(u.slot) as slot, max(u.ord) as ord, bool_or(u.lined) as lined, bool_or(u.lost) as lost,
                        bool_or(u.admitted) as admitted, max(u.bucket) as bucket, max(u.weight) as weight,
                        max(u.priority) as priority, max(u.place) as place, max(u.o_level) as o_level,
                        max(u.o_burst) as o_burst, bool_or(u.o_ends) as o_ends, max(u.o_priority) as o_priority,
                        max(u.o_at) as o_at, max(u.o_id) as o_id
                    from (
                        select c.id, null::int as slot, c.ordinality as ord, c.lined, c.status = 'executing' as lost,
                            null::boolean as admitted, c.rate_limit as bucket, c.weight, c.priority, c.place,
                            null::double precision as o_level, null::double precision as o_burst, null::boolean as o_ends,
                            null::int as o_priority, null::timestamptz as o_at, null::bigint as o_id
                        from unnest(p_candidates) with ordinality c
                        union all
                        select a.id, a.slot, null, null, null, true, null, null, null, null, null, null, null, null, null, null
                        from unnest(p_ids, p_slots) a (id, slot)
                        union all
                        select -o.ordinality, null, null, null, null, null, o.bucket, null, null, null,
                            greatest(o.level - o.reserved, 0) * gendurable._token_slack(), coalesce(o.burst, 'infinity'), o.ends,
                            o.last_priority, o.last_at, o.last_id
                        from unnest(p_opened) with ordinality o
                    ) u
                    group by u.id
                ) g
                window b as (partition by g.bucket)
            ) w
            where w.admitted
        ) t;
end $$;

comment on function gendurable._weigh_starts(gendurable.opened[], gendurable.candidate[], bigint[], int[]) is
    'Of the rows that their keys admit, whether there are tokens for each and nobody in the line precedes it. open: its bucket is
locked here; lost: it executes, under a lease that is over; ord: its place among the candidates.';
