\ir helpers/tap.psql
select no_plan();

-- one instance

select gd_insert('m', '{"n": 1}', p_queue => 'q', p_partition_key => 'k', p_unique_key => 'u', p_unique_scope => '{runnable}',
    p_rate_limit => null, p_max_attempts => 7, p_meta => '{"by": "ada"}', p_expires_at => '2100-01-01Z') as id \gset
select set_eq(
    format('select jsonb_object_keys(gd_get(%s))', :id),
    $$select column_name::text from information_schema.columns where table_name = 'gd_instances'
    union all
    select unnest(string_to_array('max_attempts unique_scope weight deadline_at signals children errors watched', ' '))$$,
    'the columns of gd_instances, and what belongs to it');
select is(
    (select jsonb_object_agg(g.key, g.value) from jsonb_each(gd_get(:id)) g
        where g.key = any('{id,fsm,state,meta,attributes,partition_key,unique_key,unique_scope,max_attempts,signals,children,errors,watched}')),
    jsonb_build_object('id', :id, 'fsm', 'm', 'state', '{"n": 1}'::jsonb, 'meta', '{"by": "ada"}'::jsonb,
        'attributes', '{}'::jsonb, 'partition_key', 'k', 'unique_key', 'u', 'unique_scope', '["runnable"]'::jsonb,
        'max_attempts', 7, 'signals', '[]'::jsonb, 'children', '{}'::jsonb, 'errors', '[]'::jsonb, 'watched', false),
    'as inserted');
select is((gd_get(:id) ->> 'expires_at')::timestamptz, '2100-01-01Z', 'its deadline');
select is(gd_get(0), null, 'no such instance');
select is(gd_get(null), null, 'nor this one');

select gd_signal(:id, 'paid', '{"sum": 3}'), gd_watch(:id);
select is(gd_get(:id) -> 'watched', 'true', 'watched');
select is(
    (select jsonb_agg(s - '{id,inserted_at}'::text[] || jsonb_build_object('bytes', (s -> 'bytes')::int between 10 and 40))
        from jsonb_array_elements(gd_get(:id) -> 'signals') s),
    '[{"name": "paid", "bytes": true}]', 'what lies in its inbox, without the payload');
select gd_signal(:id, 'n' || g) from generate_series(1, 105) g;
select is(jsonb_array_length(gd_get(:id) -> 'signals'), 100, 'the first 100 of them');

-- a bell is no instance
select gd_set_rate_limit('l', 0, null, 1);
select gd_schedule('s', '@daily', 'm');
select isnt((select min(i.id) from gendurable.instance i), (select min(v.id) from gd_instances v), 'there is a bell');
select is(gd_get((select min(i.id) from gendurable.instance i)), null, 'which is not shown');
select is_empty($$select * from gd_tree((select min(i.id) from gendurable.instance i))$$, 'nor in a tree');

-- a tree

select gd_insert('root', p_queue => 'tree') as root \gset
select t.run('tree', '{"kind": "schedule_childs", "step": "after", "childs": [{"fsm": "a", "queue": "tree2"}, {"fsm": "b", "queue": "tree3"}]}');
select t.run('tree2', '{"kind": "schedule_childs", "step": "after", "childs": [{"fsm": "c", "queue": "tree4"}, {"fsm": "c", "queue": "tree4"}]}');
select t.run('tree3', jsonb_build_object('kind', 'stop', 'reason', repeat('x', 600)));
select results_eq(
    format('select t.depth, t.fsm, t.status, p.fsm from gd_tree(%s) t left join gd_instances p on p.id = t.parent_id', :root),
    $$values (0, 'root', 'awaiting_children', null), (1, 'a', 'awaiting_children', 'root'), (1, 'b', 'failed', 'root'),
        (2, 'c', 'runnable', 'a'), (2, 'c', 'runnable', 'a')$$,
    'level by level');
select is((select length(t.last_error) from gd_tree(:root) t where t.fsm = 'b'), 500, 'errors are cut');
select is((select count(*) from gd_tree(:root, 0)), 1::bigint, 'no level below it');
select is((select count(*) from gd_tree(:root, 1)), 3::bigint, 'one');
select is((select string_agg(t.fsm, ' ') from gd_tree(:root, 10, 4) t), 'root a b c', 'so many rows and no more');
select is((select count(*) from gd_tree(:root, 10, 1)), 1::bigint, '(one)');
select is((select string_agg(t.fsm, ' ') from gd_tree(:root, 10, 2) t), 'root a', '(two)');
select is_empty($$select * from gd_tree(0)$$, 'no such instance: no tree');
select is(gd_get(:root) -> 'children', '{"failed": 1, "awaiting_children": 1}', 'how its children stand');
select t.raises(format('select * from gd_tree(%s, -1)', :root), 'GD501', 'a depth below it');
select is_empty(format('select * from gd_tree(%s, 1, 0)', :root), 'no rows');
select t.raises(format('select * from gd_tree(%s, 1, -1)', :root), 'GD501', 'fewer');

select * from finish();
