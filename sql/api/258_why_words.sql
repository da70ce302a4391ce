-- The words of causes: how gd_why says names, times and amounts, whatever stands in them.
-- Next: 259_crashes.

create or replace function gendurable._cause(
    p_cause text, p_since timestamptz, p_until timestamptz, p_says text, p_detail jsonb, p_instance bigint = null
) returns jsonb
language plpgsql stable as $$
begin
    return jsonb_build_object('cause', p_cause, 'since', p_since, 'until', p_until, 'says', p_says, 'detail', p_detail)
        || case when p_instance is null then '{}' else jsonb_build_object('instance', p_instance) end;
end $$;

comment on function gendurable._cause(text, timestamptz, timestamptz, text, jsonb, bigint) is
    'A cause; p_instance: which one has to move first.';

create or replace function gendurable._most_before() returns int
language sql immutable parallel safe as $$
    select 10000
$$;

comment on function gendurable._most_before() is 'Rows before another one that are counted.';

create or replace function gendurable._more(p_more boolean) returns jsonb
language sql immutable parallel safe as $$
    select case when p_more then '{"more": true}'::jsonb else '{}'::jsonb end
$$;

comment on function gendurable._more(boolean) is 'What a detail has where a count was cut.';

create or replace function gendurable._name(p_name text) returns text
language sql immutable parallel safe as $$
    select '"' || regexp_replace(left(p_name, 100), '[[:cntrl:]]+', ' ', 'g')
        || case when length(p_name) > 100 then ' ..."' else '"' end
$$;

comment on function gendurable._name(text) is 'A name in a sentence.';

create or replace function gendurable._excerpt(p_text text) returns text
language sql immutable parallel safe as $$
    select rtrim(regexp_replace(left(p_text, 200), '[[:cntrl:][:space:]]+', ' ', 'g'), ' .')
        || case when length(p_text) > 200 then ' ...' else '' end
$$;

comment on function gendurable._excerpt(text) is 'The beginning of a text, on one line.';

create or replace function gendurable._amount(p_amount double precision) returns numeric
language plpgsql immutable as $$
begin
    return case when p_amount < 1e15 then trim_scale(round(p_amount::numeric, 2)) end;
end $$;

comment on function gendurable._amount(double precision) is 'Tokens as people read them; null where it is any number.';

create or replace function gendurable._span(p_from timestamptz, p_to timestamptz) returns text
language plpgsql immutable as $$
declare
    v_seconds bigint;
begin
    if p_from is null or p_to is null then
        return null;
    end if;
    if not (isfinite(p_from) and isfinite(p_to)) then
        return 'ever';
    end if;
    -- a clock may have been set back meanwhile
    v_seconds := greatest(floor(extract(epoch from p_to) - extract(epoch from p_from)), 0);
    return case
        when v_seconds < 120 then v_seconds || ' s'
        when v_seconds < 7200 then v_seconds / 60 || ' min'
        when v_seconds < 172800 then v_seconds / 3600 || ' h'
        else v_seconds / 86400 || ' days'
    end;
end $$;

comment on function gendurable._span(timestamptz, timestamptz) is 'How long it is from one time to another, as people say it.';

create or replace function gendurable._by(p_who text) returns text
language sql immutable parallel safe as $$
    select coalesce(', by ' || gendurable._name(p_who), '')
$$;

comment on function gendurable._by(text) is 'Who did something, behind the words for what; nothing where that is not known.';
