-- Filters: which instances a call means, as a JSON object. All keys have to fit. What is not known, or null, is refused: a
-- misspelt key would make a bulk call mean more than was meant.
-- Next: 098_words, those that ask for attributes.

create or replace function gendurable._id_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_typeof(p_value) is distinct from 'number' then p_name || ' must be a number'
        when (p_value #>> '{}'::text[])::numeric % 1 <> 0 or abs((p_value #>> '{}'::text[])::numeric) > 9223372036854775807
            then p_name || ' is out of range'
    end
$$;

comment on function gendurable._id_problem(jsonb, text) is 'What is wrong with a JSON value that is to be an id, or null.';

create or replace function gendurable._filter_names(p_value jsonb, p_name text) returns text[]
language plpgsql immutable as $$
declare
    v_problem text;
    v_one jsonb;
begin
    for v_one in select e.value from jsonb_array_elements(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) e
    loop
        v_problem := coalesce(v_problem, case
            when p_name = 'id' then gendurable._id_problem(v_one, p_name)
            when jsonb_typeof(v_one) <> 'string' then p_name || ' must be a string or an array of strings'
        end);
        exit when v_problem is not null;
    end loop;
    if v_problem is not null then
        perform gendurable._invalid(v_problem, left(p_value::text, 200), 'See the table of filters in the SQL reference.');
    end if;
    return case jsonb_typeof(p_value) when 'array' then gendurable._texts(p_value) else array[p_value #>> '{}'::text[]] end;
end $$;

comment on function gendurable._filter_names(jsonb, text) is
    'One text or several of a filter that takes one or an array; numbers for "id". Raises GD501.';

create or replace function gendurable._filter_problem(p_key text, p_value jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when p_value = 'null' then p_key || ' must not be null'
        when p_key in ('id', 'status') then null
        when p_key in ('fsm', 'step', 'queue', 'partition_key', 'partition_prefix', 'unique_key', 'unique_prefix', 'rate_limit',
                'worker', 'error')
            then gendurable._text_problem(p_value, p_key, true)
        when p_key = 'version' then gendurable._int_problem(p_value, p_key, null)
        when p_key = 'parent_id' then gendurable._id_problem(p_value, p_key)
        when p_key = 'meta' then gendurable._object_problem(p_value, p_key)
        when p_key = 'attributes' then coalesce(
            gendurable._attributes_problem(p_value),
            case when jsonb_path_exists(p_value, 'strict $.* ? (@ == null)', '{}', true) then 'no attribute is null' end)
        when p_key = 'stuck_for_ms' then gendurable._ms_problem(p_value, p_key)
        else gendurable._time_problem(p_value, p_key)
    end
$$;

comment on function gendurable._filter_problem(text, jsonb) is 'What is wrong with a value of a filter, or null.';

create or replace function gendurable._parse_filter(p_filter jsonb, p_now timestamptz) returns gendurable.filter
language plpgsql stable as $$
declare
    v_known constant text[] := '{id,fsm,version,step,status,queue,partition_key,partition_prefix,unique_key,unique_prefix}'::text[]
        || '{rate_limit,parent_id,worker,error,meta,attributes,inserted_before,inserted_after,finished_before,finished_after}'::text[]
        || '{due_before,stuck_for_ms}'::text[];
    v_wrong record;
    v_statuses text[];
begin
    if p_filter is null then
        return null;
    end if;
    if jsonb_typeof(p_filter) <> 'object' then
        perform gendurable._invalid('p_filter must be a JSON object', 'got ' || jsonb_typeof(p_filter), 'Pass {} for all instances.');
    end if;
    if p_filter - v_known <> '{}' then
        perform gendurable._invalid('unknown filter', left((p_filter - v_known)::text, 200),
            'Known filters: ' || array_to_string(v_known, ', ') || '.');
    end if;
    select f.key, f.value, gendurable._filter_problem(f.key, f.value) as problem into v_wrong
    from jsonb_each(p_filter) f
    where gendurable._filter_problem(f.key, f.value) is not null
    limit 1;
    if found then
        perform gendurable._invalid(v_wrong.problem, left(v_wrong.value::text, 200), 'See the table of filters in the SQL reference.');
    end if;
    v_statuses := case when p_filter ? 'status' then gendurable._filter_names(p_filter -> 'status', 'status') end;
    if not v_statuses <@ enum_range(null::gendurable.status)::text[] then
        perform gendurable._invalid('no such status', left((p_filter -> 'status')::text, 200),
            'Statuses: ' || array_to_string(enum_range(null::gendurable.status), ', ') || '.');
    end if;
    return row(
        case when p_filter ? 'id' then gendurable._filter_names(p_filter -> 'id', 'id')::numeric[]::bigint[] end,
        p_filter ->> 'fsm', (p_filter ->> 'version')::numeric::int, p_filter ->> 'step', v_statuses::gendurable.status[],
        p_filter ->> 'queue', p_filter ->> 'partition_key', p_filter ->> 'partition_prefix', p_filter ->> 'unique_key',
        p_filter ->> 'unique_prefix', p_filter ->> 'rate_limit', (p_filter ->> 'parent_id')::numeric::bigint,
        p_filter ->> 'worker', p_filter ->> 'error', p_filter -> 'meta',
        (p_filter ->> 'inserted_before')::timestamptz, (p_filter ->> 'inserted_after')::timestamptz,
        (p_filter ->> 'finished_before')::timestamptz, (p_filter ->> 'finished_after')::timestamptz,
        (p_filter ->> 'due_before')::timestamptz,
        case when p_filter ? 'stuck_for_ms' then
            -- before that there are no times
            p_now - least(gendurable._ms(p_filter -> 'stuck_for_ms'), interval '6000 years')
        end,
        -- that is what all have
        nullif(p_filter -> 'attributes', '{}')
    )::gendurable.filter;
end $$;

comment on function gendurable._parse_filter(jsonb, timestamptz) is
    'A filter as it is asked of rows; null: all instances. What is not known raises GD501.';

create or replace function gendurable._fits(p_row gendurable.instance, p_filter gendurable.filter, p_now timestamptz)
returns boolean
language sql stable parallel safe as $$
    -- Asked with the filter as a constant (force_custom_plan): what it does not ask is gone before the first row is read.
    select (p_filter.ids is null or p_row.id = any(p_filter.ids))
        and (p_filter.fsm is null or p_row.fsm = p_filter.fsm)
        and (p_filter.version is null or p_row.fsm_version = p_filter.version)
        and (p_filter.step is null or p_row.step = p_filter.step)
        and (p_filter.statuses is null or p_row.status = any(p_filter.statuses))
        and (p_filter.queue is null or p_row.queue = p_filter.queue)
        and (p_filter.partition_key is null or p_row.partition_key = p_filter.partition_key)
        and (p_filter.partition_prefix is null or starts_with(p_row.partition_key, p_filter.partition_prefix))
        and (p_filter.unique_key is null or p_row.unique_key = p_filter.unique_key)
        and (p_filter.unique_prefix is null or starts_with(p_row.unique_key, p_filter.unique_prefix))
        and (p_filter.rate_limit is null or p_row.rate_limit = p_filter.rate_limit
            or starts_with(p_row.rate_limit, p_filter.rate_limit || ':'))
        and (p_filter.parent_id is null or p_row.parent_id = p_filter.parent_id)
        and (p_filter.worker is null or p_row.worker = p_filter.worker)
        and (p_filter.error is null or position(p_filter.error in p_row.last_error) > 0)
        and (p_filter.meta is null or p_row.meta @> p_filter.meta)
        and (p_filter.attributes is null or p_row.attributes @> p_filter.attributes)
        and (p_filter.inserted_before is null or p_row.inserted_at < p_filter.inserted_before)
        and (p_filter.inserted_after is null or p_row.inserted_at >= p_filter.inserted_after)
        and (p_filter.finished_before is null or p_row.finished_at < p_filter.finished_before)
        and (p_filter.finished_after is null or p_row.finished_at >= p_filter.finished_after)
        and (p_filter.due_before is null or (p_row.eligible_at < p_filter.due_before and p_row.finished_at is null))
        and (p_filter.stuck_since is null or (
            p_row.finished_at is null and p_row.updated_at < p_filter.stuck_since
            and (p_row.eligible_at is null or p_row.eligible_at <= p_now)))
$$;

comment on function gendurable._fits(gendurable.instance, gendurable.filter, timestamptz) is
    'Whether an instance is one of those that a filter asks for.';
