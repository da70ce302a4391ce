\ir helpers/tap.psql
select no_plan();

-- from where it stands now

select gd_set_rate_limit('lim', 100, '1 s', 100);
select gd_register('m', 3, 'begin', 'elsewhere', '{"history": "states"}');
select gd_insert('m', '{"n": 1}', 'draw', 2, 'fork', 7, 'key', 'uniq', p_rate_limit => 'lim:x', p_weight => 3, p_max_attempts => 4,
    p_meta => '{"who": "ada", "forked_from": 1}', p_expires_at => '2100-01-01Z') as id \gset
create function t.of(p_id bigint) returns jsonb language sql as $$
    select gd_get(p_id) - '{id,eligible_at,inserted_at,updated_at,signals,children,errors,watched}'::text[]
$$;
-- a fork, as a later statement sees it
create function t.fork(p_id bigint, p_no bigint = null, p_step text = null, p_state jsonb = null, p_options jsonb = '{"queue": "forks"}')
returns jsonb language plpgsql as $$
declare
    v_id bigint := gd_fork(p_id, p_no, p_step, p_state, p_options);
begin
    return gd_get(v_id);
end $$;
create temp table before as select gd_get(:id) as was;
select gd_fork(:id) as fork \gset
select isnt(:fork, :id, 'another instance');
select is(
    t.of(:fork),
    t.of(:id) || jsonb_build_object('partition_key', null, 'unique_key', null, 'expires_at', null,
        'meta', jsonb_build_object('who', 'ada', 'forked_from', :id)),
    'alike, but for keys and deadline, and it says where it comes from');
select is(gd_get(:id), (select was from before), 'the other one is as it was');
select ok((gd_get(:fork) ->> 'eligible_at')::timestamptz <= clock_timestamp(), 'it is due');
select is((select c.weight from gendurable.instance c where c.id = :fork), 3::double precision, 'its starts cost as much');

select gd_fork(:id, p_step => 'send') as fork \gset
select is(gd_get(:fork) ->> 'step', 'send', 'at another step');
select is(gd_get(:fork) -> 'rate_limit', 'null', 'which has not the rate limit of that one');
select is(gd_get(:fork) -> 'state', '{"n": 1}', 'with the state');
select gd_fork(:id, p_state => '{"n": 2}') as fork \gset
select is(gd_get(:fork) -> 'state', '{"n": 2}', 'or another one');
select is(t.fork(:id, p_state => 'null') -> 'state', '{"n": 1}', 'JSON null is none given');

-- options, as of gd_insert_many

select gd_fork(:id, p_options => '{"version": 9, "queue": "debug", "priority": -1, "partition_key": "k2", "unique_key": "u2",
    "unique_scope": ["runnable"], "eligible_at": "2099-01-01T00:00:00Z", "rate_limit": "lim", "max_attempts": 1,
    "meta": {"why": "bug 7", "who": "bob", "forked_from": 0}, "expires_at": "2100-06-01T00:00:00Z"}') as fork \gset
select is(
    t.of(:fork),
    t.of(:id) || jsonb_build_object('fsm_version', 9, 'queue', 'debug', 'priority', -1, 'partition_key', 'k2', 'unique_key', 'u2',
        'unique_scope', '["runnable"]'::jsonb, 'rate_limit', 'lim', 'weight', 1, 'max_attempts', 1,
        'expires_at', '2100-06-01Z'::timestamptz,
        'meta', jsonb_build_object('who', 'bob', 'why', 'bug 7', 'forked_from', :id)),
    'all of them');
select is((gd_get(:fork) ->> 'eligible_at')::timestamptz, '2099-01-01Z'::timestamptz, 'due later');
select is(gd_fork(:id, p_options => '{"unique_key": "u2"}'), null, 'its key is taken');
select is(gd_fork(:id, p_options => '{"unique_key": "uniq"}'), null, '(also by the other one)');
select is(t.fork(:id, p_options => '{"rate_limit": null}') -> 'rate_limit', 'null', 'without the rate limit');
select is(
    (select jsonb_agg(t.fork(:id, p_options => o.x) -> 'queue')
        from unnest('{null,"null","{}","{\"queue\": null}"}'::jsonb[]) o (x)),
    '["fork", "fork", "fork", "default"]', 'no options; null is the default of an insert');

select t.raises(format('select gd_fork(%s, p_options => %L)', :id, o), 'GD501', 'not an option: ' || o)
from unnest(array['[]', '7', '{"fsm": "x"}', '{"state": {}}', '{"step": "x"}', '{"queu": "x"}', '{"queue": ""}', '{"version": 0}',
    '{"priority": 1.5}', '{"delay_ms": -1}', '{"eligible_at": "tomorrow"}', '{"meta": 7}', '{"meta": []}', '{"unique_scope": ["x"]}',
    '{"rate_limit": "lim", "weight": 1e9}', '{"weight": 1e400}', '{"max_attempts": 0}', '{"expires_at": "infinity"}']) o;
select t.raises(format('select gd_fork(%s, p_options => %L)', :id, '{"rate_limit": "nosuch"}'), 'GD502', 'no such rate limit');
select t.raises(format('select gd_fork(%s, p_step => %L)', :id, ''), 'GD501', 'no step');
select t.raises(format('select gd_fork(%s, p_state => %L)', :id, '[]'), 'GD501', 'no state');
select t.raises('select gd_fork(0)', 'GD503', 'no such instance');
select t.raises('select gd_fork(null)', 'GD503', '(null)');
select t.raises(format('select gd_fork(%s)', (select min(i.id) - 1 from gendurable.instance i)), 'GD503', '(nor below)');
-- a bell is no instance
select gd_schedule('s', '@daily', 'm');
select t.raises(format('select gd_fork(%s)', (select min(i.id) from gendurable.instance i)), 'GD503', '(a bell)');

-- from every status

select gd_insert('p', '{"s": 1}', p_queue => 'st') as p \gset
select t.run('st', '{"kind": "await", "signals": "go", "step": "waits", "timeout_ms": 3600000}');
select gd_fork(:p, p_options => '{"queue": "forks"}') as fork \gset
select is(gd_get(:fork) ->> 'status' || ' ' || (gd_get(:fork) ->> 'step'), 'runnable waits', 'one that awaits');
select is(gd_get(:fork) -> 'awaits', 'null', 'the fork awaits nothing');
select gd_signal(:p, 'go');
select t.run('st', '{"kind": "schedule_childs", "step": "joined", "childs": [{"fsm": "c", "queue": "st2"}]}');
select t.run('st', '{"kind": "next", "step": "next"}');
select is(t.fork(:p) ->> 'step', 'joined', 'one that awaits children');
select c.id as child from gd_childs(:p) c \gset
select is(t.fork(:child) -> 'parent_id', 'null', 'the fork of a child has no parent');
select is((select i.children_pending from gendurable.instance i where i.id = :p), 1, 'and its parent awaits no more than it did');
select t.take('st2');
select is(t.fork(:child) ->> 'status', 'runnable', 'one that executes');
select is(gd_get(:child) ->> 'status', 'executing', '(which it still does)');
select t.put(:child, '{"kind": "stop", "reason": "no"}');
select gd_fork(:child) as fork \gset
select is(gd_get(:fork) -> 'last_error', 'null', 'one that has failed');
select is(gd_get(:fork) ->> 'status', 'runnable', '(it runs)');

-- from an entry of the history

select gd_insert('m', '{"n": 1}', 'one', 3, 'hist') as id \gset
select t.run('hist', '{"kind": "next", "step": "two", "state": {"n": 2}}');
select t.run('hist', '{"kind": "next", "step": "three", "state": {"n": 3}}');
select t.run('hist', '{"kind": "done"}');
select gd_fork(:id, 2) as fork \gset
select is(gd_get(:fork) ->> 'step', 'two', 'the step that gave it');
select is(gd_get(:fork) -> 'state', '{"n": 2}', 'with the state that it was given');
select is(gd_get(:fork) -> 'meta', jsonb_build_object('forked_from', :id, 'forked_no', 2), 'it says which entry');
select is(gd_get(:fork) -> 'result', 'null', '(and has no result)');
select is(t.fork(:id, 1, 'three') -> 'state', '{"n": 1}', 'another step with that state');
select is(t.fork(:id, 1, 'three') ->> 'step', 'three', '(that step)');
select is(t.fork(:id, 3, null, '{"x": 0}') -> 'state', '{"x": 0}', 'that step with another state');
select is(t.fork(:id, 3, null, '{"x": 0}') ->> 'step', 'three', '(that step)');
select t.raises(format('select gd_fork(%s, 4)', :id), 'GD501', 'no such entry');
select t.raises(format('select gd_fork(%s, -1)', :id), 'GD501', '(nor this one)');
select gd_register('m', 3, 'begin', 'elsewhere', '{"history": "steps"}');
select gd_insert('m', '{"n": 1}', 'one', 3, 'hist2') as id \gset
select t.run('hist2', '{"kind": "next", "step": "two", "state": {"n": 2}}');
select t.raises(format('select gd_fork(%s, 1)', :id), 'GD501', 'an entry without a state');
select is(t.fork(:id, 1, null, '{"n": 0}') ->> 'step', 'one', 'but with one given');

-- who did it

select gd_fork(:id, 1, 'one', '{"secret": 1}', '{"queue": "forks", "meta": {"secret": 2}}') as fork \gset
select is((select a.what from gd_audit(jsonb_build_object('id', :id)) a limit 1),
    jsonb_build_object('fork', :fork, 'no', 1, 'step', 'one', 'options', '{"queue": "forks"}'::jsonb), 'it is written down, but for what is secret');

-- queues of steps

select gd_define_step('r', 'draw', null, '{"queue": "gpu"}');
select gd_insert('r', p_step => 'draw', p_queue => 'own') as id \gset
select gd_fork(:id) as fork \gset
select is((select i.queue || ' ' || i.home from gendurable.instance i where i.id = :fork), 'gpu own', 'it stands in the queue of its step');
select gd_fork(:id, p_step => 'other') as fork \gset
select is((select i.queue || coalesce(i.home, '') from gendurable.instance i where i.id = :fork), 'own', 'or in its own one');
select gd_fork(:id, p_options => '{"queue": "debug"}') as fork \gset
select is((select i.queue || ' ' || i.home from gendurable.instance i where i.id = :fork), 'gpu debug', 'its own one is what the option says');

select * from finish();
