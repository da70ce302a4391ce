-- Filters that ask for attributes: the words of these lead to instances (069_attributes), the newest or the oldest first.
-- Next: 099_slots, limits of queues.

create or replace function gendurable._look_by_word(p_look int) returns int
language sql immutable parallel safe as $$
    select least(p_look, 10000)
$$;

comment on function gendurable._look_by_word(int) is
    'At how many instances a call looks that a word leads to: each is looked up by its id, which costs twice a row of a walk.';

create or replace function gendurable._find_word(p_attributes jsonb, p_look int) returns text
language plpgsql stable as $$
declare
    v_words constant text[] := gendurable._attribute_words(p_attributes);
    v_few constant int := least(200, p_look);
    v_word text;
    v_count bigint;
begin
    if cardinality(v_words) < 2 then
        return v_words[1];
    end if;
    -- mostly one of them is rare; else the first few are counted as far as a call looks
    for v_try in 1 .. 2 loop
        select w.word, c.count into v_word, v_count
        from unnest(v_words[: case when v_try = 1 then gendurable._most_attributes() else 5 end]) w (word)
        cross join lateral (
            select count(*) as count
            from (
                select from gendurable.attribute a where a.word = w.word limit case when v_try = 1 then v_few else p_look end
            ) x
        ) c
        order by c.count, w.word
        limit 1;
        exit when v_count < v_few;
    end loop;
    return v_word;
end $$;

comment on function gendurable._find_word(jsonb, int) is
    'The rarest word of attributes that are asked for; null: no word leads to them.';

create or replace function gendurable._find_newest_with(p_attributes jsonb, p_before bigint, p_look int) returns bigint[]
language plpgsql stable as $$
declare
    v_word constant text := gendurable._find_word(p_attributes, p_look);
begin
    if v_word is null then
        return null;
    end if;
    return array(
        select a.instance_id
        from gendurable.attribute a
        where a.word = v_word and a.instance_id < p_before
        order by a.instance_id desc
        limit p_look);
end $$;

comment on function gendurable._find_newest_with(jsonb, bigint, int) is
    'Instances among which are all that have these attributes, from below an id on, the newest first: as many as a call looks at. null:
no word leads to them.';

create or replace function gendurable._find_oldest_with(p_attributes jsonb, p_after bigint, p_look int) returns bigint[]
language plpgsql stable as $$
declare
    v_word constant text := gendurable._find_word(p_attributes, p_look);
begin
    if v_word is null then
        return null;
    end if;
    return array(
        select a.instance_id
        from gendurable.attribute a
        where a.word = v_word and a.instance_id > p_after
        order by a.instance_id
        limit p_look);
end $$;

comment on function gendurable._find_oldest_with(jsonb, bigint, int) is 'As _find_newest_with, from above an id on, the oldest first.';
