-- The line of a partition key, as the gate sees it (114_gate).
-- Next: 257_failures.

create or replace function gd_line(p_key text, p_limit int = 100)
returns table (
    place int, id bigint, standing text, fsm text, step text, status text, queue text, priority int, since timestamptz, worker text,
    lease_expires_at timestamptz
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_most constant int := gendurable._find_key_limit(p_key);
    v_limit constant int := coalesce(p_limit, 100);
    v_holders bigint[];
    v_line bigint[];
begin
    perform gendurable._need_text(p_key, 'p_key');
    perform gendurable._need_limit(p_limit);
    v_holders := array(
        select i.id from gendurable.instance i
        where i.partition_key = p_key and i.slot_no is not null
        order by i.slot_no
        limit v_limit);
    v_line := array(
        select i.id
        from gendurable.instance i
        where i.partition_key = p_key and i.lane_at is not null and i.slot_no is null
        order by i.priority, i.lane_at, i.id
        limit least(v_limit, gendurable._most_looks()));
    return query
        select case l.standing when 'waits' then l.turn when 'next' then l.turn end::int, i.id, l.standing, i.fsm, i.step,
            i.status::text, i.queue, i.priority, l.since, i.worker, i.lease_expires_at
        from (
            select u.id, 'holds' as standing, null::bigint as turn,
                timestamptz 'epoch' + h.claim_no * interval '1 microsecond' as since, 0 as part, u.ord
            from unnest(v_holders) with ordinality u (id, ord)
            join gendurable.instance h on h.id = any(array[u.id])
            union all
            select s.id, case
                    when s.standing is not null then s.standing
                    when s.turn <= v_most - cardinality(v_holders) then 'next'
                    else 'waits'
                end, s.turn, s.since, case when s.standing = 'later' then 2 else 1 end, s.ord
            from (
                select w.*, count(*) filter (where w.standing is null) over (order by w.ord) as turn
                from (
                    select u.id, u.ord, x.lane_at as since, case
                            when x.lane_at > v_now then 'later'
                            when exists (select from gendurable.paused_queue q where q.queue = x.queue)
                                or x.paused_at is not null
                                or exists (select from gendurable._find_pause(x.fsm, x.fsm_version, x.step)) then 'paused'
                        end as standing
                    from unnest(v_line) with ordinality u (id, ord)
                    join gendurable.instance x on x.id = any(array[u.id])
                ) w
            ) s
        ) l
        join gendurable.instance i on i.id = any(array[l.id])
        order by l.part, l.ord
        limit v_limit;
end $$;

comment on function gd_line(text, int) is
'The line of a partition key, in the order in which they start: first who holds its slots, then who waits. place counts those
that wait, the next one as 1; it is null for all others. since: since when it executes, or its place in the line. p_limit
rows at most. No rows: nobody holds or waits. What of the key awaits signals or children, has ended, or was set
aside by a pause, is not in it.
standing is

  holds: it executes, in a slot of the key
  next: a slot is free for it
  waits: for those before it
  paused: it is, or its machine, step or queue, and those behind it go first
  later: its time has not come

Raises GD501.';
