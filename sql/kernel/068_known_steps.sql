-- Which steps a version of a machine has, where somebody has said it (gd_register, option steps): what puts an instance before a step
-- asks here. Steps of gd_define_step count as well. Until a machine says its steps, a call asks for no more than that.
-- Next: 069_attributes, what an instance is searched by.

create or replace function gendurable._steps_asked() returns boolean
language sql volatile as $$
    -- A sequence as a flag: each insert and each commit asks, and an expression is cheaper than any query.
    select pg_sequence_last_value('gendurable.steps_asked_seq'::regclass) is not null
$$;

comment on function gendurable._steps_asked() is 'Whether a machine has ever said its steps.';

create or replace function gendurable._is_defined_step(p_fsm text, p_version int, p_step text) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from gendurable.step s
        where s.fsm = p_fsm and s.step = p_step and (s.version = p_version or s.version is null));
end $$;

comment on function gendurable._is_defined_step(text, int, text) is
    'Whether gd_define_step has said how a step of a version runs, or where.';

create or replace function gendurable._lacks_step(p_fsm text, p_version int, p_step text) returns boolean
language plpgsql stable as $$
begin
    if (
        select p_step = any(m.steps)
        from gendurable.machine m
        where m.fsm = p_fsm and m.version = p_version
    ) is not false then
        return false;
    end if;
    return not gendurable._is_defined_step(p_fsm, p_version, p_step);
end $$;

comment on function gendurable._lacks_step(text, int, text) is
    'Whether a version of a machine has said its steps, and this one is not among them, nor defined otherwise.';

create or replace function gendurable._describe_lack(p_fsm text, p_version int, p_step text) returns text
language plpgsql stable as $$
begin
    return (
        select format('version %s of the machine %s has no step %s: its steps are %s', p_version, quote_literal(left(p_fsm, 200)),
            quote_literal(left(p_step, 200)), string_agg(quote_literal(left(u.step, 100)), ', ' order by u.step))
            || case when count(*) > 20 then ' and more' else '' end
        from (
            select n.step
            from (
                select unnest(m.steps) as step from gendurable.machine m where m.fsm = p_fsm and m.version = p_version
                union
                select s.step
                from gendurable.step s
                where s.fsm = p_fsm and (s.version = p_version or s.version is null)
            ) n
            order by n.step
            limit 21
        ) u);
end $$;

comment on function gendurable._describe_lack(text, int, text) is 'That a version has no such step, and which it has.';

-- For whatever puts an instance before a step by hand: gd_retry, gd_migrate, and calls that edit or copy one.
create or replace function gendurable._need_step(p_fsm text, p_version int, p_step text) returns void
language plpgsql as $$
begin
    if gendurable._steps_asked() and gendurable._lacks_step(p_fsm, p_version, p_step) then
        perform gendurable._invalid(gendurable._describe_lack(p_fsm, p_version, p_step), null,
            'Name one of its steps, or register that step: see the option steps of gd_register.');
    end if;
end $$;

comment on function gendurable._need_step(text, int, text) is
    'Raises GD501 where a version of a machine has said its steps and this is none of them.';

create or replace function gendurable._need_version(p_fsm text, p_version int, p_argument text) returns void
language plpgsql as $$
begin
    if not exists (select from gendurable.machine m where m.fsm = p_fsm and m.version = p_version) then
        perform gendurable._invalid(
            format('%s: version %s of the machine %s is not registered', p_argument, p_version, quote_literal(left(p_fsm, 200))),
            'registered: ' || coalesce((
                select string_agg(v.version::text, ', ' order by v.version)
                from (select m.version from gendurable.machine m where m.fsm = p_fsm order by m.version desc limit 20) v), 'none'),
            'Register it first: start an engine that has it, or call gd_register.');
    end if;
end $$;

comment on function gendurable._need_version(text, int, text) is 'Raises GD501 unless a version of a machine is registered.';

create or replace function gendurable._chosen_version(p_fsm text) returns int
language plpgsql stable as $$
begin
    return coalesce((
        select m.version
        from gendurable.machine m
        where m.fsm = p_fsm
        order by m.pinned desc, m.version desc
        limit 1), 1);
end $$;

comment on function gendurable._chosen_version(text) is 'Which version of a machine is inserted where none is named.';

create or replace function gendurable._find_lacks(p_new gendurable.new_instance[])
returns table (fsm text, version int, step text)
language plpgsql stable as $$
#variable_conflict use_column
begin
    -- one look at each machine, and not at each row; without a step it is the first one, which is known
    return query
        select k.fsm, m.version, k.step
        from (select distinct n.fsm, n.version, n.step from unnest(p_new) n where n.step is not null) k
        cross join lateral (
            select x.version, x.steps
            from gendurable.machine x
            where x.fsm = k.fsm and (k.version is null or x.version = k.version)
            order by x.pinned desc, x.version desc
            limit 1
        ) m
        where k.step <> all(m.steps) and gendurable._lacks_step(k.fsm, m.version, k.step);
end $$;

comment on function gendurable._find_lacks(gendurable.new_instance[]) is
    'The steps before which these instances would be put, and which their versions do not have.';

create or replace function gendurable._lack_steps(p_new gendurable.new_instance[]) returns boolean
language plpgsql stable as $$
begin
    if cardinality(p_new) = 1 then
        if p_new[1].step is null then
            return false;
        end if;
        -- an expression where the version is named, as by every client in Python
        return gendurable._lacks_step(
            p_new[1].fsm, coalesce(p_new[1].version, gendurable._chosen_version(p_new[1].fsm)), p_new[1].step);
    end if;
    return exists (select from gendurable._find_lacks(p_new));
end $$;

comment on function gendurable._lack_steps(gendurable.new_instance[]) is
    'Whether one of these instances would be put before a step that its version does not have.';

create or replace function gendurable._refuse_steps(p_new gendurable.new_instance[]) returns void
language plpgsql as $$
declare
    v_bad record;
begin
    select n.ord, l.fsm, l.version, l.step into v_bad
    from gendurable._find_lacks(p_new) l
    join unnest(p_new) n on n.fsm = l.fsm and n.step = l.step and coalesce(n.version, l.version) = l.version
    order by n.ord
    limit 1;
    perform gendurable._invalid(gendurable._describe_lack(v_bad.fsm, v_bad.version, v_bad.step), 'instance ' || v_bad.ord,
        'Name one of its steps, or register that step: see the option steps of gd_register.');
end $$;

comment on function gendurable._refuse_steps(gendurable.new_instance[]) is
    'Raises GD501 for the first of these instances that would be put before a step that its version does not have.';

create or replace function gendurable._lacks_next(p_id bigint, p_step text) returns boolean
language plpgsql stable as $$
declare
    v_row record;
begin
    select i.fsm, i.fsm_version into v_row
    from gendurable.instance i
    join gendurable.machine m on m.fsm = i.fsm and m.version = i.fsm_version
    where i.id = p_id and p_step <> all(m.steps);
    return found and gendurable._lacks_step(v_row.fsm, v_row.fsm_version, p_step);
end $$;

comment on function gendurable._lacks_next(bigint, text) is 'Whether the version of an instance does not have a step.';

create or replace function gendurable._unknown_step(p_fsm text, p_version int, p_step text) returns text
language plpgsql stable as $$
begin
    return case
        when gendurable._is_defined_step(p_fsm, p_version, p_step) then null
        when exists (select from gendurable.machine m where m.fsm = p_fsm and m.version = p_version)
            then case when gendurable._lacks_step(p_fsm, p_version, p_step) then 'step' end
        when exists (select from gendurable.machine m where m.fsm = p_fsm) then 'version'
    end;
end $$;

comment on function gendurable._unknown_step(text, int, text) is
    'What nobody knows of where an instance stands: "version", which is not registered while others of its machine are; "step", which
its version does not have; null: nothing, as far as is known.';

create or replace function gendurable._unknown_to_servers(
    p_queue text, p_fsm text, p_version int, p_step text, p_now timestamptz
) returns text
language plpgsql stable as $$
declare
    v_step constant jsonb := jsonb_build_array(jsonb_build_array(p_fsm, p_version, jsonb_build_array(p_step)));
    v_servers bigint;
    v_able bigint;
begin
    if gendurable._is_defined_step(p_fsm, p_version, p_step) then
        return null;
    end if;
    select count(*), count(*) filter (where
        -- it has not told all, or may import the module that a name such as "app.mail:Mail" tells of
        w.about -> 'more' = 'true'
        or (strpos(p_fsm, ':') > 0 and coalesce(w.about -> 'autoload', '[]') <> '[]')
        or w.machines = '[]' or w.machines @> v_step)
    into v_servers, v_able
    from gendurable._find_servers(p_queue, p_now) w;
    return case when v_servers > 0 and v_able = 0 then 'workers' end;
end $$;

comment on function gendurable._unknown_to_servers(text, text, int, text, timestamptz) is
    '"workers": there are known workers that serve the queue, and none of them has this step; null: one has it, or there are none.';

create or replace function gendurable._find_served(p_queue text, p_fsm text, p_now timestamptz) returns int[]
language plpgsql stable as $$
begin
    return array(
        select distinct (m.value -> 1)::int
        from gendurable._find_servers(p_queue, p_now) w
        cross join lateral jsonb_array_elements(w.machines) m
        where m.value -> 0 = to_jsonb(p_fsm)
        order by 1
        limit 10);
end $$;

comment on function gendurable._find_served(text, text, timestamptz) is
    'Which versions of a machine known workers of a queue have, ten of them.';
