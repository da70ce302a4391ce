\ir helpers/tap.psql
select no_plan();

-- A signal makes a row without a scope of its own runnable the short way, and one that names the default scope the long way: both
-- store the same.

create function t.awaiting(p_scope text[], p_key text, p_extra jsonb) returns bigint
language plpgsql as $$
declare
    v_id constant bigint := gd_insert(
        'm', p_queue => 'q', p_partition_key => p_key, p_unique_key => 'u' || coalesce(p_scope::text, ''), p_unique_scope => p_scope);
begin
    perform * from t.take('q');
    perform t.put(v_id, '{"kind": "await", "signals": ["go", "stop"], "step": "went", "state": {"n": 2}}' || p_extra);
    return v_id;
end $$;
create function t.resumed(p_id bigint) returns jsonb
language plpgsql as $$
begin
    perform gd_signal(p_id, 'go');
    return (
        select to_jsonb(i) - '{id,inserted_at,updated_at,eligible_at,lane_at,claim_no,unique_key,unique_held,unique_scope}'::text[]
            || jsonb_build_object('now', i.eligible_at = i.updated_at, 'lane', i.lane_at = i.eligible_at,
                'held', i.unique_held = i.unique_key)
        from gendurable.instance i
        where i.id = p_id);
end $$;
create function t.both_ways(p_key text, p_extra jsonb, p_change text) returns jsonb[]
language plpgsql as $$
declare
    v_id bigint;
    v_after jsonb[] := '{}';
    v_scope text;
begin
    foreach v_scope in array array[null, '{runnable,executing,awaiting_signal,awaiting_children}'] loop
        v_id := t.awaiting(v_scope::text[], p_key, p_extra);
        execute 'update gendurable.instance set priority = priority' || p_change || ' where id = $1' using v_id;
        v_after := v_after || t.resumed(v_id);
        perform gd_cancel(v_id);
    end loop;
    return v_after;
end $$;
create temp table tried as
select k.key, e.extra, c.change, b.after
from unnest(array['k', null]) k (key)
cross join unnest(array['{}', '{"timeout_ms": 3600000}']::jsonb[]) e (extra)
cross join unnest(array['', ', home = ''own'', queue = ''elsewhere''', ', crashes = 2', ', children_pending = 0']) c (change)
cross join lateral t.both_ways(k.key, e.extra, c.change) b (after);
select is(count(*), 16::bigint, 'with and without a key, a timeout and a home') from tried;
select is_empty($$select * from tried where after[1] is distinct from after[2]$$, 'both ways make the same row of it');
select ok(bool_and(after[1] @> '{"status": "runnable", "now": true, "held": true, "deadline_at": null}'), 'runnable, due at that moment') from tried;
select ok(bool_and((after[1] ->> 'queue') = 'own'), 'and back in its own queue') from tried where change like '%home%';

-- what is paused, too

select t.awaiting(null, null, '{}') as a \gset
select t.awaiting('{runnable,executing,awaiting_signal,awaiting_children}', null, '{}') as b \gset
select gd_pause(:a);
select gd_pause(:b);
select is(
    t.resumed(:a) - '{paused_at,paused_by}'::text[], t.resumed(:b) - '{paused_at,paused_by}'::text[], 'one that is paused becomes the same, too');
select is_empty($$select * from t.take('q')$$, 'and is not handed out');

-- names

select is(gd_signal(:a, repeat('n', 2000)), 'delivered', 'a name of 2,000 bytes');
select t.raises(format('select gd_signal(%s, %L)', :a, repeat('n', 2001)), 'GD501', 'one byte more is too long');
select t.raises(format('select gd_signal(%s, ''go'', null, %L)', :a, repeat('n', 2001)), 'GD501', 'also for a dedup key');

select * from finish();
