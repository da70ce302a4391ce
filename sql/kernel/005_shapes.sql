-- The constructors of the private types, one each: whoever fills a shape names what it fills. Each is a single expression
-- that the planner inlines. The JSON shapes that clients see stand in docs/wire.md.
-- Next: 010_errors, what every call asks first.

create or replace function gendurable._answer(p_result text, p_sqlstate text, p_message text) returns jsonb
language sql stable parallel safe as $$
    select jsonb_build_object('result', p_result, 'detail', case
        when p_message is not null then jsonb_build_object('sqlstate', p_sqlstate, 'message', p_message) end)
$$;

comment on function gendurable._answer(text, text, text) is 'One answer of gd_commit, as it is collected.';
