-- What a worker sees of an instance's inbox and children: bounded in number and in bytes. What is beyond is cut, and says so.
-- Next: 096_why.

create or replace function gendurable._is_large(p_value jsonb) returns boolean
language sql stable parallel safe as $$
    -- the stored size says little about a compressed one; numbers such as 1e100000 make a short one long
    select pg_column_size(p_value) > 8000 or pg_column_compression(p_value) is not null
$$;

comment on function gendurable._is_large(jsonb) is 'Whether it is worth to ask how long the text of a JSON column is.';

create or replace function gendurable._text_bytes(p_value jsonb) returns bigint
language plpgsql stable as $$
begin
    return octet_length(p_value::text);
exception when program_limit_exceeded then
    return null;
end $$;

comment on function gendurable._text_bytes(jsonb) is 'The length of a JSON value as text; null: it has no text, being too long.';

create or replace function gendurable._carries_all() returns boolean
language sql stable parallel safe as $$
    select pg_client_encoding() in (getdatabaseencoding(), 'SQL_ASCII')
$$;

comment on function gendurable._carries_all() is 'Whether this session can carry every text of the database as it is.';

create or replace function gendurable._can_carry(p_text text) returns boolean
language plpgsql stable as $$
begin
    if getdatabaseencoding() = 'SQL_ASCII' then
        -- nothing is converted then, but the client is promised valid text
        return convert_from(convert_to(p_text, 'SQL_ASCII'), pg_client_encoding()) is not null;
    end if;
    return convert_to(p_text, pg_client_encoding()) is not null;
exception when data_exception then
    return false;
end $$;

comment on function gendurable._can_carry(text) is 'Whether this session''s client_encoding can carry a text.';

create or replace function gendurable._has_large_inbox(p_id bigint) returns boolean
language plpgsql stable as $$
begin
    return (
        select sum(pg_column_size(s.payload)) > 8000 or bool_or(pg_column_compression(s.payload) is not null)
        from (
            select s.payload from gendurable.signal s where s.instance_id = p_id order by s.id limit gendurable._most_signals()
        ) s);
end $$;

comment on function gendurable._has_large_inbox(bigint) is 'Whether it is worth to ask how long the text of an inbox is.';

create or replace function gendurable._choose_presented(p_id bigint, p_awaits text[]) returns bigint[]
language plpgsql stable as $$
declare
    v_most constant int := gendurable._most_signals();
    v_some bigint[];
begin
    v_some := array(
        select s.id from gendurable.signal s where s.instance_id = p_id order by s.id limit v_most + 1);
    if cardinality(v_some) > v_most then
        -- too many to hand out: what the row awaits first, name by name, then the oldest of the others
        v_some := array(
            select s.id
            from (select distinct a.name from unnest(p_awaits) a (name)) a
            cross join lateral (
                select s.id from gendurable.signal s
                where s.instance_id = p_id and s.name = a.name
                order by s.id limit v_most
            ) s
            order by s.id limit v_most);
        v_some := v_some || array(
            select s.id from gendurable.signal s
            where s.instance_id = p_id and s.name <> all(coalesce(p_awaits, '{}'))
            order by s.id limit v_most - cardinality(v_some));
    end if;
    return v_some;
end $$;

comment on function gendurable._choose_presented(bigint, text[]) is 'The signals that a claim presents: 1,000 at most.';

create or replace function gendurable._present_inbox(p_id bigint, p_awaits text[]) returns jsonb
language plpgsql stable as $$
declare
    v_some constant bigint[] := gendurable._choose_presented(p_id, p_awaits);
    v_left bigint := gendurable._most_bytes();
    v_whole bigint[] := '{}'::bigint[];
    v_inbox jsonb;
    v_one record;
begin
    if coalesce((
        select sum(pg_column_size(s.payload)) <= 8000 and bool_and(pg_column_compression(s.payload) is null)
        from gendurable.signal s
        where s.instance_id = p_id and s.id = any(v_some)), true)
    then
        v_whole := v_some;
    else
        for v_one in
            select s.id, pg_column_size(s.payload) as stored
            from gendurable.signal s
            where s.instance_id = p_id and s.id = any(v_some)
            order by s.name = any(coalesce(p_awaits, '{}')) desc, s.id
        loop
            -- what is stored in so many bytes is not even read
            exit when v_one.stored > v_left;
            v_left := v_left - coalesce((
                select gendurable._text_bytes(s.payload)
                from gendurable.signal s
                where s.instance_id = p_id and s.id = v_one.id), v_left + 1);
            exit when v_left < 0;
            v_whole := v_whole || v_one.id;
        end loop;
    end if;
    select jsonb_agg(
        case
            when s.id = any(v_whole) then jsonb_build_object(
                'id', s.id, 'name', s.name, 'payload', s.payload, 'inserted_at', s.inserted_at)
            else jsonb_build_object(
                'id', s.id, 'name', s.name, 'payload', null, 'inserted_at', s.inserted_at, 'cut', true)
        end
        order by s.id)
    into v_inbox
    from gendurable.signal s
    where s.instance_id = p_id and s.id = any(v_some);
    return coalesce(v_inbox, '[]');
end $$;

comment on function gendurable._present_inbox(bigint, text[]) is
    'The inbox as a claim presents it: 1,000 signals at most, and as many payloads as fit, those that are awaited first.';

create or replace function gendurable._present_children(p_id bigint) returns jsonb
language plpgsql stable as $$
declare
    v_left bigint := gendurable._most_bytes();
    v_whole bigint := 9223372036854775807;         -- the last child with its state and result
    v_one record;
    v_children jsonb;
begin
    if not coalesce((
        select sum(c.stored) <= v_left and not bool_or(c.packed)
        from (
            select pg_column_size(i.state) + coalesce(pg_column_size(i.result), 0) as stored,
                gendurable._is_large(i.state) or coalesce(gendurable._is_large(i.result), false) as packed
            from gendurable.instance i
            -- as a range: "=" would let the planner walk the primary key, which has the order, in search of children
            where i.parent_id between p_id and p_id
            order by i.parent_id, i.id
            limit gendurable._most_children()
        ) c), true)
    then
        for v_one in
            select i.id, pg_column_size(i.state) + coalesce(pg_column_size(i.result), 0) as stored
            from gendurable.instance i
            where i.parent_id between p_id and p_id
            order by i.parent_id, i.id
            limit gendurable._most_children()
        loop
            -- what is stored in so many bytes is not even read
            if v_one.stored <= v_left then
                v_left := v_left - coalesce((
                    select gendurable._text_bytes(i.state) + gendurable._text_bytes(coalesce(i.result, 'null'))
                    from gendurable.instance i
                    where i.id = v_one.id), v_left + 1);
            else
                v_left := -1;
            end if;
            if v_left < 0 then
                v_whole := v_one.id - 1;
                exit;
            end if;
        end loop;
    end if;
    -- one document of all rows: one for each would be written twice, and take twice as long
    select to_jsonb(array_agg(c order by c.id)) into v_children
    from (
        select i.id, i.fsm, i.status, case when i.id <= v_whole then i.state end as state,
            case when i.id <= v_whole then i.result end as result,
            case when octet_length(i.last_error) > 8000 then left(i.last_error, 2000) || ' ...' else i.last_error end as last_error
        from gendurable.instance i
        where i.parent_id between p_id and p_id
        order by i.parent_id, i.id
        limit gendurable._most_children()
    ) c;
    if v_whole < 9223372036854775807 then
        select jsonb_agg(case when (c.one -> 'id')::bigint <= v_whole then c.one else c.one || '{"cut": true}' end order by c.ord)
        into v_children
        from jsonb_array_elements(v_children) with ordinality c (one, ord);
    end if;
    return coalesce(v_children, '[]');
end $$;

comment on function gendurable._present_children(bigint) is
    'The children as a claim presents them: the first 10,000, and as many states and results as fit.';

create or replace function gendurable._cut_error(p_error text) returns text
language sql immutable parallel safe as $$
    select left(p_error, 500)
$$;

comment on function gendurable._cut_error(text) is 'An error as lists show it.';

create or replace function gendurable._name_few(p_names text[]) returns text
language sql immutable parallel safe as $$
    select left(p_names[1], 100) || coalesce(', ' || left(p_names[2], 100), '') || coalesce(', ' || left(p_names[3], 100), '')
        || case when cardinality(p_names) > 3 then ' and ' || cardinality(p_names) - 3 || ' more' else '' end
$$;

comment on function gendurable._name_few(text[]) is 'Some names, for a message.';
