-- What is remembered by name: where a part of the upkeep goes on, when it ran, and in which database of which server that was.
-- A copy of the database finds there where it came from.
-- Next: 025_time.

create or replace function gendurable._recall_place(p_name text) returns jsonb
language plpgsql stable as $$
begin
    return (
        select nullif(u.place, 'null') from gendurable.upkeep u where u.name = p_name order by u.id desc limit 1);
end $$;

comment on function gendurable._recall_place(text) is 'Where a part of the upkeep goes on; null: at the beginning.';

create or replace function gendurable._keep_place(p_name text, p_place jsonb) returns void
language plpgsql as $$
declare
    v_id bigint;
begin
    if p_place is not distinct from gendurable._recall_place(p_name) then
        return;
    end if;
    insert into gendurable.upkeep (name, place) values (p_name, coalesce(p_place, 'null')) returning id into v_id;
    -- by the rows: an open transaction that removes one of them is not waited for
    delete from gendurable.upkeep u
    where u.id in (
        select x.id from gendurable.upkeep x where x.name = p_name and x.id < v_id for update skip locked);
end $$;

comment on function gendurable._keep_place(text, jsonb) is 'Remembers where a part of the upkeep goes on.';

create or replace function gendurable._find_home() returns jsonb
language plpgsql stable as $$
declare
    v_system text;
begin
    -- not everybody may ask, and an expression asks for its rights before it is evaluated
    if has_function_privilege('pg_control_system()', 'execute') then
        v_system := (select c.system_identifier::text from pg_control_system() c);
    end if;
    return jsonb_build_object('database', current_database(), 'system', v_system);
end $$;

comment on function gendurable._find_home() is
    'The name of this database, and the identifier of its server, null where the owner may not ask for it.';

create or replace function gendurable._is_home(p_known jsonb, p_home jsonb) returns boolean
language sql immutable parallel safe as $$
    select p_known ->> 'database' = p_home ->> 'database'
        and coalesce(p_known ->> 'system' = p_home ->> 'system', true)
$$;

comment on function gendurable._is_home(jsonb, jsonb) is 'Whether two answers of _find_home may be of the same database.';

create or replace function gendurable._note_home(p_now timestamptz) returns void
language plpgsql as $$
declare
    v_home constant jsonb := gendurable._find_home();
    v_known constant jsonb := gendurable._recall_place('home');
begin
    if v_known is null then
        perform gendurable._keep_place('home', v_home);
    elsif not gendurable._is_home(v_known, v_home) then
        perform gendurable._keep_place(
            'home', v_home || jsonb_build_object('before', v_known - '{before,since}'::text[], 'since', p_now));
    elsif v_known ->> 'system' is null then
        perform gendurable._keep_place('home', v_known || v_home);
    end if;
end $$;

comment on function gendurable._note_home(timestamptz) is 'Remembers where this database is, and since when where it was elsewhere before.';

create or replace function gendurable._confirm_home() returns void
language plpgsql as $$
begin
    perform gendurable._keep_place('home', gendurable._find_home());
end $$;

comment on function gendurable._confirm_home() is 'Forgets where this database was before.';
