-- Attributes: what an instance is searched by, beside its meta. They are given at the insert, outcomes merge into them, and null takes
-- a key away. What stands at their top, text, numbers, true and false, and arrays of these, leads to the instance: each is a
-- word in a table of its own, so that the newest with a word are found however many there are, and what has no attributes
-- pays nothing. A word is no more than a way to rows: whether these fit is asked of the attributes (098_filter).
-- Next: 070_new_instance, how an instance comes into the table.

create or replace function gendurable._most_attributes() returns int
language sql immutable parallel safe as $$
    select 100
$$;

comment on function gendurable._most_attributes() is
    'How many values the attributes of an instance have at most: each is a row to write.';

create or replace function gendurable._longest_attributes() returns int
language sql immutable parallel safe as $$
    select 4000
$$;

comment on function gendurable._longest_attributes() is
    'Bytes of the attributes of an instance, as text: a claim hands them out without weighing them.';

create or replace function gendurable._attributes_problem(p_attributes jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    if p_attributes is null or p_attributes = 'null' then
        return null;
    end if;
    if jsonb_typeof(p_attributes) <> 'object' then
        return 'attributes must be a JSON object';
    end if;
    -- the stored size first: the text of numbers such as 1e100000 is long
    if pg_column_size(p_attributes) > 4 * gendurable._longest_attributes() then
        return format('attributes have more than %s bytes', gendurable._longest_attributes());
    end if;
    if (
        select sum(case jsonb_typeof(a.value) when 'array' then greatest(jsonb_array_length(a.value), 1) else 1 end)
        from jsonb_each(p_attributes) a
    ) > gendurable._most_attributes() then
        return format('attributes have more than %s values', gendurable._most_attributes());
    end if;
    if octet_length(p_attributes::text) > gendurable._longest_attributes() then
        return format('attributes have more than %s bytes', gendurable._longest_attributes());
    end if;
    return null;
end $$;

comment on function gendurable._attributes_problem(jsonb) is 'What is wrong with attributes, or null.';

create or replace function gendurable._clean_attributes(p_attributes jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    return (
        select jsonb_object_agg(a.key, a.value) from jsonb_each(nullif(p_attributes, 'null')) a where a.value <> 'null');
end $$;

comment on function gendurable._clean_attributes(jsonb) is
    'Attributes as they are stored: without the keys that are null; null: none are left.';

create or replace function gendurable._attribute_words(p_attributes jsonb) returns text[]
language plpgsql immutable parallel safe as $$
begin
    -- Cut: an index entry has to hold it. What this takes for the same is told apart where the rows are looked at.
    return array(
        select distinct left(a.key || '=' || w.word, 200)
        from jsonb_each(p_attributes) a
        cross join lateral jsonb_array_elements(
            case jsonb_typeof(a.value) when 'array' then a.value else jsonb_build_array(a.value) end) v
        cross join lateral (
            select case jsonb_typeof(v.value)
                when 'string' then v.value #>> '{}'::text[]
                when 'boolean' then v.value #>> '{}'::text[]
                -- 1.0 is 1
                when 'number' then trim_scale((v.value #>> '{}'::text[])::numeric)::text
            end as word
        ) w
        where w.word is not null);
end $$;

comment on function gendurable._attribute_words(jsonb) is
    'The words by which attributes are found: "key=value" for each text, number and boolean at their top or in an array there.';

create or replace function gendurable._add_words(p_ids bigint[]) returns void
language plpgsql as $$
begin
    insert into gendurable.attribute (instance_id, word)
    select i.id, w.word
    from unnest(p_ids) u (id)
    join gendurable.instance i on i.id = any(array[u.id])
    cross join lateral unnest(gendurable._attribute_words(i.attributes)) w (word)
    on conflict (instance_id, word) do nothing;
end $$;

comment on function gendurable._add_words(bigint[]) is 'Writes the words of instances that have just come.';

create or replace function gendurable._note_words(p_ids bigint[]) returns void
language plpgsql as $$
begin
    delete from gendurable.attribute a
    where (a.instance_id, a.word) in (
        select x.instance_id, x.word
        from unnest(p_ids) u (id)
        join gendurable.instance i on i.id = any(array[u.id])
        cross join lateral (select gendurable._attribute_words(i.attributes) as words offset 0) w
        cross join lateral (
            select y.instance_id, y.word from gendurable.attribute y where y.instance_id = u.id and y.word <> all(w.words)
        ) x);
    perform gendurable._add_words(p_ids);
end $$;

comment on function gendurable._note_words(bigint[]) is
    'Brings the words of instances to what their attributes are. Behind whoever writes these, under the locks of the rows.';

create or replace function gendurable._merge_attributes(p_outcomes gendurable.outcome[]) returns gendurable.outcome[]
language plpgsql as $$
declare
    v_outcomes gendurable.outcome[] := p_outcomes;
    v_row record;
begin
    for v_row in
        select o.ordinality as at, gendurable._clean_attributes(coalesce(i.attributes, '{}') || o.attributes) as attributes
        from unnest(p_outcomes) with ordinality o
        join gendurable.instance i on i.id = any(array[o.id])
        where o.attributes is not null
    loop
        if gendurable._attributes_problem(v_row.attributes) is not null then
            perform gendurable._invalid(gendurable._attributes_problem(v_row.attributes), 'together with those that it has',
                'Null as a value takes a key away.');
        end if;
        -- null would leave them as they are
        v_outcomes[v_row.at].attributes := coalesce(v_row.attributes, '{}');
    end loop;
    return v_outcomes;
end $$;

comment on function gendurable._merge_attributes(gendurable.outcome[]) is
    'Outcomes with all the attributes that their instances have behind them; an empty object: none. Under the locks of the rows.';

create or replace function gendurable._clean_new_instances(p_new gendurable.new_instance[]) returns gendurable.new_instance[]
language plpgsql immutable parallel safe as $$
declare
    v_new gendurable.new_instance[] := p_new;
begin
    for v_at in 1 .. cardinality(v_new) loop
        if v_new[v_at].attributes is not null then
            v_new[v_at].attributes := gendurable._clean_attributes(v_new[v_at].attributes);
        end if;
    end loop;
    return v_new;
end $$;

comment on function gendurable._clean_new_instances(gendurable.new_instance[]) is
    'New instances with their attributes as these are stored.';
