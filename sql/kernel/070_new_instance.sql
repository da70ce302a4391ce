-- Storing new instances, for gd_insert and for fan-outs: their JSON or arguments become gendurable.new_instance values, and these
-- are checked and stored: many by one statement, or one by a shorter one. Both store the same.
-- Next: 075_schedules, who inserts by the clock.

create or replace function gendurable._new_instance_problem(p_new gendurable.new_instance) returns text
language sql immutable parallel safe as $$
    select case
        when p_new.fsm is null or p_new.fsm = '' then 'fsm must not be empty'
        when p_new.step = '' then 'step must not be empty'
        when p_new.queue = '' then 'queue must not be empty'
        when p_new.partition_key = '' then 'partition_key must not be empty'
        when p_new.unique_key = '' then 'unique_key must not be empty'
        when octet_length(p_new.fsm) > gendurable._longest_name() then 'fsm is too long'
        when octet_length(p_new.step) > gendurable._longest_name() then 'step is too long'
        when octet_length(p_new.rate_limit) > gendurable._longest_name() then 'rate_limit is too long'
        when octet_length(p_new.queue) > gendurable._longest_name() then 'queue is too long'
        when octet_length(p_new.partition_key) > gendurable._longest_name() then 'partition_key is too long'
        when octet_length(p_new.unique_key) > gendurable._longest_name() then 'unique_key is too long'
        when p_new.version < 1 then 'version must be at least 1'
        when p_new.max_attempts < 1 then 'max_attempts must be at least 1'
        when jsonb_typeof(p_new.state) <> 'object' then 'state must be a JSON object'
        when jsonb_typeof(p_new.meta) <> 'object' then 'meta must be a JSON object'
        when p_new.attributes is not null and gendurable._attributes_problem(p_new.attributes) is not null
            then gendurable._attributes_problem(p_new.attributes)
        when p_new.eligible_at is not null and p_new.delay is not null
            then 'eligible_at and delay exclude each other'
        when not isfinite(p_new.eligible_at) then 'eligible_at must be finite'
        when not isfinite(p_new.expires_at) then 'expires_at must be finite'
        when not isfinite(p_new.delay) then 'delay must be finite'
        when p_new.delay < interval '0' then 'delay must not be negative'
        when p_new.delay > interval '285000 years' then 'delay is too long'
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

create or replace function gendurable._is_plain_new(p_new gendurable.new_instance) returns boolean
language sql immutable parallel safe as $$
    -- least and greatest pass over what is null
    select p_new.fsm is not null
        and least(octet_length(p_new.fsm), octet_length(p_new.step), octet_length(p_new.queue), octet_length(p_new.partition_key)) > 0
        and greatest(octet_length(p_new.fsm), octet_length(p_new.step), octet_length(p_new.queue), octet_length(p_new.partition_key))
            <= gendurable._longest_name()
        and coalesce(least(p_new.version, p_new.max_attempts) > 0, true)
        and (p_new.unique_key, p_new.delay, p_new.eligible_at, p_new.weight, p_new.rate_limit, p_new.unique_scope,
            p_new.expires_at, p_new.meta) is null
        and coalesce(jsonb_typeof(p_new.state) = 'object', true)
$$;

comment on function gendurable._is_plain_new(gendurable.new_instance) is
    'Whether a new instance has no more than names, numbers, its state and attributes that were examined, and these are in order.';

create or replace function gendurable._examine_new_instance(p_new gendurable.new_instance) returns text
language plpgsql immutable parallel safe as $$
begin
    -- not inlined: it is set up once, and not in each statement that stores a row
    return gendurable._new_instance_problem(p_new);
end $$;

comment on function gendurable._examine_new_instance(gendurable.new_instance) is
    '_new_instance_problem, for statements that mostly need not ask.';

-- What most new instances are: not worth the full examination, which takes half as long as storing a row.
create or replace function gendurable._is_plain_instance(p_object jsonb) returns boolean
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_object -> 'fsm') = 'string' then p_object - '{fsm,state,step,version,queue}'::text[] = '{}'
            and octet_length(p_object ->> 'fsm') between 1 and gendurable._longest_name()
            and coalesce(jsonb_typeof(p_object -> 'state') = 'object', true)
            and coalesce(
                jsonb_typeof(p_object -> 'step') = 'string'
                and octet_length(p_object ->> 'step') between 1 and gendurable._longest_name(), true)
            and coalesce(
                jsonb_typeof(p_object -> 'queue') = 'string'
                and octet_length(p_object ->> 'queue') between 1 and gendurable._longest_name(), true)
            and coalesce(
                jsonb_typeof(p_object -> 'version') = 'number' and p_object -> 'version' > '0'
                and octet_length(p_object ->> 'version') < 10 and p_object ->> 'version' not like '%.%', true)
        else false
    end
$$;

comment on function gendurable._is_plain_instance(jsonb) is
    'Whether the JSON of an instance is in order and has the common keys only.';

create or replace function gendurable._parse_instances(p_instances jsonb) returns gendurable.new_instance[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_bad record;
    v_new gendurable.new_instance[];
begin
    if jsonb_typeof(p_instances) is distinct from 'array' then
        perform gendurable._invalid('instances must be a JSON array', 'got ' || coalesce(jsonb_typeof(p_instances), 'null'),
            'Pass an array of objects, each with at least the key fsm.');
    end if;

    if (select bool_and(gendurable._is_plain_instance(e.object)) from jsonb_array_elements(p_instances) e (object)) then
        -- nearly always: a statement sets up anew all the expressions in it, and half of a single insert went there
        return array(
            select gendurable._new_instance(
                p_ord => e.ord::int - 1, p_fsm => o ->> 'fsm', p_version => (o ->> 'version')::int, p_step => o ->> 'step',
                p_state => o -> 'state', p_queue => o ->> 'queue', p_priority => null, p_partition_key => null,
                p_unique_key => null, p_unique_scope => null, p_eligible_at => null, p_delay => null, p_rate_limit => null,
                p_weight => null, p_max_attempts => null, p_meta => null, p_expires_at => null, p_attributes => null)
            from jsonb_array_elements(p_instances) with ordinality e (o, ord)
            order by e.ord);
    end if;

    select e.ord - 1 as ord, e.object, gendurable._new_instance_json_problem(e.object) as problem into v_bad
    from jsonb_array_elements(p_instances) with ordinality e (object, ord)
    where case
            when gendurable._is_plain_instance(e.object) then false
            else gendurable._new_instance_json_problem(e.object) is not null
        end
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem, format('instance %s: %s', v_bad.ord, left(v_bad.object::text, 200)),
            'Keys of an instance: fsm, state, step, version, queue, priority, partition_key, unique_key, unique_scope, '
            || 'eligible_at (such as 2026-01-31T12:00:00Z), delay_ms, rate_limit, weight, max_attempts, meta, attributes, '
            || 'expires_at, expires_ms.');
    end if;

    select array_agg(gendurable._new_instance(
        p_ord => e.ord::int - 1,
        p_fsm => o ->> 'fsm',
        p_version => (o ->> 'version')::numeric::int,
        p_step => o ->> 'step',
        p_state => nullif(o -> 'state', 'null'),
        p_queue => o ->> 'queue',
        p_priority => (o ->> 'priority')::numeric::int,
        p_partition_key => o ->> 'partition_key',
        p_unique_key => o ->> 'unique_key',
        p_unique_scope => case
            when jsonb_typeof(o -> 'unique_scope') = 'array' then gendurable._texts(o -> 'unique_scope')
        end,
        p_eligible_at => (o ->> 'eligible_at')::timestamptz,
        p_delay => gendurable._ms(nullif(o -> 'delay_ms', 'null')),
        p_rate_limit => o ->> 'rate_limit',
        p_weight => (o ->> 'weight')::double precision,
        p_max_attempts => (o ->> 'max_attempts')::numeric::int,
        p_meta => nullif(o -> 'meta', 'null'),
        p_expires_at => coalesce(
            (o ->> 'expires_at')::timestamptz, v_now + gendurable._ms(nullif(o -> 'expires_ms', 'null'))),
        p_attributes => nullif(o -> 'attributes', 'null')
    ) order by e.ord)
    into v_new
    from jsonb_array_elements(p_instances) with ordinality e (o, ord);
    return coalesce(v_new, '{}');
end $$;

comment on function gendurable._parse_instances(jsonb) is
    'Reads an array of gd_insert_many objects; raises GD501 for the first that is not one.';

create or replace function gendurable._refuse_new_instances(p_new gendurable.new_instance[]) returns void
language plpgsql as $$
declare
    v_bad record;
begin
    select n.ord, n.fsm, gendurable._new_instance_problem(n) as problem into v_bad
    from unnest(p_new) n
    where gendurable._new_instance_problem(n) is not null
    order by n.ord
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem, format('instance %s of machine %s', v_bad.ord,
            coalesce(quote_literal(v_bad.fsm), 'null')), 'See COMMENT ON FUNCTION gd_insert for what each argument takes.');
    end if;
    perform gendurable._need_rate_limits(p_new);
end $$;

comment on function gendurable._refuse_new_instances(gendurable.new_instance[]) is
    'Raises GD501 or GD502 for the first new instance that cannot be stored, if there is one.';

create or replace function gendurable._is_short_new(p_new gendurable.new_instance) returns boolean
language sql immutable parallel safe as $$
    select (p_new.unique_key, p_new.unique_scope, p_new.rate_limit, p_new.weight, p_new.attributes) is null
$$;

comment on function gendurable._is_short_new(gendurable.new_instance) is
    'Whether a new instance has nothing that _insert_instance does not store itself.';

create or replace function gendurable._insert_instance(
    p_new gendurable.new_instance, p_parent_id bigint, p_barrier_no bigint, p_trace jsonb, p_expires_at timestamptz
) returns bigint
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_due timestamptz;
    v_machine gendurable.machine;
    v_put record;
begin
    -- A statement sets up anew all that stands in it, and for one row that is nearly everything: so this one has little in it,
    -- and what most rows do not have goes the long way.
    if not gendurable._is_short_new(p_new) then
        return (gendurable._insert_instances(array[p_new], p_parent_id, p_barrier_no, p_trace, p_expires_at))[1];
    end if;
    -- one after the other: what is not asked is not set up
    if gendurable._steps_asked() then
        if gendurable._lack_steps(array[p_new]) then
            perform gendurable._refuse_new_instances(array[p_new]);
            perform gendurable._refuse_steps(array[p_new]);
        end if;
    end if;
    if not gendurable._is_plain_new(p_new) then
        if gendurable._examine_new_instance(p_new) is not null then
            perform gendurable._refuse_new_instances(array[p_new]);
        end if;
    end if;
    if p_new.version is null or p_new.step is null or p_new.queue is null then
        select m.* into v_machine
        from gendurable.machine m
        where m.fsm = p_new.fsm and (p_new.version is null or m.version = p_new.version)
        order by m.pinned desc, m.version desc
        limit 1;
    end if;
    v_due := gendurable._due_at(p_new.eligible_at, p_new.delay, v_now);

    insert into gendurable.instance as i (
        id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
        lane_at, fsm, step, queue, partition_key, meta, state, expires_at)
    values (
        nextval('gendurable.instance_id_seq'), v_now, v_now, p_parent_id, p_barrier_no, p_new.max_attempts,
        coalesce(p_new.version, v_machine.version, 1), coalesce(p_new.priority, 0), v_due,
        case when p_new.partition_key is not null then v_due end,
        p_new.fsm, coalesce(p_new.step, v_machine.initial_step, 'start'),
        coalesce(p_new.queue, v_machine.queue, 'default'), p_new.partition_key,
        p_trace || coalesce(p_new.meta, '{}'), coalesce(p_new.state, '{}'), least(p_new.expires_at, p_expires_at))
    returning
        i.id, i.queue,
        exists (select from gendurable.queue_name q where q.queue = i.queue) as known,
        -- in order: by the index, also where a plan was made while hardly a step was defined
        (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1) as routed
    into v_put;

    if not v_put.known then
        perform gendurable._note_queues(array[v_put.queue]);
    end if;
    if v_put.routed then
        perform gendurable._place_rows(array[v_put.id], null, v_now);
    end if;
    if v_due <= v_now + gendurable._longest_poll() then
        if not gendurable._is_awake(v_put.queue) then
            perform gendurable._wake_sleepers(array[v_put.queue]);
        end if;
    end if;
    return v_put.id;
end $$;

comment on function gendurable._insert_instance(gendurable.new_instance, bigint, bigint, jsonb, timestamptz) is
    '_insert_instances for one row: its id, or null where its unique key is taken.';

create or replace function gendurable._insert_instances(
    p_new gendurable.new_instance[], p_parent_id bigint, p_barrier_no bigint, p_trace jsonb,
    p_expires_at timestamptz = null
) returns bigint[]
language plpgsql as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ids bigint[];
    v_created bigint[];
    v_due text[];
    v_unknown boolean;
    v_odd boolean;
    v_attributed boolean;
    v_routed boolean;
begin
    -- Numbered before they are stored: the answer keeps the order of the input, whatever order the rows go in.
    if cardinality(p_new) = 1 then
        if gendurable._is_short_new(p_new[1]) then
            return array[gendurable._insert_instance(p_new[1], p_parent_id, p_barrier_no, p_trace, p_expires_at)];
        end if;
        v_ids := array[nextval('gendurable.instance_id_seq')];
        v_odd := p_new[1].rate_limit is not null or p_new[1].attributes is not null;
    else
        v_ids := array(select nextval('gendurable.instance_id_seq') from generate_series(1, cardinality(p_new)));
        v_odd := (select true from unnest(p_new) n where n.rate_limit is not null or n.attributes is not null limit 1);
    end if;
    if v_odd then
        -- the whole examination first: of several mistakes the first is told
        perform gendurable._refuse_new_instances(p_new);
        v_attributed := p_new[1].attributes is not null;
        if cardinality(p_new) > 1 then
            v_attributed := (select true from unnest(p_new) n where n.attributes is not null limit 1);
        end if;
        if v_attributed then
            p_new := gendurable._clean_new_instances(p_new);
        end if;
    end if;
    -- one after the other: what is not asked is not set up
    if gendurable._steps_asked() then
        if gendurable._lack_steps(p_new) then
            perform gendurable._refuse_new_instances(p_new);
            perform gendurable._refuse_steps(p_new);
        end if;
    end if;

    with put as (
        insert into gendurable.instance as i (
            id, inserted_at, updated_at, parent_id, barrier_no, max_attempts, fsm_version, priority, eligible_at,
            lane_at, fsm, step, queue, partition_key, unique_key, unique_held, unique_scope, rate_limit, weight, meta,
            state, expires_at, attributes)
        select
            v_ids[n.ord + 1], v_now, v_now, p_parent_id, p_barrier_no, n.max_attempts,
            coalesce(n.version, m.version, 1), coalesce(n.priority, 0), d.due,
            case when n.partition_key is not null then d.due end,
            n.fsm, coalesce(n.step, m.initial_step, 'start'), coalesce(n.queue, m.queue, 'default'), n.partition_key,
            n.unique_key, case when 'runnable' = any(coalesce(n.unique_scope, '{runnable}')) then n.unique_key end,
            n.unique_scope::gendurable.status[], n.rate_limit,
            case when n.rate_limit is not null then coalesce(n.weight, 1) end,
            p_trace || coalesce(n.meta, '{}'), coalesce(n.state, '{}'), least(n.expires_at, p_expires_at),
            n.attributes
        from unnest(p_new) n
        cross join lateral (
            select gendurable._due_at(n.eligible_at, n.delay, v_now) as due
        ) d
        left join lateral (
            select m.version, m.initial_step, m.queue
            from gendurable.machine m
            -- not looked for where there is nothing to fill in
            where (n.version is null or n.step is null or n.queue is null)
                and m.fsm = n.fsm and (n.version is null or m.version = n.version)
            order by m.pinned desc, m.version desc
            limit 1
        ) m on true
        where case when gendurable._is_plain_new(n) then true else gendurable._examine_new_instance(n) is null end
        -- keys in sorted order: two calls with the same new keys wait for each other one way round only
        order by n.unique_key, n.ord
        on conflict (unique_held) where unique_held is not null do nothing
        returning i.id, i.queue, i.priority, i.eligible_at
    )
    select
        array_agg(p.id),
        array_agg(distinct p.queue) filter (where p.eligible_at <= v_now + gendurable._longest_poll()),
        bool_or(not exists (select from gendurable.queue_name q where q.queue = p.queue)),
        -- in order: by the index, also where a plan was made while hardly a step was defined
        (select true from gendurable.step s where s.queue is not null order by s.fsm, s.step limit 1)
    into v_created, v_due, v_unknown, v_routed
    from put p;

    if v_unknown then
        perform gendurable._note_queues(array(
            select i.queue from unnest(v_created) c (id) join gendurable.instance i on i.id = any(array[c.id])));
    end if;
    if v_attributed then
        perform gendurable._add_words(v_created);
    end if;
    if v_routed then
        perform gendurable._place_rows(v_created, null, v_now);
    end if;
    -- expressions: mostly there is one queue on which nobody sleeps
    if v_due is not null and (cardinality(v_due) > 1 or not gendurable._is_awake(v_due[1])) then
        perform gendurable._wake_sleepers(v_due);
    end if;
    if cardinality(p_new) > coalesce(cardinality(v_created), 0) then
        perform gendurable._refuse_new_instances(p_new);
        return array(
            select (select i.id from gendurable.instance i where i.id = n.id)
            from unnest(v_ids) with ordinality n (id, at)
            order by n.at);
    end if;
    return v_ids;
end $$;

comment on function gendurable._insert_instances(gendurable.new_instance[], bigint, bigint, jsonb, timestamptz) is
    'Checks and stores new instances and wakes their queues; none has a later deadline than p_expires_at. The ids in the order of
the input, null where the unique key is taken.';
