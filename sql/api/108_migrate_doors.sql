-- The doors through which gd_migrate looks at instances, and writes them: security definer, and open to operators.
-- Next: 110_claim.

create or replace function gendurable._open_migration(
    p_fsm text, p_from int, p_to int, p_steps jsonb, p_state oid, p_limit int, p_after bigint, p_look int,
    out ids bigint[], out steps text[], out states jsonb[], out answers jsonb, out next bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '10ms' as $$
declare
    v_limit constant int := least(coalesce(p_limit, 1000), 10000);
    v_after constant bigint := greatest(coalesce(p_after, 0), 0);
    v_found bigint[];
    v_count bigint;
    v_keys text[];
    v_held text[];
    v_lacking jsonb;
begin
    perform gendurable._need_migration(p_fsm, p_from, p_to, p_steps, p_state, p_limit, p_look);
    -- where this call ends, whatever it finds; null: there are no more
    next := (select i.id from gendurable.instance i where i.id > v_after order by i.id offset coalesce(p_look, 20000) - 1 limit 1);
    select array_agg(f.id order by f.id) filter (where f.place = 1 or (f.place <= v_limit and f.bytes <= gendurable._most_bytes())),
        count(*)
    into v_found, v_count
    from (
        select x.id, row_number() over (order by x.id) as place, sum(x.bytes) over (order by x.id) as bytes
        from (
            select i.id, case when p_state is not null then pg_column_size(i.state) else 0 end as bytes
            from gendurable.instance i
            where i.id > v_after and i.id <= coalesce(next, 9223372036854775807) and i.fsm = p_fsm and i.fsm_version = p_from
                and (i.finished_at is null or i.failed_at is not null)
            order by i.id
            limit v_limit + 1
        ) x
    ) f;
    if cardinality(v_found) < v_count then
        next := v_found[cardinality(v_found)];
    end if;

    -- Waits for nobody, so no order can deadlock: whoever misses one is told in a later statement.
    select coalesce(array_agg(l.id order by l.id), '{}'), coalesce(array_agg(coalesce(p_steps ->> l.step, l.step) order by l.id), '{}'),
        coalesce(array_agg(l.state order by l.id), '{}'), coalesce(array_agg(distinct l.partition_key) filter (where l.partition_key is not null), '{}')
    into ids, steps, states, v_keys
    from (
        select i.id, i.step, i.state, i.partition_key
        from unnest(v_found) u (id)
        cross join lateral (
            select x.id, x.step, x.partition_key, case when p_state is not null then x.state end as state
            from gendurable.instance x
            where x.id = u.id and x.fsm = p_fsm and x.fsm_version = p_from and x.status <> 'executing' and x.status <> 'done'
            for no key update skip locked
        ) i
    ) l;
    select coalesce(jsonb_object_agg(i.id, jsonb_build_object(
            'result', case when i.status = 'executing' then 'executing' else 'busy' end, 'step', coalesce(p_steps ->> i.step, i.step))), '{}')
    into answers
    from unnest(v_found) u (id)
    join gendurable.instance i on i.id = any(array[u.id])
    where u.id <> all(ids) and i.fsm = p_fsm and i.fsm_version = p_from and i.status <> 'done';

    -- one look at each step, and not at each row
    select jsonb_object_agg(k.step, gendurable._describe_lack(p_fsm, p_to, k.step)) into v_lacking
    from (select distinct s.step from unnest(steps) s (step)) k
    where gendurable._steps_asked() and gendurable._lacks_step(p_fsm, p_to, k.step);
    v_held := v_keys;
    if v_keys <> '{}' and (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) then
        -- a row may come into another queue: its key's baton is kept under the key's lock
        v_held := gendurable._try_keys(v_keys[:gendurable._most_keys()], 5);
    end if;
    if v_lacking is null and cardinality(v_held) = cardinality(v_keys) then
        return;
    end if;
    select answers || coalesce(jsonb_object_agg(u.id, case
                when v_lacking ? u.step then jsonb_build_object('result', 'no', 'step', u.step, 'problem', v_lacking ->> u.step)
                else jsonb_build_object('result', 'busy', 'step', u.step)
            end) filter (where u.out), '{}'),
        coalesce(array_agg(u.id order by u.id) filter (where not u.out), '{}'),
        coalesce(array_agg(u.step order by u.id) filter (where not u.out), '{}'),
        coalesce(array_agg(u.state order by u.id) filter (where not u.out), '{}')
    into answers, ids, steps, states
    from (
        select x.id, x.step, x.state, coalesce(v_lacking ? x.step, false)
            -- null-safe: with no key locked, null <> all('{}') is true
            or (i.partition_key is not null and i.partition_key <> all(v_held)) as out
        from unnest(ids, steps, states) x (id, step, state)
        join gendurable.instance i on i.id = any(array[x.id])
    ) u;
end $$;

comment on function gendurable._open_migration(text, int, int, jsonb, oid, int, bigint, int) is
    'Finds instances that are to be moved, and locks them, with their keys where steps have queues: what can be moved, with the new
step and the state of each, and answers for the others; next: where to go on.';

create or replace function gendurable._need_migration(
    p_fsm text, p_from int, p_to int, p_steps jsonb, p_state oid, p_limit int, p_look int
) returns void
language plpgsql as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_limit(p_limit);
    if coalesce(p_limit, 1000) not between 1 and 10000 or p_look < 1 then
        perform gendurable._invalid('p_limit must be 1 to 10,000, and p_look at least 1',
            format('got %s and %s', p_limit, p_look), 'Pass how many instances one call moves, and how many it looks at.');
    end if;
    if p_from is null or p_to is null or p_from = p_to then
        perform gendurable._invalid('p_from and p_to must be two versions',
            format('got %s and %s', coalesce(p_from::text, 'null'), coalesce(p_to::text, 'null')),
            'An instance moves from one version to another: else the same call would meet it again.');
    end if;
    if jsonb_typeof(p_steps) <> 'object' or jsonb_path_exists(p_steps, 'strict $.* ? (@.type() != "string" || @ == "")')
        or (select count(*) from (select from jsonb_object_keys(p_steps) limit 1001) k) > 1000
    then
        perform gendurable._invalid('p_steps must map at most 1,000 names of steps to names', left(p_steps::text, 200),
            'Pass {"old": "new", ...}; steps that are not named keep their names.');
    end if;
    perform gendurable._need_version(p_fsm, p_to, 'p_to');
    perform gendurable._need_text(s.step, 'a step of p_steps'), gendurable._need_step(p_fsm, p_to, s.step)
    from (select distinct e.value as step from jsonb_each_text(p_steps) e order by 1) s;
    if p_state is not null then
        perform gendurable._need_state_function(p_state);
    end if;
end $$;

comment on function gendurable._need_migration(text, int, int, jsonb, oid, int, int) is
    'Raises GD501 or GD504 unless instances can be moved with these arguments.';

create or replace function gendurable._need_state_function(p_state oid) returns void
language plpgsql as $$
begin
    if not exists (
        select
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where p.oid = p_state and p.prokind = 'f' and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype
            and p.prorettype = 'jsonb'::regtype and not p.proretset and p.provariadic = 0
            and n.nspname <> 'gendurable' and n.nspname !~ '^pg_'
    ) then
        perform gendurable._invalid('p_state cannot change a state', coalesce(p_state::regprocedure::text, 'null'),
            'Pass a function that takes one jsonb and returns jsonb, in a schema of yours.');
    end if;
end $$;

comment on function gendurable._need_state_function(oid) is 'Raises GD501 unless a function takes one jsonb and returns one.';

create or replace function gendurable._prepare_state(
    p_state regprocedure, p_role oid, out handler text, out pin text, out text text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_login constant oid := gendurable._login_role();
    v_proc record;
    v_problem text;
begin
    select format('%I.%I', n.nspname, p.proname) as name, pg_get_userbyid(p.proowner)::text as owner, p.prosecdef,
        p.oid || ':' || p.xmin || ':' || p.ctid as pin
    into v_proc
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where p.oid = p_state;
    handler := v_proc.name;
    v_problem := gendurable._step_problem(v_proc.name, v_proc.owner, p_role, v_login);
    if v_problem is not null then
        raise exception using errcode = 'GD507', message = 'p_state cannot be run here: ' || v_problem, detail = p_state::text,
            hint = 'Its owner must be one that could become the role, or it must be security definer.';
    end if;
    if gendurable._is_exposed(handler, p_role, v_login) then
        -- somebody who could not act as the role could put another function in its place: only this very version is run
        pin := v_proc.pin;
        if v_proc.prosecdef and not gendurable._is_known_definer(p_state, handler) then
            perform gendurable._refuse_replaced(handler);
        end if;
    end if;
    text := gendurable._call_text(handler, false, pin is not null);
end $$;

comment on function gendurable._prepare_state(regprocedure, oid) is
    'The statement that calls the function of a migration for the states $1, and the version that it must be, null: any; raises GD507
where the role may not run it.';

create or replace function gendurable._write_migration(
    p_fsm text, p_from int, p_to int, p_ids bigint[], p_steps text[], p_states jsonb[]
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set lock_timeout = '10ms' as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_locked bigint[];
    v_keys text[];
    v_queues text[];
    v_open bigint[];
    v_step text;
begin
    -- they are held already, and asked again: whoever may call this may give it anything
    perform gendurable._need_version(p_fsm, p_to, 'p_to');
    v_locked := array(
        select i.id
        from gendurable.instance i
        where i.id = any(p_ids) and i.fsm = p_fsm and i.fsm_version = p_from and i.status <> 'executing' and i.status <> 'done'
        for no key update skip locked);
    if cardinality(v_locked) < cardinality(p_ids) then
        perform gendurable._raise_busy('an instance');
    end if;
    perform gendurable._need_text(s.step, 'a step'), gendurable._need_step(p_fsm, p_to, s.step)
    from (select distinct u.step from unnest(p_ids, p_steps) u (id, step)) s;
    if exists (select from unnest(p_states) s (state) where jsonb_typeof(s.state) is distinct from 'object') then
        perform gendurable._invalid('the function returned no object', null, 'It returns the new state, a JSON object.');
    end if;
    if (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) then
        v_open := array(select i.id from gendurable.instance i where i.id = any(p_ids) and i.finished_at is null);
        v_keys := array(
            select distinct i.partition_key
            from gendurable.instance i
            where i.id = any(v_open) and i.partition_key is not null
            limit gendurable._most_keys() + 1);
        if cardinality(v_keys) > gendurable._most_keys()
            or (v_keys <> '{}' and cardinality(gendurable._try_keys(v_keys, 5)) < cardinality(v_keys))
        then
            perform gendurable._raise_busy('a partition key');
        end if;
    end if;
    if coalesce(gendurable._keeps_history(), false) then
        for v_step in select distinct u.step from unnest(p_steps) u (step) loop
            perform gendurable._note_event(
                array(select u.id from unnest(p_ids, p_steps) u (id, step) where u.step = v_step), 'migrated', v_step,
                jsonb_build_object('from', p_from, 'to', p_to, 'by', gendurable._actor()), v_now);
        end loop;
    end if;
    with moved as (
        update gendurable.instance i
        set fsm_version = p_to, step = u.step, aside_step = case when i.aside_at is not null then u.step end,
            state = coalesce(u.state, i.state), updated_at = v_now
        from unnest(p_ids, p_steps, p_states) u (id, step, state)
        where i.id = any(array[u.id])
        returning i.queue, i.eligible_at
    )
    select array_agg(distinct m.queue) filter (where m.eligible_at <= v_now + gendurable._longest_poll()) into v_queues
    from moved m;
    if v_open <> '{}' then
        perform gendurable._place_rows(v_open, null, v_now);
        perform gendurable._keep_batons(v_keys, v_open, v_now);
    end if;
    -- a pause of the step or version that they have left holds them no more
    perform gendurable._bring_back_free(p_ids, v_now);
    perform gendurable._note_by_hand('gd_migrate', null,
        jsonb_build_object('fsm', p_fsm, 'from', p_from, 'to', p_to), cardinality(p_ids));
    -- who sleeps may have passed them over, since it did not know their version
    perform gendurable._wake_sleepers(v_queues);
end $$;

comment on function gendurable._write_migration(text, int, int, bigint[], text[], jsonb[]) is
    'Moves instances to another version: all of them, or it raises. p_states: null where they stay.';

create or replace function gendurable._raise_busy(p_what text) returns void
language plpgsql as $$
begin
    raise exception using errcode = 'lock_not_available', message = 'somebody has locked ' || p_what,
        hint = 'Ask for it again.';
end $$;

comment on function gendurable._raise_busy(text) is 'Raises 55P03 where somebody has locked what is not waited for.';
