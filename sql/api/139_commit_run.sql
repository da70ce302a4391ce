-- The door through which gd_run_claims commits what handlers have returned, in the transaction of what they wrote. It waits for
-- nobody, as gd_commit: what cannot be had makes the whole of it roll back.
-- Next: 140_signal.

create or replace function gendurable._commit_run(p_worker text, p_outcomes jsonb) returns jsonb
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    return gendurable._commit_outcomes(
        p_worker, gendurable._parse_outcomes(p_outcomes, v_now), interval '60 seconds', v_now);
end $$;

comment on function gendurable._commit_run(text, jsonb) is
    'Commits outcomes: {ord: answer} for all but those that are simply ok.';
