\ir helpers/tap.psql
select no_plan();

-- one row, many of one kind, and any others go three ways: they store the same

select gd_register('known', 1, 'first', 'q_old');
select gd_register('known', 3, 'third', 'q_known', '{"max_attempts": 2}');

create function t.stored(p_after bigint) returns setof jsonb
language sql as $$
    select jsonb_strip_nulls(to_jsonb(i)) - '{id,inserted_at,updated_at,eligible_at,lane_at,expires_at}'::text[] || jsonb_build_object(
        'delay', round(extract(epoch from i.eligible_at - i.inserted_at)), 'due', i.eligible_at > '2040-01-01',
        'lane', i.lane_at = i.eligible_at, 'expires', i.expires_at, 'born', i.inserted_at = i.updated_at)
    from gendurable.instance i
    where i.id > p_after and i.fsm <> 'second'
$$;
create function t.each_way(p_object jsonb) returns setof jsonb
language plpgsql as $$
declare
    v_from constant bigint := nextval('gendurable.instance_id_seq');
    v_to bigint;
    v_last bigint;
begin
    perform gd_insert_many(jsonb_build_array(p_object));
    v_to := nextval('gendurable.instance_id_seq');
    return query select s from t.stored(v_from) s;
    perform gd_insert_many(jsonb_build_array(p_object, '{"fsm": "second"}'::jsonb));
    return query select s from t.stored(v_to) s;
    v_last := nextval('gendurable.instance_id_seq');
    perform gd_insert_many(jsonb_build_array(p_object, p_object));
    return query select s from t.stored(v_last) s;
end $$;
create temp table tried as
select o.object, w.stored
from unnest(array['m', 'known']) m (fsm)
cross join lateral unnest(array[
    '{}', '{"state": {"a": 1}}', '{"version": 1}', '{"version": 2}', '{"step": "later"}', '{"queue": "mine"}',
    '{"version": 3, "step": "later", "queue": "mine"}', '{"priority": -3}', '{"max_attempts": 7}', '{"meta": {"tag": 1}}',
    '{"partition_key": "k"}', '{"partition_key": "k", "eligible_at": "2041-05-06T07:08:09Z"}', '{"delay_ms": 60000}',
    '{"expires_at": "2041-05-06T07:08:09Z"}', '{"weight": 2}',
    '{"partition_key": "k", "delay_ms": 5000, "meta": {}, "state": {}, "expires_at": "2041-05-06T07:08:09Z", "priority": 9}'
]::jsonb[]) e (extra)
cross join lateral jsonb_build_object('fsm', m.fsm) b (named)
cross join lateral jsonb_concat(b.named, e.extra) o (object)
cross join lateral t.each_way(o.object) w (stored);
select is(count(*), 128::bigint, 'each was stored alone, beside another machine, and beside itself') from tried;
select is_empty(
    $$select object from tried group by object having count(distinct stored) > 1$$, 'it becomes the same row each time');
select is(count(distinct object), 32::bigint, 'of many kinds') from tried;

-- many of one kind

select t.raises(
    $$select gd_insert_many('[{"fsm": "m"}, {"fsm": "m", "delay_ms": 1, "eligible_at": "2041-05-06T07:08:09Z"}]')$$, 'GD501',
    'one that is bad is refused among others');
select t.raises(
    $$select gd_insert_many(jsonb_build_array(o, o))
    from jsonb_build_object('fsm', 'm', 'delay_ms', 1, 'eligible_at', '2041-05-06T07:08:09Z') o$$, 'GD501', 'so are all, if they are');
create temp table answered as
select * from gd_insert_many('[{"fsm": "m", "step": "a", "queue": "q_a"}, {"fsm": "m", "step": "b", "queue": "q_b"}, {"fsm": "m"}]');
select results_eq(
    'select a.ord, i.step, a.created from answered a join gendurable.instance i on i.id = a.id order by a.ord',
    $$values (0, 'a', true), (1, 'b', true), (2, 'start', true)$$, 'the answer has each at its place');
select is(count(*), 2::bigint, 'the names of all their queues are noted') from gendurable.queue_name q where q.queue in ('q_a', 'q_b');

-- the short examination of a new instance, against the long one

create temp table examined as
select n as new, gendurable._is_plain_new(n) as plain
from unnest(array['m', '', repeat('ä', 1000), repeat('ä', 1001), null]) fsm
cross join unnest(array['s', '', repeat('s', 2001), null]) step
cross join unnest(array['q', '', repeat('q', 2001), null]) queue
cross join unnest(array['k', '', repeat('k', 2001), null]) partition_key
cross join unnest(array[1, 0, null]) version
cross join unnest(array[1, 0, null]) max_attempts
cross join unnest(array['{"a": 1}', '[]', null]::jsonb[]) state
cross join lateral gendurable._new_instance(
    0, fsm, version, step, state, queue, null, partition_key, null, null, null, null, null, null, max_attempts, null, null, null) n;
select is(count(*), 128::bigint, 'all combinations of plain values pass') from examined where plain;
select is_empty(
    $$select new from examined where plain is distinct from (gendurable._new_instance_problem(new) is null)$$,
    'the short examination finds what the long one finds');

-- what only one way looks at

select t.raises($$select gd_insert('m', p_weight => -1)$$, 'GD501', 'a weight is examined also where no limit takes it');
select t.raises($$select gd_insert('m', p_weight => 'nan')$$, 'GD501', 'so is one that is no number');
select t.raises($$select gd_insert('m', p_unique_scope => '{runnable}')$$, 'GD501', 'a scope without a key is refused');
select t.raises($$select gd_insert('m', p_meta => '[]')$$, 'GD501', 'so is a meta that is no object');
select isnt(gd_insert('m', p_weight => null), null, 'a weight may be null');
select isnt(gd_insert('m', p_queue => 'new'), null, 'a queue may be new');
select ok(exists (select from gendurable.queue_name q where q.queue = 'new'), 'its name is noted');

select * from finish();
