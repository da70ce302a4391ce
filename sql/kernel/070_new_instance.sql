-- New instances, for gd_insert and for fan-outs: their JSON or arguments become gendurable.new_instance values, and these are
-- examined. Next: 072_store_new, which stores them.

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
        and num_nonnulls(p_new.unique_key, p_new.delay, p_new.eligible_at, p_new.weight, p_new.rate_limit, p_new.unique_scope,
            p_new.expires_at, p_new.meta) = 0
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
