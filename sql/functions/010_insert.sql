-- Putting work in. Arguments and JSON become gendurable.new_instance values; one function checks and stores them.

create or replace function gendurable._new_instance_problem(p_new gendurable.new_instance) returns text
language sql immutable parallel safe as $$
    select case
        when p_new.fsm is null or p_new.fsm = '' then 'fsm must not be empty'
        when p_new.step = '' then 'step must not be empty'
        when p_new.queue = '' then 'queue must not be empty'
        when p_new.partition_key = '' then 'partition_key must not be empty'
        when p_new.unique_key = '' then 'unique_key must not be empty'
        when p_new.version < 1 then 'version must be at least 1'
        when p_new.max_attempts < 1 then 'max_attempts must be at least 1'
        when jsonb_typeof(p_new.state) <> 'object' then 'state must be a JSON object'
        when jsonb_typeof(p_new.meta) <> 'object' then 'meta must be a JSON object'
        when p_new.eligible_at is not null and p_new.delay is not null
            then 'eligible_at and delay exclude each other'
        when not isfinite(p_new.eligible_at) then 'eligible_at must be finite'
        when p_new.delay < interval '0' then 'delay must not be negative'
        when p_new.weight <= 0 or p_new.weight = 'infinity' or p_new.weight = 'nan'
            then 'weight must be a positive number'
        when p_new.unique_scope is not null and p_new.unique_key is null
            then 'unique_scope needs a unique_key'
        when array_ndims(p_new.unique_scope) > 1 or array_position(p_new.unique_scope, null) is not null
            or not p_new.unique_scope
                <@ '{runnable,executing,awaiting_signal,awaiting_children,done,failed,cancelled}'::text[]
            then 'unique_scope names an unknown status'
    end
$$;

comment on function gendurable._new_instance_problem(gendurable.new_instance) is
    'What is wrong with an instance that is to be inserted, or null.';

create or replace function gendurable._new_instance_json_problem(p_object jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_object) is distinct from 'object' then 'an instance must be a JSON object'
        when p_object - '{fsm,state,step,version,queue,priority,partition_key,unique_key,unique_scope,eligible_at,delay_ms,rate_limit,weight,max_attempts,meta}'::text[] <> '{}'
            then 'unknown key in an instance'
        else coalesce(
            gendurable._text_problem(p_object -> 'fsm', 'fsm', true),
            gendurable._text_problem(p_object -> 'step', 'step', false),
            gendurable._text_problem(p_object -> 'queue', 'queue', false),
            gendurable._text_problem(p_object -> 'partition_key', 'partition_key', false),
            gendurable._text_problem(p_object -> 'unique_key', 'unique_key', false),
            gendurable._text_problem(p_object -> 'rate_limit', 'rate_limit', false),
            gendurable._text_problem(p_object -> 'eligible_at', 'eligible_at', false),
            gendurable._object_problem(p_object -> 'state', 'state'),
            gendurable._object_problem(p_object -> 'meta', 'meta'),
            gendurable._int_problem(p_object -> 'version', 'version', 1),
            gendurable._int_problem(p_object -> 'priority', 'priority', null),
            gendurable._int_problem(p_object -> 'max_attempts', 'max_attempts', 1),
            gendurable._ms_problem(p_object -> 'delay_ms', 'delay_ms'),
            case when jsonb_typeof(p_object -> 'weight') not in ('number', 'null') then 'weight must be a number' end,
            case
                when jsonb_typeof(p_object -> 'unique_scope') not in ('array', 'null')
                    or jsonb_path_exists(p_object, '$.unique_scope[*] ? (@.type() != "string")')
                    then 'unique_scope must be an array of statuses'
            end
        )
    end
$$;

comment on function gendurable._new_instance_json_problem(jsonb) is
    'What is wrong with the JSON of an instance before its values can be read, or null.';

create or replace function gendurable._parse_instances(p_instances jsonb) returns gendurable.new_instance[]
language plpgsql as $$
declare
    v_bad record;
    v_new gendurable.new_instance[];
begin
    if jsonb_typeof(p_instances) is distinct from 'array' then
        perform gendurable._invalid('instances must be a JSON array', 'got ' || coalesce(jsonb_typeof(p_instances), 'null'),
            'Pass an array of objects, each with at least the key fsm.');
    end if;

    select e.ord - 1 as ord, e.object, gendurable._new_instance_json_problem(e.object) as problem into v_bad
    from jsonb_array_elements(p_instances) with ordinality e (object, ord)
    where gendurable._new_instance_json_problem(e.object) is not null
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem, format('instance %s: %s', v_bad.ord, left(v_bad.object::text, 200)),
            'Keys of an instance: fsm, state, step, version, queue, priority, partition_key, unique_key, unique_scope, '
            || 'eligible_at, delay_ms, rate_limit, weight, max_attempts, meta.');
    end if;

    select array_agg(row(
        e.ord - 1, o ->> 'fsm', (o ->> 'version')::int, o ->> 'step', nullif(o -> 'state', 'null'), o ->> 'queue',
        (o ->> 'priority')::int, o ->> 'partition_key', o ->> 'unique_key',
        case
            when jsonb_typeof(o -> 'unique_scope') = 'array'
                then gendurable._texts(o -> 'unique_scope')
        end,
        (o ->> 'eligible_at')::timestamptz, gendurable._ms(nullif(o -> 'delay_ms', 'null')), o ->> 'rate_limit',
        (o ->> 'weight')::double precision, (o ->> 'max_attempts')::int, nullif(o -> 'meta', 'null')
    )::gendurable.new_instance order by e.ord)
    into v_new
    from jsonb_array_elements(p_instances) with ordinality e (o, ord);
    return coalesce(v_new, '{}');
end $$;

comment on function gendurable._parse_instances(jsonb) is
    'Reads an array of gd_insert_many objects; raises GD501 for the first that is not one.';

create or replace function gendurable._insert(
    p_new gendurable.new_instance[], p_parent_id bigint, p_barrier_no bigint, p_trace jsonb
) returns table (ord int, id bigint, created boolean)
language plpgsql as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_bad record;
    v_keyed boolean;
    v_ids bigint[];
    v_created bigint[];
    v_queues text[];
begin
    select n.ord, n.fsm, gendurable._new_instance_problem(n) as problem into v_bad
    from unnest(p_new) n
    where gendurable._new_instance_problem(n) is not null
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem, format('instance %s of machine %s', v_bad.ord,
            coalesce(quote_literal(v_bad.fsm), 'null')), 'See COMMENT ON FUNCTION gd_insert for what each argument takes.');
    end if;
    perform gendurable._need_rate_limit(n.rate_limit) from unnest(p_new) n where n.rate_limit is not null;

    -- Numbered before they are stored: the answer keeps the order of the input, whatever order the rows go in.
    select array_agg(nextval('gendurable.instance_id_seq') order by n.ord), bool_or(n.unique_key is not null)
    into v_ids, v_keyed
    from unnest(p_new) n;

    with put as (
        insert into gendurable.instance as i (
            id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
            lane_at, fsm, step, queue, partition_key, unique_key, unique_held, unique_scope, rate_limit, weight, meta,
            state)
        select
            v_ids[n.ord + 1], v_now, v_now, p_parent_id, p_barrier_no, n.max_attempts,
            coalesce(n.version, m.version, 1), coalesce(n.priority, 0), d.due,
            case when n.partition_key is not null then d.due end,
            n.fsm, coalesce(n.step, m.initial_step, 'start'), coalesce(n.queue, m.queue, 'default'), n.partition_key,
            n.unique_key, case when 'runnable' = any(coalesce(n.unique_scope, '{runnable}')) then n.unique_key end,
            n.unique_scope::gendurable.status[], n.rate_limit,
            case when n.rate_limit is not null then coalesce(n.weight, 1) end,
            p_trace || coalesce(n.meta, '{}'), coalesce(n.state, '{}')
        from unnest(p_new) n
        cross join lateral (select coalesce(n.eligible_at, v_now + coalesce(n.delay, '0')) as due) d
        left join lateral (
            select m.version, m.initial_step, m.queue
            from gendurable.machine m
            where m.fsm = n.fsm and (n.version is null or m.version = n.version)
            order by m.version desc
            limit 1
        ) m on true
        -- keys in sorted order: two calls with the same new keys wait for each other one way round only
        order by n.unique_key, n.ord
        on conflict (unique_held) where unique_held is not null do nothing
        returning i.id, i.queue, i.priority, i.eligible_at
    ), pair as (
        insert into gendurable.queue_priority (queue, priority)
        select distinct p.queue, p.priority
        from put p
        where not exists (
            select from gendurable.queue_priority q where q.queue = p.queue and q.priority = p.priority)
    )
    select case when v_keyed then array_agg(p.id) end, array_agg(distinct p.queue) filter (
        where p.eligible_at <= v_now + gendurable._longest_poll())
    into v_created, v_queues
    from put p;

    perform gendurable._wake(v_queues);
    if not v_keyed then
        return query select n.ord::int - 1, n.id, true from unnest(v_ids) with ordinality n (id, ord);
    else
        return query
            select n.ord, coalesce(c.id, gendurable._holder(n.unique_key)), c.id is not null
            from unnest(p_new) n
            left join unnest(v_created) c (id) on c.id = v_ids[n.ord + 1]
            order by n.ord;
    end if;
end $$;

comment on function gendurable._insert(gendurable.new_instance[], bigint, bigint, jsonb) is
    'Checks and stores new instances and wakes their queues; a row a input, in its order.';

create or replace function gendurable._holder(p_unique_key text) returns bigint
language plpgsql stable as $$
begin
    return (select i.id from gendurable.instance i where i.unique_held = p_unique_key);
end $$;

comment on function gendurable._holder(text) is 'The instance that holds a unique key, or null.';

create or replace function gd_insert(
    p_fsm text, p_state jsonb = '{}', p_step text = null, p_version int = null, p_queue text = null,
    p_priority int = null, p_partition_key text = null, p_unique_key text = null, p_unique_scope text[] = null,
    p_eligible_at timestamptz = null, p_delay interval = null, p_rate_limit text = null,
    p_weight double precision = 1, p_max_attempts int = null, p_meta jsonb = '{}'
) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $$
begin
    return (
        select case when n.created then n.id end
        from gendurable._insert(array[row(
            0, p_fsm, p_version, p_step, nullif(p_state, 'null'), p_queue, p_priority, p_partition_key, p_unique_key,
            p_unique_scope, p_eligible_at, p_delay, p_rate_limit, p_weight, p_max_attempts, nullif(p_meta, 'null')
        )::gendurable.new_instance], null, null, '{}') n);
end $$;

comment on function gd_insert(
    text, jsonb, text, int, text, int, text, text, text[], timestamptz, interval, text, double precision, int, jsonb
) is
'Inserts one instance of machine p_fsm and returns its id, or null when p_unique_key is held by another instance.
Defaults: what gd_register recorded for the machine''s highest version, else step start, version 1, queue default;
priority 0 (lower runs earlier); due now. p_state and p_meta are JSON objects; p_delay and p_eligible_at exclude each
other; p_unique_scope lists the statuses in which the key is held (default: all that are not terminal; empty: none).
Raises GD501 for an invalid argument and GD502 for a rate limit that does not exist.';

create or replace function gd_insert_many(p_instances jsonb) returns table (ord int, id bigint, created boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $$
begin
    return query
        select n.ord, n.id, n.created
        from gendurable._insert(gendurable._parse_instances(p_instances), null, null, '{}') n;
end $$;

comment on function gd_insert_many(jsonb) is
'Inserts an array of objects with the keys fsm, state, step, version, queue, priority, partition_key, unique_key,
unique_scope, eligible_at, delay_ms, rate_limit, weight, max_attempts, meta. One row a object: ord is its 0-based
position; where its unique key is taken, id is the holder''s and created is false (the first in the input wins).
Raises GD501 (naming the position) or GD502; then nothing is inserted.';

create or replace function gd_register(
    p_fsm text, p_version int, p_initial_step text, p_queue text = 'default', p_options jsonb = '{}'
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    v_max_attempts int;
begin
    perform gendurable._need_text(p_fsm, 'p_fsm');
    perform gendurable._need_text(p_initial_step, 'p_initial_step');
    perform gendurable._need_text(coalesce(p_queue, 'default'), 'p_queue');
    if p_version is null or p_version < 1 then
        perform gendurable._invalid('p_version must be at least 1', 'got ' || coalesce(p_version::text, 'null'),
            'Number the versions of a machine 1, 2, 3, …');
    end if;
    perform gendurable._need_options(p_options, '{max_attempts}');
    if gendurable._int_problem(p_options -> 'max_attempts', 'max_attempts', 1) is not null then
        perform gendurable._invalid(gendurable._int_problem(p_options -> 'max_attempts', 'max_attempts', 1),
            'got ' || (p_options ->> 'max_attempts'), 'Pass {"max_attempts": n} with n at least 1.');
    end if;
    v_max_attempts := (p_options ->> 'max_attempts')::int;

    -- Every dispatcher registers at start: an unchanged machine takes no lock and writes nothing.
    if exists (
        select from gendurable.machine m
        where m.fsm = p_fsm and m.version = p_version and m.initial_step = p_initial_step
            and m.queue = coalesce(p_queue, 'default') and m.max_attempts is not distinct from v_max_attempts
    ) then
        return;
    end if;
    insert into gendurable.machine (fsm, version, initial_step, queue, max_attempts)
    values (p_fsm, p_version, p_initial_step, coalesce(p_queue, 'default'), v_max_attempts)
    on conflict (fsm, version) do update
        set initial_step = excluded.initial_step, queue = excluded.queue, max_attempts = excluded.max_attempts;
end $$;

comment on function gd_register(text, int, text, text, jsonb) is
'Records a machine''s version: its initial step, its queue, and {"max_attempts": n}. They are the defaults of
gd_insert for that machine (its highest version). Repeating it replaces the record. Raises GD501.';

create or replace function gd_find(p_unique_key text) returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return gendurable._holder(p_unique_key);
end $$;

comment on function gd_find(text) is 'The id of the instance that holds the unique key now, or null.';
