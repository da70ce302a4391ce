-- The installation: are the functions, tables, indexes, constraints and triggers those that this release has made, and is the
-- database the one that it was. _parts is written by tools/assemble.py, and not recorded when the script runs: an upgrade of
-- a database in which something is missing must not call that right, and a dump need not carry it.
-- Next: 264_server.

create or replace function gendurable._check_version() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_functions constant text := gendurable._version();
    v_tables constant text := (select m.version from gendurable.meta m);
    v_extension constant text := (select e.extversion from pg_extension e where e.extname = 'gendurable');
    v_there text;
begin
    if v_tables is distinct from v_functions or v_extension <> v_functions then
        return query select 'problem',
            format('the functions are of %s, the tables of %s%s', v_functions, coalesce(v_tables, 'nobody knows which release'),
                ', the extension is ' || v_extension),
            'Run the whole script of the upgrade, in one transaction.',
            jsonb_build_object('functions', v_functions, 'tables', v_tables, 'extension', v_extension);
    end if;
    if v_extension is not null then
        v_there := (select a.default_version from pg_available_extensions() a where a.name = 'gendurable');
        if v_there <> v_extension then
            return query select 'warning', format('installed is %s, on the server lie the files of %s', v_extension, v_there),
                'Run ALTER EXTENSION gendurable UPDATE.', jsonb_build_object('extension', v_extension, 'files', v_there);
        end if;
    end if;
end $$;

comment on function gendurable._check_version() is 'Tables, functions, extension and its files: are they of one release.';

create or replace function gendurable._check_functions() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_schema constant text := gendurable._api_schema();
    v_owner constant oid := (select n.nspowner from pg_namespace n where n.nspname = 'gendurable');
    v_again constant text := 'Make them again from the script of this release (CREATE OR REPLACE). The next upgrade does so, too.';
    v_found record;
    v_strange text[];
begin
    select coalesce(array_agg(d.name order by d.name) filter (where d.oid is null), '{}') as missing,
        coalesce(array_agg(d.name order by d.name) filter (where d.hash <> d.made), '{}') as changed,
        coalesce(array_agg(d.name order by d.name) filter (where d.owner <> v_owner), '{}') as taken,
        array_agg(d.oid) filter (where d.oid is not null) as oids
    into v_found
    from (
        select a.name, a.made, p.oid, p.proowner as owner,
            -- as tools/assemble.py does it; a client on another system may have sent other ends of lines
            md5(replace(p.prosrc, chr(13), '') || chr(10) || concat_ws(' ', l.lanname, p.provolatile::text, p.proparallel::text,
                case when p.prosecdef then 'definer' else 'invoker' end, case when p.proisstrict then 'strict' else 'called' end,
                nullif(array_to_string(array(
                    select lower(c.one collate "C") from unnest(p.proconfig) c (one) order by lower(c.one collate "C")), ' '), '')))
                as hash
        from gendurable._parts() a
        cross join lateral (
            select to_regprocedure(case
                when starts_with(a.name, 'gendurable.') then a.name else format('%I.%s', v_schema, a.name) end)::oid as id
        ) f
        left join pg_proc p on p.oid = f.id
        left join pg_language l on l.oid = p.prolang
        where a.kind = 'function'
    ) d;
    v_strange := array(
        select p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'gendurable'::regnamespace and p.oid <> all(v_found.oids)
            and p.oid <> 'gendurable._parts()'::regprocedure
        order by 1);
    return query
        select f.level, f.message || gendurable._name_few(f.names), f.hint,
            jsonb_build_object('functions', to_jsonb(f.names[:20]), 'count', cardinality(f.names))
        from (values
            ('problem', 'functions are missing: ', v_again, v_found.missing),
            ('problem', 'functions are not as they were made: ', v_again, v_found.changed),
            ('problem', 'functions have another owner than the schema gendurable: ', 'ALTER FUNCTION ... OWNER TO the owner of it.',
                v_found.taken),
            ('warning', 'functions in the schema gendurable are not of this release: ',
                'Upgrades drop them; put what is yours into a schema of yours.', v_strange)
        ) f (level, message, hint, names)
        where cardinality(f.names) > 0;
end $$;

comment on function gendurable._check_functions() is 'Functions that are missing, changed, of another owner, or not ours.';

create or replace function gendurable._check_home(p_now timestamptz)
returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_home constant jsonb := gendurable._find_home();
    v_known constant jsonb := gendurable._recall_place('home');
    v_away constant boolean := not gendurable._is_home(v_known, v_home);
    v_before constant jsonb := case when v_away then v_known - '{before,since}'::text[] else v_known -> 'before' end;
begin
    -- after a week nobody will stop anything any more
    if v_away or (v_before is not null and (v_known ->> 'since')::timestamptz > p_now - interval '7 days') then
        return query select case when exists (select from gendurable.hold) then 'warning' else 'problem' end,
            format('this is the database %s on server %s; its rows come from %s on server %s', v_home ->> 'database',
                coalesce(v_home ->> 'system', 'unknown'), v_before ->> 'database', coalesce(v_before ->> 'system', 'unknown')),
            'If it is a copy, stop it with gd_hold_all before it sends mails and fires schedules once more. If it was moved or '
            || 'renamed, say so with gd_release_hold.',
            jsonb_build_object('home', v_home, 'before', v_before, 'since', v_known -> 'since');
    end if;
end $$;

comment on function gendurable._check_home(timestamptz) is
    'Whether the upkeep ran on another server or in a database of another name, up to a week ago.';

create or replace function gendurable._check_tables() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_schema constant text := gendurable._api_schema();
    v_lost text[];
    v_off text[];
    v_unlogged text[];
    v_changed record;
begin
    v_lost := array(
        select a.name
        from gendurable._parts() a
        where (a.kind = 'table' and to_regclass('gendurable.' || a.name) is null)
            or (a.kind = 'view' and to_regclass(format('%I.%I', v_schema, a.name)) is null)
        order by a.name);
    v_off := array(
        select c.relname::text from pg_class c
        left join pg_class t on t.oid = c.reltoastrelid
        where c.relnamespace = 'gendurable'::regnamespace and exists (
            select from pg_options_to_table(c.reloptions || coalesce(t.reloptions, '{}')) o
            where o.option_name = 'autovacuum_enabled' and not o.option_value::boolean)
        order by 1);
    v_unlogged := array(
        select c.relname::text from pg_class c
        where c.relnamespace = 'gendurable'::regnamespace and c.relkind in ('r', 'p') and c.relpersistence = 'u'
        order by 1);
    select array_agg(d.name order by d.name) as names,
        jsonb_object_agg(d.name, jsonb_build_object('made', d.made, 'now', d.now)) as detail
    into v_changed
    from (
        select a.name, a.made, coalesce((
            select string_agg(o.one, ', ' order by o.one collate "C") from unnest(c.reloptions) o (one)
            where not starts_with(o.one, 'autovacuum_enabled')), '') as now
        from gendurable._parts() a
        join pg_class c on c.oid = to_regclass('gendurable.' || a.name)
        where a.kind = 'table'
    ) d
    where d.made <> d.now;
    return query
        select f.level, f.message, f.hint, f.detail
        from (values
            ('problem', 'tables or views are missing: ' || gendurable._name_few(v_lost), 'Restore them from a dump.',
                to_jsonb(v_lost), v_lost <> '{}'),
            ('problem', 'tables are unlogged, and empty after a crash: ' || gendurable._name_few(v_unlogged),
                'ALTER TABLE ... SET LOGGED.', to_jsonb(v_unlogged), v_unlogged <> '{}'),
            ('problem', 'autovacuum is off for ' || gendurable._name_few(v_off),
                'ALTER TABLE ... RESET (autovacuum_enabled), and the same for its TOAST table.', to_jsonb(v_off), v_off <> '{}'),
            ('problem', 'autovacuum is off', 'Set autovacuum and track_counts to on in the configuration of the server.',
                jsonb_build_object('autovacuum', current_setting('autovacuum'), 'track_counts', current_setting('track_counts')),
                'off' in (current_setting('autovacuum'), current_setting('track_counts'))),
            ('warning', 'storage parameters are not as they were made: ' || gendurable._name_few(v_changed.names),
                'ALTER TABLE ... SET what "made" says, unless somebody knows better.', v_changed.detail,
                v_changed.names is not null)
        ) f (level, message, hint, detail, speaks)
        where f.speaks;
end $$;

comment on function gendurable._check_tables() is
    'Tables and views that are missing, tables that are unlogged, not vacuumed, or have other storage parameters.';

create or replace function gendurable._check_indexes() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_lost text[];
    v_invalid text[];
begin
    v_lost := array(
        select a.name
        from gendurable._parts() a
        where a.kind = 'index' and not exists (
            select from pg_index x
            where x.indexrelid = to_regclass('gendurable.' || a.name) and x.indrelid = to_regclass('gendurable.' || a.made))
        order by a.name);
    v_invalid := array(
        select x.indexrelid::regclass::text
        from pg_class c
        join pg_index x on x.indrelid = c.oid
        where c.relnamespace = 'gendurable'::regnamespace and not (x.indisvalid and x.indisready)
        order by 1);
    if v_lost <> '{}' then
        return query select 'problem', 'indexes are missing: ' || gendurable._name_few(v_lost),
            'Make them again as the script of this release does, with CREATE INDEX CONCURRENTLY.', to_jsonb(v_lost);
    end if;
    if v_invalid <> '{}' then
        return query select 'problem', 'indexes are invalid: ' || gendurable._name_few(v_invalid),
            'REINDEX INDEX CONCURRENTLY, or drop those that are not ours.', to_jsonb(v_invalid[:20]);
    end if;
end $$;

comment on function gendurable._check_indexes() is 'Indexes that are missing or invalid.';

create or replace function gendurable._check_constraints() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_lost text[];
    v_open text[];
begin
    v_lost := array(
        select a.name
        from gendurable._parts() a
        where a.kind = 'constraint' and not exists (
            select from pg_constraint c
            where c.conrelid = to_regclass('gendurable.' || a.made) and c.conname = a.name::name)
        order by a.name);
    v_open := array(
        select c.conname::text
        from pg_constraint c
        where c.connamespace = 'gendurable'::regnamespace
            -- enforced or not is known from PostgreSQL 18 on
            and (not c.convalidated or to_jsonb(c) ->> 'conenforced' = 'false')
        order by 1);
    if v_lost <> '{}' then
        return query select 'problem', 'constraints are missing: ' || gendurable._name_few(v_lost),
            'Add them again as the script of this release does. What was written meanwhile may break them.', to_jsonb(v_lost);
    end if;
    if v_open <> '{}' then
        return query select 'warning', 'constraints were not validated, or are not enforced: ' || gendurable._name_few(v_open),
            'ALTER TABLE ... VALIDATE CONSTRAINT.', to_jsonb(v_open[:20]);
    end if;
end $$;

comment on function gendurable._check_constraints() is 'Constraints that are missing, or hold for some rows only.';

create or replace function gendurable._check_triggers() returns table (level text, message text, hint text, detail jsonb)
language plpgsql stable as $$
#variable_conflict use_column
declare
    v_lost text[];
    v_off text[];
begin
    select coalesce(array_agg(a.name order by a.name) filter (where t.oid is null), '{}'),
        coalesce(array_agg(a.name order by a.name) filter (where t.tgenabled in ('D', 'R')), '{}')
    into v_lost, v_off
    from gendurable._parts() a
    left join pg_trigger t on t.tgrelid = to_regclass('gendurable.' || a.made)::oid and t.tgname = a.name::name
    where a.kind = 'trigger';
    if v_lost <> '{}' then
        return query select 'problem', 'triggers are missing: ' || gendurable._name_few(v_lost),
            'Make them again as the script of this release does; the next upgrade does so, too.', to_jsonb(v_lost);
    end if;
    if v_off <> '{}' then
        return query select 'problem', 'triggers are disabled: ' || gendurable._name_few(v_off),
            'ALTER TABLE ... ENABLE TRIGGER. Until then claims do not see pauses, limits and holds.', to_jsonb(v_off);
    end if;
end $$;

comment on function gendurable._check_triggers() is 'Triggers of ours that are missing or disabled.';
