\ir helpers/tap.psql
select no_plan();

create function t.child(p_parent bigint, p_fsm text) returns bigint
language sql as $$
    select max(v.id) from gd_instances v where v.parent_id = p_parent and v.fsm = p_fsm
$$;

-- fan out, wait, join

select gd_insert('m', p_queue => 'p', p_meta => '{"traceparent": "00-ab-cd-01", "tag": "mine"}') as p \gset
select t.run('p', '{"kind": "schedule_childs", "step": "join", "state": {"s": 1}, "childs": [
    {"fsm": "one", "queue": "c", "state": {"i": 1}}, {"fsm": "two", "queue": "c", "meta": {"own": true}}, {"fsm": "three", "queue": "c3"}]}');
select results_eq(
    format('select status, children_pending, eligible_at, state from gd_instances where id = %s', :p),
    $$values ('awaiting_children', 3, null::timestamptz, '{"s": 1}'::jsonb)$$, 'a fan-out parks the parent');
select is_empty($$select * from t.take('p')$$, 'nobody gets it');
select results_eq(
    format('select fsm, parent_id, state, meta, queue from gd_instances where parent_id = %s order by id', :p),
    format($$values ('one', %1$s::bigint, '{"i": 1}'::jsonb, '{"traceparent": "00-ab-cd-01"}'::jsonb, 'c'),
        ('two', %1$s, '{}', '{"own": true, "traceparent": "00-ab-cd-01"}', 'c'),
        ('three', %1$s, '{}', '{"traceparent": "00-ab-cd-01"}', 'c3')$$, :p), 'the children inherit the trace and nothing else');
select is((select c.parent_id from t.take('c3') c), :'p', 'a child knows its parent, in whatever queue');
select t.put(t.child(:p, 'three'), '{"kind": "done", "result": [3]}');
select t.run('c', '{"kind": "done", "result": "r1"}');
select results_eq(
    format('select status, children_pending from gd_instances where id = %s', :p), $$values ('awaiting_children', 1)$$, 'two of three have ended');
select is_empty($$select * from t.take('p')$$, 'it goes on waiting');
select t.run('c', '{"kind": "stop", "reason": "broken"}');
create temp table woken as select * from t.take('p');
select is((select row(w.id, w.step, w.attempt)::text from woken w), format('(%s,join,0)', :p), 'the last one wakes it');
select is(
    (select jsonb_agg(x.c - '{id}'::text[] order by x.n) from woken w, jsonb_array_elements(w.childs) with ordinality x (c, n)),
    '[{"fsm": "one", "status": "done", "state": {"i": 1}, "result": "r1", "last_error": null},
      {"fsm": "two", "status": "failed", "state": {}, "result": null, "last_error": "broken"},
      {"fsm": "three", "status": "done", "state": {}, "result": [3], "last_error": null}]',
    'with its children in order: results and errors');
select is((select (w.childs #>> '{0,id}')::bigint from woken w), t.child(:p, 'one'), 'by their ids');
select results_eq(
    format('select id, fsm, status, result from gd_childs(%s)', :p),
    format($$values (%s::bigint, 'one', 'done', '"r1"'::jsonb), (%s, 'two', 'failed', null), (%s, 'three', 'done', '[3]')$$,
        t.child(:p, 'one'), t.child(:p, 'two'), t.child(:p, 'three')), 'gd_childs tells the same');
select results_eq(
    format('select fsm from gd_childs(%s, %s, 1)', :p, t.child(:p, 'one')), $$values ('two')$$, 'page by page');
select is_empty(format('select * from gd_childs(%s, 0, 0)', :p), 'a limit of 0');
select is_empty('select * from gd_childs(999999999)', 'no such parent');
select t.raises('select * from gd_childs(1, 0, -1)', 'GD501', 'a negative limit');

-- children that are not created are not waited for

select gd_insert('m', p_queue => 'none') as p \gset
select t.run('none', '{"kind": "schedule_childs", "step": "join", "childs": []}');
select is((select row(c.step, c.childs)::text from t.take('none') c), '(join,[])', 'no children: on at once');
select gd_insert('x', p_queue => 'else', p_unique_key => 'taken') as holder \gset
select t.put(:p, '{"kind": "schedule_childs", "step": "join2", "childs": [{"fsm": "c", "unique_key": "taken"}]}');
select is((select c.step from t.take('none') c), 'join2', 'only duplicates: on at once');
select t.put(:p, '{"kind": "schedule_childs", "step": "join3", "childs": [{"fsm": "c", "unique_key": "taken"},
    {"fsm": "c", "queue": "none_c", "unique_key": "k"}, {"fsm": "c", "queue": "none_c", "unique_key": "k"}]}');
select is((select v.children_pending from gd_instances v where v.id = :p), 1, 'one of three was created');
select t.run('none_c', '{"kind": "done"}');
select is((select c.step from t.take('none') c), 'join3', 'and is waited for');
select is((select v.parent_id from gd_instances v where v.id = :holder), null, 'a duplicate''s holder becomes nobody''s child');

-- cancelled children, and what ends by errors

select gd_insert('m', p_queue => 'can') as p \gset
select t.run('can', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "can_c"},
    {"fsm": "d", "queue": "can_d", "max_attempts": 1}]}');
select gd_cancel(t.child(:p, 'c'), 'not wanted');
select t.run('can_d', '{"kind": "error", "error": "boom"}');
select is(
    (select jsonb_path_query_array(c.childs, '$[*].status') || jsonb_path_query_array(c.childs, '$[*].last_error') from t.take('can') c),
    '["cancelled", "failed", "not wanted", "boom"]', 'cancelled children and exhausted errors release the barrier');

-- nesting

select gd_insert('m', p_queue => 'n0') as p \gset
select t.run('n0', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "n1"}]}');
select t.run('n1', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "g", "queue": "n2"}, {"fsm": "g", "queue": "n2"}]}');
select t.run('n2', '{"kind": "next", "step": "b"}');
select t.run('n2', '{"kind": "done", "result": 1}');
select is_empty($$select * from t.take('n1')$$, '(the second grandchild is still there)');
select t.run('n2', '{"kind": "done", "result": 2}');
select is_empty($$select * from t.take('n0')$$, 'the grandparent waits for the parent');
select t.run('n1', '{"kind": "done", "result": "sum"}');
select is((select c.childs #>> '{0,result}' from t.take('n0') c), 'sum', 'and goes on after it');

-- a second fan-out, and what a child of the first one does

select t.put(:p, '{"kind": "schedule_childs", "step": "again", "childs": [{"fsm": "c2", "queue": "n1"}]}');
select is((select v.children_pending from gd_instances v where v.id = :p), 1, 'a second fan-out counts its own');
select t.run('n1', '{"kind": "stop", "reason": "x"}');
select is((select row(c.step, jsonb_array_length(c.childs))::text from t.take('n0') c), '(again,2)', 'the children of both are handed out');

-- a retried child

select gd_insert('m', p_queue => 'ret') as p \gset
select t.run('ret', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "a", "queue": "ret_a"}, {"fsm": "b", "queue": "ret_b"}]}');
select t.run('ret_a', '{"kind": "stop", "reason": "x"}');
select is(gd_retry(t.child(:p, 'a')), true, 'a failed child is retried while its parent waits');
select is((select v.children_pending from gd_instances v where v.id = :p), 2, 'it is waited for again');
select t.run('ret_b', '{"kind": "done"}');
select is_empty($$select * from t.take('ret')$$, 'the barrier is not released early');
select t.run('ret_a', '{"kind": "stop", "reason": "again"}');
select is((select c.step from t.take('ret') c), 'join', 'but when it has ended again');
select is(gd_retry(t.child(:p, 'a')), true, 'retried after its parent has left the barrier');
select t.put(:p, '{"kind": "schedule_childs", "step": "join2", "childs": [{"fsm": "z", "queue": "ret_z"}]}');
select t.run('ret_a', '{"kind": "done"}');
select is((select v.children_pending from gd_instances v where v.id = :p), 1, 'it does not count in the next one');
select is_empty($$select * from t.take('ret')$$, 'which goes on waiting');
select t.run('ret_z', '{"kind": "done"}');
select is((select c.step from t.take('ret') c), 'join2', 'for its own');

-- a parent that is cancelled and retried fans out again

select gd_insert('m', p_queue => 'pr') as p \gset
select t.run('pr', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "old", "queue": "pr_old"}]}');
select is(gd_cancel(:p), true, 'a parent that waits is cancelled');
select is(t.status(t.child(:p, 'old')), 'runnable', 'its children are not');
select is(gd_retry(:p, 'start'), true, 'and retried');
select t.run('pr', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "new", "queue": "pr_new"}]}');
select t.run('pr_old', '{"kind": "done"}');
select is_empty($$select * from t.take('pr')$$, 'a child of the first fan-out does not release the second');
select is((select v.children_pending from gd_instances v where v.id = :p), 1, '(it counts its own child alone)');
select t.run('pr_new', '{"kind": "done"}');
select is((select c.step from t.take('pr') c), 'join', 'its own does');
select gd_insert('m', p_queue => 'pr2') as p \gset
select t.run('pr2', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "a", "queue": "pr2_c"}]}');
select gd_cancel(:p);
select gd_retry(:p, 'start');
select gd_cancel(t.child(:p, 'a'));
select gd_retry(t.child(:p, 'a'));
select t.run('pr2', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "b", "queue": "pr2_d"}]}');
select t.run('pr2_c', '{"kind": "done"}');
select is_empty($$select * from t.take('pr2')$$, 'nor does one that was retried in between');

-- siblings in one batch are one update of their parent; a join of 10,000 is complete

select gd_insert('m', p_queue => 'big') as p \gset
select claim_no as no from t.take('big') \gset
select is(
    (select c.result from gd_commit('w', jsonb_build_array(jsonb_build_object('id', :p, 'claim_no', :no, 'kind', 'schedule_childs',
        'step', 'join', 'childs', (select jsonb_agg('{"fsm": "c", "queue": "big_c"}'::jsonb) from generate_series(1, 10000))))) c),
    'ok', 'a fan-out of 10,000 in one outcome');
select is((select v.children_pending from gd_instances v where v.id = :p), 10000, 'all are waited for');
create function t.finish(p_limit int) returns bigint
language plpgsql as $$
begin
    return (
        with c as materialized (select * from t.take('big_c', p_limit)),
        b as materialized (
            select jsonb_agg(jsonb_build_object('id', c.id, 'claim_no', c.claim_no, 'kind', 'done', 'result', c.id)) as o from c
        )
        select count(*) from b cross join lateral gd_commit('w', b.o) a where a.result = 'ok');
end $$;
begin;
create temp table before on commit drop as
select s.n_tup_upd from pg_stat_xact_user_tables s where s.relid = 'gendurable.instance'::regclass;
select is(t.finish(500), 500::bigint, '500 siblings end in one batch');
select is(
    (select s.n_tup_upd - b.n_tup_upd from pg_stat_xact_user_tables s, before b where s.relid = 'gendurable.instance'::regclass), 1001::bigint,
    'their claim, their end, and one update of their parent');
commit;
select is((select v.children_pending from gd_instances v where v.id = :p), 9500, 'and are counted');
select is((select sum(t.finish(1000)) from generate_series(1, 9)), 9000::numeric, 'and so are the next');
select is_empty($$select * from t.take('big')$$, 'one batch is missing');
select is(t.finish(1000), 500::bigint, '(it ends)');
select is(
    (select row(jsonb_array_length(c.childs), jsonb_array_length(jsonb_path_query_array(c.childs, '$[*] ? (@.status == "done" && @.result == @.id)')))::text
        from t.take('big') c), '(10000,10000)', 'the join has 10,000 results');

-- a parent with a key holds no slot while it waits

select gd_insert('m', p_queue => 'key', p_partition_key => 'pk') as p \gset
select t.run('key', '{"kind": "schedule_childs", "step": "join", "childs": [{"fsm": "c", "queue": "key_c", "partition_key": "pk"}]}');
select is((select c.parent_id from t.take('key_c') c), :'p', 'its child of the same key can run');
select t.put(t.child(:p, 'c'), '{"kind": "done"}');
select is((select c.step from t.take('key') c), 'join', 'and then itself');
select is(t.repaired(), 0, 'no baton was dropped');

select * from finish();
