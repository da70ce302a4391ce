-- The door through which gd_run claims: only what it can run, and only numbers, since it reads the rows when it runs them.
-- Next: 120_lease.

create or replace function gendurable._claim_run(
    p_worker text, p_queue text, p_limit int, p_lease interval, p_role oid,
    out ids bigint[], out claim_nos bigint[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_got record;
begin
    perform gendurable._need_claim(p_worker, p_lease, null);
    perform gendurable._need_text(p_queue, 'p_queue');
    perform gendurable._need_limit(p_limit);
    v_got := gendurable._claim_queues(
        p_worker, array[p_queue], jsonb_build_object(p_queue, p_limit), p_lease,
        gendurable._runnable_steps('sql', p_role));
    ids := coalesce(v_got.ids, '{}');
    claim_nos := '{}';
    if ids = '{}' then
        return;
    end if;
    if v_got.started is null or cardinality(v_got.started) < cardinality(ids) then
        perform gendurable._to_executing(
            p_worker, array(select u.id from unnest(ids) u (id) where u.id <> all(coalesce(v_got.started, '{}'))), null,
            v_got.now, p_lease);
    end if;
    if v_got.timed then
        perform gendurable._time_claims(ids, v_got.now);
    end if;
    claim_nos := array(
        select i.claim_no
        from unnest(ids) with ordinality u (id, ord)
        join gendurable.instance i on i.id = any(array[u.id])
        order by u.ord);
end $$;

comment on function gendurable._claim_run(text, text, int, interval, oid) is
    'Starts due instances of a queue whose steps the role can run here: their ids, and the numbers of the claims.';
