-- What loses its workers: the instances in whose steps workers were lost, so that the one that kills them is found among its neighbours.
-- Next: 260_doctor.

create or replace function gd_crashes(p_since timestamptz = null, p_look int = 5000, p_limit int = 100) returns table (
    id bigint, fsm text, step text, status text, queue text, crashes int, lost bigint, first_at timestamptz, last_at timestamptz,
    worker text, exact boolean
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    v_look constant int := coalesce(p_look, 5000);
begin
    perform gendurable._need_limit(p_limit);
    perform gendurable._need_look(v_look, 'losses');
    return query
        select n.id, n.fsm, n.step, n.status, n.queue, n.crashes, n.lost, n.first_at, n.last_at, e.worker, n.looked < v_look
        from (
            select i.id, i.fsm, i.step, i.status::text as status, i.queue, i.crashes, c.lost, c.first_at, c.last_at, c.last_no, c.looked
            from gendurable._find_crashed(coalesce(p_since, '-infinity'), v_look) c
            join gendurable.instance i on i.id = any(array[c.id])
            order by i.crashes desc, c.lost desc, c.last_at desc, i.id
            limit coalesce(p_limit, 100)
        ) n
        left join gendurable.error e on e.instance_id = any(array[n.id]) and e.no = n.last_no
        order by n.crashes desc, n.lost desc, n.last_at desc, n.id;
end $$;

comment on function gd_crashes(timestamptz, int, int) is
'Which instances have lost their workers, by the losses that are kept of each, the last 20 errors. Where a worker dies, all that it
executed has lost it; so the one that kills workers is mostly the first: with the most losses in a row, then with the most in all.

  crashes: how often in a row it has lost its worker, now; 0: a step of it has succeeded since. At 20 it has failed
  lost: how often since p_since (null: of all that are kept)
  first_at, last_at: when, for the first and the last time
  worker: who had it the last time

It looks at the latest p_look losses; exact is false where there may be more. An instance that is gone is not told. Raises
GD501.';
