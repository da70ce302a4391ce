-- Await a row: a trigger on a table of the user's that signals an instance. The one stage that runs with its caller's rights and
-- makes objects: trigger and function are his, stand beside his table, and go into its dump. Nothing private is open to him, so
-- each function here is whole. Delivery is gd_signal's (140_signal). Next: 150_children.

create or replace function gd_signal_on(
    p_table regclass, p_signal text, p_unique_key text, p_when text = 'true', p_payload text[] = '{}', p_name text = null
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set transform_null_equals = off
set timezone = 'UTC' set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = 1
as $$
declare
    -- Runs with the rights of its owner for whoever writes the table. What it means is settled here: search_path and the settings
    -- that decide how literals are read and values written are set at its head, else a writer could choose them.
    v_body constant text := $body$
-- Made by gd_signal_on (%1$s); gd_signal_off removes it. After a column was renamed, call gd_signal_on again.
#variable_conflict use_column
declare
    v_key text;
    v_payload jsonb;
    v_schema text;
    v_wait text;
begin
    perform from %2$s where (
%3$s
    );
    if not found then
        return null;
    end if;
    if tg_op = 'UPDATE' then
        perform from %4$s where (
%3$s
        );
        if found then
            return null;
        end if;
    end if;
    v_key := %5$s;
    if v_key is null or octet_length(v_key) not between 1 and 2000 then
        return null;    -- nobody can hold such a key
    end if;
    %6$s;
    -- Security definer and the owner of gendurable: a function that somebody else called gd_signal gets no rights of ours.
    select n.nspname into v_schema
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where p.proname = 'gd_signal' and p.prosecdef
        and p.oid = to_regprocedure(format('%%I.gd_signal(text, text, jsonb, text)', n.nspname))
        and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
    order by n.nspname = %7$L desc, p.oid desc
    limit 1;
    if not found then
        if to_regnamespace('gendurable') is null then
            return null;    -- gendurable is gone, with everybody who waited
        end if;
        raise exception using errcode = 'GD506', message = 'gendurable has no gd_signal that this trigger knows',
            hint = 'Call gd_signal_on again, or gd_signal_off.';
    end if;
    -- It stands in somebody's write: not behind a transaction that somebody forgot, unless the session says how long.
    v_wait := current_setting('lock_timeout');
    if v_wait = '0' then
        perform set_config('lock_timeout', '2s', true);
    end if;
    if v_schema = %7$L and v_key ~ '[^0-9]' then
        perform %7$I.gd_signal(v_key, %8$L::text, v_payload, null::text);
    elsif v_key ~ '[^0-9]' then
        execute format('select %%I.gd_signal($1, $2, $3, null::text)', v_schema) using v_key, %8$L::text, v_payload;
    else
        -- digits that nobody holds might be taken for an id
        execute format('select %%1$I.gd_signal(f.id, $2, $3, null::text) from %%1$I.gd_find($1) f (id) where f.id is not null',
            v_schema) using v_key, %8$L::text, v_payload;
    end if;
    if v_wait = '0' then
        perform set_config('lock_timeout', '0', true);
    end if;
    return null;
end $body$;
    v_table record;
    v_wrong text[];
    v_pieces text[];
    v_api text;
    v_when constant text := coalesce(p_when, 'true');
    v_key text[];
    v_payload text[];
    v_used text[];
    v_scratch text;
    v_cursor refcursor;
    v_form text;
    v_state text;
    v_said text;
    v_definition text;
    v_trigger text;
    v_there record;
    v_function text;
begin
    v_wrong := case
        when p_table is null then array['p_table must not be null', null, 'Pass the name of a table.']
        when coalesce(p_signal, '') = '' or octet_length(p_signal) > 2000
            then array['p_signal must be a name', null, 'Names have 1 to 2000 bytes.']
        when coalesce(p_unique_key, '') = '' or octet_length(p_unique_key) > 2000
            then array['p_unique_key must be a template', null, 'As ''order:{id}'', of 1 to 2000 bytes.']
        when p_name = '' or octet_length(p_name) > 63
            then array['p_name must be a name for a trigger', p_name, 'Names of triggers have 1 to 63 bytes.']
    end;
    if v_wrong is null then
        select c.relkind, c.relpersistence, c.relowner, c.relname, n.nspname into v_table
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where c.oid = p_table;
        v_wrong := case
            when not found or v_table.relkind not in ('r', 'p') or v_table.relpersistence = 't'
                or v_table.nspname in ('pg_catalog', 'information_schema', 'gendurable')
                then array['p_table must be a table of yours', p_table::text, 'Views, foreign and temporary tables have no such trigger.']
            -- Before anything of the table is looked at: its owner decides what its types, casts and operators do, and all of
            -- that runs as the caller, here and in each write.
            when not pg_has_role(v_table.relowner, (select r.oid from pg_roles r where r.rolname = current_user), 'MEMBER')
                then array['the table is somebody else''s', 'it belongs to ' || v_table.relowner::regrole,
                    'The trigger runs as you, on what the owner of the table makes of it: SET ROLE to the owner first.']
        end;
    end if;
    if v_wrong is null then
        v_pieces := array(
            select m[1] from regexp_matches(p_unique_key, '([^{}]+|[{][{]|[}][}]|[{][^{}]+[}])', 'g') with ordinality x (m, n)
            order by x.n);
        v_key := array(select substr(x.piece, 2, length(x.piece) - 2) from unnest(v_pieces) x (piece) where x.piece ~ '^[{][^{}]');
        v_payload := array(select x.name from unnest(p_payload) x (name) group by x.name order by x.name);
        if array_to_string(v_pieces, '') <> p_unique_key then
            v_wrong := array['p_unique_key has a brace too many', p_unique_key,
                'A column stands in braces, {id}; a brace itself is written twice, {{ or }}.'];
        else
            select array['no such column', coalesce(quote_ident(x.name), 'null') || ' in ' || p_table,
                'Columns are named as in the catalog, without quotes. Virtual generated columns are not there in a trigger.'] into v_wrong
            from unnest(v_key || v_payload) x (name)
            where not exists (
                select from pg_attribute a
                where a.attrelid = p_table and a.attname = x.name and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v')
            limit 1;
        end if;
    end if;
    if v_wrong is null then
        select n.nspname into v_api
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where p.proname = 'gd_signal' and p.prosecdef
            and p.oid = to_regprocedure(format('%I.gd_signal(text, text, jsonb, text)', n.nspname))
            and p.proowner = (select g.nspowner from pg_namespace g where g.nspname = 'gendurable')
        order by exists (
            select from pg_depend d
            join pg_extension e on e.oid = d.refobjid and e.extname = 'gendurable'
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
                and d.refclassid = 'pg_extension'::regclass
        ) desc, p.oid desc
        limit 1;
        -- Opened and not read: planned, with the rights to run it, and not run. A cursor takes a single statement.
        open v_cursor for execute format(
            'select %I.gd_signal(null::text, null::text, null::jsonb, null::text), %1$I.gd_find(null::text)', v_api);
        close v_cursor;
        begin
            -- Each of the two needs every parenthesis of the text to have its other one in the text, but for the first one's
            -- own, and so does no other text pass both.
            foreach v_form in array array['select from only %1$s where (%2$s)', 'select case when %2$s then 1 end from only %1$s'] loop
                open v_cursor for execute format(v_form, p_table, E'\n' || v_when || E'\n');
                close v_cursor;
            end loop;
            -- A check constraint refuses what is not about one row: subqueries, aggregates, the system's columns. Its list of
            -- columns is what the condition reads.
            v_scratch := format('%I.%I', v_table.nspname, 'gd_signal_on_' || md5(random()::text));
            execute format(E'create table %s (like %s, constraint gd_when check (\n%s\n))', v_scratch, p_table, v_when);
            select coalesce(array_agg(a.attname::text), '{}') into v_used
            from pg_constraint k
            join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any(k.conkey)
            where k.conrelid = v_scratch::regclass and k.conname = 'gd_when';
            execute format('drop table %s', v_scratch);
        exception
            when insufficient_privilege then
                raise;
            when syntax_error_or_access_rule_violation or feature_not_supported or data_exception then
                get stacked diagnostics v_state = returned_sqlstate, v_said = message_text;
                v_wrong := array['p_when must be a condition over the columns of a row', v_state || ': ' || v_said,
                    'As that of a partial index, with unqualified columns; functions, operators and types outside of pg_catalog are qualified.'];
        end;
    end if;
    if v_wrong is null and exists (
        select from pg_attribute a where a.attrelid = p_table and a.attname = any(v_used) and a.attgenerated = 'v'
    ) then
        v_wrong := array['p_when reads a virtual generated column', null, 'They are not there in a trigger: use what it is computed from.'];
    end if;
    if v_wrong is null then
        -- from here on one after the other, and who writes the table waits
        execute format('lock table %s in share row exclusive mode', p_table);
        v_definition := md5(array[p_signal, p_unique_key, v_when, v_payload::text]::text);
        v_trigger := coalesce(p_name, case when octet_length(p_signal) <= 50 then 'gd_signal_on_' || p_signal end,
            'gd_signal_on_' || md5(p_signal));
        select format('%I.%I', n.nspname, p.proname) as name, p.prosrc, pg_has_role(p.proowner, 'USAGE') as owned,
            t.tgparentid = 0 and strpos(p.prosrc, 'Made by gd_signal_on (') > 0 as made into v_there
        from pg_trigger t
        join pg_proc p on p.oid = t.tgfoid
        join pg_namespace n on n.oid = p.pronamespace
        where t.tgrelid = p_table and t.tgname = v_trigger;
        v_wrong := case
            when v_there.name is null then null
            when not v_there.made
                then array['there is another trigger of this name', v_trigger, 'Pass another p_name.']
            when p_name is null and strpos(v_there.prosrc, 'Made by gd_signal_on (' || v_definition) = 0
                then array['the table signals this already, otherwise', v_trigger,
                    'Pass this name as p_name to replace it, or another one to have both.']
        end;
    end if;
    if v_wrong is not null then
        raise exception using errcode = 'GD501', message = v_wrong[1], detail = coalesce(v_wrong[2], ''), hint = v_wrong[3];
    end if;

    -- A table that has a new owner: the function of the one before is not his to replace.
    v_function := case when v_there.owned then v_there.name end;
    for v_no in 0 .. 99 loop
        exit when v_function is not null;
        v_said := format('%I.%I', v_table.nspname, 'gd_signal_on_' || left(regexp_replace(v_table.relname, '[^a-zA-Z0-9]+', '_', 'g'), 20)
            || '_' || left(md5(v_table.relname || '.' || v_trigger || '.' || v_no), 8));
        v_function := case when to_regprocedure(v_said || '()') is null then v_said end;
    end loop;
    -- always in quotes: in PL/pgSQL there are more words that are no names
    v_used := array(select '"' || replace(x.name, '"', '""') || '"' from unnest(v_used) x (name));
    v_payload := array(select '"' || replace(x.name, '"', '""') || '"' from unnest(v_payload) x (name));
    v_key := array(select '"' || replace(x.name, '"', '""') || '"' from unnest(v_key) x (name));
    v_pieces := array(
        select case
            when x.piece ~ '^[{][^{}]' then 'new."' || replace(substr(x.piece, 2, length(x.piece) - 2), '"', '""') || '"::text'
            when x.piece in ('{{', '}}') then quote_literal(left(x.piece, 1))
            else quote_literal(x.piece)
        end
        from unnest(v_pieces) with ordinality x (piece, n) order by x.n);
    execute format(
        'create or replace function %s() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp '
        'set standard_conforming_strings = on set transform_null_equals = off set timezone = ''UTC'' set datestyle = ''ISO, YMD'' '
        'set intervalstyle = ''postgres'' set bytea_output = ''hex'' set extra_float_digits = 1 as %L',
        v_function, format(
            v_body, v_definition,
            (select coalesce('(select ' || string_agg('new.' || x.name || ' as ' || x.name, ', ') || ') r', '(select 1) r')
                from unnest(v_used) x (name)),
            v_when,
            (select coalesce('(select ' || string_agg('old.' || x.name || ' as ' || x.name, ', ') || ') r', '(select 1) r')
                from unnest(v_used) x (name)),
            array_to_string(v_pieces, ' || '),
            (select coalesce(
                'select to_jsonb(r.*) into v_payload from (select ' || string_agg('new.' || x.name || ' as ' || x.name, ', ') || ') r',
                'v_payload := ''{}''') from unnest(v_payload) x (name)),
            v_api, p_signal));
    -- Who may execute it could put it on a table of his own.
    for v_said in
        select case when a.grantee = 0 then 'public' else a.grantee::regrole::text end
        from pg_proc p
        cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.oid = to_regprocedure(v_function || '()') and a.grantee <> p.proowner
    loop
        execute format('revoke all on function %s() from %s cascade', v_function, v_said);
    end loop;
    -- The condition of the trigger is always true: with it the server refuses to drop a column, or to change the type of one, that
    -- the function reads.
    execute format(
        'create or replace trigger %I after insert or update on %s for each row %s execute function %s()', v_trigger, p_table,
        (select 'when (true or ' || string_agg(distinct 'new.' || x.name || ' is null', ' or ') || ')'
            from unnest(v_used || v_key || v_payload) x (name)),
        v_function);
    return v_trigger;
end $$;

comment on function gd_signal_on(regclass, text, text, text, text[], text) is
'Lets a row send a signal: a row of p_table that comes to match p_when, inserted so or updated from not matching, is p_signal to the
instance that holds p_unique_key, in the transaction that writes the row. An update of a row that matches and goes on matching is none.

  p_unique_key: a template over the columns of the row, "order:{id}"; braces are written twice. No signal where one of them is null
  p_when: a condition over the columns of the row, without subqueries, as that of a partial index
  p_payload: the columns that the payload has, as an object
  p_name: what the trigger is called, by default after the signal; one of that name is replaced

It makes a trigger and a function, which belong to the caller and are dumped with the table. Whoever writes the table needs no right
on gendurable. The caller needs the right to create in the schema of the table, and its owner must be able to act as the caller:
SET ROLE to the owner. Everything is checked here: an error in it fails this call and not the writes. Answers the name, for
gd_signal_off. Raises GD501. It locks the table as CREATE TRIGGER does; lock_timeout is the session''s.

Where the signal cannot be sent, the write fails: a lock on the instance for longer than lock_timeout (2 seconds if that is 0), a
right that was taken away, a payload that is too large. Where nobody holds the key, or gendurable is gone, it has no effect.';

create or replace function gd_signal_off(p_table regclass, p_name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    v_function text;
    v_owned boolean;
begin
    if p_table is null or p_name is null then
        raise exception using errcode = 'GD501', message = 'p_table and p_name must not be null',
            hint = 'Pass a table, and what gd_signal_on answered.';
    end if;
    -- and once more under the lock: another session may have been at it
    for v_look in 1 .. 2 loop
        select p.oid::regprocedure::text, pg_has_role(p.proowner, 'USAGE') into v_function, v_owned
        from pg_trigger t
        join pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = p_table and t.tgname = p_name and t.tgparentid = 0
            and strpos(p.prosrc, 'Made by gd_signal_on (') > 0;
        if not found then
            return false;
        end if;
        if v_look = 1 then
            execute format('lock table %s in access exclusive mode', p_table);
        end if;
    end loop;
    execute format('drop trigger %I on %s', p_name, p_table);
    if v_owned then
        execute format('drop function %s', v_function);
    end if;
    return true;
end $$;

comment on function gd_signal_off(regclass, text) is
'Removes what gd_signal_on made: the trigger that it answered the name of, and its function. False: the table has no such trigger.
Signals that were sent stay in their inboxes. Raises GD501.';
