-- Reading JSON, for inserts, outcomes and options alike: values, and what is wrong with them. A "..._problem" answers what a
-- client is told, or null.
-- Next: 025_time.

create or replace function gendurable._ms(p_value jsonb) returns interval
language sql immutable parallel safe as $$
    -- through numeric: no 32-bit limit, and an absurd number is a class 22 error and not a wrapped one
    select make_interval(secs => ((p_value #>> '{}'::text[])::numeric / 1000)::double precision)
$$;

comment on function gendurable._ms(jsonb) is 'A JSON number of milliseconds as an interval.';

create or replace function gendurable._texts(p_array jsonb) returns text[]
language plpgsql immutable parallel safe as $$
begin
    return array(select jsonb_array_elements_text(p_array));
end $$;

comment on function gendurable._texts(jsonb) is 'A JSON array of strings as an array.';

create or replace function gendurable._trace_of(p_meta jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    return coalesce((
        select jsonb_object_agg(t.key, t.value)
        from jsonb_each(p_meta) t
        where t.key = any(gendurable._trace_keys())), '{}');
end $$;

comment on function gendurable._trace_of(jsonb) is 'The keys of meta that children inherit: W3C trace context and baggage.';

create or replace function gendurable._ms_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then null
        when jsonb_typeof(p_value) <> 'number' then p_name || ' must be a number of milliseconds'
        when (p_value #>> '{}'::text[])::numeric < 0 then p_name || ' must not be negative'
        when (p_value #>> '{}'::text[])::numeric > 9e15 then p_name || ' is longer than 285,000 years'
    end
$$;

comment on function gendurable._ms_problem(jsonb, text) is 'What is wrong with a duration in milliseconds, or null.';

create or replace function gendurable._flag_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_value) not in ('boolean', 'null') then p_name || ' must be true or false' end
$$;

comment on function gendurable._flag_problem(jsonb, text) is 'What is wrong with a JSON value that is to be true or false, or null.';

create or replace function gendurable._text_problem(p_value jsonb, p_name text, p_needed boolean) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then case when p_needed then p_name || ' is missing' end
        when jsonb_typeof(p_value) <> 'string' then p_name || ' must be a string'
        when p_value = '""' then p_name || ' must not be empty'
        when octet_length(p_value #>> '{}'::text[]) > gendurable._longest_name() then p_name || ' is too long'
    end
$$;

comment on function gendurable._text_problem(jsonb, text, boolean) is 'What is wrong with a name in JSON, or null.';

create or replace function gendurable._object_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_value) not in ('object', 'null') then p_name || ' must be a JSON object' end
$$;

comment on function gendurable._object_problem(jsonb, text) is 'What is wrong with a value that is to be an object, or null.';

create or replace function gendurable._int_problem(p_value jsonb, p_name text, p_least int) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then null
        when jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}'::text[])::numeric % 1 <> 0
            then p_name || ' must be a whole number'
        when (p_value #>> '{}'::text[])::numeric not between coalesce(p_least, -2147483648) and 2147483647
            then p_name || ' is out of range'
    end
$$;

comment on function gendurable._int_problem(jsonb, text, int) is 'What is wrong with an integer in JSON, or null.';

create or replace function gendurable._time_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    -- What any other text means depends on the DateStyle and the TimeZone of whoever calls.
    select case
        when p_value is null or p_value = 'null' then null
        when jsonb_typeof(p_value) <> 'string' then p_name || ' must be a string'
        when (p_value #>> '{}'::text[]) !~ '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$'
            then p_name || ' must be an ISO 8601 time with its zone'
    end
$$;

comment on function gendurable._time_problem(jsonb, text) is 'What is wrong with a time in JSON, or null.';

create or replace function gendurable._weight_problem(p_value jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_value) not in ('number', 'null') then 'weight must be a number'
        when jsonb_typeof(p_value) = 'number' and (p_value < '1e-300' or p_value > '1e300')
            then 'weight must be a positive number'
    end
$$;

comment on function gendurable._weight_problem(jsonb) is 'What is wrong with a weight in JSON, or null.';

create or replace function gendurable._parse_claims(p_claims jsonb)
returns table (id bigint, claim_no bigint)
language plpgsql as $$
begin
    if jsonb_typeof(p_claims) is distinct from 'array' or exists (
        select from jsonb_array_elements(p_claims) c
        where jsonb_typeof(c) <> 'array' or jsonb_array_length(c) <> 2
            or case when jsonb_typeof(c -> 0) = 'number' and jsonb_typeof(c -> 1) = 'number'
                then c <> jsonb_build_array(floor((c ->> 0)::numeric), floor((c ->> 1)::numeric))
                else true end
    ) then
        perform gendurable._invalid('p_claims must be an array of [id, claim_no]', left(p_claims::text, 200),
            'Pass [[id, claim_no], ...] as handed out by gd_claim.');
    end if;
    return query
        select (c ->> 0)::numeric::bigint, (c ->> 1)::numeric::bigint from jsonb_array_elements(p_claims) c;
end $$;

comment on function gendurable._parse_claims(jsonb) is 'Reads [[id, claim_no], ...]; raises GD501.';

create or replace function gendurable._need_limits(p_queues jsonb, p_what text = 'p_queues') returns void
language plpgsql as $$
declare
    v_wrong constant text := (
        select min(q.key)
        from jsonb_each(p_queues) q
        where q.key = '' or octet_length(q.key) > gendurable._longest_name()
            or gendurable._int_problem(q.value, 'limit', 0) is not null or q.value = 'null');
begin
    if v_wrong is not null then
        perform gendurable._invalid(p_what || ' must map names to limits',
            format('%s: %s', quote_literal(left(v_wrong, 200)), left((p_queues -> v_wrong)::text, 200)),
            'Pass {"queue": limit, ...} with limits of 0 or more.');
    end if;
end $$;

comment on function gendurable._need_limits(jsonb, text) is 'Raises GD501 unless these are names of queues with limits.';

create or replace function gendurable._need_claim(p_worker text, p_lease interval, p_options jsonb) returns void
language plpgsql as $$
begin
    perform gendurable._need_read_committed();
    perform gendurable._need_text(p_worker, 'p_worker');
    perform gendurable._need_lease(p_lease);
    perform gendurable._need_options(p_options, '{steps,ahead}');
    if p_options ->> 'steps' not in ('sql', 'other') then
        perform gendurable._invalid('unknown value of the option steps', left(p_options ->> 'steps', 200),
            'Pass "sql" or "other".');
    end if;
    if coalesce(p_options -> 'ahead', 'null') <> 'null' then
        if jsonb_typeof(p_options -> 'ahead') <> 'object' then
            perform gendurable._invalid('the option ahead must be a JSON object', 'got ' || jsonb_typeof(p_options -> 'ahead'),
                'Pass {"queue": limit, ...}.');
        end if;
        perform gendurable._need_limits(p_options -> 'ahead', 'the option ahead');
    end if;
end $$;

comment on function gendurable._need_claim(text, interval, jsonb) is
    'Raises GD501 or GD504 unless a claim can be made with these arguments.';

create or replace function gendurable._new_instance_json_problem(p_object jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_object) is distinct from 'object' then 'an instance must be a JSON object'
        when p_object - '{fsm,state,step,version,queue,priority,partition_key,unique_key,unique_scope,eligible_at,delay_ms,rate_limit,weight,max_attempts,meta,attributes,expires_at,expires_ms}'::text[] <> '{}'
            then 'unknown key in an instance'
        else coalesce(
            gendurable._text_problem(p_object -> 'fsm', 'fsm', true),
            gendurable._text_problem(p_object -> 'step', 'step', false),
            gendurable._text_problem(p_object -> 'queue', 'queue', false),
            gendurable._text_problem(p_object -> 'partition_key', 'partition_key', false),
            gendurable._text_problem(p_object -> 'unique_key', 'unique_key', false),
            gendurable._text_problem(p_object -> 'rate_limit', 'rate_limit', false),
            gendurable._time_problem(p_object -> 'eligible_at', 'eligible_at'),
            gendurable._time_problem(p_object -> 'expires_at', 'expires_at'),
            gendurable._ms_problem(p_object -> 'expires_ms', 'expires_ms'),
            case
                when coalesce(p_object -> 'expires_at', 'null') <> 'null' and coalesce(p_object -> 'expires_ms', 'null') <> 'null'
                    then 'expires_at and expires_ms exclude each other'
            end,
            gendurable._object_problem(p_object -> 'state', 'state'),
            gendurable._object_problem(p_object -> 'meta', 'meta'),
            gendurable._object_problem(p_object -> 'attributes', 'attributes'),
            gendurable._int_problem(p_object -> 'version', 'version', 1),
            gendurable._int_problem(p_object -> 'priority', 'priority', null),
            gendurable._int_problem(p_object -> 'max_attempts', 'max_attempts', 1),
            gendurable._ms_problem(p_object -> 'delay_ms', 'delay_ms'),
            gendurable._weight_problem(p_object -> 'weight'),
            case
                when jsonb_typeof(p_object -> 'unique_scope') not in ('array', 'null')
                    or jsonb_path_exists(p_object, 'strict $.unique_scope[*] ? (@.type() != "string")', '{}', true)
                    then 'unique_scope must be an array of statuses'
            end
        )
    end
$$;

comment on function gendurable._new_instance_json_problem(jsonb) is
    'What is wrong with the JSON of an instance before its values can be read, or null.';
