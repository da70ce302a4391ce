-- What is wrong with a document that is to be imported, before anything of it is written: first its form, one instance after the
-- other, then what they say of each other. Values that pass can be stored, and nothing that follows them here runs over.
-- Next: 189_audit, what was done by hand.

create or replace function gendurable._document_format() returns int
language sql immutable parallel safe as $$
    select 2
$$;

comment on function gendurable._document_format() is
    'The format of the documents of gd_export; one more with each key that an older gd_import does not know.';

create or replace function gendurable._most_document() returns int
language sql immutable parallel safe as $$
    select 64000000
$$;

comment on function gendurable._most_document() is
    'Bytes of a document that is imported: above what gd_export gives, however it is written.';

create or replace function gendurable._refuse_document(p_document jsonb) returns void
language plpgsql as $$
declare
    v_hint constant text := 'Pass a document of gd_export as it was given.';
    v_all jsonb;
    v_bad record;
begin
    if jsonb_typeof(p_document) is distinct from 'object' or jsonb_typeof(p_document -> 'format') is distinct from 'number' then
        perform gendurable._invalid('p_document must be a document of gd_export',
            'got ' || coalesce(jsonb_typeof(p_document), 'null'), v_hint);
    end if;
    -- what an older one does not have may be left out in this one, too: 1 has no journals
    if p_document -> 'format' not in ('1', to_jsonb(gendurable._document_format())) then
        perform gendurable._invalid('the document is of another format',
            format('format %s, of gendurable %s; known are 1 to %s', left(p_document ->> 'format', 20),
                coalesce(left(p_document ->> 'gendurable', 20), 'unknown'), gendurable._document_format()),
            'Upgrade this database to the version that has written it.');
    end if;
    v_all := p_document -> 'instances';
    if p_document - '{format,gendurable,exported_at,instances}'::text[] <> '{}' then
        perform gendurable._invalid('unknown key in the document', null, v_hint);
    end if;
    if pg_column_size(p_document) > gendurable._most_document() then
        perform gendurable._invalid('the document is too large', pg_column_size(p_document) || ' bytes', v_hint);
    end if;
    if jsonb_typeof(v_all) is distinct from 'array' or v_all = '[]' then
        perform gendurable._invalid('instances must be a JSON array that is not empty',
            'got ' || coalesce(jsonb_typeof(v_all), 'null'), v_hint);
    end if;
    if jsonb_array_length(v_all) > gendurable._most_children() then
        perform gendurable._invalid('the document has too many instances', jsonb_array_length(v_all)::text, v_hint);
    end if;
    select e.ord - 1 as ord, gendurable._imported_problem(e.o) as problem, left(e.o ->> 'id', 20) as id into v_bad
    from jsonb_array_elements(v_all) with ordinality e (o, ord)
    where gendurable._imported_problem(e.o) is not null
    order by e.ord
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem,
            format('instance %s of the document, with the id %s', v_bad.ord, coalesce(v_bad.id, 'null')), v_hint);
    end if;
    perform gendurable._refuse_relations(v_all, v_hint);
end $$;

comment on function gendurable._refuse_document(jsonb) is 'Raises GD501 or GD502 unless the document can be imported.';

create or replace function gendurable._refuse_relations(p_all jsonb, p_hint text) returns void
language plpgsql as $$
declare
    v_places constant jsonb := (
        select jsonb_object_agg((e.o ->> 'id')::numeric::bigint, e.at)
        from jsonb_array_elements(p_all) with ordinality e (o, at));
    v_bad record;
begin
    select p.ord, p.problem, p.id into v_bad
    from (
        select x.at - 1 as ord, x.id, case
                when (v_places ->> x.id::text)::int <> x.at then 'two instances have the same id'
                when x.at = 1 and x.parent_id is not null then 'the first instance must have no parent_id'
                when x.at > 1 and x.parent_id is null then 'parent_id is missing'
                when x.at > 1 and coalesce((v_places ->> x.parent_id::text)::int >= x.at, true)
                    then 'parent_id must be the id of an instance before it'
                when x.awaited and p_all #>> array[((v_places ->> x.parent_id::text)::int - 1)::text, 'status']
                    is distinct from 'awaiting_children' then 'awaited, but its parent does not await children'
            end as problem
        from (
            select e.at, (e.o ->> 'id')::numeric::bigint as id, (e.o ->> 'parent_id')::numeric::bigint as parent_id,
                e.o -> 'awaited' = 'true' as awaited
            from jsonb_array_elements(p_all) with ordinality e (o, at)
            offset 0
        ) x
    ) p
    where p.problem is not null
    order by p.ord
    limit 1;
    if found then
        perform gendurable._invalid(v_bad.problem, format('instance %s of the document, with the id %s', v_bad.ord, v_bad.id), p_hint);
    end if;
    select e.o ->> 'unique_key' as key into v_bad
    from jsonb_array_elements(p_all) e (o)
    where e.o -> 'unique_held' = 'true'
    group by 1
    having count(*) > 1
    limit 1;
    if found then
        perform gendurable._invalid('two instances hold the same unique key', quote_literal(v_bad.key), p_hint);
    end if;
    perform gendurable._need_rate_limit(x.rate_limit, x.weight)
    from (
        select distinct e.o ->> 'rate_limit' as rate_limit, coalesce((e.o ->> 'weight')::double precision, 1) as weight
        from jsonb_array_elements(p_all) e (o)
        where e.o ->> 'rate_limit' is not null and not gendurable._is_terminal((e.o ->> 'status')::gendurable.status)
    ) x;
end $$;

comment on function gendurable._refuse_relations(jsonb, text) is
    'Raises GD501 or GD502 unless the instances of a document fit each other, and the rate limits here.';

create or replace function gendurable._imported_problem(p_one jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_one) is distinct from 'object' then
        return 'an instance must be a JSON object';
    end if;
    if p_one - '{id,parent_id,awaited,fsm,version,step,status,queue,priority,partition_key,unique_key,unique_scope,unique_held,rate_limit,weight,attempt,max_attempts,crashes,worker,awaits,eligible_at,lane_at,deadline_at,expires_at,inserted_at,finished_at,keep_until,paused_at,paused_by,state,meta,attributes,last_error,result,signals,seen,errors,history,journal,left_out}'::text[] <> '{}' then
        return 'unknown key in an instance';
    end if;
    return coalesce(
        gendurable._whole_problem(p_one -> 'id', 'id', 9223372036854775807),
        case when coalesce(p_one -> 'parent_id', 'null') <> 'null'
            then gendurable._whole_problem(p_one -> 'parent_id', 'parent_id', 9223372036854775807) end,
        gendurable._text_problem(p_one -> 'fsm', 'fsm', true),
        gendurable._text_problem(p_one -> 'step', 'step', true),
        gendurable._text_problem(p_one -> 'queue', 'queue', true),
        gendurable._text_problem(p_one -> 'partition_key', 'partition_key', false),
        gendurable._text_problem(p_one -> 'unique_key', 'unique_key', false),
        gendurable._text_problem(p_one -> 'rate_limit', 'rate_limit', false),
        gendurable._whole_problem(p_one -> 'version', 'version', 2147483647),
        gendurable._int_problem(p_one -> 'priority', 'priority', null),
        gendurable._int_problem(p_one -> 'max_attempts', 'max_attempts', 1),
        gendurable._count_problem(p_one -> 'attempt', 'attempt'),
        gendurable._count_problem(p_one -> 'crashes', 'crashes'),
        gendurable._weight_problem(p_one -> 'weight'),
        gendurable._object_problem(p_one -> 'state', 'state'),
        gendurable._object_problem(p_one -> 'meta', 'meta'),
        gendurable._attributes_problem(p_one -> 'attributes'),
        gendurable._string_problem(p_one -> 'last_error', 'last_error'),
        gendurable._string_problem(p_one -> 'worker', 'worker'),
        gendurable._string_problem(p_one -> 'paused_by', 'paused_by'),
        gendurable._flag_problem(p_one -> 'awaited', 'awaited'),
        gendurable._flag_problem(p_one -> 'unique_held', 'unique_held'),
        gendurable._imported_times_problem(p_one),
        gendurable._imported_status_problem(p_one),
        gendurable._imported_lists_problem(p_one));
end $$;

comment on function gendurable._imported_problem(jsonb) is 'What is wrong with an instance of a document by itself, or null.';

create or replace function gendurable._whole_problem(p_value jsonb, p_name text, p_most bigint) returns text
language sql immutable parallel safe as $$
    select case
        when p_value is null or p_value = 'null' then p_name || ' is missing'
        when jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}'::text[])::numeric % 1 <> 0
            then p_name || ' must be a whole number'
        when (p_value #>> '{}'::text[])::numeric not between 1 and p_most then p_name || ' is out of range'
    end
$$;

comment on function gendurable._whole_problem(jsonb, text, bigint) is
    'What is wrong with a number from 1 on that has to be there, or null.';

create or replace function gendurable._count_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select coalesce(
        gendurable._int_problem(p_value, p_name, 0),
        -- it is counted on
        case when jsonb_typeof(p_value) = 'number' and p_value > '1000000000' then p_name || ' is out of range' end)
$$;

comment on function gendurable._count_problem(jsonb, text) is 'What is wrong with a count, or null.';

create or replace function gendurable._string_problem(p_value jsonb, p_name text) returns text
language sql immutable parallel safe as $$
    select case when jsonb_typeof(p_value) not in ('string', 'null') then p_name || ' must be a string' end
$$;

comment on function gendurable._string_problem(jsonb, text) is 'What is wrong with a value that is to be a text, or null.';

create or replace function gendurable._moment_problem(p_value jsonb, p_name text, p_needed boolean) returns text
language sql immutable parallel safe as $$
    select case
        when p_needed and coalesce(p_value, 'null') = 'null' then p_name || ' is missing'
        -- years before the first are times, too
        when jsonb_typeof(p_value) = 'string'
            then gendurable._time_problem(to_jsonb(regexp_replace(p_value #>> '{}'::text[], ' BC$', '')), p_name)
        else gendurable._time_problem(p_value, p_name)
    end
$$;

comment on function gendurable._moment_problem(jsonb, text, boolean) is 'What is wrong with a time in a document, or null.';

create or replace function gendurable._imported_times_problem(p_one jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    return coalesce(
        gendurable._moment_problem(p_one -> 'inserted_at', 'inserted_at', true),
        gendurable._moment_problem(p_one -> 'eligible_at', 'eligible_at', p_one ->> 'status' = 'runnable'),
        gendurable._moment_problem(p_one -> 'lane_at', 'lane_at', false),
        gendurable._moment_problem(p_one -> 'deadline_at', 'deadline_at', false),
        gendurable._moment_problem(p_one -> 'expires_at', 'expires_at', false),
        gendurable._moment_problem(p_one -> 'finished_at', 'finished_at', false),
        gendurable._moment_problem(p_one -> 'keep_until', 'keep_until', false),
        gendurable._moment_problem(p_one -> 'paused_at', 'paused_at', false));
end $$;

comment on function gendurable._imported_times_problem(jsonb) is 'What is wrong with the times of an instance of a document, or null.';

create or replace function gendurable._imported_status_problem(p_one jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
    v_all constant text[] := enum_range(null::gendurable.status)::text[];
    v_scope jsonb := nullif(p_one -> 'unique_scope', 'null');
    v_status gendurable.status;
begin
    if not coalesce(jsonb_typeof(p_one -> 'status') = 'string' and p_one ->> 'status' = any(v_all), false) then
        return 'status is not a status';
    end if;
    v_status := (p_one ->> 'status')::gendurable.status;
    if jsonb_typeof(v_scope) <> 'array' or not v_scope <@ to_jsonb(v_all) then
        return 'unique_scope must be an array of statuses';
    end if;
    if jsonb_array_length(v_scope) > cardinality(v_all) then
        return 'unique_scope names a status twice';
    end if;
    return case
        when v_scope is not null and p_one ->> 'unique_key' is null then 'unique_scope needs a unique_key'
        when p_one -> 'unique_held' = 'true' and gendurable._unique_held(
            p_one ->> 'unique_key',
            case when v_scope is not null then gendurable._texts(v_scope)::gendurable.status[] end, v_status) is null
            then 'unique_held, but it has no unique_key, or its status is outside of unique_scope'
        when gendurable._is_terminal(v_status) <> (p_one ->> 'finished_at' is not null)
            then 'finished_at is there for what has ended, and for nothing else'
        when v_status = 'done' and coalesce(p_one -> 'signals', '[]') <> '[]' then 'what is done has no signals'
        when v_status = 'awaiting_signal' and coalesce(p_one -> 'awaits', 'null') = 'null' then 'awaits is missing'
    end;
end $$;

comment on function gendurable._imported_status_problem(jsonb) is
    'What is wrong with the status of an instance of a document, and with what goes with it, or null.';

create or replace function gendurable._imported_lists_problem(p_one jsonb) returns text
language plpgsql immutable parallel safe as $$
declare
    v_awaits constant jsonb := nullif(p_one -> 'awaits', 'null');
begin
    if jsonb_typeof(v_awaits) <> 'array' or v_awaits = '[]' or jsonb_array_length(v_awaits) > 1000 or exists (
        select from jsonb_array_elements(v_awaits) n (name) where gendurable._text_problem(n.name, 'awaits', true) is not null
    ) then
        return 'awaits must be an array of names';
    end if;
    if exists (
        select from unnest('{signals,seen,errors,history}'::text[]) n (name)
        where jsonb_typeof(p_one -> n.name) is distinct from 'array'
    ) then
        return 'signals, seen, errors and history must be arrays';
    end if;
    if jsonb_typeof(p_one -> 'journal') <> 'array' then
        return 'journal must be an array';
    end if;
    if jsonb_array_length(p_one -> 'journal') > gendurable._most_entries() then
        return 'there are more entries in a journal than are kept';
    end if;
    if jsonb_array_length(p_one -> 'errors') > gendurable._most_errors() then
        return 'there are more errors than are kept';
    end if;
    return coalesce(
        gendurable._entries_problem(p_one -> 'journal'),
        (select p.problem
            from jsonb_array_elements(p_one -> 'signals') s (x)
            cross join lateral (select gendurable._imported_signal_problem(s.x) as problem) p
            where p.problem is not null limit 1),
        (select p.problem
            from jsonb_array_elements(p_one -> 'seen') s (x)
            cross join lateral (select gendurable._text_problem(s.x, 'a dedup key', true) as problem) p
            where p.problem is not null limit 1),
        (select p.problem
            from jsonb_array_elements(p_one -> 'errors') s (x)
            cross join lateral (select gendurable._imported_error_problem(s.x) as problem) p
            where p.problem is not null limit 1),
        (select p.problem
            from jsonb_array_elements(p_one -> 'history') s (x)
            cross join lateral (select gendurable._imported_entry_problem(s.x) as problem) p
            where p.problem is not null limit 1),
        case
            when exists (
                select from (
                    select (h.x ->> 'no')::numeric <= lag((h.x ->> 'no')::numeric) over (order by h.ord) as wrong
                    from jsonb_array_elements(p_one -> 'history') with ordinality h (x, ord)
                ) o
                where o.wrong
            ) then 'the entries of the history must be in order'
        end);
end $$;

comment on function gendurable._imported_lists_problem(jsonb) is
    'What is wrong with what belongs to an instance of a document, or null.';

create or replace function gendurable._imported_signal_problem(p_signal jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_signal) <> 'object' then
        return 'a signal must be a JSON object';
    end if;
    return coalesce(
        case when p_signal - '{name,payload,inserted_at,shown}'::text[] <> '{}' then 'unknown key in a signal' end,
        gendurable._text_problem(p_signal -> 'name', 'name of a signal', true),
        gendurable._moment_problem(p_signal -> 'inserted_at', 'inserted_at of a signal', true),
        gendurable._flag_problem(p_signal -> 'shown', 'shown'),
        case when not p_signal ? 'payload' then 'payload of a signal is missing' end);
end $$;

comment on function gendurable._imported_signal_problem(jsonb) is 'What is wrong with a signal of a document, or null.';

create or replace function gendurable._imported_error_problem(p_error jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_error) <> 'object' then
        return 'an error must be a JSON object';
    end if;
    return coalesce(
        case when p_error - '{at,attempt,kind,step,worker,error,traceback}'::text[] <> '{}' then 'unknown key in an error' end,
        gendurable._moment_problem(p_error -> 'at', 'at of an error', true),
        case when coalesce(p_error -> 'attempt', 'null') = 'null' then 'attempt of an error is missing' end,
        gendurable._count_problem(p_error -> 'attempt', 'attempt of an error'),
        gendurable._text_problem(p_error -> 'kind', 'kind of an error', true),
        gendurable._text_problem(p_error -> 'step', 'step of an error', true),
        gendurable._string_problem(p_error -> 'worker', 'worker of an error'),
        gendurable._string_problem(p_error -> 'error', 'error'),
        gendurable._string_problem(p_error -> 'traceback', 'traceback'));
end $$;

comment on function gendurable._imported_error_problem(jsonb) is 'What is wrong with an error of a document, or null.';

create or replace function gendurable._imported_entry_problem(p_entry jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if jsonb_typeof(p_entry) <> 'object' then
        return 'an entry of the history must be a JSON object';
    end if;
    return coalesce(
        case when p_entry - '{no,at,seconds,attempt,kind,step,next_step,worker,state,detail}'::text[] <> '{}'
            then 'unknown key in an entry of the history' end,
        -- it is counted on
        gendurable._whole_problem(p_entry -> 'no', 'no', 1000000000000000),
        gendurable._moment_problem(p_entry -> 'at', 'at of an entry', true),
        case when jsonb_typeof(p_entry -> 'seconds') not in ('number', 'null') then 'seconds must be a number' end,
        case when coalesce(p_entry -> 'attempt', 'null') = 'null' then 'attempt of an entry is missing' end,
        gendurable._count_problem(p_entry -> 'attempt', 'attempt of an entry'),
        gendurable._text_problem(p_entry -> 'kind', 'kind of an entry', true),
        gendurable._text_problem(p_entry -> 'step', 'step of an entry', true),
        gendurable._text_problem(p_entry -> 'next_step', 'next_step', false),
        gendurable._string_problem(p_entry -> 'worker', 'worker of an entry'),
        gendurable._object_problem(p_entry -> 'state', 'state of an entry'),
        gendurable._object_problem(p_entry -> 'detail', 'detail of an entry'));
end $$;

comment on function gendurable._imported_entry_problem(jsonb) is 'What is wrong with an entry of the history in a document, or null.';
