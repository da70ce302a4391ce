-- From 0.2.0 to 0.3.0: what changed in the tables. The functions are made anew after this.

-- Helpers are private, and all that are still there are made anew: what is called otherwise now, or answers otherwise, goes.
drop trigger if exists granted_renew on gendurable.granted;

do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
    v_helper record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    for v_helper in
        select p.oid::regprocedure as signature from pg_proc p where p.pronamespace = 'gendurable'::regnamespace
    loop
        execute 'drop function ' || v_helper.signature;
    end loop;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

-- What the coming releases need of the private types, all at once

alter type gendurable.new_instance add attribute attributes jsonb, add attribute expires_at timestamptz;

alter type gendurable.outcome
add attribute inserts jsonb, add attribute signals jsonb, add attribute from_step text, add attribute from_state jsonb,
add attribute journal jsonb, add attribute traceback text, add attribute attributes jsonb, add attribute close_ms bigint;

alter type gendurable.candidate
add attribute rate_limit text, add attribute weight double precision, add attribute place timestamptz,
add attribute lined boolean;
