-- What a registration says for deploys: the steps of a version, and which version is inserted where none is named.
-- Next: 106_migrate, moving instances to another version.

create or replace function gendurable._steps_problem(p_steps jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if p_steps is null or p_steps = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_steps) <> 'array' then
        return 'steps must be an array of names';
    end if;
    if jsonb_array_length(p_steps) > 1000 then
        return 'steps names more than 1,000 steps';
    end if;
    return (
        select case
            when jsonb_typeof(s.step) <> 'string' then 'steps must be names'
            when s.step = '""' then 'steps names a step without a name'
            else 'steps names a step whose name is too long'
        end
        from jsonb_array_elements(p_steps) s (step)
        where jsonb_typeof(s.step) <> 'string' or s.step = '""' or octet_length(s.step #>> '{}') > gendurable._longest_name()
        limit 1);
end $$;

comment on function gendurable._steps_problem(jsonb) is 'What is wrong with the steps of a version, or null.';

create or replace function gendurable._next_steps(p_old text[], p_initial text, p_options jsonb) returns text[]
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_options -> 'steps') = 'array' then
        -- an older program that still runs has its own: none is taken away
        return array(
            select n.step collate "C"
            from (
                select unnest(p_old) as step
                union
                select jsonb_array_elements_text(p_options -> 'steps')
                union
                select p_initial
            ) n
            order by 1);
    end if;
    return case
        when p_options ? 'steps' then null
        when p_initial <> all(p_old) then p_old || p_initial
        else p_old
    end;
end $$;

comment on function gendurable._next_steps(text[], text, jsonb) is 'steps of a version after a registration.';

create or replace function gendurable._pin_version(p_fsm text, p_options jsonb) returns void
language plpgsql as $$
declare
    v_version constant int := (p_options ->> 'default_version')::numeric::int;
begin
    if not p_options ? 'default_version' then
        return;
    end if;
    if v_version is not null then
        perform gendurable._need_version(p_fsm, v_version, 'default_version');
    end if;
    if not exists (select from gendurable.machine m where m.fsm = p_fsm and m.pinned <> coalesce(m.version = v_version, false)) then
        return;
    end if;
    perform from gendurable.machine m where m.fsm = p_fsm order by m.version for update;
    update gendurable.machine m
    set pinned = coalesce(m.version = v_version, false)
    where m.fsm = p_fsm and m.pinned <> coalesce(m.version = v_version, false);
    perform gendurable._move_bells(p_fsm);
end $$;

comment on function gendurable._pin_version(text, jsonb) is
    'Which version of a machine is inserted from now on where none is named, if the options of a registration say it.';
