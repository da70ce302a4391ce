-- What a claim is asked for, and whether that can be.
-- Next: 114_gate.

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

create or replace function gendurable._wanted_steps(p_options jsonb) returns jsonb
language plpgsql stable as $$
begin
    return case
        when p_options ->> 'steps' is not null
            then gendurable._runnable_steps(p_options ->> 'steps', gendurable._acting_role())
    end;
end $$;

comment on function gendurable._wanted_steps(jsonb) is 'Which steps a claim with these options takes; null: all.';

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
