-- Moving instances to another version of their machine, with a map of its steps and a function over the state. The function runs
-- with the rights of who calls, by the rules of a step in SQL (244_group), so what runs it is invoker code, and what looks at
-- instances and writes them are doors. Each group of rows is one sub-transaction, halved where it fails: an error of a row costs
-- that row. Nobody is waited for.
-- Next: 108_migrate_doors.

create or replace function gd_migrate(
    p_fsm text, p_from int, p_to int, p_steps jsonb = '{}', p_state regprocedure = null, p_limit int = 1000,
    p_dry_run boolean = false, p_after bigint = 0, p_look int = 20000
) returns table (id bigint, result text, step text, state jsonb, problem text, next bigint)
language plpgsql as $$
begin
    -- nothing here is looked up in the caller's search_path but the function
    return query
        select r.id, r.result, r.step, r.state, r.problem, r.next
        from gendurable._migrate(
            pg_catalog.current_setting('search_path'), p_fsm, p_from, p_to, p_steps, p_state, p_limit, p_dry_run, p_after, p_look) r;
end $$;

comment on function gd_migrate(text, int, int, jsonb, regprocedure, int, boolean, bigint, int) is
'Moves instances of a machine from one version to another one that is registered: those that do not execute, also failed
and cancelled ones, which gd_retry may run again.

  p_steps: {"old": "new", ...}, which step becomes which; others keep their names
  p_state: a function that takes a jsonb and returns one, in a schema of yours: it is given the state of each instance and
    returns the new one, an object. It runs with the rights and the settings of who calls, and only if its owner could
    become that role; others must be security definer (GD507)
  p_limit: how many at once, 10,000 at most; what they hold is bounded by 16 MB, too
  p_dry_run: everything is done and then undone; state is what each would have from p_state
  p_after, p_look: it goes by id, from behind p_after on, and looks at p_look instances at most

A row for each instance, with its new step:

  done: it is moved
  no: it stays as it was; problem says why: the function raised, the version has no such step
  busy: somebody has its row or its key locked
  executing: a worker has it

A last row without an id says where to go on (next): pass it as p_after until there is none. Then begin anew for those
that were busy or executing, until none is left. Where an instance stands in its key and when it is due stays as it was;
it comes into the queue of its new step. Awaits and signals stay, too. The history says "migrated". It waits for nobody.
Needs READ COMMITTED (GD504); raises GD501, also where a step of the map is none of the new version; GD507.';

create or replace function gendurable._migrate(
    p_path text, p_fsm text, p_from int, p_to int, p_steps jsonb, p_state regprocedure, p_limit int, p_dry_run boolean,
    p_after bigint, p_look int
) returns table (id bigint, result text, step text, state jsonb, problem text, next bigint)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    v_steps constant jsonb := coalesce(nullif(p_steps, 'null'), '{}');
    v_open record;
    v_answers jsonb;
begin
    if coalesce(p_dry_run, false) then
        begin
            v_open := gendurable._open_migration(p_fsm, p_from, p_to, v_steps, p_state, p_limit, p_after, p_look);
            v_answers := gendurable._migrate_group(p_path, p_fsm, p_from, p_to, v_open.ids, v_open.steps, v_open.states, p_state, true);
            raise exception using errcode = 'GD507', message = 'it is undone', hint = 'This is not seen.';
        exception when sqlstate 'GD507' then
            if v_answers is null then
                raise;
            end if;
        end;
    else
        v_open := gendurable._open_migration(p_fsm, p_from, p_to, v_steps, p_state, p_limit, p_after, p_look);
        v_answers := gendurable._migrate_group(p_path, p_fsm, p_from, p_to, v_open.ids, v_open.steps, v_open.states, p_state, false);
    end if;
    v_answers := v_open.answers || v_answers;
    return query
        select u.id, a.one ->> 'result', a.one ->> 'step', nullif(a.one -> 'state', 'null'), a.one ->> 'problem', null::bigint
        from (select k::bigint as id from jsonb_object_keys(v_answers) k) u
        cross join lateral (select v_answers -> u.id::text as one) a
        order by u.id;
    if v_open.next is not null then
        return query select null::bigint, null::text, null::text, null::jsonb, null::text, v_open.next;
    end if;
end $$;

comment on function gendurable._migrate(text, text, int, int, jsonb, regprocedure, int, boolean, bigint, int) is
    'gd_migrate. p_path: the search_path of the caller, which is that of the function. Invoker code.';

create or replace function gendurable._migrate_group(
    p_path text, p_fsm text, p_from int, p_to int, p_ids bigint[], p_steps text[], p_states jsonb[], p_state regprocedure,
    p_show boolean
) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    v_half constant int := cardinality(p_ids) / 2;
    v_user constant text := current_user;
    v_session constant text := session_user;
    -- null: they stay as they are
    v_states jsonb[] := case when p_state is not null then p_states end;
    v_call record;
    v_after text;
    v_state text;
    v_message text;
begin
    if p_ids = '{}' then
        return '{}'::jsonb;
    end if;
    begin
        if p_state is not null then
            v_call := gendurable._prepare_state(p_state, (select r.oid from pg_roles r where r.rolname = current_user));
            -- from here on names mean what they mean to the caller, until what is behind the execute
            perform set_config('search_path', p_path, true);
            execute v_call.text into v_states using p_states, v_call.handler, v_call.pin;
            v_after := pg_catalog.current_setting('search_path');
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            if v_after <> p_path or current_user <> v_user or session_user <> v_session then
                raise exception using errcode = 'GD507', message = 'the function changed the role or the search_path',
                    detail = v_call.handler, hint = 'Let the function set them for itself: create function ... set search_path = ...';
            end if;
        end if;
        perform gendurable._write_migration(p_fsm, p_from, p_to, p_ids, p_steps, v_states);
        return (
            select jsonb_object_agg(u.id, jsonb_build_object('result', 'done', 'step', u.step)
                || case when p_show then jsonb_build_object('state', u.state) else '{}' end)
            from unnest(p_ids, p_steps, v_states) u (id, step, state));
    exception
        -- whatever the function raises is the fault of its row
        when others or assert_failure then
            get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
    end;
    if v_half = 0 then
        return jsonb_build_object(p_ids[1], jsonb_build_object(
            'result', case when gendurable._blames_lock(v_state) then 'busy' else 'no' end, 'step', p_steps[1],
            'problem', left(v_message, 2000) || ' (' || v_state || ')'));
    end if;
    return gendurable._migrate_group(
            p_path, p_fsm, p_from, p_to, p_ids[:v_half], p_steps[:v_half], p_states[:v_half], p_state, p_show)
        || gendurable._migrate_group(
            p_path, p_fsm, p_from, p_to, p_ids[v_half + 1:], p_steps[v_half + 1:], p_states[v_half + 1:], p_state, p_show);
end $$;

comment on function gendurable._migrate_group(
    text, text, int, int, bigint[], text[], jsonb[], regprocedure, boolean
) is
    'Moves instances that are locked, in halves where that fails: {id: answer}. p_show: with the new state. Invoker code: the function
has the rights of who calls.';
