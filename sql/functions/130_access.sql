-- Who may call what. Nobody has any right but through gd_grant.

create or replace function gendurable._profile(p_profile text, out functions text[], out views text[])
language plpgsql immutable as $$
declare
    v_client constant text[] :=
        '{gd_insert,gd_insert_many,gd_find,gd_signal,gd_result,gd_watch,gd_childs,gd_version}'::text[]::text[];
    v_reader constant text[] := '{gd_result,gd_find,gd_childs,gd_version}'::text[];
    v_views constant text[] := '{gd_instances,gd_queues,gd_workers}'::text[];
    v_upkeep constant text[] := '{gd_reap,gd_gc,gd_maintain}'::text[];
begin
    views := '{}';
    case p_profile
        when 'client' then
            functions := v_client;
        when 'worker' then
            functions := v_client || v_upkeep || '{gd_register,gd_claim,gd_claim_many,gd_commit,gd_commit_one,gd_heartbeat,gd_release,gd_sleep,gd_wake}'::text[];
        when 'operator' then
            functions := v_client || v_upkeep || '{gd_cancel,gd_retry,gd_reschedule,gd_pause_queue,gd_resume_queue,gd_set_key_limit}'::text[];
            views := v_views;
        when 'reader' then
            functions := v_reader;
            views := v_views;
        else
            raise exception using errcode = 'GD502', message = 'no such profile',
                detail = coalesce(quote_literal(p_profile), 'null'), hint = 'Profiles: client, worker, operator, reader.';
    end case;
end $$;

comment on function gendurable._profile(text) is 'What a profile may call and read; raises GD502.';

create or replace function gd_grant(p_role regrole, p_profile text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_schema text;
    v_profile record;
    v_object record;
begin
    if p_role is null then
        perform gendurable._invalid('p_role must not be null', null, 'Pass the name of a role.');
    end if;
    if not exists (select from pg_roles r where r.oid = p_role) then
        perform gendurable._invalid('p_role must be a role', 'got ' || p_role::oid, 'Pass the name of a role.');
    end if;
    v_profile := gendurable._profile(p_profile);
    select m.api_schema into v_schema from gendurable.meta m;
    execute format('grant usage on schema %I to %s', v_schema, p_role);
    for v_object in
        select p.oid::regprocedure as signature
        from pg_proc p
        where p.pronamespace = quote_ident(v_schema)::regnamespace and p.proname = any(v_profile.functions)
    loop
        execute format('grant execute on function %s to %s', v_object.signature, p_role);
    end loop;
    for v_object in
        select c.oid::regclass as name
        from pg_class c
        where c.relnamespace = quote_ident(v_schema)::regnamespace and c.relkind = 'v' and c.relname = any(v_profile.views)
    loop
        execute format('grant select on %s to %s', v_object.name, p_role);
    end loop;
end $$;

comment on function gd_grant(regrole, text) is
'Grants a role what a profile needs. client: insert, signal, results. worker: client''s, claiming, committing, upkeep.
operator: client''s, the views, cancel, retry, pause, limits, upkeep. reader: the views and results. Profiles add up.
Raises GD501, and GD502 for an unknown profile.';

-- Functions are executable by everybody when they are made: not these.
revoke all on all functions in schema gendurable from public;
revoke all on schema gendurable from public;

do $$
declare
    v_schema constant text := pg_catalog.current_schema();
    v_path constant text := pg_catalog.current_setting('search_path');
    v_function record;
begin
    -- Whoever may create in this schema could have put an operator there that fits better than the built-in one.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    for v_function in
        select p.oid::regprocedure as signature
        from pg_proc p
        where p.pronamespace = quote_ident(v_schema)::regnamespace and p.proname like 'gd\_%'
    loop
        execute format('revoke all on function %s from public', v_function.signature);
    end loop;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;
