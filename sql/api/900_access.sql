-- Who may call what. Nobody has any right but through gd_grant, which remembers what it gave: an upgrade takes away
-- everything else, and gives the functions that are new to the roles of old.

create or replace function gd_grant(p_role regrole, p_profile text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_role text;
begin
    if p_role is null then
        perform gendurable._invalid('p_role must not be null', null, 'Pass the name of a role.');
    end if;
    select r.rolname into v_role from pg_roles r where r.oid = p_role;
    if v_role is null then
        perform gendurable._invalid('p_role must be a role', 'got ' || p_role::oid, 'Pass the name of a role.');
    end if;
    perform gendurable._grant_profile(gendurable._api_schema(), p_role, p_profile);
    insert into gendurable.granted (role, profile) values (v_role, p_profile) on conflict do nothing;
    perform gendurable._note_by_hand('gd_grant', null, jsonb_build_object('role', v_role, 'profile', p_profile), 1);
end $$;

comment on function gd_grant(regrole, text) is
'Gives a role the rights of a profile, and remembers it: an upgrade gives the role what is new. Profiles add up.

  client: insert, signal, results
  worker: what a client may, claiming, committing, scheduling, upkeep
  operator: what a client may, the views, cancel, retry, pause, limits, schedules, upkeep
  reader: the views and results
  author: defining steps in SQL

Raises GD501, and GD502 for an unknown profile.';

create or replace function gendurable._grant_profile(p_schema text, p_role oid, p_profile text) returns void
language plpgsql as $$
declare
    v_profile record;
    v_object text;
begin
    v_profile := gendurable._describe_profile(p_profile);
    execute format('grant usage on schema %I to %s', p_schema, p_role::regrole);
    for v_object in
        select p.oid::regprocedure
        from gendurable._api() a
        join pg_proc p on p.oid = to_regprocedure(format('%I.%s', p_schema, a.signature))
        where a.kind = 'function' and split_part(a.signature, '(', 1) = any(v_profile.functions)
        union all
        select p.oid::regprocedure
        from pg_proc p
        where p.pronamespace = 'gendurable'::regnamespace and p.proname = any(v_profile.functions)
    loop
        execute format('grant execute on routine %s to %s', v_object, p_role::regrole);
    end loop;
    if v_profile.functions && '{_run_claims,_migrate}'::text[] then
        -- what runs code of the caller is not security definer, and calls these by their full names
        execute format('grant usage on schema gendurable to %s', p_role::regrole);
    end if;
    for v_object in
        select c.oid::regclass
        from gendurable._api() a
        join pg_class c on c.oid = to_regclass(format('%I.%I', p_schema, a.signature))
        where a.kind = 'view' and a.signature = any(v_profile.views)
    loop
        execute format('grant select on %s to %s', v_object, p_role::regrole);
    end loop;
end $$;

comment on function gendurable._grant_profile(text, oid, text) is 'Gives a role what its profile names, in the schema of the API.';

create or replace function gendurable._profile_names() returns text[]
language sql immutable parallel safe as $$
    select '{client,worker,operator,reader,author}'::text[]
$$;

comment on function gendurable._profile_names() is 'The profiles of gd_grant, in the order in which the reference lists them.';

create or replace function gendurable._describe_profile(p_profile text, out functions text[], out views text[])
language plpgsql immutable as $$
declare
    v_client constant text[] :=
        '{gd_insert,gd_insert_many,gd_find,gd_signal,gd_signal_on,gd_signal_off,gd_result,gd_watch,gd_childs,gd_journal,gd_version}'::text[];
    -- for operators, too
    v_looking constant text[] := '{gd_signals,gd_match,gd_audit,gd_get,gd_tree,gd_list,gd_list_queues,gd_count,gd_why,gd_line,gd_failures,gd_crashes,gd_stats,gd_transitions,gd_errors,gd_history,gd_journal_page,gd_doctor}'::text[];
    v_reader constant text[] := '{gd_result,gd_find,gd_childs,gd_journal,gd_version}'::text[] || v_looking;
    v_views constant text[] := '{gd_instances,gd_queues,gd_workers,gd_machines,gd_rate_limits,gd_schedules,gd_holds,gd_pauses}'::text[];
    v_upkeep constant text[] := '{gd_reap,gd_gc,gd_maintain}'::text[];
    -- what gd_migrate is made of, and its doors
    v_migration constant text[] :=
        '{gd_migrate,_migrate,_migrate_group,_open_migration,_prepare_state,_write_migration,_is_pinned,_blames_lock}'::text[];
    -- what gd_run and gd_run_claims are made of, and the doors through which they claim, read, commit and give back
    v_runner constant text[] :=
        '{_answer_claims,_run_claims,_run_group,_match_outcomes,_deferred_constraints,_end_badly,_blames_lock,_open_run,_plan_run,_read_run,_holds_run,_resolves_run,_pin_handler,_is_pinned,_call_text,_suspect_run,_claim_run,_commit_run,_release_run,_open_call,_step_call,_refused_steps,_is_nobodys_fault,_tally_call,_setting_ms,_next_links,_carry,_sign_outcomes,_rehearse,_claim_this,_open_rehearsal,_show_rehearsed,_count_writes,_diff_writes}'::text[];
begin
    views := '{}';
    case p_profile
        when 'client' then
            functions := v_client;
        when 'worker' then
            functions := v_client || v_upkeep || '{gd_register,gd_claim,gd_claim_many,gd_commit,gd_commit_one,gd_heartbeat,gd_release,gd_sleep,gd_wake,gd_journals,gd_journal_entries,gd_signals,gd_hello,gd_bye,gd_ensure_rate_limit,gd_close_rate_limit,gd_schedule,gd_announce_schedules,gd_run_claims,gd_run,gd_rehearse}'::text[]
                || v_runner;
            views := '{gd_steps}'::text[];
        when 'operator' then
            functions := v_client || v_upkeep || v_looking || v_migration || '{gd_edit,gd_drain_worker,gd_resume_worker,gd_delete,gd_delete_many,gd_signal_many,gd_cancel,gd_retry,gd_reschedule,gd_pause,gd_resume,gd_pause_machine,gd_resume_machine,gd_pause_queue,gd_resume_queue,gd_set_key_limit,gd_set_rate_limit,gd_ensure_rate_limit,gd_close_rate_limit,gd_schedule,gd_unschedule,gd_pause_schedule,gd_resume_schedule,gd_trigger,gd_cancel_many,gd_retry_many,gd_reschedule_many,gd_fork,gd_export,gd_import,gd_set_queue,gd_hold_all,gd_release_hold}'::text[];
            views := v_views;
        when 'reader' then
            functions := v_reader;
            views := v_views;
        when 'author' then
            functions := '{gd_define_step,gd_drop_step,gd_version}'::text[];
            views := '{gd_steps}'::text[];
        else
            raise exception using errcode = 'GD502', message = 'no such profile',
                detail = coalesce(quote_literal(p_profile), 'null'),
                hint = 'Profiles: ' || array_to_string(gendurable._profile_names(), ', ') || '.';
    end case;
end $$;

comment on function gendurable._describe_profile(text) is 'What a profile may call and read; raises GD502.';

create or replace function gendurable._api_schema() returns text
language plpgsql stable as $$
begin
    -- A schema gets renamed: the name that was written down decides only where functions of a former installation are
    -- left in another schema.
    return coalesce((
        select n.nspname
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where p.proname = 'gd_version' and p.pronargs = 0 and p.prosecdef
            and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
        order by exists (
            select from pg_depend d
            join pg_extension e on e.oid = d.refobjid and e.extname = 'gendurable'
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
                and d.refclassid = 'pg_extension'::regclass
        ) desc, exists (select from gendurable.meta m where m.api_schema = n.nspname) desc, p.oid desc
        limit 1), (select m.api_schema from gendurable.meta m));
end $$;

comment on function gendurable._api_schema() is 'The schema of the gd_* functions, whatever it is called now.';

create or replace function gendurable._list_rights(p_schema text)
returns table (kind text, object text, name text, grantee oid, bare boolean)
language plpgsql stable as $$
#variable_conflict use_column
begin
    -- Others may have functions named gd_... in the same schema, also overloads of ours: what is ours is written down.
    return query
    with acl as (
        select 'routine' as kind, p.oid::regprocedure::text as object, p.proname as name, p.proowner as owner,
            coalesce(p.proacl, acldefault('f', p.proowner)) as acl
        from pg_proc p
        where p.pronamespace = 'gendurable'::regnamespace
            or p.oid in (
                select to_regprocedure(format('%I.%s', p_schema, a.signature))
                from gendurable._api() a where a.kind = 'function')
        union all
        select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relname, c.relowner, x.acl
        from pg_class c
        cross join lateral (
            select c.relacl as acl
            union all
            select t.attacl from pg_attribute t where t.attrelid = c.oid and t.attacl is not null
        ) x
        where c.relkind in ('r', 'p', 'v', 'S') and x.acl is not null and (
            c.relnamespace = 'gendurable'::regnamespace
            or c.oid in (
                select to_regclass(format('%I.%I', p_schema, a.signature))
                from gendurable._api() a where a.kind = 'view'))
        union all
        select 'type', y.oid::regtype::text, y.typname, y.typowner, coalesce(y.typacl, acldefault('T', y.typowner))
        from pg_type y
        left join pg_class c on c.oid = y.typrelid
        where y.typnamespace = 'gendurable'::regnamespace and (y.typtype in ('e', 'd', 'r') or c.relkind = 'c')
        union all
        select 'schema', 'gendurable', n.nspname, n.nspowner, n.nspacl
        from pg_namespace n
        where n.nspname = 'gendurable' and n.nspacl is not null
    )
    select o.kind, o.object, o.name::text, x.grantee,
        bool_and(x.privilege_type in ('EXECUTE', 'SELECT') and not x.is_grantable)
    from acl o
    cross join lateral aclexplode(o.acl) x
    where x.grantee <> o.owner
    group by o.kind, o.object, o.name, x.grantee;
end $$;

comment on function gendurable._list_rights(text) is
    'Who besides the owner has any right on anything of ours; 0 is PUBLIC. bare: no more than to call or to read it.';

create or replace function gendurable._telling_right(p_profile text) returns text
language sql immutable parallel safe as $$
    select case p_profile
        when 'client' then 'gd_insert'
        when 'worker' then 'gd_claim'
        when 'operator' then 'gd_cancel'
        when 'author' then 'gd_define_step'
        else 'gd_instances'
    end
$$;

comment on function gendurable._telling_right(text) is 'The one right by which a role is known to hold a profile still.';

create or replace function gendurable._settle_grants() returns void
language plpgsql as $$
declare
    v_schema constant text := gendurable._api_schema();
begin
    -- Called before an upgrade drops anything. What was revoked by hand is not given again: a profile counts as held by
    -- its one telling object.
    delete from gendurable.granted g
    using pg_roles r
    where r.rolname = g.role and not exists (
        select from gendurable._list_rights(v_schema) h
        where h.grantee = r.oid and h.name = gendurable._telling_right(g.profile));
    -- A role that was renamed keeps its rights, under a name that nobody wrote down. Whoever may call gd_grant got
    -- everything at once, from somebody who granted all on all functions.
    insert into gendurable.granted (role, profile)
    with held as (
        select r.rolname, array_agg(h.name) as names
        from gendurable._list_rights(v_schema) h
        join pg_roles r on r.oid = h.grantee
        where not exists (select from gendurable.granted g where g.role = r.rolname)
        group by r.rolname
        having 'gd_grant' <> all(array_agg(h.name))
    ), profile as (
        select y.profile, array(
            select a.name
            from (select split_part(o.signature, '(', 1) as name from gendurable._api() o) a
            where a.name = any(x.functions || x.views)) as names
        from unnest(gendurable._profile_names()) y (profile)
        cross join lateral gendurable._describe_profile(y.profile) x
    )
    select h.rolname, p.profile
    from held h
    join profile p on h.names @> p.names
    where not exists (
        select from profile w
        where h.names @> w.names and w.names @> p.names and w.profile <> p.profile);
end $$;

comment on function gendurable._settle_grants() is 'Brings the remembered grants to what is held now.';

create or replace function gendurable._renew_grant() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform gendurable._grant_profile(gendurable._api_schema(), r.oid, new.profile) from pg_roles r where r.rolname = new.role;
    return null;
end $$;

comment on function gendurable._renew_grant() is 'Gives a remembered profile once more.';

-- Functions are executable by everybody when they are made, and default privileges name whom they like: not here.
revoke all on schema gendurable from public;

do $$
declare
    v_schema constant text := pg_catalog.current_schema();
    v_path constant text := pg_catalog.current_setting('search_path');
    v_right record;
begin
    -- Whoever may create in this schema could have put an operator there that fits better than the built-in one.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- All at once where there is anything to take: an extension's script makes the rights that it leaves behind the
    -- extension's own, which no dump carries.
    for v_right in
        select a.kind, a.object, case when a.grantee = 0 then 'public' else a.grantee::regrole::text end as grantee
        from gendurable._list_rights(v_schema) a
        where exists (
            select from gendurable._list_rights(v_schema) b
            where b.kind = a.kind and b.object = a.object and not exists (
                select from gendurable.granted g
                join pg_roles r on r.rolname = g.role
                cross join lateral gendurable._describe_profile(g.profile) p
                where r.oid = b.grantee and b.bare and b.name = any(p.functions || p.views)))
    loop
        execute format('revoke all on %s %s from %s cascade', v_right.kind, v_right.object, v_right.grantee);
    end loop;
    if not exists (
        select from pg_trigger t where t.tgrelid = 'gendurable.granted'::regclass and t.tgname = 'granted_renew'
    ) then
        create constraint trigger granted_renew after update on gendurable.granted
        deferrable initially deferred for each row execute function gendurable._renew_grant();
    end if;
    if not exists (
        select from pg_trigger t where t.tgrelid = 'gendurable.hold'::regclass and t.tgname = 'hold_special'
    ) then
        create trigger hold_special after insert on gendurable.hold
        for each row execute function gendurable._mark_special();
        create trigger paused_queue_special after insert on gendurable.paused_queue
        for each row execute function gendurable._mark_special();
        create trigger paused_machine_special after insert on gendurable.paused_machine
        for each row execute function gendurable._mark_special();
        create trigger resumed_special after insert on gendurable.resumed
        for each row execute function gendurable._mark_special();
        create trigger queue_setting_special after insert on gendurable.queue_setting
        for each row execute function gendurable._mark_special();
        create trigger machine_special after insert or update on gendurable.machine
        for each row when (new.timeouts is not null or new.retain is not null)
        execute function gendurable._mark_special();
    end if;
    if exists (select from pg_extension e where e.extname = 'gendurable') then
        -- For the same reason what is given to roles is given when the script has ended: at commit, by the trigger.
        update gendurable.granted set profile = profile;
    else
        perform gendurable._grant_profile(v_schema, r.oid, g.profile)
        from gendurable.granted g
        join pg_roles r on r.rolname = g.role;
    end if;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;
